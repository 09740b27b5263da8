//! Typed aggregates over a [`Backend`]: load, change by a pure function elsewhere, save if nobody else did.

use std::fmt;
use std::sync::Arc;

use countersign_proto::time::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::{Backend, ConsumeKind, MAX_PAGE, Op, Page, Row, StoreError};

/// Something stored as a whole under a name of its own.
pub trait Aggregate: Serialize + DeserializeOwned {
    /// Namespace of its rows. Never changed once released.
    const KIND: &'static str;

    /// Its name within the kind.
    fn id(&self) -> String;

    /// `(index, value)` pairs under which [`Store::find`] finds it.
    fn indexes(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Pairs that at most one aggregate of the kind may have; found like the others.
    fn unique(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// An aggregate as it was read, with the version that an update must still find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<A> {
    /// The version that was read.
    pub version: u64,
    /// The aggregate.
    pub value: A,
}

/// Typed access to a back end. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<dyn Backend>);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Over a back end.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self(backend)
    }

    /// The aggregate called `id`, or `None`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn load<A: Aggregate>(&self, id: &str) -> Result<Option<Stored<A>>, StoreError> {
        match self.0.get(A::KIND, id).await? {
            Some(row) => open::<A>(id, &row).map(Some),
            None => Ok(None),
        }
    }

    /// Stores a new aggregate.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if its id or a unique value is taken.
    pub async fn insert<A: Aggregate>(&self, value: &A) -> Result<(), StoreError> {
        self.transaction().insert(value).commit().await
    }

    /// Replaces what was read as `stored` by `new`.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if somebody else changed it since.
    pub async fn update<A: Aggregate>(&self, stored: &Stored<A>, new: &A) -> Result<(), StoreError> {
        self.transaction().update(stored, new).commit().await
    }

    /// Removes what was read as `stored`.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if somebody else changed it since.
    pub async fn delete<A: Aggregate>(&self, stored: &Stored<A>) -> Result<(), StoreError> {
        self.transaction().delete(stored).commit().await
    }

    /// Uses up a single-use name; see [`Op::Consume`].
    ///
    /// # Errors
    /// [`StoreError::Consumed`] if it was used before.
    pub async fn consume(
        &self,
        kind: ConsumeKind,
        id: &str,
        keep_until: Timestamp,
    ) -> Result<(), StoreError> {
        self.transaction().consume(kind, id, keep_until).commit().await
    }

    /// At most `limit` aggregates with ids after `after`, in byte order of the ids.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn page<A: Aggregate>(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Stored<A>>, StoreError> {
        let page = Page { after: after.map(str::to_owned), limit };
        self.0.list(A::KIND, &page).await?.iter().map(|(id, row)| open::<A>(id, row)).collect()
    }

    /// Every aggregate of the kind, read page by page. For kinds that fit in memory.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn all<A: Aggregate>(&self) -> Result<Vec<Stored<A>>, StoreError> {
        let mut found: Vec<Stored<A>> = Vec::new();
        loop {
            let after = found.last().map(|last| last.value.id());
            let page = self.page::<A>(after.as_deref(), MAX_PAGE).await?;
            let complete = page.len() < MAX_PAGE;
            found.extend(page);
            if complete {
                return Ok(found);
            }
        }
    }

    /// The aggregates that say `(index, value)` of themselves.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the index names an aggregate that does not say so.
    pub async fn find<A: Aggregate>(&self, index: &str, value: &str) -> Result<Vec<Stored<A>>, StoreError> {
        let mut found = Vec::new();
        for id in self.0.find(A::KIND, index, value).await? {
            // Gone between the two reads: as if it had gone before the first.
            let Some(stored) = self.load::<A>(&id).await? else { continue };
            found.push(stored);
        }
        // Changed between the two reads: not what was asked for any more.
        let says_so = |pair: &(String, String)| pair.0 == index && pair.1 == value;
        found.retain(|stored| {
            stored.value.indexes().iter().any(says_so) || stored.value.unique().iter().any(says_so)
        });
        Ok(found)
    }

    /// The one aggregate with a unique `(index, value)`, or `None`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if there are several.
    pub async fn find_one<A: Aggregate>(
        &self,
        index: &str,
        value: &str,
    ) -> Result<Option<Stored<A>>, StoreError> {
        let mut found = self.find::<A>(index, value).await?;
        if found.len() > 1 {
            return Err(StoreError::Corrupt(format!("several {} with one {index}", A::KIND)));
        }
        Ok(found.pop())
    }

    /// Starts a transaction. Nothing happens before [`Tx::commit`].
    pub fn transaction(&self) -> Tx {
        Tx { backend: Arc::clone(&self.0), ops: Vec::new(), failed: None }
    }

    /// Forgets single-use names past their time; see [`Backend::collect`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn collect(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.0.collect(now).await
    }
}

/// Steps that take effect together or not at all.
#[must_use = "a transaction does nothing until committed"]
pub struct Tx {
    backend: Arc<dyn Backend>,
    ops: Vec<Op>,
    /// The first step that could not be written down; reported by `commit`, so that steps chain.
    failed: Option<StoreError>,
}

impl Tx {
    /// Adds [`Op::Insert`].
    pub fn insert<A: Aggregate>(mut self, value: &A) -> Self {
        if let Some(body) = self.body(value) {
            self.ops.push(Op::Insert {
                kind: A::KIND.to_owned(),
                id: value.id(),
                body,
                indexes: value.indexes(),
                unique: value.unique(),
            });
        }
        self
    }

    /// Adds [`Op::Update`]. The id may not change.
    pub fn update<A: Aggregate>(mut self, stored: &Stored<A>, new: &A) -> Self {
        if stored.value.id() != new.id() {
            self.fail(StoreError::Corrupt(format!("an update would rename a {}", A::KIND)));
        } else if let Some(body) = self.body(new) {
            self.ops.push(Op::Update {
                kind: A::KIND.to_owned(),
                id: new.id(),
                expected_version: stored.version,
                body,
                indexes: new.indexes(),
                unique: new.unique(),
            });
        }
        self
    }

    /// Adds [`Op::Delete`].
    pub fn delete<A: Aggregate>(mut self, stored: &Stored<A>) -> Self {
        self.ops.push(Op::Delete {
            kind: A::KIND.to_owned(),
            id: stored.value.id(),
            expected_version: stored.version,
        });
        self
    }

    /// Adds [`Op::Expect`]: what was read and not changed must still be so.
    pub fn expect<A: Aggregate>(mut self, stored: &Stored<A>) -> Self {
        self.ops.push(Op::Expect {
            kind: A::KIND.to_owned(),
            id: stored.value.id(),
            version: stored.version,
        });
        self
    }

    /// Adds [`Op::Consume`].
    pub fn consume(mut self, kind: ConsumeKind, id: &str, keep_until: Timestamp) -> Self {
        self.ops.push(Op::Consume { kind, id: id.to_owned(), keep_until });
        self
    }

    /// Makes it so, durably, or changes nothing.
    ///
    /// # Errors
    /// The first step that does not hold; see [`StoreError`].
    pub async fn commit(self) -> Result<(), StoreError> {
        match self.failed {
            Some(error) => Err(error),
            None => self.backend.transact(self.ops).await,
        }
    }

    fn body<A: Aggregate>(&mut self, value: &A) -> Option<Vec<u8>> {
        match serde_json::to_vec(value) {
            Ok(body) => Some(body),
            Err(error) => {
                self.fail(StoreError::Corrupt(format!("a {} cannot be written: {error}", A::KIND)));
                None
            }
        }
    }

    fn fail(&mut self, error: StoreError) {
        self.failed.get_or_insert(error);
    }
}

fn open<A: Aggregate>(id: &str, row: &Row) -> Result<Stored<A>, StoreError> {
    let value: A = serde_json::from_slice(&row.body)
        .map_err(|error| StoreError::Corrupt(format!("{} {id:?} cannot be read: {error}", A::KIND)))?;
    if value.id() != id {
        return Err(StoreError::Corrupt(format!("{} {id:?} says it has another name", A::KIND)));
    }
    Ok(Stored { version: row.version, value })
}
