//! Answers that take a while to find and stay good for a moment.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::Control;

/// How long whoever asks for something that was never looked at waits for the first look. Looks
/// are bounded themselves, below this.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// The last answer to a question whose asking is shared: many who ask at once cause one look, and
/// a look that hangs keeps nobody waiting who can have the answer before it.
pub(crate) struct Looked<T> {
    seen: watch::Sender<Option<(Instant, T)>>,
    looking: AtomicBool,
}

impl<T> Default for Looked<T> {
    fn default() -> Self {
        Self { seen: watch::Sender::new(None), looking: AtomicBool::new(false) }
    }
}

/// Lets others look again, also when the look panicked.
struct Looking<T>(Arc<Looked<T>>);

impl<T> Drop for Looking<T> {
    fn drop(&mut self) {
        self.0.looking.store(false, Ordering::Release);
        // Whoever waits for a look that found nothing goes on.
        self.0.seen.send_modify(|_| {});
    }
}

impl<T: Clone + Send + Sync + 'static> Looked<T> {
    /// The last answer and its age. One that is as old as the start of `stale` is looked for again;
    /// the caller waits for that look as long as `patience`, or until it ends when there is no
    /// other. `look` yields `None` when nothing could be found out, and the answer before it stays
    /// until it is as old as the end of `stale`: then none is more honest.
    pub(crate) async fn get<F>(
        self: &Arc<Self>,
        control: &Control,
        stale: Range<Duration>,
        patience: Duration,
        look: impl FnOnce() -> F,
    ) -> Option<(Duration, T)>
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let mut changes = self.seen.subscribe();
        let old = self.last(stale.end);
        match old {
            Some((age, answer)) if age < stale.start => return Some((age, answer)),
            _ => self.begin(control, look),
        }
        let patience = if old.is_some() { patience } else { FIRST_LOOK };
        // Answered, or told by the end of the look that there is no answer.
        let _ = timeout(patience, changes.changed()).await;
        self.last(stale.end)
    }

    /// Makes the next one look again. An answer that is being looked for may still be the old one.
    pub(crate) fn forget(&self) {
        self.seen.send_replace(None);
    }

    fn last(&self, too_old: Duration) -> Option<(Duration, T)> {
        let seen = self.seen.borrow();
        let (at, answer) = seen.as_ref()?;
        let age = at.elapsed();
        (age < too_old).then(|| (age, answer.clone()))
    }

    fn begin<F>(self: &Arc<Self>, control: &Control, look: impl FnOnce() -> F)
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        if self.looking.swap(true, Ordering::Acquire) {
            return;
        }
        let looking = Looking(self.clone());
        let look = look();
        let stopping = control.0.parts.stopping.clone();
        control.0.parts.tasks.spawn(async move {
            if let Some(Some(answer)) = stopping.run_until_cancelled(look).await {
                looking.0.seen.send_replace(Some((Instant::now(), answer)));
            }
        });
    }
}
