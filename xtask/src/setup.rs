//! Installs what the demo, the tests and the benchmarks need beside a Rust toolchain: Debian packages, the
//! pinned MCP SDKs, and cargo-deny. What is there already is left alone; what cannot be had fails loudly.

use std::path::PathBuf;
use std::process::Command;

use crate::{root, run};

/// How much is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The demo: a software TPM, Node with the MCP SDK, Chromium as the person.
    Demo,
    /// The tests: the demo's things, and the Python SDK.
    Tests,
    /// The benchmarks: the tests' things, a peer proxy and a load generator.
    Bench,
}

/// A program that must be there, and the Debian packages that bring it.
struct Need {
    program: &'static str,
    packages: &'static [&'static str],
}

const DEMO: &[Need] = &[
    Need { program: "cc", packages: &["build-essential"] },
    Need { program: "swtpm", packages: &["swtpm", "swtpm-tools", "libtpms0"] },
    Need { program: "swtpm_setup", packages: &["swtpm-tools"] },
    Need { program: "certtool", packages: &["gnutls-bin"] },
    Need { program: "node", packages: &["nodejs"] },
    Need { program: "npm", packages: &["npm"] },
    Need { program: "chromium", packages: &["chromium", "fonts-dejavu-core"] },
];
const TESTS: &[Need] = &[
    Need { program: "python3", packages: &["python3", "python3-venv"] },
    Need { program: "strace", packages: &["strace"] },
];
const BENCH: &[Need] =
    &[Need { program: "nginx", packages: &["nginx-light"] }, Need { program: "wrk", packages: &["wrk"] }];

/// The cargo-deny that the dependency check uses.
const CARGO_DENY: &str = "0.20.2";

/// Installs everything in `scope` that is missing.
pub fn install(scope: Scope) -> Result<(), String> {
    let needs = match scope {
        Scope::Demo => vec![DEMO],
        Scope::Tests => vec![DEMO, TESTS],
        Scope::Bench => vec![DEMO, TESTS, BENCH],
    };
    debian(needs.into_iter().flatten())?;
    node_modules("e2e/mcp")?;
    node_modules("e2e/browser")?;
    if scope != Scope::Demo {
        python_packages()?;
    }
    Ok(())
}

/// Where a program is, if it is anywhere on the search path.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

fn debian<'a>(needs: impl Iterator<Item = &'a Need>) -> Result<(), String> {
    let mut packages: Vec<&str> = needs
        .filter(|need| find(need.program).is_none())
        .flat_map(|need| need.packages.iter().copied())
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_none() {
        return Err(format!(
            "these are missing and this is no Debian: {}; install them by hand",
            packages.join(" ")
        ));
    }
    let sudo = find("sudo").filter(|_| !am_root());
    let apt = |arguments: &[&str]| {
        let mut command = match &sudo {
            Some(sudo) => {
                let mut command = Command::new(sudo);
                command.arg("apt-get");
                command
            }
            None => Command::new("apt-get"),
        };
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    run("package lists", &mut apt(&["update", "-qq"]))?;
    let mut install = apt(&["install", "-y", "-qq", "--no-install-recommends"]);
    run(&format!("install {}", packages.join(" ")), install.args(packages))
}

fn am_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

/// `npm ci`, unless what is installed is of this lock file.
fn node_modules(folder: &str) -> Result<(), String> {
    let folder = root().join(folder);
    let lock = std::fs::read(folder.join("package-lock.json"))
        .map_err(|error| format!("{}: {error}", folder.display()))?;
    let stamp = folder.join("node_modules/.countersign-lock");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    run(
        &format!("npm ci in {}", folder.display()),
        Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder),
    )?;
    std::fs::write(&stamp, lock).map_err(|error| format!("{}: {error}", stamp.display()))
}

/// A virtual environment of our own under `.tools`, with the pinned Python SDK.
fn python_packages() -> Result<(), String> {
    let venv = root().join(".tools/venv");
    let requirements = root().join("e2e/python/requirements.txt");
    let wanted =
        std::fs::read(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let stamp = venv.join(".countersign-requirements");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    run("python environment", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    run(
        "python packages",
        Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--requirement"]).arg(&requirements),
    )?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))
}

/// The pinned cargo-deny, built once into `.tools`.
pub fn cargo_deny() -> Result<PathBuf, String> {
    let tools = root().join(".tools");
    let program = tools.join("bin/cargo-deny");
    let right_version = Command::new(&program)
        .arg("--version")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(CARGO_DENY));
    if !right_version {
        run(
            "build cargo-deny",
            Command::new("cargo")
                .args([
                    "install",
                    "--locked",
                    "--quiet",
                    "--debug",
                    "cargo-deny",
                    "--version",
                    CARGO_DENY,
                    "--root",
                ])
                .arg(&tools)
                .env("CARGO_TARGET_DIR", tools.join("target")),
        )?;
        let _ = std::fs::remove_dir_all(tools.join("target"));
    }
    Ok(program)
}
