//! Key files: made once, kept, private.

use super::*;

struct Sevens;
impl Entropy for Sevens {
    fn fill(&self, out: &mut [u8]) {
        out.fill(7);
    }
}

#[test]
fn keys_survive_a_restart_and_no_other_user_can_read_them() {
    let dir = tempfile::tempdir().unwrap();
    let first = ServerKeys::open(dir.path(), &Sevens).unwrap();
    let again = ServerKeys::open(dir.path(), &Sevens).unwrap();
    assert_eq!(first.token.kid(), again.token.kid());
    assert_ne!(first.token.kid(), first.approval.kid());
    for entry in fs::read_dir(dir.path().join("keys")).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_key_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(ServerKeys::open(dir.path(), &Sevens).unwrap());
    let path = dir.path().join("keys/token.p8");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(ServerKeys::open(dir.path(), &Sevens), Err(KeyError::Permissions(at)) if at == path));
}

#[test]
fn a_symlink_in_place_of_a_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(ServerKeys::open(dir.path(), &Sevens).unwrap());
    let path = dir.path().join("keys/ca.p8");
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(matches!(ServerKeys::open(dir.path(), &Sevens), Err(KeyError::File(..))));
}

#[test]
fn a_truncated_key_is_refused_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    drop(ServerKeys::open(dir.path(), &Sevens).unwrap());
    let path = dir.path().join("keys/snapshot.p8");
    fs::write(&path, b"short").unwrap();
    assert!(matches!(ServerKeys::open(dir.path(), &Sevens), Err(KeyError::Format(at)) if at == path));
    assert_eq!(fs::read(&path).unwrap(), b"short");
}

#[test]
fn keys_do_not_print() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ServerKeys::open(dir.path(), &Sevens).unwrap();
    assert_eq!(format!("{keys:?}"), format!("ServerKeys(token SigningKey({}))", keys.token.kid()));
    assert_eq!(format!("{:?}", keys.ca), "SecretBytes(..)");
}
