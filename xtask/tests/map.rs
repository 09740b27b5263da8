//! The map (ARCHITECTURE.md) as a test: who may depend on whom, and what must be absent, asked of `cargo tree`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Every crate that ends up in `package`, by name; what only its tests use is left out.
fn linked_into(package: &str) -> BTreeSet<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "tree",
            "--locked",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("cargo tree prints UTF-8");
    tree.lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| *name != package)
        .map(str::to_owned)
        .collect()
}

/// Asserts that none of `absent` is linked into `package`, and all of `present` are.
fn check(package: &str, present: &[&str], absent: &[&str]) {
    let linked = linked_into(package);
    for name in present {
        assert!(linked.contains(*name), "{package} was expected to use {name}; has the map changed?");
    }
    for name in absent {
        assert!(!linked.contains(*name), "{package} must not depend on {name}");
    }
}

const SHELLS: &[&str] = &[
    "countersign-gateway",
    "countersign-server",
    "countersign-runner",
    "countersign-store",
    "countersign-log",
];
const IO: &[&str] = &["tokio", "hyper", "axum", "mio", "rusqlite", "libsqlite3-sys", "rustls", "tracing"];

#[test]
fn two_factors_are_two_because_neither_knows_the_other() {
    check("countersign-trust", &["countersign-proto"], &["countersign-identity"]);
    check("countersign-identity", &["countersign-proto"], &["countersign-trust"]);
}

#[test]
fn the_middle_is_pure() {
    for package in [
        "countersign-proto",
        "countersign-trust",
        "countersign-identity",
        "countersign-audit",
        "countersign-policy",
    ] {
        check(package, &["aws-lc-rs"], SHELLS);
        check(package, &[], IO);
    }
}

#[test]
fn formats_stand_at_the_bottom() {
    check(
        "countersign-proto",
        &[],
        &["countersign-trust", "countersign-identity", "countersign-audit", "countersign-policy"],
    );
}

#[test]
fn the_log_knows_no_sql_and_no_network() {
    check(
        "countersign-log",
        &["countersign-audit"],
        &[
            "rusqlite",
            "hyper",
            "axum",
            "rustls",
            "countersign-trust",
            "countersign-identity",
            "countersign-policy",
            "countersign-store",
        ],
    );
}

#[test]
fn the_store_knows_no_rules() {
    check(
        "countersign-store",
        &["rusqlite"],
        &[
            "countersign-trust",
            "countersign-identity",
            "countersign-policy",
            "countersign-audit",
            "hyper",
            "axum",
        ],
    );
}

#[test]
fn the_gateway_holds_no_issuing_side_and_no_sql() {
    check(
        "countersign-gateway",
        &["countersign-policy", "countersign-log"],
        &["countersign-server", "countersign-store", "countersign-runner", "rusqlite", "axum"],
    );
}

#[test]
fn the_control_plane_carries_no_upstream_traffic() {
    check(
        "countersign-server",
        &["countersign-policy", "countersign-store"],
        &["countersign-gateway", "countersign-runner"],
    );
}

#[test]
fn the_runner_links_nothing_of_the_server() {
    check(
        "countersign-runner",
        &["countersign-proto"],
        &[
            "countersign-server",
            "countersign-gateway",
            "countersign-store",
            "countersign-log",
            "countersign-policy",
            "countersign-trust",
            "countersign-identity",
            "cedar-policy",
            "rusqlite",
        ],
    );
}

#[test]
fn nothing_needs_openssl_or_a_c_tpm_stack() {
    check(
        "countersign",
        &["aws-lc-rs"],
        &["openssl-sys", "native-tls", "ring", "tss-esapi", "tss-esapi-sys", "countersign-testkit"],
    );
}
