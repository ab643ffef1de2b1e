//! The worker of this process.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use stacyvm_fleet::{ProviderReport, Worker};
use stacyvm_provider::{
    Capabilities, Error, ErrorKind, Guest, Images, LaunchSpec, Outcome, Provider, Result, Runtime,
};
use stacyvm_types::{Generation, Limits, SandboxId, Timestamp, WorkerId, time::Clock};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bounded::{Bounded, PROBE},
    deadlines::Deadlines,
    journal::{Journal, OpenError},
    ledger::Ledgers,
    turns::Turns,
};

/// How long a look at the providers stays good.
const FRESH: Duration = Duration::from_secs(2);
/// How much later than its deadline a sandbox is ended by its worker, in microseconds.
const GRACE_US: i64 = 5_000_000;
/// The pause between two looks at the deadlines.
const ROUND: Duration = Duration::from_secs(1);
/// Overdue sandboxes that are ended at once.
const OVERDUE_BATCH: usize = 32;

/// The worker of this process: its providers and its fencing journal.
pub struct LocalWorker {
    id: WorkerId,
    providers: BTreeMap<&'static str, Arc<Bounded>>,
    default: String,
    journal: Journal,
    deadlines: Deadlines,
    draining: AtomicBool,
    clock: Arc<dyn Clock>,
    turns: Turns,
    images_changed: Arc<Notify>,
    /// Held while looking, so that many who ask at once cause one look. A look is bounded.
    looked: AsyncMutex<Option<(Instant, Vec<ProviderReport>)>>,
}

impl LocalWorker {
    /// A worker with these providers, whose fencing journal and deadlines are kept in `dir`.
    /// The provider that `default` names is marked in the reports.
    pub fn new(
        id: WorkerId,
        providers: impl IntoIterator<Item = Arc<dyn Provider>>,
        default: impl Into<String>,
        dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> std::result::Result<Self, OpenError> {
        Self::with_ledgers(id, providers, default, Ledgers::in_dir(dir), clock)
    }

    /// The same, with its records kept by ledgers of the caller's.
    pub fn with_ledgers(
        id: WorkerId,
        providers: impl IntoIterator<Item = Arc<dyn Provider>>,
        default: impl Into<String>,
        ledgers: Ledgers,
        clock: Arc<dyn Clock>,
    ) -> std::result::Result<Self, OpenError> {
        let images_changed = Arc::new(Notify::new());
        let providers = providers
            .into_iter()
            .map(|provider| {
                let bounded = Bounded::new(Arc::clone(&provider), Arc::clone(&images_changed));
                (provider.name(), Arc::new(bounded))
            })
            .collect();
        Ok(Self {
            id,
            providers,
            default: default.into(),
            journal: Journal::open(ledgers.generations)?,
            deadlines: Deadlines::open(ledgers.deadlines)?,
            draining: AtomicBool::new(false),
            clock,
            turns: Turns::default(),
            images_changed,
            looked: AsyncMutex::new(None),
        })
    }

    /// Whether it takes no spawns.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Waits until an image is imported or removed that nobody has waited for yet.
    pub(crate) async fn images_changed(&self) {
        self.images_changed.notified().await;
    }

    /// Ends what outlived its time, until `stopping`. The control plane does that in time where it
    /// can; this comes some seconds later, so that a row's end has one author as long as there is one.
    pub async fn keep_time(&self, stopping: CancellationToken) {
        // One that hangs keeps only its own waiting.
        let all = self.providers.iter().map(|(name, provider)| self.keep_time_of(name, provider));
        stopping.run_until_cancelled(join_all(all)).await;
    }

    async fn keep_time_of(&self, name: &str, provider: &Bounded) {
        loop {
            self.deadlines.any().await;
            self.end_overdue(name, provider).await;
            sleep(ROUND).await;
        }
    }

    async fn end_overdue(&self, name: &str, provider: &Bounded) {
        let latest = self.clock.now().as_micros().saturating_sub(GRACE_US);
        let due = self.deadlines.due(name, Timestamp::from_micros(latest), OVERDUE_BATCH);
        join_all(due.iter().map(|id| self.end_overdue_one(name, provider, id))).await;
    }

    async fn end_overdue_one(&self, name: &str, provider: &Bounded, id: &SandboxId) {
        let Ok(_turn) = self.turns.take(id).await else { return };
        match Provider::destroy(provider, id).await {
            Ok(()) => {
                self.gone(id);
                tracing::info!(sandbox.id = %id, provider = name, "a sandbox outlived its time and ended");
            }
            // Still due, so the next round tries again.
            Err(error) => tracing::warn!(
                sandbox.id = %id, provider = name, ?error, "a sandbox outlived its time and goes on"
            ),
        }
    }

    async fn launch(&self, provider: &str, found: &Bounded, spec: &LaunchSpec) -> Result<Runtime> {
        if self.is_draining() {
            return Err(Error::new(ErrorKind::Unavailable, "worker is draining"));
        }
        if let Some(ttl) = spec.ttl {
            self.deadlines.set(&spec.id, provider, self.clock.now().saturating_add(ttl))?;
        }
        Provider::launch(found, spec).await
    }

    fn gone(&self, id: &SandboxId) {
        self.journal.bury(id);
        self.deadlines.forget(id);
    }

    fn provider(&self, name: &str) -> Result<&Arc<Bounded>> {
        self.providers.get(name).ok_or_else(|| {
            let message = format!("worker {} has no provider {name}", self.id);
            Error::new(ErrorKind::Unsupported, message)
        })
    }

    async fn look(&self, name: &'static str, provider: &Bounded) -> ProviderReport {
        let begun = Instant::now();
        let (probe, runtimes) =
            tokio::join!(provider.probe(), timeout(PROBE, Provider::list(provider)));
        ProviderReport {
            name: name.into(),
            default: name == self.default,
            capabilities: provider.capabilities(),
            probe,
            runtimes: runtimes.ok().and_then(Result::ok).map(|runtimes| runtimes.len()),
            latency: begun.elapsed(),
            checked_at: self.clock.now(),
        }
    }

    /// Forgets sandboxes that no provider has, when every provider has answered. `before` is what
    /// was remembered before they were asked.
    fn forget_absent(&self, before: BTreeSet<SandboxId>, runtimes: &[(Arc<str>, Runtime)]) {
        let present: BTreeSet<_> = runtimes.iter().map(|(_, runtime)| &runtime.id).collect();
        for id in before.iter().filter(|id| !present.contains(id) && !self.turns.are_taken(id)) {
            self.gone(id);
        }
    }
}

#[async_trait]
impl Worker for LocalWorker {
    fn id(&self) -> &WorkerId {
        &self.id
    }

    fn capabilities(&self, provider: &str) -> Result<Capabilities> {
        self.provider(provider).map(|provider| provider.capabilities())
    }

    fn expect(&self, provider: &str, image: &str, limits: &Limits) {
        if let Ok(provider) = self.provider(provider) {
            provider.expect(image, limits);
        }
    }

    #[tracing::instrument(level = "debug", name = "worker.spawn", skip_all, fields(worker.id = %self.id, provider, sandbox.id = %spec.id))]
    async fn spawn(&self, provider: &str, spec: &LaunchSpec) -> Result<Runtime> {
        let found = self.provider(provider)?;
        let _turn = self.turns.take(&spec.id).await?;
        let is_first = self.journal.admit_launch(&spec.id, spec.generation)?;
        let launched = self.launch(provider, found, spec).await;
        launched.map_err(|mut error| {
            if error.outcome == Outcome::NotDone {
                if is_first {
                    // The caller may start it elsewhere now: this call must not come once more.
                    self.gone(&spec.id);
                } else {
                    // This one did nothing; the one before it may have.
                    error.outcome = Outcome::Unknown;
                }
            }
            error
        })
    }

    #[tracing::instrument(level = "debug", name = "worker.destroy", skip_all, fields(worker.id = %self.id, provider, sandbox.id = %id))]
    async fn destroy(&self, provider: &str, id: &SandboxId, generation: Generation) -> Result<()> {
        let provider = self.provider(provider)?;
        let _turn = self.turns.take(id).await?;
        match self.journal.admit(id, generation) {
            Ok(()) => {}
            // Destroying needs no room on the disk: it makes some.
            Err(error) if error.kind != ErrorKind::Fenced => {
                tracing::warn!(sandbox.id = %id, ?error, "destroying without a journal entry");
            }
            Err(error) => return Err(error),
        }
        provider.destroy(id).await?;
        self.gone(id);
        Ok(())
    }

    #[tracing::instrument(level = "debug", name = "worker.status", skip_all, fields(worker.id = %self.id, provider, sandbox.id = %id))]
    async fn status(&self, provider: &str, id: &SandboxId) -> Result<Runtime> {
        self.provider(provider)?.status(id).await
    }

    /// A runtime is reported with the newest generation seen for it, which is its owner's, and not
    /// with the one that launched it.
    async fn runtimes(&self) -> (Vec<(Arc<str>, Runtime)>, Vec<Arc<str>>) {
        let before = self.journal.living();
        let lists = self
            .providers
            .iter()
            .map(|(name, provider)| async move { (*name, Provider::list(&**provider).await) });
        let mut found = Vec::new();
        let mut silent = Vec::new();
        for (name, list) in join_all(lists).await {
            match list {
                Ok(runtimes) => {
                    let name: Arc<str> = name.into();
                    found.extend(runtimes.into_iter().map(|runtime| (name.clone(), runtime)));
                }
                Err(error) => {
                    tracing::warn!(provider = name, ?error, "a provider cannot list its runtimes");
                    silent.push(name.into());
                }
            }
        }
        if silent.is_empty() {
            self.forget_absent(before, &found);
        }
        for (_, runtime) in &mut found {
            if let Some(seen) = self.journal.highest(&runtime.id) {
                runtime.generation = runtime.generation.max(seen);
            }
        }
        (found, silent)
    }

    #[tracing::instrument(level = "debug", name = "worker.guest", skip_all, fields(worker.id = %self.id, provider, sandbox.id = %id))]
    async fn guest(
        &self,
        provider: &str,
        id: &SandboxId,
        generation: Generation,
    ) -> Result<Arc<dyn Guest>> {
        let provider = self.provider(provider)?;
        self.journal.admit(id, generation)?;
        provider.guest(id).await
    }

    #[tracing::instrument(level = "debug", name = "worker.set_deadline", skip_all, fields(worker.id = %self.id, provider, sandbox.id = %id))]
    async fn set_deadline(
        &self,
        provider: &str,
        id: &SandboxId,
        generation: Generation,
        remaining: Duration,
    ) -> Result<()> {
        let found = self.provider(provider)?;
        if !self.deadlines.knows(id) {
            Provider::status(&**found, id).await?;
        }
        self.journal.admit(id, generation)?;
        self.deadlines.set(id, provider, self.clock.now().saturating_add(remaining))
    }

    async fn drain(&self) -> Result<()> {
        self.draining.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn undrain(&self) -> Result<()> {
        self.draining.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn providers(&self) -> Vec<ProviderReport> {
        let mut looked = self.looked.lock().await;
        if let Some((at, reports)) = &*looked
            && at.elapsed() < FRESH
        {
            return reports.clone();
        }
        let looks = self.providers.iter().map(|(name, provider)| self.look(name, provider));
        let reports = join_all(looks).await;
        *looked = Some((Instant::now(), reports.clone()));
        reports
    }

    fn images(&self, provider: &str) -> Result<Arc<dyn Images>> {
        let found = self.provider(provider)?;
        match found.images() {
            Some(_) => Ok(Arc::clone(found) as Arc<dyn Images>),
            None => {
                let message = format!("provider {provider} has no images");
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }
}
