//! Secrets of 32 bytes in files that only their owner can read, made at the first start.
//!
//! Not a key store: a file is the simplest thing that an operator can back up, move and protect.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use countersign_proto::time::Entropy;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Reads the secret, or makes it if there is none.
///
/// # Errors
/// If the file is a link, readable by others, of another length, or cannot be made durable.
pub fn load_or_create(path: &Path, rng: &dyn Entropy) -> io::Result<Zeroizing<[u8; 32]>> {
    match load(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, rng),
        loaded => loaded,
    }
}

fn no_follow() -> i32 {
    // The flag's value as the C interface has it; it always fits.
    i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

fn load(path: &Path) -> io::Result<Zeroizing<[u8; 32]>> {
    let named =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()));
    let mut file = OpenOptions::new().read(true).custom_flags(no_follow()).open(path)?;
    let metadata = file.metadata()?;
    if metadata.mode() & 0o077 != 0 {
        return Err(named(
            "others can read this secret; run: chmod 600 on it, and replace it if it may have leaked",
        ));
    }
    if metadata.len() != 32 {
        return Err(named("is not a secret of 32 bytes; restore it from your backup"));
    }
    let mut secret = Zeroizing::new([0_u8; 32]);
    file.read_exact(secret.as_mut())?;
    Ok(secret)
}

fn create(path: &Path, rng: &dyn Entropy) -> io::Result<Zeroizing<[u8; 32]>> {
    let mut secret = Zeroizing::new([0_u8; 32]);
    rng.fill(secret.as_mut());
    // Written whole under another name first, so that a crash never leaves half a secret under this one.
    let partial = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(no_follow())
        .open(&partial)?;
    file.write_all(secret.as_ref())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Counting;
    impl Entropy for Counting {
        fn fill(&self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    #[test]
    fn a_secret_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let made = load_or_create(&path, &Counting).unwrap();
        assert_eq!(*made, [7; 32]);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(*load_or_create(&path, &Counting).unwrap(), *made);
    }

    #[test]
    fn a_secret_that_others_could_have_seen_or_changed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        load_or_create(&path, &Counting).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load_or_create(&path, &Counting).unwrap_err().to_string().contains("chmod 600"));
        std::fs::write(&path, [1; 31]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(load_or_create(&path, &Counting).unwrap_err().to_string().contains("32 bytes"));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(load_or_create(&link, &Counting).is_err());
    }
}
