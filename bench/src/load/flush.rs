//! What one flush costs on this disk, with nothing else going on: the floor below every recorded decision.
//!
//! Not a disk benchmark: one small write at the end of a file and `fdatasync`, as the log does it.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use tokio::time::Instant;

use crate::rounds::quantile;

const ATTEMPTS: usize = 200;
/// About what a batch of ten records has.
const BYTES: usize = 8 << 10;

/// The cost of a flush, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flush {
    pub(crate) p50_micros: u32,
    pub(crate) p99_micros: u32,
}

/// Writes and flushes a file in `folder`, again and again.
pub(crate) fn probe(folder: &Path) -> io::Result<Flush> {
    let path = folder.join("flush-probe");
    let mut file = File::create(&path)?;
    let mut micros = Vec::with_capacity(ATTEMPTS);
    for _ in 0..ATTEMPTS {
        let began = Instant::now();
        file.write_all(&[0x5a; BYTES])?;
        file.sync_data()?;
        micros.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    drop(file);
    std::fs::remove_file(path)?;
    micros.sort_unstable();
    Ok(Flush { p50_micros: quantile(&micros, 0.50), p99_micros: quantile(&micros, 0.99) })
}
