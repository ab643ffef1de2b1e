//! The use cases of the control plane and its background jobs. No HTTP, no SQL, nothing of any one
//! provider.
//!
//! Promises:
//! - A sandbox is reserved in the store before anything is started, and its row ends only when its
//!   runtime is proved gone.
//! - What a request started never depends on the request: a caller that goes away cancels nothing.
//! - Every call that reaches into a runtime first reads the row: ended and expired sandboxes refuse
//!   work at once, whether or not anybody has cleaned them up yet.
//! - What goes wrong half-way is settled by the reconciler, which compares rows and runtimes all
//!   the time, one step per row.

mod audit;
mod caller;
mod claims;
mod decide;
mod error;
mod events;
mod exec;
mod failpoints;
mod files;
mod follow;
mod hints;
mod idempotency;
mod images;
mod jobs;
mod keys;
mod leases;
mod lifecycle;
mod members;
pub mod metrics;
mod operations;
mod preflight;
mod queue;
mod quotas;
mod reaper;
mod reconcile;
mod requests;
mod reserve;
mod retention;
mod rules;
mod sandboxes;
mod settings;
mod status;
mod templates;
mod validate;

use std::sync::Arc;

use stacyvm_fleet::{Dial, Fleet};
use stacyvm_store::Store;
use stacyvm_types::{
    entropy::{Entropy, SystemEntropy},
    time::Clock,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use audit::AdminRequest;
pub use caller::Caller;
pub use decide::{Pass, Seen, Step, decide};
pub use error::{Error, Failure, Result};
pub use failpoints::FAILPOINTS;
pub use idempotency::{Key, Once, Turn, Verdict};
pub use jobs::{JobStatus, Progress};
pub use keys::{IssuedKey, NewKey, NotValid, name_taken, no_key};
pub use members::Member;
pub use queue::{Outlook, QueueCounts};
pub use quotas::OwnerUsage;
pub use requests::{
    Admission, Collected, ExecRequest, Image, ImageList, Readiness, SpawnRequest, Started,
    TemplateSpawn,
};
pub use retention::Retention;
pub use rules::{Overflow, Rules};
pub use settings::{Membership, Settings};

/// What a control plane is made of.
pub struct Parts {
    /// What it remembers.
    pub store: Arc<dyn Store>,
    /// The workers that it can reach.
    pub fleet: Fleet,
    /// How workers of the registry are reached that are not in the fleet; without it only those
    /// are that are.
    pub dial: Option<Arc<dyn Dial>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What the operator decided.
    pub settings: Settings,
    /// Owns every task that is started here.
    pub tasks: TaskTracker,
    /// Cancelled when the server takes nothing new.
    pub stopping: CancellationToken,
}

/// The control plane as one caller sees it. Clones share it; [`Control::on_behalf_of`] is it for
/// another caller.
#[derive(Clone)]
pub struct Control(Arc<Inner>, Arc<Caller>, Option<Arc<str>>);

struct Inner {
    parts: Parts,
    entropy: Arc<dyn Entropy>,
    spawning: claims::Claims,
    settling: claims::Claims,
    recorder: events::Recorder,
    queue: queue::Queue,
    rules: rules::InForce,
    members: members::Members,
    /// The store's, as far as it is known here.
    clock: Arc<dyn Clock>,
    heart: jobs::Wake,
    lookout: jobs::Wake,
    reaper: reaper::Alarm,
    reconcile: jobs::Wake,
    retries: reconcile::Retries,
    jobs: jobs::Registry,
    recorded: follow::Recorded,
    /// How often operations succeeded and failed, and how long they took.
    metrics: metrics::OperationMetrics,
    health: metrics::ProviderHealth,
    census: Arc<metrics::Looked<Arc<stacyvm_store::Census>>>,
    counted: Arc<metrics::Looked<stacyvm_store::QuotaCounts>>,
    registry: Arc<metrics::Looked<Arc<[metrics::WorkerReport]>>>,
    owned: metrics::Owned,
    unattended: follow::Unattended,
    own: follow::Own,
    turns: idempotency::Turns,
    key_uses: keys::Uses,
    key_list: keys::List,
}

impl Control {
    /// A control plane of these parts. Must be called inside a tokio runtime: the task that writes
    /// events starts here, on `parts.tasks`.
    pub fn new(parts: Parts) -> Self {
        Self::with_entropy(parts, Arc::new(SystemEntropy))
    }

    /// The same, with ids and delays from another source of chance than the system's.
    pub fn with_entropy(parts: Parts, entropy: Arc<dyn Entropy>) -> Self {
        let members = members::Members::default();
        let clock: Arc<dyn Clock> = Arc::new(members.clock(parts.clock.clone()));
        let recorder = events::Recorder::start(&parts, clock.clone());
        let metrics = metrics::OperationMetrics::new(parts.fleet.clone(), parts.clock.clone());
        let inner = Arc::new(Inner {
            rules: rules::InForce::new(parts.settings.rules.clone()),
            queue: queue::Queue::default(),
            parts,
            entropy,
            spawning: claims::Claims::default(),
            settling: claims::Claims::default(),
            recorder,
            members,
            clock,
            heart: jobs::Wake::default(),
            lookout: jobs::Wake::default(),
            reaper: reaper::Alarm::default(),
            reconcile: jobs::Wake::default(),
            retries: reconcile::Retries::default(),
            jobs: jobs::Registry::default(),
            recorded: follow::Recorded::default(),
            metrics,
            health: metrics::ProviderHealth::default(),
            census: Arc::default(),
            counted: Arc::default(),
            registry: Arc::default(),
            owned: Arc::default(),
            unattended: follow::Unattended::default(),
            own: follow::Own::default(),
            turns: idempotency::Turns::default(),
            key_uses: keys::Uses::default(),
            key_list: Arc::default(),
        });
        Self(inner, Arc::new(Caller::system()), None)
    }

    /// What the operator decided.
    pub fn settings(&self) -> &Settings {
        &self.0.parts.settings
    }

    /// The time, as the control plane sees it.
    pub fn time(&self) -> stacyvm_types::Timestamp {
        self.now()
    }

    /// The record of callers' operations.
    pub fn operations(&self) -> &metrics::OperationMetrics {
        &self.0.metrics
    }

    fn store(&self) -> &dyn Store {
        &*self.0.parts.store
    }

    fn now(&self) -> stacyvm_types::Timestamp {
        self.0.clock.now()
    }
}
