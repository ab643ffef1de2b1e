//! The end of a sandbox: decided in the row first, then made true, then written down.

use std::time::Duration;

use stacyvm_provider::{ErrorKind, failpoint};
use stacyvm_store::{self as store, Durability, NewEvent, Sandbox};
use stacyvm_types::{Cause, CauseKind, EventKind, Operation, Phase, SandboxId, Transition};
use tokio::time::timeout;
use tracing::Instrument;

use crate::{Control, Error, Result, events, failpoints, operations::Act};

/// How long an end waits for a launch of the same sandbox that is still under way.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(30);

impl Control {
    /// Runs `work` on the server's own tasks, so that a caller that goes away cancels nothing.
    pub(crate) fn owned<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let stopping = self.0.parts.stopping.is_cancelled();
        let work = (!stopping).then(|| self.to_the_end(work));
        async move {
            match work {
                Some(work) => work.await,
                None => Err(Error::unavailable("the server is stopping; try again")),
            }
        }
    }

    /// The same for work that a stopping server still takes.
    pub(crate) fn to_the_end<T, F>(
        &self,
        work: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        // Begun here and not when it is first awaited, so that no future of a caller holds the work.
        let task = self.0.parts.tasks.spawn(work.in_current_span());
        async {
            task.await.unwrap_or_else(|error| {
                // Nobody ends it before its end but a server that waits for it no longer.
                Err(match error.is_cancelled() {
                    true => {
                        Error::unavailable("the server stopped in the middle of this; try again")
                    }
                    false => Error::internal("a task died", error),
                })
            })
        }
    }

    /// Applies a transition under the row's own generation.
    pub(crate) async fn transition(
        &self,
        row: &Sandbox,
        transition: Transition,
        events: Vec<NewEvent>,
        durability: Durability,
    ) -> store::Result<Sandbox> {
        let after = self
            .store()
            .transition(&row.spec.id, row.generation, transition, events, durability, self.now())
            .await?;
        self.0.recorder.appended();
        if !after.phase.is_live() {
            self.note_place(&after);
            self.0.queue.freed(&after.spec.owner);
        }
        Ok(after)
    }

    /// Decides a sandbox's end. A decided end keeps its first cause. A decision that has only
    /// reached the kernel is not to be told: the end that follows is.
    pub(crate) async fn stop(
        &self,
        row: &Sandbox,
        cause: Cause,
        mut events: Vec<NewEvent>,
        durability: Durability,
    ) -> Result<Sandbox> {
        let kind = match cause.kind {
            CauseKind::Requested => None,
            CauseKind::Expired => Some(EventKind::SandboxExpired),
            CauseKind::LaunchFailed
            | CauseKind::LaunchInterrupted
            | CauseKind::RuntimeDied
            | CauseKind::WorkerLost => Some(EventKind::SandboxError),
        };
        events.extend(kind.map(|kind| events::about(row, kind, cause_data(&cause))));
        let after = self
            .transition(row, Transition::Stop(cause), events, durability)
            .await
            .map_err(Error::from_store)?;
        tracing::info!(
            sandbox.id = %after.spec.id,
            cause = after.phase.cause().map_or("none", |cause| cause.kind.as_str()),
            "a sandbox's end is decided"
        );
        failpoint!(failpoints::DESTROY_STOPPING);
        Ok(after)
    }

    /// Makes a decided end true: waits for a launch of the same sandbox to let go, destroys the
    /// runtime, ends the row.
    pub(crate) async fn finish_stop(&self, row: &Sandbox) -> Result<Sandbox> {
        let settled = timeout(LAUNCH_PATIENCE, self.0.spawning.settle(&row.spec.id)).await;
        if settled.is_err() {
            return Err(Error::unavailable(format!(
                "sandbox {} is still being started; its end is decided and will follow",
                row.spec.id
            )));
        }
        self.destroy_runtime(row).await
    }

    /// Destroys the runtime of a row that is `Stopping`, and ends the row. The caller makes sure
    /// that no launch of it is under way. What fails is tried again by the reconciler.
    pub(crate) async fn destroy_runtime(&self, row: &Sandbox) -> Result<Sandbox> {
        let result = self.try_destroy_runtime(row).await;
        if result.is_err() {
            self.0.reconcile.wake();
        }
        result
    }

    async fn try_destroy_runtime(&self, row: &Sandbox) -> Result<Sandbox> {
        let id = &row.spec.id;
        if matches!(row.phase, Phase::Ended(_)) {
            self.store().sync().await.map_err(Error::from_store)?;
            return Ok(row.clone());
        }
        let destroyed = match self.worker_of(row).await {
            Ok(worker) => worker.destroy(&row.spec.provider, id, row.generation).await,
            Err(error) => Err(error),
        };
        self.note_answer(&row.spec.worker, destroyed.as_ref().err());
        if let Err(error) = destroyed {
            self.note_not_destroyed(row, &error).await;
            return Err(match error.kind {
                ErrorKind::Fenced => Error::Fenced,
                _ => Error::Unavailable(crate::Failure::because(
                    format!(
                        "sandbox {id} could not be destroyed yet; its end is decided and this is \
                         tried again until it is gone"
                    ),
                    error,
                )),
            });
        }
        failpoint!(failpoints::DESTROY_GONE);
        self.end_row(row).await
    }

    /// Ends the row of a sandbox whose worker was lost for so long that the runtime has ended.
    pub(crate) async fn conclude(&self, row: &Sandbox) -> Result<()> {
        let lease = self.store().lease(&row.spec.id).await.map_err(Error::from_store)?;
        if lease.is_some_and(|lease| lease.holds(Duration::ZERO, self.now())) {
            // It was heard of since this server looked, and can be asked.
            return Ok(());
        }
        let reason = "its worker was not heard of, and has ended it by itself by now".to_owned();
        let mut attempt = self.attempt(Act::Change("reconcile.action"), "marked_destroyed");
        attempt.concerns(row);
        self.end_row(row).await?;
        attempt.succeeded(reason).await;
        Ok(())
    }

    async fn end_row(&self, row: &Sandbox) -> Result<Sandbox> {
        let data = row.phase.cause().map(cause_data);
        let event = match data {
            Some(data) => events::about(row, EventKind::SandboxDestroyed, data),
            None => events::about(row, EventKind::SandboxDestroyed, []),
        };
        let after = self
            .transition(row, Transition::Gone, vec![event], Durability::Kernel)
            .await
            .map_err(Error::from_store)?;
        self.store().sync().await.map_err(Error::from_store)?;
        failpoint!(failpoints::DESTROY_ENDED);
        Ok(after)
    }

    /// Writes down that a provider could not destroy a runtime, whoever asked it to.
    async fn note_not_destroyed(&self, row: &Sandbox, error: &stacyvm_provider::Error) {
        tracing::warn!(
            sandbox.id = %row.spec.id,
            provider = row.spec.provider,
            error = ?error,
            "a provider could not destroy a runtime"
        );
        let data = [
            ("operation", Operation::Destroy.action().to_owned()),
            ("provider", row.spec.provider.clone()),
            ("error", error.message.clone()),
        ];
        self.record_event(events::about(row, EventKind::ProviderFailed, data)).await;
    }

    /// Records that a job could not end a sandbox; the reconciler tries again.
    pub(crate) async fn audit_not_ended(&self, row: &Sandbox, error: &Error) {
        let mut attempt = self.attempt(Act::Change(Operation::Destroy.action()), "");
        attempt.concerns(row);
        attempt.failed(error, Vec::new()).await;
    }

    /// The row of a sandbox. One that the caller may not see is as unknown as one that never was.
    pub(crate) async fn row(&self, id: &SandboxId) -> Result<Sandbox> {
        let row = self.store().sandbox(id).await.map_err(Error::from_store)?;
        row.filter(|row| self.sees(row)).ok_or_else(|| Error::NoSandbox(id.clone()))
    }
}

fn cause_data(cause: &Cause) -> [(&'static str, String); 2] {
    [("cause", cause.kind.as_str().to_owned()), ("detail", cause.detail.clone())]
}
