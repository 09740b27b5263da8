//! Writes a published log of numbered records, for a verifier that is not ours. Prints the verifier key.
#![expect(clippy::print_stdout, reason = "the key is this program's answer")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use countersign_audit::{Kind, LogKey, Origin, Record};
use countersign_log::{Log, LogLimits};
use countersign_proto::time::{Clock, Timestamp};

/// The records are the same every time.
struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_secs(1_800_000_000)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(count)) = (args.next(), args.next()) else {
        return Err("usage: write_log <directory> <entries>".into());
    };
    let count: u64 = count.parse()?;
    let limits = LogLimits { answer_within: Duration::from_secs(60), ..LogLimits::default() };
    let origin = Origin::parse("thirdparty.example/log")?;
    let log = Log::open(dir, origin, LogKey::from_seed(&[0x2a; 32])?, limits, Arc::new(Fixed))?;
    let mut last = None;
    for i in log.size()..count {
        let record = Record::new(Kind::Access, log.now(), u128::from(i).to_be_bytes())
            .with("padding", "x".repeat(usize::try_from(i % 300)?))
            .build()?;
        // The last answer of every thousand is waited for, so that batches have different sizes.
        if i % 1000 == 999 || i + 1 == count {
            last = Some(log.append(record).await?.index());
        } else {
            while log.try_append(record.clone()).is_err() {
                tokio::task::yield_now().await;
            }
        }
    }
    assert!(last.is_none_or(|last| last + 1 == count), "the last record is the last entry");
    println!("{}", log.verifier());
    Ok(log.shutdown().await?)
}
