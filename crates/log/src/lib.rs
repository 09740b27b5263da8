//! The tile log on disk: group commit, durable before answered.
//!
//! [`Log::append`] answers with a [`Receipt`] only after the disk confirmed the flush of a batch that holds the
//! record. Tiles and a signed checkpoint follow within a second, in the layout of C2SP tlog-tiles. How it survives
//! crashes is in `docs/adr/0001-a-crate-for-the-durable-log.md`.
//!
//! Not here: what records say, SQL, HTTP, witnesses.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod commit;
mod entries;
mod error;
mod journal;
mod publish;
mod recover;
pub mod storage;

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use countersign_audit::note::{LogKey, LogVerifier, Origin};
use countersign_audit::tile::{TILE_WIDTH, TiledTree};
use countersign_audit::{Checkpoint, Receipt, Record, proof, tree};
use countersign_proto::time::{Clock, Timestamp};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use commit::{Committer, Job, Message};
pub use entries::Entries;
pub use error::LogError;
use publish::{Publication, Publisher};
use storage::{Disk, Storage};

/// How much a log takes on, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Records waiting to be durable; further callers wait, and are refused when their time is over.
    pub queue: usize,
    /// Records in one batch.
    pub batch_entries: usize,
    /// Bytes of records in one batch (one record may be larger).
    pub batch_bytes: usize,
    /// Entries in one journal segment; a multiple of 256. A start replays at most two segments.
    pub segment_entries: u64,
    /// Bytes of tiles waiting to be published before records are refused.
    pub waiting_bytes: usize,
    /// How long [`Log::append`] takes at most.
    pub answer_within: Duration,
    /// How far the published log may lag behind.
    pub publish_every: Duration,
    /// How long [`Log::flush`] and [`Log::shutdown`] take at most.
    pub close_within: Duration,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            queue: 4096,
            batch_entries: 4096,
            batch_bytes: 8 << 20,
            segment_entries: 16_384,
            waiting_bytes: 64 << 20,
            answer_within: Duration::from_millis(500),
            publish_every: Duration::from_millis(500),
            close_within: Duration::from_secs(10),
        }
    }
}

impl LogLimits {
    fn check(&self) -> Result<(), LogError> {
        let wrong = [
            ("queue", self.queue == 0 || self.queue > Semaphore::MAX_PERMITS),
            ("batch_entries", self.batch_entries == 0 || self.batch_entries > 65_536),
            ("batch_bytes", self.batch_bytes > 1 << 30),
            (
                "segment_entries",
                self.segment_entries == 0 || !self.segment_entries.is_multiple_of(TILE_WIDTH),
            ),
        ];
        match wrong.iter().find(|(_, wrong)| *wrong) {
            Some((limit, _)) => Err(LogError::Limit { limit }),
            None => Ok(()),
        }
    }
}

/// An open log. Clones are handles to the same log; it closes when the last one goes, or with [`Log::shutdown`].
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    messages: Sender<Message>,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
    storage: Arc<dyn Storage>,
    verifier: LogVerifier,
    limits: LogLimits,
    clock: Arc<dyn Clock>,
}

impl Log {
    /// Opens the log in `dir`, or begins one there. Blocks for as long as recovery takes.
    ///
    /// # Errors
    /// [`LogError`] if it is open elsewhere, rolled back, damaged, or signed by another key.
    pub fn open(
        dir: impl AsRef<Path>,
        origin: Origin,
        key: LogKey,
        limits: LogLimits,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LogError> {
        let disk = Disk::new(dir.as_ref()).map_err(LogError::Io)?;
        Self::open_on(Arc::new(disk), origin, key, limits, clock, None)
    }

    /// As [`Self::open`] on any storage, and the log must continue `remembered`: a checkpoint that was exported or
    /// witnessed. Without one, a directory put back to yesterday as a whole cannot be told from yesterday.
    ///
    /// # Errors
    /// As [`Self::open`]; [`LogError::RolledBack`] and [`LogError::Changed`] also against `remembered`.
    pub fn open_on(
        storage: Arc<dyn Storage>,
        origin: Origin,
        key: LogKey,
        limits: LogLimits,
        clock: Arc<dyn Clock>,
        remembered: Option<&Checkpoint>,
    ) -> Result<Self, LogError> {
        limits.check()?;
        let lock = storage.lock()?;
        let verifier = key.verifier(&origin);
        let recovered = recover::recover(&*storage, &verifier)?;
        let mut sequencer = recovered.sequencer;
        if let Some(remembered) = remembered.filter(|remembered| remembered.size > sequencer.size()) {
            return Err(LogError::RolledBack { promised: remembered.size, found: sequencer.size() });
        }

        // What was durable is published before anything new is accepted.
        let publication = Publication::of(&mut sequencer, &key, Vec::new(), None);
        let publisher = Publisher::new(Arc::clone(&storage));
        publisher.publish(&publication).map_err(|error| match error {
            publish::PublishError::Again(error) | publish::PublishError::Fatal(error) => LogError::Io(error),
        })?;
        let size = publication.size;
        if let Some(remembered) = remembered {
            continues(&*storage, size, &origin, remembered)?;
        }

        let first = recovered.segment.first;
        let (messages, inbox) = mpsc::channel();
        let (publications, to_publish) = mpsc::channel::<Box<Publication>>();
        let shared = Arc::new(Shared::new(size));
        let mut committer = Committer {
            storage: Arc::clone(&storage),
            key,
            limits,
            shared: Arc::clone(&shared),
            sequencer,
            segment: recovered.segment,
            messages: inbox,
            publications: Some(publications),
            backlog: VecDeque::new(),
            flushes: Vec::new(),
            published: (size, Instant::now()),
            publishing: false,
            unwritten: Vec::new(),
            settle: recovered.older_segments.then_some(first),
            closing: None,
        };
        let back = messages.clone();
        let publishing = std::thread::Builder::new().name("audit-publish".to_owned()).spawn(move || {
            for publication in to_publish {
                let result = publisher.publish(&publication);
                if back.send(Message::Published(publication, result)).is_err() {
                    break;
                }
            }
        })?;
        std::thread::Builder::new().name("audit-commit".to_owned()).spawn(move || {
            committer.run();
            // A publisher that panicked left nothing half-written that recovery would trust.
            let _ = publishing.join();
            let closing = committer.closing.take();
            drop((committer, lock));
            if let Some(Some(done)) = closing {
                let _ = done.send(Ok(()));
            }
        })?;
        let room = Arc::new(Semaphore::new(limits.queue));
        Ok(Self { inner: Arc::new(Inner { messages, room, shared, storage, verifier, limits, clock }) })
    }

    /// Appends a record and waits until it is durable.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] after [`LogLimits::answer_within`] at the latest: the record may still become
    /// durable, so an intent in the log may belong to a call that was refused, never the other way round.
    /// [`LogError::Failed`] and [`LogError::Closed`] at once.
    pub async fn append(&self, record: Record) -> Result<Receipt, LogError> {
        let answer = async {
            let room = Arc::clone(&self.inner.room).acquire_owned().await.map_err(|_| LogError::Closed)?;
            let (answer, receipt) = oneshot::channel();
            self.send(Message::Append(Job { record, answer: Some(answer), _room: room }))?;
            receipt.await.map_err(|_| LogError::Closed)?
        };
        match tokio::time::timeout(self.inner.limits.answer_within, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(LogError::Unavailable),
        }
    }

    /// Hands a record over without waiting, for outcomes: whether it became durable shows in [`Self::healthy`],
    /// and a lost outcome shows in the log as unknown. It is held back for up to 50 ms to share the flush of a record
    /// somebody waits for; [`Self::flush`] and [`Self::shutdown`] end that.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the queue is full; [`LogError::Failed`], [`LogError::Closed`].
    pub fn try_append(&self, record: Record) -> Result<(), LogError> {
        let room = Arc::clone(&self.inner.room).try_acquire_owned().map_err(|_| LogError::Unavailable)?;
        self.send(Message::Append(Job { record, answer: None, _room: room }))
    }

    /// Waits until everything appended before is published.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if tiles cannot be written or it takes longer than [`LogLimits::close_within`].
    pub async fn flush(&self) -> Result<(), LogError> {
        self.ask(Message::Flush).await
    }

    /// Finishes what was accepted, publishes it, and lets go of the directory. Other handles answer
    /// [`LogError::Closed`] from then on.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if it takes longer than [`LogLimits::close_within`]; it goes on by itself.
    pub async fn shutdown(self) -> Result<(), LogError> {
        self.ask(|done| Message::Close(Some(done))).await
    }

    async fn ask(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<(), LogError>>) -> Message,
    ) -> Result<(), LogError> {
        let (done, answer) = oneshot::channel();
        self.inner.messages.send(message(done)).map_err(|_| LogError::Closed)?;
        match tokio::time::timeout(self.inner.limits.close_within, answer).await {
            Ok(answer) => answer.map_err(|_| LogError::Closed)?,
            Err(_) => Err(LogError::Unavailable),
        }
    }

    fn send(&self, message: Message) -> Result<(), LogError> {
        if self.inner.shared.has_failed() {
            return Err(LogError::Failed);
        }
        self.inner.messages.send(message).map_err(|_| LogError::Closed)
    }

    /// Durable entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner.shared.size.load(Ordering::Acquire)
    }

    /// Entries that the checkpoint on disk covers; at most [`LogLimits::publish_every`] behind [`Self::size`].
    #[must_use]
    pub fn published(&self) -> u64 {
        self.inner.shared.published()
    }

    /// Would a record be acknowledged now, as far as is known?
    #[must_use]
    pub fn healthy(&self) -> bool {
        let shared = &self.inner.shared;
        !shared.has_failed() && !shared.is_degraded() && shared.busy_for() <= self.inner.limits.answer_within
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        self.inner.verifier.origin()
    }

    /// The key and name with which anybody can verify the log.
    #[must_use]
    pub fn verifier(&self) -> &LogVerifier {
        &self.inner.verifier
    }

    /// The time by the clock this log was opened with, for records that have no other source of time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// The published entries from `index` on, in order. To see everything durable, [`Self::flush`] first.
    #[must_use]
    pub fn entries_from(&self, index: u64) -> Entries {
        Entries::new(Arc::clone(&self.inner.storage), index, self.published())
    }

    /// The offline proof of a published entry (`.tlog-proof`).
    ///
    /// # Errors
    /// [`proof::MakeError`] if it is not published yet, or the files on disk are not the log.
    pub fn prove(&self, index: u64) -> Result<String, proof::MakeError> {
        let read = |path: &str| self.inner.storage.read(path).ok().flatten();
        proof::prove(&read, &self.inner.verifier, index)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("origin", self.origin())
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Fails only if the log is closed already.
        let _ = self.messages.send(Message::Close(None));
    }
}

fn continues(
    storage: &dyn Storage,
    size: u64,
    origin: &Origin,
    remembered: &Checkpoint,
) -> Result<(), LogError> {
    let read = |path: &str| storage.read(path).ok().flatten();
    let root = tree::root(&TiledTree::new(&read, size), remembered.size)
        .map_err(|_| LogError::Damaged { index: 0, what: "a tile is missing" })?;
    let same = root == remembered.root && *origin == remembered.origin;
    if same { Ok(()) } else { Err(LogError::Changed { size: remembered.size }) }
}

/// What handles may know of the committer.
struct Shared {
    size: AtomicU64,
    published: AtomicU64,
    failed: AtomicBool,
    degraded: AtomicBool,
    born: Instant,
    /// Milliseconds after `born` at which the batch in work began, plus one; zero if there is none.
    busy_since: AtomicU64,
}

impl Shared {
    fn new(size: u64) -> Self {
        Self {
            size: AtomicU64::new(size),
            published: AtomicU64::new(size),
            failed: AtomicBool::new(false),
            degraded: AtomicBool::new(false),
            born: Instant::now(),
            busy_since: AtomicU64::new(0),
        }
    }

    fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    fn set_published(&self, size: u64) {
        self.published.store(size, Ordering::Release);
    }

    fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// INVARIANT: never taken back. After a failed flush only a new start may acknowledge anything.
    fn set_failed(&self) {
        self.failed.store(true, Ordering::Release);
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn set_degraded(&self, degraded: bool) {
        self.degraded.store(degraded, Ordering::Release);
    }

    fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Acquire)
    }

    fn set_busy(&self, since: Option<Instant>) {
        let since = since.map_or(0, |since| millis(since.saturating_duration_since(self.born)) + 1);
        self.busy_since.store(since, Ordering::Release);
    }

    fn busy_for(&self) -> Duration {
        match self.busy_since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => self.born.elapsed().saturating_sub(Duration::from_millis(since - 1)),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX - 1)
}
