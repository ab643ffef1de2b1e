//! The one writer: a thread that owns the write connection and commits in groups.
//!
//! Calls queue up while the disk is busy with the last commit; the thread then takes what is there,
//! runs each in its own savepoint inside one transaction, commits once and only then answers. A
//! call that fails undoes its savepoint and nobody else's. A call whose caller went away still runs.
//! How the thread groups calls and what a commit waits for is in [`work`].

mod work;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use rusqlite::Connection;
use stacyvm_store::{Durability, Error, Result, Sandbox};
use stacyvm_types::SandboxId;
use tokio::sync::{mpsc, oneshot};

use self::work::Work;
use super::{recent::Recent, syncer::Tail};
use crate::db::{Tx, shared_sql_error, unavailable};

/// Calls that may wait for the writer; more wait outside, in order.
const QUEUE: usize = 256;
/// The longest that a caller waits. The call may still happen after that.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What a call needs before it may be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Needs {
    /// That the disk has it.
    Disk,
    /// That the kernel has it. It appends that many events at most.
    Kernel { events: usize },
}

impl Needs {
    /// What a call of this durability needs that appends that many events at most.
    pub(crate) const fn of(durability: Durability, events: usize) -> Self {
        match durability {
            Durability::Disk => Self::Disk,
            Durability::Kernel => Self::Kernel { events },
        }
    }
}

/// The row that a call may change, and what it is after it.
pub(crate) struct About<T> {
    pub(crate) id: SandboxId,
    /// `None` when the answer does not say.
    pub(crate) after: fn(&T) -> Option<&Sandbox>,
}

/// The thread and the way to it. Dropping it lets the thread finish what was queued.
#[derive(Debug)]
pub(crate) struct Writer {
    /// `None` only while dropping.
    calls: Option<mpsc::Sender<Box<dyn Call>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread on this connection.
    pub(super) fn start(
        connection: Connection,
        tail: Arc<Tail>,
        recent: Arc<Recent>,
    ) -> io::Result<Self> {
        let (calls, queue) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || Work::on(connection, tail, recent).until_closed(queue))?;
        Ok(Self { calls: Some(calls), thread: Some(thread) })
    }

    /// Runs `body` in a transaction and answers once the disk has it.
    pub(crate) async fn run<T, F>(&self, body: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.send(Needs::Disk, None, body).await
    }

    /// Runs `body` in a transaction and answers once it has what it needs.
    pub(crate) async fn run_to<T, F>(&self, needs: Needs, body: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.send(needs, None, body).await
    }

    /// Runs `body`, which may change that row, in a transaction and answers once it has what it
    /// needs.
    pub(crate) async fn change<T, F>(&self, needs: Needs, about: About<T>, body: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.send(needs, Some(about), body).await
    }

    async fn send<T, F>(&self, needs: Needs, about: Option<About<T>>, body: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let Some(calls) = &self.calls else { return Err(unavailable(Reason::Gone)) };
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Body { needs, about, body: Some(body), outcome: None, reply });
        let wait = async {
            calls.send(call).await.map_err(|_| unavailable(Reason::Gone))?;
            answer.await.map_err(|_| unavailable(Reason::Gone))?
        };
        tokio::time::timeout(LONGEST_WAIT, wait).await.map_err(unavailable)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

/// A queued call.
trait Call: Send {
    /// What it needs before it is answered.
    fn needs(&self) -> Needs;
    /// Runs it. Whether its changes are to be kept.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// The row that it may change.
    fn about(&self) -> Option<&SandboxId>;
    /// That row as it left it, when it succeeded.
    fn change(&self) -> Option<(&SandboxId, Option<&Sandbox>)>;
    /// The failure that it met by itself, if it did.
    fn failed(&self) -> Option<&Error>;
    /// Tells the caller how it went, after the commit.
    fn answer(self: Box<Self>, commit: Result<(), &Failure>);
}

struct Body<T, F> {
    needs: Needs,
    about: Option<About<T>>,
    body: Option<F>,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Call for Body<T, F>
where
    T: Send,
    F: FnOnce(&mut Tx<'_>) -> Result<T> + Send,
{
    fn needs(&self) -> Needs {
        self.needs
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        // A panic in a body is a bug of that body: it must not end the store for everyone.
        self.outcome =
            self.body.take().and_then(|body| catch_unwind(AssertUnwindSafe(|| body(tx))).ok());
        matches!(self.outcome, Some(Ok(_)))
    }

    fn about(&self) -> Option<&SandboxId> {
        self.about.as_ref().map(|about| &about.id)
    }

    fn change(&self) -> Option<(&SandboxId, Option<&Sandbox>)> {
        let (about, outcome) = (self.about.as_ref()?, self.outcome.as_ref()?.as_ref().ok()?);
        Some((&about.id, (about.after)(outcome)))
    }

    fn failed(&self) -> Option<&Error> {
        self.outcome.as_ref()?.as_ref().err()
    }

    fn answer(self: Box<Self>, commit: Result<(), &Failure>) {
        let result = match (self.outcome, commit) {
            (Some(Ok(_)) | None, Err(failure)) => Err(failure.to_error()),
            (Some(outcome), _) => outcome,
            (None, Ok(())) => Err(unavailable(Reason::Panicked)),
        };
        // The caller may have gone away; the call has happened all the same.
        drop(self.reply.send(result));
    }
}

/// Why a group was not committed.
enum Failure {
    /// A call met a full disk and the database gave up the whole transaction.
    DiskFull,
    /// A call met another failure after which the database gave up the whole transaction.
    RolledBack,
    /// Somebody reads what must be overwritten.
    Busy,
    /// Begin or commit failed.
    Sql(Arc<rusqlite::Error>),
}

impl Failure {
    fn to_error(&self) -> Error {
        match self {
            Self::DiskFull => Error::DiskFull,
            Self::RolledBack => unavailable(Reason::RolledBack),
            Self::Busy => unavailable(Reason::Busy),
            Self::Sql(error) => shared_sql_error(error),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(Arc::new(error))
    }
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("the store's writer has stopped")]
    Gone,
    #[error("the call panicked; nothing of it was kept")]
    Panicked,
    #[error("the database gave up the transaction that the call was part of")]
    RolledBack,
    #[error("a sync failed, and the log cannot be started over while somebody reads it")]
    Busy,
}

#[cfg(test)]
mod tests;
