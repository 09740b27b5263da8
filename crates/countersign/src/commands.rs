//! What the commands do: each takes its parsed arguments and gives an answer or a failure. No rules live here.

pub mod admin;
pub mod audit;
pub mod dev;
pub mod doctor;
pub mod machine;
pub mod run;

use std::io;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Every certificate (DER) in the PEM files of a folder, in the order of the file names.
///
/// # Errors
/// If the folder or a file cannot be read, or a file holds something that is not PEM.
pub fn pem_certificates(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "pem" || extension == "crt"));
    files.sort();
    let mut certificates = Vec::new();
    for file in files {
        for certificate in CertificateDer::pem_file_iter(&file).map_err(|error| named(&file, &error))? {
            certificates.push(certificate.map_err(|error| named(&file, &error))?.to_vec());
        }
    }
    Ok(certificates)
}

fn named(file: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", file.display()))
}
