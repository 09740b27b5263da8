//! The one thread that decides what is next in the log: takes what has arrived, makes it durable with one flush,
//! answers, and goes on. A batch is whatever came while the last one was being flushed; nobody who waits is made to
//! wait for company. Only records that nobody waits for are held back a moment, to share the next caller's flush.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use countersign_audit::note::LogKey;
use countersign_audit::record::Record;
use countersign_audit::sequencer::{Receipt, Sequencer, Write};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::publish::{Publication, PublishError};
use crate::recover::Segment;
use crate::storage::Storage;
use crate::{LogError, LogLimits, Shared, journal};

/// How long records that nobody waits for may stay in memory before they are flushed without a caller's record.
/// A crash in that time leaves their outcomes unknown, as one during the flush does.
const HELD_BACK_AT_MOST: Duration = Duration::from_millis(50);

/// Who waits for a record to be durable.
pub(crate) type Answer = oneshot::Sender<Result<Receipt, LogError>>;
/// Who waits for everything so far to be published.
pub(crate) type Done = oneshot::Sender<Result<(), LogError>>;

/// A record on its way.
pub(crate) struct Job {
    pub(crate) record: Record,
    pub(crate) answer: Option<Answer>,
    /// Its place in the queue, given back with the answer.
    pub(crate) _room: OwnedSemaphorePermit,
}

/// What the committer is told.
pub(crate) enum Message {
    Append(Job),
    Flush(Done),
    /// The publisher is free again; on an error it hands back what it was given.
    Published(Box<Publication>, Result<(), PublishError>),
    Close(Option<Done>),
}

/// Whether a batch could be written.
enum Trouble {
    /// Nothing was written, or it was undone: the disk is full, for example. The next batch may succeed.
    Passing(io::Error),
    /// Nobody knows what is on the disk.
    Final(io::Error),
}

pub(crate) struct Committer {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) key: LogKey,
    pub(crate) limits: LogLimits,
    pub(crate) shared: Arc<Shared>,
    pub(crate) sequencer: Sequencer,
    pub(crate) segment: Segment,
    pub(crate) messages: Receiver<Message>,
    /// To the publisher; `None` once it was told to end.
    pub(crate) publications: Option<Sender<Box<Publication>>>,
    pub(crate) backlog: VecDeque<Job>,
    pub(crate) flushes: Vec<Done>,
    /// Size of the last publication given to the publisher, and when.
    pub(crate) published: (u64, Instant),
    pub(crate) publishing: bool,
    pub(crate) unwritten: Vec<Write>,
    pub(crate) settle: Option<u64>,
    pub(crate) closing: Option<Option<Done>>,
}

impl Committer {
    /// Runs until the log is closed. The lock of the directory goes with the caller.
    pub(crate) fn run(&mut self) {
        loop {
            self.listen();
            if self.shared.has_failed() {
                self.refuse_all();
            } else {
                self.commit();
                self.publish_if_due();
            }
            if self.closing.is_some() && self.backlog.is_empty() && !self.publishing && self.all_published() {
                break;
            }
        }
        self.publications = None;
        self.answer_flushes();
    }

    fn all_published(&self) -> bool {
        self.shared.has_failed() || (self.published.0 == self.sequencer.size() && self.flushes.is_empty())
    }

    /// Waits for something to do, then takes everything that is there, up to one batch.
    fn listen(&mut self) {
        if self.backlog.is_empty() {
            let behind = self.is_behind() && !self.publishing;
            let ill = self.shared.is_degraded();
            let message = if behind || ill {
                match self.messages.recv_timeout(self.limits.publish_every) {
                    Err(RecvTimeoutError::Disconnected) => Some(Message::Close(None)),
                    Err(RecvTimeoutError::Timeout) => None,
                    Ok(message) => Some(message),
                }
            } else {
                Some(self.messages.recv().unwrap_or(Message::Close(None)))
            };
            if let Some(message) = message {
                self.take(message);
            }
        }
        self.take_what_is_there();
        self.hold_back();
        metrics::gauge!("cs_audit_queue_depth").set(self.backlog.len() as f64);
    }

    fn take_what_is_there(&mut self) {
        while self.backlog.len() < self.limits.batch_entries {
            let Ok(message) = self.messages.try_recv() else { break };
            self.take(message);
        }
    }

    /// A flush for outcomes alone helps nobody and keeps the next caller waiting: as long as nobody waits for
    /// anything, the batch is kept open for a caller's record, but never long, and never until callers lack room.
    fn hold_back(&mut self) {
        let until = Instant::now() + HELD_BACK_AT_MOST;
        let enough = (self.limits.queue / 2).min(self.limits.batch_entries);
        let mut awaited = self.backlog.iter().any(|job| job.answer.is_some());
        while !awaited && !self.backlog.is_empty() && self.backlog.len() < enough && !self.is_pressed() {
            let until = self.publication_due().map_or(until, |due| due.min(until));
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self.messages.recv_timeout(left) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => self.take(Message::Close(None)),
            }
            awaited = self.backlog.back().is_some_and(|job| job.answer.is_some());
        }
        self.take_what_is_there();
    }

    /// Whether somebody waits for everything, or only a write can show how the disk is.
    fn is_pressed(&self) -> bool {
        let ill = self.shared.is_degraded() || self.shared.has_failed();
        ill || self.closing.is_some() || !self.flushes.is_empty()
    }

    /// When the publisher must be told next, if there is anything to tell and it is free.
    fn publication_due(&self) -> Option<Instant> {
        (self.is_behind() && !self.publishing).then(|| self.published.1 + self.limits.publish_every)
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Append(job) => self.backlog.push_back(job),
            Message::Flush(done) => self.flushes.push(done),
            Message::Published(publication, result) => self.published(*publication, result),
            Message::Close(done) => self.closing = Some(done),
        }
    }

    /// One batch: write, flush, answer.
    fn commit(&mut self) {
        let jobs = self.next_batch();
        // A log that could not write tries with an empty frame, so that it is well before somebody needs it.
        if jobs.is_empty() && !self.shared.is_degraded() {
            return;
        }
        let began = Instant::now();
        self.shared.set_busy(Some(began));
        let (records, answers): (Vec<_>, Vec<_>) =
            jobs.into_iter().map(|job| (job.record, (job.answer, job._room))).unzip();
        let count = records.len() as u64;
        let result = self.make_durable(&records);
        self.shared.set_busy(None);
        match result {
            Ok(()) => {
                let receipts = self.sequencer.stage(records).durable();
                self.shared.set_size(self.sequencer.size());
                self.shared.set_degraded(false);
                for (receipt, (answer, _room)) in receipts.into_iter().zip(answers) {
                    if let Some(answer) = answer {
                        // Whoever stopped waiting has refused already.
                        let _ = answer.send(Ok(receipt));
                    }
                }
                metrics::histogram!("cs_audit_commit_seconds").record(began.elapsed().as_secs_f64());
                metrics::counter!("cs_audit_entries_total").increment(count);
            }
            Err(trouble) => {
                let (passing, error) = match trouble {
                    Trouble::Passing(error) => (true, error),
                    Trouble::Final(error) => (false, error),
                };
                tracing::error!(%error, passing, entries = count, "the audit log could not be written");
                metrics::counter!("cs_audit_errors_total").increment(1);
                self.shared.set_degraded(true);
                if !passing {
                    self.shared.set_failed();
                }
                for (answer, _room) in answers {
                    if let Some(answer) = answer {
                        let error = if passing { LogError::Unavailable } else { LogError::Failed };
                        let _ = answer.send(Err(error));
                    }
                }
            }
        }
    }

    /// Takes the next batch: not beyond the end of a segment, nor what nobody waits for any more.
    fn next_batch(&mut self) -> Vec<Job> {
        let room = (self.segment.first + self.limits.segment_entries).saturating_sub(self.sequencer.size());
        // A full segment is followed by a new one before anything is written.
        let room = if room == 0 { self.limits.segment_entries } else { room };
        let mut bytes = 0;
        let mut jobs = Vec::new();
        while (jobs.len() as u64) < room.min(self.limits.batch_entries as u64) {
            let Some(job) = self.backlog.front() else { break };
            bytes += job.record.bytes().len();
            if bytes > self.limits.batch_bytes && !jobs.is_empty() {
                break;
            }
            if let Some(job) = self.backlog.pop_front()
                && !job.answer.as_ref().is_some_and(Answer::is_closed)
            {
                jobs.push(job);
            }
        }
        jobs
    }

    fn make_durable(&mut self, records: &[Record]) -> Result<(), Trouble> {
        if self.sequencer.waiting_bytes() + self.unwritten_bytes() > self.limits.waiting_bytes {
            return Err(Trouble::Passing(io::Error::other("tiles cannot be published; see earlier errors")));
        }
        if self.sequencer.size() - self.segment.first >= self.limits.segment_entries {
            let origin = self.sequencer.origin().clone();
            let next = Segment::begin(&*self.storage, &origin, self.sequencer.size());
            self.segment = next.map_err(Trouble::Passing)?;
            self.settle = Some(self.segment.first);
        }
        let frame = journal::frame(self.sequencer.size(), records);
        let Segment { length, journal, .. } = &mut self.segment;
        if let Err(error) = journal.append(&frame) {
            // Nothing was promised yet: the torn frame can be taken back.
            return match journal.truncate(*length) {
                Ok(()) => Err(Trouble::Passing(error)),
                Err(again) => Err(Trouble::Final(again)),
            };
        }
        journal.sync().map_err(Trouble::Final)?;
        match journal.in_place() {
            Ok(true) => {}
            Ok(false) => return Err(Trouble::Final(io::Error::other("the journal file was taken away"))),
            Err(error) => return Err(Trouble::Final(error)),
        }
        *length += frame.len() as u64;
        Ok(())
    }

    /// Is there anything a publication would change?
    fn is_behind(&self) -> bool {
        self.published.0 != self.sequencer.size() || !self.unwritten.is_empty() || self.settle.is_some()
    }

    fn unwritten_bytes(&self) -> usize {
        self.unwritten.iter().map(|write| write.bytes.len()).sum()
    }

    /// Gives the publisher something to do if it is free and there is a reason.
    fn publish_if_due(&mut self) {
        let behind = self.is_behind();
        if !behind && !self.publishing {
            self.answer_flushes();
        }
        let due = self.published.1.elapsed() >= self.limits.publish_every
            || !self.flushes.is_empty()
            || self.closing.is_some()
            || self.sequencer.waiting_bytes() > self.limits.waiting_bytes / 4;
        if !behind || self.publishing || !due {
            return;
        }
        let unwritten = std::mem::take(&mut self.unwritten);
        let publication = Publication::of(&mut self.sequencer, &self.key, unwritten, self.settle);
        self.published = (publication.size, Instant::now());
        if let Some(publisher) = &self.publications {
            self.publishing = publisher.send(Box::new(publication)).is_ok();
        }
    }

    fn published(&mut self, publication: Publication, result: Result<(), PublishError>) {
        self.publishing = false;
        match result {
            Ok(()) => {
                self.shared.set_published(publication.size);
                if publication.settle == self.settle {
                    self.settle = None;
                }
            }
            Err(error) => {
                let (again, error) = match error {
                    PublishError::Again(error) => (true, error),
                    PublishError::Fatal(error) => (false, error),
                };
                tracing::error!(%error, again, "the audit log could not be published");
                metrics::counter!("cs_audit_publish_errors_total").increment(1);
                if !again {
                    self.shared.set_failed();
                }
                self.unwritten = publication.full;
                // Smaller than any tree with something to publish: due again at the next tick.
                self.published = (self.shared.published(), Instant::now());
                for done in self.flushes.drain(..) {
                    let _ = done.send(Err(LogError::Unavailable));
                }
                // Closing does not wait for a disk that refuses: the journal has everything.
                if self.closing.is_some() {
                    self.published.0 = self.sequencer.size();
                    self.unwritten.clear();
                }
            }
        }
    }

    fn answer_flushes(&mut self) {
        for done in self.flushes.drain(..) {
            let failed = self.shared.has_failed();
            let _ = done.send(if failed { Err(LogError::Failed) } else { Ok(()) });
        }
    }

    fn refuse_all(&mut self) {
        for job in self.backlog.drain(..) {
            if let Some(answer) = job.answer {
                let _ = answer.send(Err(LogError::Failed));
            }
        }
        self.answer_flushes();
    }
}
