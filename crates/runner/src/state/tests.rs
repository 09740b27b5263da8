//! What `state` lets through and what it refuses.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn check(prepare: impl FnOnce(&Path), expected: Result<(), &str>) {
    let outer = tempfile::tempdir().unwrap();
    let path = outer.path().join("state");
    prepare(&path);
    let opened = StateDir::open(&path)
        .and_then(|state| state.save_certificate(b"new").and_then(|()| state.certificate()));
    match (opened, expected) {
        (Ok(bytes), Ok(())) => assert_eq!(bytes, b"new"),
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (opened, expected) => panic!("{opened:?} instead of {expected:?}"),
    }
}

fn folder(path: &Path, mode: u32) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn only_a_folder_that_is_ours_alone_is_used() {
    check(|_| {}, Ok(()));
    check(|path| folder(path, 0o700), Ok(()));
    check(|path| folder(path, 0o750), Err("others have access"));
    check(|path| folder(path, 0o707), Err("others have access"));
    check(|path| folder(path, 0o777), Err("others have access"));
    check(|path| folder(path, 0o1777), Err("others have access"));
    check(|path| fs::write(path, b"").unwrap(), Err("not a folder"));
    check(
        |path| {
            folder(&path.with_extension("real"), 0o700);
            symlink(path.with_extension("real"), path).unwrap();
        },
        Err("symbolic links are not followed"),
    );
    check(
        |path| fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap(),
        Err("its parent is writable"),
    );
}

#[test]
fn a_file_that_others_prepared_is_not_read() {
    let outer = tempfile::tempdir().unwrap();
    let state = StateDir::open(&outer.path().join("state")).unwrap();
    let file = state.path().join(CERTIFICATE);

    fs::write(outer.path().join("elsewhere"), b"x").unwrap();
    symlink(outer.path().join("elsewhere"), &file).unwrap();
    assert!(state.certificate().unwrap_err().to_string().contains("symbolic link"));

    fs::remove_file(&file).unwrap();
    fs::write(&file, b"x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(state.certificate().unwrap_err().to_string().contains("others have access"));

    // Writing replaces the entry and never writes through it.
    state.save_certificate(b"ours").unwrap();
    assert_eq!(state.certificate().unwrap(), b"ours");
    assert_eq!(fs::read(outer.path().join("elsewhere")).unwrap(), b"x");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_empty_folder_is_not_an_enrolled_machine_and_a_damaged_one_is_not_a_new_one() {
    let outer = tempfile::tempdir().unwrap();
    let state = StateDir::open(&outer.path().join("state")).unwrap();
    assert!(matches!(state.machine(), Err(StateError::NotEnrolled(_))));
    state.write(IDENTITY, b"{\"version\":1").unwrap();
    assert!(matches!(state.machine(), Err(StateError::Damaged { .. })));
}

#[test]
fn a_folder_or_file_of_another_user_is_not_used() {
    // Only root can give something away.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let nobody = Some(65534);
    let give_away = |path: &Path| {
        folder(path, 0o700);
        std::os::unix::fs::chown(path, nobody, nobody).unwrap();
    };
    check(give_away, Err("belongs to another user"));

    let outer = tempfile::tempdir().unwrap();
    let state = StateDir::open(&outer.path().join("state")).unwrap();
    state.save_certificate(b"x").unwrap();
    std::os::unix::fs::chown(state.path().join(CERTIFICATE), nobody, nobody).unwrap();
    assert!(state.certificate().unwrap_err().to_string().contains("belongs to another user"));
}

#[test]
fn writing_leaves_nothing_but_the_file_also_when_it_fails() {
    let outer = tempfile::tempdir().unwrap();
    let state = StateDir::open(&outer.path().join("state")).unwrap();
    let names = || {
        let entries = fs::read_dir(state.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    // What a crash left behind is in nobody's way.
    fs::write(state.path().join(format!(".{CERTIFICATE}.{}", std::process::id())), b"half").unwrap();
    state.save_certificate(b"x").unwrap();
    assert_eq!(names(), [CERTIFICATE]);

    fs::remove_file(state.path().join(CERTIFICATE)).unwrap();
    fs::create_dir(state.path().join(CERTIFICATE)).unwrap();
    state.save_certificate(b"x").unwrap_err();
    assert_eq!(names(), [CERTIFICATE]);
}
