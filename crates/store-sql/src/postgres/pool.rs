//! Threads that each own a connection and run store methods on it.
//!
//! Calls of one kind share a bounded queue, from which the threads take them. A call that failed in
//! a way that left nothing behind (a deadlock, a connection that was lost before COMMIT was sent) is
//! run again; one whose COMMIT was not answered is not. A call whose caller went away still runs.

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use stacyvm_store::{Error, Result};
use tokio::sync::{mpsc, oneshot};

use super::{
    session::{Ended, Failure, Purpose, Session},
    settings::Settings,
};
use crate::db::{Tx, unavailable};

/// Calls that may wait for a thread; more wait outside, in order.
const QUEUE: usize = 256;
/// The longest that a caller waits. A call that has begun may still happen after that; one that has
/// not is dropped.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long one attempt to connect may take.
const LONGEST_CONNECT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(250);
/// How often a call is run that fails in a way that left nothing behind.
const MOST_TRIES: u32 = 10;

/// The threads and the way to them. Dropping it lets them finish what was queued.
pub(super) struct Pool {
    /// `None` only while dropping.
    calls: Option<mpsc::Sender<Box<dyn Call>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts that many threads. Each connects when there is something to do.
    pub(super) fn start(
        settings: &Arc<Settings>,
        purpose: Purpose,
        name: &str,
        count: usize,
    ) -> io::Result<Self> {
        let (calls, queue) = mpsc::channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::with_capacity(count);
        for _ in 0..count {
            let session = Session::new(settings.clone(), purpose)?;
            let work = Work { session, settings: settings.clone() };
            let queue = queue.clone();
            let builder = thread::Builder::new().name(name.to_owned());
            threads.push(builder.spawn(move || work.until_closed(&queue))?);
        }
        Ok(Self { calls: Some(calls), threads })
    }

    /// Runs `body` and answers once what it did is committed. It may be run several times, and only
    /// the last one counts.
    pub(super) async fn run<T, F>(&self, body: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let Some(calls) = &self.calls else { return Err(unavailable(Reason::Gone)) };
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + LONGEST_WAIT;
        let call = Box::new(Body { body, deadline, outcome: None, reply });
        let wait = async {
            calls.send(call).await.map_err(|_| unavailable(Reason::Gone))?;
            answer.await.map_err(|_| unavailable(Reason::Gone))?
        };
        tokio::time::timeout(LONGEST_WAIT, wait).await.map_err(unavailable)?
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.calls = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

/// A queued call.
trait Call: Send {
    /// When its caller has gone.
    fn deadline(&self) -> Instant;
    /// Runs it. Whether its changes are to be kept.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Tells the caller how it went; a failure of the transaction in place of what the call said.
    fn answer(self: Box<Self>, failure: Option<Error>);
}

struct Body<T, F> {
    body: F,
    deadline: Instant,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Call for Body<T, F>
where
    T: Send,
    F: FnMut(&mut Tx<'_>) -> Result<T> + Send,
{
    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        // A panic in a body is a bug of that body: it must not end the store for everyone.
        self.outcome = catch_unwind(AssertUnwindSafe(|| (self.body)(tx))).ok();
        matches!(self.outcome, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, failure: Option<Error>) {
        let result = match (failure, self.outcome) {
            (Some(error), _) => Err(error),
            (None, Some(outcome)) => outcome,
            (None, None) => Err(unavailable(Reason::Panicked)),
        };
        // The caller may have gone away; the call has happened all the same.
        drop(self.reply.send(result));
    }
}

/// A thread's own.
struct Work {
    session: Session,
    settings: Arc<Settings>,
}

impl Work {
    fn until_closed(self, queue: &Mutex<mpsc::Receiver<Box<dyn Call>>>) {
        loop {
            // One thread waits for a call, the others for their turn to.
            let call = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(mut call) = call else { return };
            let failure = self.serve(&mut *call);
            call.answer(failure);
        }
    }

    /// Runs the call to its end. What kept it from one that the call itself decided.
    fn serve(&self, call: &mut dyn Call) -> Option<Error> {
        let mut tries = 0;
        loop {
            if let Err(failure) = self.connect(call.deadline()) {
                return Some(unavailable(failure));
            }
            tries += 1;
            match self.session.transact(|tx| call.run(tx)) {
                Ended::Committed | Ended::Undone => return None,
                Ended::Again(_) if tries < MOST_TRIES => {}
                Ended::Again(error) | Ended::Failed(error) => return Some(error),
            }
        }
    }

    /// Sees to it that there is a connection, trying for as long as that makes sense.
    fn connect(&self, deadline: Instant) -> Result<(), Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Late);
            }
            let Err(failure) = self.session.connect(left.min(LONGEST_CONNECT)) else {
                return Ok(());
            };
            let until = self.settings.is_worth_waiting_until().min(deadline);
            if failure.is_refusal() || until < Instant::now() + pause {
                return Err(failure);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("the store has stopped")]
    Gone,
    #[error("the call panicked; nothing of it was kept")]
    Panicked,
}
