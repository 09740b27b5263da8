//! End to end: the built binary, software TPMs, official MCP SDKs, a real coding agent, a real browser. Nothing is
//! mocked but the hardware, and that speaks the real protocol.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests may")]

mod agents;
mod attacks;
mod clients;
mod crash;
mod guides;
mod story;

use std::path::Path;

use countersign_testkit::world::{ToolServer, World};

/// A world of its own for one test, and the folder that holds it.
struct Stage {
    world: World,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::with(ToolServer::TypeScript)
    }

    fn with(tool_server: ToolServer) -> Self {
        let folder = tempfile::Builder::new().prefix("countersign-e2e-").tempdir().expect("a folder");
        Self::in_folder(folder, tool_server)
    }

    fn in_folder(folder: tempfile::TempDir, tool_server: ToolServer) -> Self {
        // Whoever comes first installs it; all install the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let binary = Path::new(env!("CARGO_BIN_EXE_countersign"));
        let world = World::start_with(folder.path(), binary, tool_server)
            .expect("a world; `cargo xtask setup` installs what it needs");
        Self { world, _folder: folder }
    }
}

/// Runs a future to its end on a runtime of its own.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime").block_on(future)
}
