//! The disk does what the log believes of it.

use super::*;

fn disk() -> (tempfile::TempDir, Disk) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new(dir.path().join("log")).unwrap();
    (dir, disk)
}

#[test]
fn one_process_has_the_directory_and_a_stale_lock_file_is_harmless() {
    let (_dir, disk) = disk();
    std::fs::write(disk.path(LOCK), b"left behind").unwrap();
    let held = disk.lock().unwrap();
    assert_eq!(disk.clone().lock().err().unwrap().kind(), ErrorKind::WouldBlock);
    drop(held);
    disk.lock().unwrap();
}

#[test]
fn a_journal_notices_that_its_file_was_taken_away() {
    let (_dir, disk) = disk();
    let mut journal = disk.journal("journal/a").unwrap();
    journal.append(b"abc").unwrap();
    assert!(journal.in_place().unwrap());
    std::fs::remove_file(disk.path("journal/a")).unwrap();
    assert!(!journal.in_place().unwrap());
    std::fs::write(disk.path("journal/a"), b"abc").unwrap();
    assert!(!journal.in_place().unwrap());
}

#[test]
fn a_journal_goes_on_at_its_end() {
    let (_dir, disk) = disk();
    disk.journal("journal/a").unwrap().append(b"abc").unwrap();
    let mut journal = disk.journal("journal/a").unwrap();
    journal.append(b"def").unwrap();
    journal.rewrite(0, b"abc").unwrap();
    journal.truncate(4).unwrap();
    journal.append(b"!").unwrap();
    journal.sync().unwrap();
    assert_eq!(disk.read("journal/a").unwrap().unwrap(), b"abcd!");
    assert_eq!(journal.length().unwrap(), 5);
}

#[test]
fn files_are_replaced_removed_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_dir, disk) = disk();
    disk.put("tile/0/000.p/1", b"one").unwrap();
    disk.sync().unwrap();
    disk.put_durable("checkpoint", b"two").unwrap();
    let mode = |path: &str| std::fs::metadata(disk.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("checkpoint"), mode("tile/0"), mode(".")), (0o600, 0o700, 0o700));
    disk.remove("tile/0/000.p").unwrap();
    disk.remove("tile/0/000.p").unwrap();
    assert_eq!(disk.list("tile/0").unwrap(), Vec::<String>::new());
    assert_eq!(disk.read("tile/0/000.p/1").unwrap(), None);
}
