//! CLI-13: a configuration that is not exactly understood, or that others could have written, starts nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const GOOD: &str = r#"
trust_domain = "example.org"
data_dir = "DIR/data"
[server]
listen = "127.0.0.1:0"
ek_roots = "DIR/missing-roots"
[console]
listen = "127.0.0.1:0"
[gateway]
listen = "127.0.0.1:0"
[[upstream]]
id = "work"
url = "http://127.0.0.1:9/mcp"
"#;

/// Runs `countersign serve` with this text in a file of this mode. Even the good one ends by itself: its roots are
/// missing, which is noticed after the configuration was read.
fn serve(folder: &Path, text: &str, mode: u32) -> Output {
    let file = folder.join("countersign.toml");
    std::fs::write(&file, text.replace("DIR", &folder.display().to_string())).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("its mode");
    Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(["serve", "--config"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}

#[test]
fn a_doubtful_configuration_starts_nothing_and_the_key_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let control = serve(folder.path(), GOOD, 0o600);
    let said = String::from_utf8_lossy(&control.stderr).into_owned();
    assert!(said.contains("missing-roots"), "the control is read, and fails at the roots alone: {said}");

    let check = |name: &str, text: &str, mode: u32, words: &[&str]| {
        let folder = tempfile::tempdir().expect("a folder");
        let output = serve(folder.path(), text, mode);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        for word in words {
            assert!(said.contains(word), "{name}: {word} is not in: {said}");
        }
        assert!(!folder.path().join("data").exists(), "{name}: something was started");
    };
    let with = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        GOOD.replacen(from, to, 1)
    };
    check("writable by everybody", GOOD, 0o602, &["written by others", "chmod"]);
    check("writable by the group", GOOD, 0o620, &["written by others"]);
    check(
        "an unknown key",
        &with("[server]\n", "[server]\ntrusted_proxy = true\n"),
        0o600,
        &["trusted_proxy"],
    );
    check("an unknown section", &format!("{GOOD}\n[proxy]\ntrusted = true\n"), 0o600, &["proxy"]);
    check("a typo in a key", &with("ek_roots", "ek_rots"), 0o600, &["ek_rots"]);
    check("a missing key", &with("trust_domain = \"example.org\"\n", ""), 0o600, &["trust_domain"]);
    check("a number for a text", &with("\"example.org\"", "7"), 0o600, &["trust_domain"]);
    check("a text for an address", &with("\"127.0.0.1:0\"", "\"everywhere\""), 0o600, &["listen"]);
    check("a key twice", &with("[server]\n", "[server]\nlisten = \"127.0.0.1:1\"\n"), 0o600, &["listen"]);
    check(
        "an unknown insecurity",
        &with("id = \"work\"\n", "id = \"work\"\ninsecure_everything = true\n"),
        0o600,
        &["insecure_everything"],
    );
    check(
        "a text for an insecurity",
        &with("id = \"work\"\n", "id = \"work\"\ninsecure_plain_http = \"yes\"\n"),
        0o600,
        &["insecure_plain_http"],
    );
    check(
        "plain http to elsewhere",
        &with("http://127.0.0.1:9", "http://tools.example"),
        0o600,
        &["insecure_plain_http"],
    );
    check(
        "the console on every address",
        &with("[console]\nlisten = \"127.0.0.1:0\"", "[console]\nlisten = \"0.0.0.0:0\""),
        0o600,
        &["console.listen"],
    );
    check("an upstream in other case", &with("id = \"work\"", "id = \"Work\""), 0o600, &["upstream.id"]);
    check(
        "an upstream twice",
        &format!("{GOOD}\n[[upstream]]\nid = \"work\"\nurl = \"https://a.example/mcp\"\n"),
        0o600,
        &["work", "twice"],
    );
    check("not TOML", "trust_domain: example.org", 0o600, &["countersign.toml"]);
    check("empty", "", 0o600, &["trust_domain"]);
}

#[test]
fn a_weaker_choice_announces_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = GOOD.replacen("http://127.0.0.1:9", "http://tools.example", 1).replacen(
        "id = \"work\"\n",
        "id = \"work\"\ninsecure_plain_http = true\n",
        1,
    );
    let output = serve(folder.path(), &text, 0o600);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("missing-roots"), "it is read: {said}");
    assert!(said.contains("insecure_plain_http"), "and announced: {said}");
}
