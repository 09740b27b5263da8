//! A store that fails in the ways a store can: answers that are lost, answers that come late, none at all.

use std::sync::Arc;

use countersign_proto::time::Timestamp;
use countersign_store::{Backend, BoxFuture, Op, Page, Row, SqliteBackend, StoreError};
use tokio::sync::watch;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The next transaction is written, but its answer says that nobody knows.
    LoseAnswer,
    /// The next transaction is written, but answered only after the fault has ended.
    AnswerLate,
    /// Transactions neither happen nor are answered until the fault has ended.
    Hang,
}

/// Decides what goes wrong.
#[derive(Clone)]
pub struct Faults(Arc<watch::Sender<Fault>>);

impl Default for Faults {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Fault::None)))
    }
}

impl Faults {
    pub fn set(&self, fault: Fault) {
        self.0.send_replace(fault);
    }

    async fn ended(&self) {
        self.0.subscribe().wait_for(|fault| *fault == Fault::None).await.unwrap();
    }
}

pub struct Faulty {
    inner: SqliteBackend,
    faults: Faults,
}

impl Faulty {
    pub fn new(inner: SqliteBackend, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

/// Only what administrators and machines are is interesting to fail: the pulse of the publisher goes on.
fn is_pulse(ops: &[Op]) -> bool {
    ops.iter().any(|op| matches!(op, Op::Update { kind, .. } | Op::Insert { kind, .. } if kind == "pulse"))
}

impl Backend for Faulty {
    fn get<'a>(&'a self, kind: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Row>, StoreError>> {
        self.inner.get(kind, id)
    }

    fn list<'a>(
        &'a self,
        kind: &'a str,
        page: &'a Page,
    ) -> BoxFuture<'a, Result<Vec<(String, Row)>, StoreError>> {
        self.inner.list(kind, page)
    }

    fn find<'a>(
        &'a self,
        kind: &'a str,
        index: &'a str,
        value: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        self.inner.find(kind, index, value)
    }

    fn transact(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let fault = *self.faults.0.borrow();
            match fault {
                Fault::LoseAnswer if !is_pulse(&ops) => {
                    self.inner.transact(ops).await?;
                    self.faults.set(Fault::None);
                    Err(StoreError::Unavailable("the answer was lost".into()))
                }
                Fault::AnswerLate if !is_pulse(&ops) => {
                    self.inner.transact(ops).await?;
                    self.faults.ended().await;
                    Ok(())
                }
                Fault::Hang => {
                    self.faults.ended().await;
                    self.inner.transact(ops).await
                }
                Fault::None | Fault::LoseAnswer | Fault::AnswerLate => self.inner.transact(ops).await,
            }
        })
    }

    fn collect(&self, now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.collect(now)
    }
}
