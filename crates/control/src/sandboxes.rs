//! Spawning, reading, extending and destroying sandboxes.

use std::{collections::BTreeSet, convert::Infallible, future::pending, time::Duration};

use futures_util::{StreamExt, stream};
use stacyvm_provider::{self as provider, ErrorKind, LaunchSpec, Outcome, failpoint};
use stacyvm_store::{self as store, Durability, Include, NewSandbox, Sandbox};
use stacyvm_types::{
    Cause, CauseKind, EventKind, Operation, Phase, SandboxId, Timestamp, Transition, WorkerId,
    format_duration,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    Control, Error, Result, SpawnRequest,
    claims::Claim,
    events,
    exec::SetUpFailed,
    failpoints,
    operations::{Act, Attempt},
    queue::Reservation,
    validate,
};

/// Sandboxes that one prune ends at the same time.
const PRUNE_WIDTH: usize = 32;
/// Expired sandboxes that one round of a prune looks at.
const PRUNE_BATCH: u32 = 256;
/// How often a start says that it goes on: some times may fail before it is taken for interrupted.
const STARTS_AGAIN: Duration = Duration::from_secs(20);
/// Workers that a spawn tries after the first.
const MOVES: usize = 3;

/// A spawn whose every field is decided.
pub(crate) struct Plan {
    pub(crate) reservation: Reservation,
    setup: Vec<String>,
}

impl Control {
    /// Reserves a sandbox, starts its runtime and hands it out. A caller that goes away ends the
    /// wait for a place, if there is one; once a place is reserved the rest goes on without it. A
    /// failure leaves an ended row that says why.
    pub async fn spawn(&self, request: SpawnRequest) -> Result<Sandbox> {
        self.try_spawn(request).await.map_err(Error::of_spawn)
    }

    /// The same, with the error of a sandbox that somebody else settled meanwhile as it is.
    #[tracing::instrument(name = "spawn", skip_all, fields(sandbox.id = tracing::field::Empty))]
    pub(crate) async fn try_spawn(&self, request: SpawnRequest) -> Result<Sandbox> {
        let control = self.clone();
        let gone = CancellationToken::new();
        let _caller = gone.clone().drop_guard();
        self.owned(async move {
            let mut attempt = control.attempt(Act::Operation(Operation::Spawn), "");
            attempt.owner = request.owner.clone();
            let result = control.spawn_owned(request, &gone, &mut attempt).await;
            let has_place = attempt.has_found();
            if gone.is_cancelled() && !has_place && matches!(result, Err(Error::Unavailable(_))) {
                // Nobody waited for its turn any more: that is no failure.
                return result;
            }
            attempt.end(result, |row| format!("state={}", row.phase.wire_state())).await
        })
        .await
    }

    async fn spawn_owned(
        &self,
        request: SpawnRequest,
        gone: &CancellationToken,
        attempt: &mut Attempt,
    ) -> Result<Sandbox> {
        attempt.resource = request.image.clone().unwrap_or_default();
        attempt.provider = request.provider.clone();
        let Plan { reservation, setup } = self.plan(request).await?;
        let new = &reservation.new;
        tracing::Span::current().record("sandbox.id", tracing::field::display(&new.id));
        attempt.resource = new.image.clone();
        attempt.provider = Some(new.provider.clone());
        failpoint!(failpoints::SPAWN_RESERVING);
        let claim = self.0.spawning.claim(&new.id).ok_or_else(|| {
            Error::internal("a fresh sandbox id is taken", "80 random bits were drawn twice")
        })?;
        if self.0.queue.is_roomy()
            && let Ok(worker) = self.0.parts.fleet.worker(&new.worker)
        {
            worker.expect(&new.provider, &new.image, &new.limits);
        }
        let row = self.reserve(reservation, gone).await?;
        attempt.concerns(&row);
        failpoint!(failpoints::SPAWN_ADMITTED);
        // The disk is waited for beside the launch, and nothing is answered before it.
        let launch = async {
            tokio::select! {
                biased;
                launched = self.launch(&row, &setup, &claim) => launched,
                never = self.keep_creating(&row.spec.id) => match never {},
            }
        };
        let (synced, launched) = tokio::join!(biased; self.store().sync(), launch);
        let running = launched?;
        match synced {
            Ok(()) => Ok(running),
            Err(error) => Err(self.sync_failed(&running, error).await),
        }
    }

    /// Says for as long as a start goes on that it does: a template may take much longer to set up
    /// than other servers wait before they take a start for interrupted.
    async fn keep_creating(&self, id: &SandboxId) -> Infallible {
        loop {
            sleep(STARTS_AGAIN).await;
            match self.store().still_creating(id, self.now()).await {
                Ok(_) => {}
                // Somebody ended it, which the start finds out by itself.
                Err(store::Error::WrongPhase(_) | store::Error::NotFound) => {
                    return pending().await;
                }
                Err(error) => tracing::debug!(%error, "it is not told that a start goes on"),
            }
        }
    }

    /// Starts the runtime of an admitted row and sets it up; the row that says so. A failure is
    /// undone.
    async fn launch(&self, row: &Sandbox, setup: &[String], claim: &Claim) -> Result<Sandbox> {
        let row = &self.started(row.clone()).await?;
        failpoint!(failpoints::SPAWN_LAUNCHED);
        if let Err(error) = self.set_up(row, setup, claim).await {
            return Err(self.set_up_failed(row, error).await);
        }
        failpoint!(failpoints::SPAWN_SET_UP);
        self.hand_out(row).await
    }

    /// Starts the runtime, on another worker when the row's own certainly did not take it. The row
    /// afterwards.
    async fn started(&self, mut row: Sandbox) -> Result<Sandbox> {
        let mut refused = BTreeSet::new();
        loop {
            let spec = LaunchSpec {
                id: row.spec.id.clone(),
                generation: row.generation,
                image: row.spec.image.clone(),
                limits: row.spec.limits,
                ttl: Some(row.spec.expires_at.saturating_since(self.now())),
            };
            let launched = match self.worker_of(&row).await {
                Ok(worker) => worker.spawn(&row.spec.provider, &spec).await,
                Err(error) => Err(error),
            };
            self.note_answer(&row.spec.worker, launched.as_ref().err());
            let Err(error) = launched else { return Ok(row) };
            let moves = matches!(error.kind, ErrorKind::Unavailable | ErrorKind::NoImage);
            if moves && error.outcome == Outcome::NotDone && refused.len() < MOVES {
                refused.insert(row.spec.worker.clone());
                let wants_image = error.kind == ErrorKind::NoImage;
                if let Some(moved) = self.moved(&row, &refused, wants_image).await {
                    row = moved;
                    continue;
                }
            }
            return Err(self.launch_failed(&row, error).await);
        }
    }

    /// Gives a row whose worker certainly has no runtime of it to another one, which has the image
    /// if that is what the first one lacked.
    async fn moved(
        &self,
        row: &Sandbox,
        refused: &BTreeSet<WorkerId>,
        wants_image: bool,
    ) -> Option<Sandbox> {
        let (id, spec) = (&row.spec.id, &row.spec);
        let has_it = |next: &WorkerId| {
            !wants_image || self.is_known_to_have(next, &spec.provider, &spec.image)
        };
        let mut next = self.choose(spec, refused).filter(has_it);
        if next.is_none() && self.look_again().await.is_ok() {
            // One that came a moment ago is not known yet, nor what was imported since.
            next = self.choose(spec, refused).filter(has_it);
        }
        let next = next?;
        self.store().release_lease(id, &spec.worker, row.generation).await.ok()?;
        self.store().acquire_lease(id, &next, Duration::ZERO, self.now()).await.ok()?;
        tracing::info!(sandbox.id = %id, from = %spec.worker, to = %next, "a spawn moved on");
        // Whoever looks at the row from now on, looks at the other worker.
        let moved = self.row(id).await.ok()?;
        if moved.phase != Phase::Creating {
            // Somebody ended it meanwhile.
            return None;
        }
        self.0.members.moved(spec, &moved.spec);
        Some(moved)
    }

    async fn hand_out(&self, row: &Sandbox) -> Result<Sandbox> {
        let event = events::about(row, EventKind::SandboxRunning, []);
        // An observation: the host that loses it loses the runtime too, and the row says so then.
        let durability = Durability::Kernel;
        match self.transition(row, Transition::Started, vec![event], durability).await {
            Ok(after) => {
                failpoint!(failpoints::SPAWN_RUNNING);
                tracing::info!(
                    sandbox.id = %after.spec.id,
                    provider = after.spec.provider,
                    image = after.spec.image,
                    "a sandbox runs"
                );
                Ok(after)
            }
            Err(store::Error::Refused(_)) => Err(self.ended_meanwhile(&row.spec.id).await),
            Err(error) => {
                // Stored or not, the runtime lives: the reconciler reads the row and settles it.
                self.0.reconcile.wake();
                Err(Error::from_store(error))
            }
        }
    }

    /// The row left `Creating` while its runtime was being started: somebody ended it, and the
    /// runtime must go before the row does.
    async fn ended_meanwhile(&self, id: &SandboxId) -> Error {
        let row = match self.row(id).await {
            Ok(row) => row,
            Err(error) => return error,
        };
        match self.destroy_runtime(&row).await {
            Ok(after) => Error::of_row(after),
            Err(error) => error,
        }
    }

    async fn launch_failed(&self, row: &Sandbox, error: provider::Error) -> Error {
        failpoint!(failpoints::SPAWN_FAILED);
        use provider::ErrorKind as K;
        match error.kind {
            // The request is at fault, not the provider.
            K::NoImage | K::Invalid | K::Unsupported | K::TooLarge => {}
            _ => tracing::warn!(
                sandbox.id = %row.spec.id,
                provider = row.spec.provider,
                error = ?error,
                "a provider could not launch a sandbox"
            ),
        }
        let detail = match error.outcome {
            Outcome::NotDone => format!("the runtime could not be started: {}", error.message),
            Outcome::Unknown => {
                format!("starting the runtime came to no known end: {}", error.message)
            }
        };
        self.undo(row, detail).await;
        Error::from_provider(error, Some(&row.spec.image))
    }

    async fn set_up_failed(&self, row: &Sandbox, failed: SetUpFailed) -> Error {
        failpoint!(failpoints::SPAWN_FAILED);
        // Ended by somebody else meanwhile: then that is what the caller hears.
        if let Ok(Sandbox { phase: Phase::Stopping(_) | Phase::Ended(_), .. }) =
            self.row(&row.spec.id).await
        {
            return self.ended_meanwhile(&row.spec.id).await;
        }
        self.undo(row, failed.to_string()).await;
        match failed {
            SetUpFailed { what, said: None } => Error::Conflict(what),
            SetUpFailed { what, said: Some(said) } => Error::SetUp { what, said },
        }
    }

    /// The runtime runs, and the disk may not know of its row.
    async fn sync_failed(&self, row: &Sandbox, error: store::Error) -> Error {
        failpoint!(failpoints::SPAWN_FAILED);
        self.undo(row, "its admission may not have reached the disk".to_owned()).await;
        Error::from_store(error)
    }

    /// Ends a sandbox that was never handed out. Failures are the reconciler's work.
    pub(crate) async fn undo(&self, row: &Sandbox, detail: String) {
        let cause = Cause::new(CauseKind::LaunchFailed, detail);
        let undone = match self.stop(row, cause, Vec::new(), Durability::Disk).await {
            Ok(stopping) => self.destroy_runtime(&stopping).await,
            Err(error) => Err(error),
        };
        if let Err(error) = undone {
            self.0.reconcile.wake();
            tracing::warn!(sandbox.id = %row.spec.id, %error, "a failed spawn is not undone yet");
        }
    }

    /// Decides every field of a spawn: the request's, else the template's, else the default.
    pub(crate) async fn plan(&self, mut request: SpawnRequest) -> Result<Plan> {
        let setup = match request.template.clone() {
            Some(name) => crate::templates::apply(&mut request, self.template(&name).await?),
            None => Vec::new(),
        };
        let settings = self.settings();
        let priority = request.priority;
        let limits = validate::limits(&request, settings)?;
        let image = request.image.unwrap_or_else(|| settings.default_image.clone());
        validate::image(&image)?;
        validate::metadata(&request.metadata)?;
        validate::env(&request.env)?;
        let ttl = request.ttl.unwrap_or(settings.default_ttl);
        validate::ttl(ttl, None)?;
        let provider = request.provider.unwrap_or_else(|| settings.default_provider.clone());
        self.known_provider(&provider).await?;
        let new = NewSandbox {
            id: request.id.unwrap_or_else(|| SandboxId::from_entropy(self.0.entropy.id())),
            owner: self.owner_of_new(request.owner)?,
            provider,
            worker: settings.worker.clone(),
            image,
            template: request.template,
            limits,
            metadata: request.metadata,
            env: request.env,
            expires_at: self.now().saturating_add(ttl),
        };
        Ok(Plan { reservation: Reservation { new, ttl, priority }, setup })
    }

    pub(crate) async fn known_provider(&self, name: &str) -> Result<()> {
        if !self.some_worker_has(name) {
            // The first worker that has it may have been heard of a moment ago, at another server.
            self.look_again().await.map_err(Error::from_store)?;
        }
        if self.some_worker_has(name) { Ok(()) } else { Err(Error::NoProvider(name.to_owned())) }
    }

    /// A sandbox that has not ended. One whose end is decided, or whose time is over, has.
    pub async fn get(&self, id: &SandboxId) -> Result<Sandbox> {
        let row = self.row(id).await?;
        if matches!(row.phase, Phase::Stopping(_) | Phase::Ended(_)) {
            return Err(Error::of_row(row));
        }
        self.refuse_expired(&row)?;
        Ok(row)
    }

    /// A sandbox, ended or not.
    pub async fn get_any(&self, id: &SandboxId) -> Result<Sandbox> {
        self.row(id).await
    }

    /// Sandboxes, newest first. The live ones are those that [`Control::get`] would return.
    pub async fn list(&self, include: Include) -> Result<Vec<Sandbox>> {
        let mut rows = self.store().sandboxes(include).await.map_err(Error::from_store)?;
        rows.retain(|row| self.sees(row));
        if include == Include::Live {
            let now = self.now();
            rows.retain(|row| {
                !matches!(row.phase, Phase::Stopping(_) | Phase::Ended(_))
                    && now < row.spec.expires_at
            });
        }
        Ok(rows)
    }

    /// A sandbox that takes work now. The store is read on every call and the clock too, so that
    /// an expired sandbox refuses at its deadline and not when somebody gets round to ending it.
    pub(crate) async fn usable(&self, id: &SandboxId) -> Result<Sandbox> {
        let mut row = self.get(id).await?;
        if let Some(since) = self.surely_lost_since(&row.spec.worker).await? {
            // Before anybody got round to marking it.
            let detail = format!("its worker {} was not heard of since {since}", row.spec.worker);
            row.phase = Phase::Unhealthy(Cause::new(CauseKind::WorkerLost, detail));
        }
        match row.phase {
            Phase::Running => Ok(row),
            _ => Err(Error::of_row(row)),
        }
    }

    fn refuse_expired(&self, row: &Sandbox) -> Result<()> {
        if self.now() < row.spec.expires_at {
            return Ok(());
        }
        Err(Error::Ended { id: row.spec.id.clone(), cause: expiry_of(row) })
    }

    /// Ends a sandbox. Returns when its runtime is proved gone. May be repeated, and of an unknown
    /// id succeeds. When the provider cannot say that the runtime is gone, the end stays decided,
    /// goes on in the background, and the answer is [`Error::Unavailable`].
    #[tracing::instrument(name = "destroy", skip_all, fields(sandbox.id = %id))]
    pub async fn destroy(&self, id: &SandboxId) -> Result<()> {
        failpoint!(failpoints::DESTROY_ASKED);
        let control = self.clone();
        let id = id.clone();
        self.owned(async move {
            let mut attempt = control.attempt(Act::Operation(Operation::Destroy), "").on(&id);
            let result = control.destroy_owned(&id, &mut attempt).await;
            if result.is_ok() && !attempt.has_found() {
                // What is not there is as it was wanted: nothing was done that could be recorded.
                return Ok(());
            }
            attempt.end(result, |()| String::new()).await
        })
        .await
    }

    async fn destroy_owned(&self, id: &SandboxId, attempt: &mut Attempt) -> Result<()> {
        let row = match self.row(id).await {
            Ok(row) => row,
            Err(Error::NoSandbox(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        attempt.concerns(&row);
        let cause = Cause::new(CauseKind::Requested, "destroyed by request");
        self.end(&row, cause).await
    }

    async fn end(&self, row: &Sandbox, cause: Cause) -> Result<()> {
        if matches!(row.phase, Phase::Ended(_)) {
            // Its end may only have reached the kernel: who ended it still waits for the disk.
            return self.store().sync().await.map_err(Error::from_store);
        }
        // The end that is answered reaches the disk, and takes the decision along.
        let stopping = self.stop(row, cause.clone(), Vec::new(), Durability::Kernel).await?;
        let Err(error) = self.finish_stop(&stopping).await else { return Ok(()) };
        // The answer is that the end is decided and will follow: now that must outlive the host.
        self.transition(&stopping, Transition::Stop(cause), Vec::new(), Durability::Disk)
            .await
            .map_err(Error::from_store)?;
        Err(error)
    }

    /// Ends every sandbox whose time is over and that the caller may see, and says how many it
    /// ended.
    pub async fn prune(&self) -> Result<u64> {
        let control = self.clone();
        self.owned(async move {
            let mut attempt = control.attempt(Act::Change("sandbox.prune"), "");
            let result = control.prune_owned().await;
            attempt.end(result, |count| format!("count={count}")).await
        })
        .await
    }

    async fn prune_owned(&self) -> Result<u64> {
        // Behind however many of other owners its own may stand.
        let batch = if self.caller().only.is_none() { PRUNE_BATCH } else { u32::MAX };
        let mut ended = 0;
        loop {
            let due = self.store().expired(self.now(), batch).await;
            let mut due = due.map_err(Error::from_store)?;
            due.retain(|row| self.sees(row));
            if due.is_empty() {
                return Ok(ended);
            }
            let rows = stream::iter(due.into_iter().map(|row| {
                let control = self.clone();
                async move { control.end(&row, expiry_of(&row)).await }
            }));
            let results: Vec<_> = rows.buffer_unordered(PRUNE_WIDTH).collect().await;
            let count = results.iter().filter(|result| result.is_ok()).count() as u64;
            ended += count;
            if count == 0 {
                // None could be ended now; each is decided or stays due for the reaper.
                return Ok(ended);
            }
        }
    }

    /// Sets a sandbox's deadline to `ttl` from now. A ttl above the longest one is refused, and a
    /// deadline never passes the longest life counted from the sandbox's creation: the answer
    /// carries the deadline that it got.
    #[tracing::instrument(name = "extend", skip_all, fields(sandbox.id = %id))]
    pub async fn extend(&self, id: &SandboxId, ttl: Duration) -> Result<Sandbox> {
        self.extend_from(id, ttl, self.now()).await
    }

    /// The same, with a ttl that counts from an instant.
    pub(crate) async fn extend_from(
        &self,
        id: &SandboxId,
        ttl: Duration,
        from: Timestamp,
    ) -> Result<Sandbox> {
        let control = self.clone();
        let id = id.clone();
        self.owned(async move {
            let attempt = control.attempt(Act::Change("sandbox.extend"), format_duration(ttl));
            let mut attempt = attempt.on(&id);
            let result = control.extend_owned(&id, ttl, from).await;
            if let Ok(row) = &result {
                attempt.concerns(row);
            }
            attempt.end(result, |row| format!("expires_at={}", row.spec.expires_at)).await
        })
        .await
    }

    async fn extend_owned(
        &self,
        id: &SandboxId,
        ttl: Duration,
        from: Timestamp,
    ) -> Result<Sandbox> {
        validate::ttl(ttl, None)?;
        let row = self.get(id).await?;
        let now = self.now();
        let asked = from.saturating_add(ttl);
        let max = self.max_ttl(row.spec.owner.as_ref()).await?;
        validate::ttl(ttl, max)?;
        let latest = max.map(|max| row.created_at.saturating_add(max));
        let expires_at = latest.map_or(asked, |latest| latest.min(asked));
        if expires_at < asked && expires_at <= row.spec.expires_at {
            return Err(validate::above_max_ttl(max.unwrap_or_default()));
        }
        failpoint!(failpoints::EXTEND_CHECKED);
        let data = [("expires_at", expires_at.to_string())];
        let event = events::about(&row, EventKind::SandboxExtended, data);
        let after = match self.store().extend(id, expires_at, vec![event], now).await {
            Ok(after) => after,
            Err(store::Error::NotFound) => return Err(Error::NoSandbox(id.clone())),
            Err(store::Error::WrongPhase(row)) => {
                self.refuse_expired(&row)?;
                return Err(Error::of_row(*row));
            }
            Err(error) => return Err(Error::from_store(error)),
        };
        self.0.recorder.appended();
        self.0.reaper.expects(after.spec.expires_at);
        failpoint!(failpoints::EXTEND_STORED);
        // After the row, which so never says an earlier end than any that its worker was told; and
        // before the answer, which so never promises more time than the worker gives.
        self.tell_deadline(&after, expires_at).await?;
        Ok(after)
    }

    /// Tells a sandbox's worker, which ends it by itself, that it may live until then.
    pub(crate) async fn tell_deadline(&self, row: &Sandbox, until: Timestamp) -> Result<()> {
        let remaining = until.saturating_since(self.now());
        let (provider, id) = (&row.spec.provider, &row.spec.id);
        let told = match self.worker_of(row).await {
            Ok(worker) => worker.set_deadline(provider, id, row.generation, remaining).await,
            Err(error) => Err(error),
        };
        match told {
            // There is nothing that would end early: no runtime, which is the reconciler's business,
            // or a worker of an older version, which ends nothing by itself.
            Err(error) if matches!(error.kind, ErrorKind::NoSandbox | ErrorKind::Unsupported) => {
                Ok(())
            }
            told => told.map_err(|error| Error::from_provider(error, None)),
        }
    }

    /// Runs a template's lines, one after the other; a sentence says which one failed. Ends early
    /// when the sandbox is not wanted any more.
    async fn set_up(
        &self,
        row: &Sandbox,
        lines: &[String],
        claim: &Claim,
    ) -> std::result::Result<(), SetUpFailed> {
        if lines.is_empty() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = claim.unwanted() => Err(SetUpFailed {
                what: "it was ended while its template was set up".to_owned(),
                said: None,
            }),
            result = self.run_lines(row, lines) => result,
        }
    }
}

/// The cause of an end by time.
pub(crate) fn expiry_of(row: &Sandbox) -> Cause {
    let detail = format!("its time to live was over at {}", row.spec.expires_at);
    Cause::new(CauseKind::Expired, detail)
}
