//! Runtimes that are begun while their owner is still being stored.
//!
//! Storing who owns a sandbox waits for the disk, making a runtime for the processors, so the two
//! go on side by side. Until the launch comes such a runtime is nobody's, like one of the pool; when
//! none comes for a while, since the sandbox was refused, it is removed.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use stacyvm_provider::Result;
use stacyvm_types::Limits;
use tokio::task::JoinHandle;

use crate::{
    make::Wanted,
    pool,
    provider::{LAUNCHES, Shared, finished},
    runtime::Live,
};

/// How long a runtime waits for its launch.
const UNCLAIMED: Duration = Duration::from_secs(2);

struct Begun {
    number: u64,
    image: String,
    limits: Limits,
    made: JoinHandle<Result<Live>>,
}

/// The runtimes that were begun and not claimed.
#[derive(Default)]
pub(crate) struct Early(Mutex<State>);

#[derive(Default)]
struct State {
    next_number: u64,
    begun: Vec<Begun>,
}

impl Early {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, wanted: impl Fn(&Begun) -> bool) -> Option<JoinHandle<Result<Live>>> {
        let mut state = self.locked();
        let at = state.begun.iter().position(wanted)?;
        Some(state.begun.swap_remove(at).made)
    }
}

impl Shared {
    /// Begins a runtime for a launch that will probably follow. Does nothing when enough are on
    /// their way.
    pub(crate) fn begin_early(self: &Arc<Self>, image: &str, limits: Limits) {
        let mut state = self.early.locked();
        if LAUNCHES <= state.begun.len() || self.stopping.is_cancelled() {
            return;
        }
        let number = state.next_number;
        state.next_number += 1;
        let wanted = Wanted { image: image.to_owned(), limits };
        let shared = Arc::clone(self);
        let made = self.tasks.spawn(async move { shared.make(wanted).await });
        state.begun.push(Begun { number, image: image.to_owned(), limits, made });
        drop(state);
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            shared.stopping.run_until_cancelled(tokio::time::sleep(UNCLAIMED)).await;
            let unclaimed = shared.early.take(|begun| begun.number == number);
            if let Some(made) = unclaimed
                && let Ok(Ok(live)) = made.await
            {
                pool::end(&shared, live).await;
            }
        });
    }

    /// The runtime for a launch: one that was begun for it, else a new one.
    pub(crate) async fn made(self: &Arc<Self>, image: &str, limits: Limits) -> Result<Live> {
        match self.early.take(|begun| begun.image == image && begun.limits == limits) {
            Some(made) => finished(made.await)?,
            None => self.make(Wanted { image: image.to_owned(), limits }).await,
        }
    }
}
