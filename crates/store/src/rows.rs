//! The rows that cross the contract.

use std::{collections::BTreeMap, time::Duration};

use stacyvm_admission::Request;
use stacyvm_types::{
    CauseKind, Event, EventKind, ExecId, Generation, Limits, OwnerId, Phase, Resources, SandboxId,
    Timestamp, Transition, WorkerId,
};

/// A sandbox to admit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSandbox {
    /// Its id.
    pub id: SandboxId,
    /// Who owns it.
    pub owner: Option<OwnerId>,
    /// The provider that will launch it.
    pub provider: String,
    /// The worker that will hold it.
    pub worker: WorkerId,
    /// The image it starts from.
    pub image: String,
    /// The template it was spawned from.
    pub template: Option<String>,
    /// What it may use.
    pub limits: Limits,
    /// The client's own words about it.
    pub metadata: BTreeMap<String, String>,
    /// Environment that every command in it gets (from its template).
    pub env: BTreeMap<String, String>,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// A sandbox as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// What was asked for.
    pub spec: NewSandbox,
    /// The latest deadline that it ever had, in force or not: its worker ends the runtime then,
    /// whether or not it hears from anybody.
    pub latest_end: Timestamp,
    /// Where it is in its life.
    pub phase: Phase,
    /// The highest generation that was ever given out for it.
    pub generation: Generation,
    /// Rises with every change of the row.
    pub version: u64,
    /// When it was admitted.
    pub created_at: Timestamp,
    /// When the row last changed.
    pub updated_at: Timestamp,
}

impl Sandbox {
    /// Whether `transition` would end it for its time while that is not over: whoever decided so
    /// read the row before its deadline was moved.
    pub fn is_early(&self, transition: &Transition, now: Timestamp) -> bool {
        let expires =
            matches!(transition, Transition::Stop(cause) if cause.kind == CauseKind::Expired);
        let is_open = !matches!(self.phase, Phase::Stopping(_) | Phase::Ended(_));
        expires && is_open && now < self.spec.expires_at
    }
}

/// Which sandboxes to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Those that have not ended.
    Live,
    /// All that are still remembered.
    Ended,
}

/// What a change has outlived by the time it is answered. Either way it is read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The loss of the host: the disk has it, with everything that was answered before.
    Disk,
    /// The death of the server's process: the kernel has it. For a change that means nothing any
    /// more once the host, and with it every runtime, is lost, or of which nothing is told before
    /// [`Store::sync`](crate::Store::sync).
    Kernel,
}

/// An event to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What happened.
    pub kind: EventKind,
    /// To which sandbox.
    pub sandbox: Option<SandboxId>,
    /// Of which owner.
    pub owner: Option<OwnerId>,
    /// Details.
    pub data: BTreeMap<String, String>,
}

impl NewSandbox {
    /// What admission needs of it, when it is admitted at `now`.
    pub fn request(&self, now: Timestamp) -> Request {
        Request {
            owned: self.owner.is_some(),
            ttl: self.expires_at.saturating_since(now),
            takes: Resources::of_one(&self.limits),
        }
    }
}

impl NewEvent {
    /// The event that a store appends when it admits a sandbox.
    pub fn created(new: &NewSandbox) -> Self {
        Self {
            kind: EventKind::SandboxCreated,
            sandbox: Some(new.id.clone()),
            owner: new.owner.clone(),
            data: BTreeMap::from([
                ("image".to_owned(), new.image.clone()),
                ("provider".to_owned(), new.provider.clone()),
            ]),
        }
    }
}

/// Which events to read. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Only of this sandbox.
    pub sandbox: Option<SandboxId>,
    /// Only of this owner.
    pub owner: Option<OwnerId>,
    /// Only of these kinds.
    pub kinds: Vec<EventKind>,
}

impl EventFilter {
    /// Whether the filter lets this event through.
    pub fn matches(&self, event: &Event) -> bool {
        (self.sandbox.is_none() || self.sandbox == event.sandbox)
            && (self.owner.is_none() || self.owner == event.owner)
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
    }
}

/// A finished command, for the record. Output is not kept here: it is the sandbox's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecLog {
    /// The command's id.
    pub id: ExecId,
    /// Where it ran.
    pub sandbox: SandboxId,
    /// The command line, cut to 1 KiB.
    pub command: String,
    /// Its exit code as a shell shows it.
    pub exit_code: i32,
    /// `exit`, `signal`, `timeout` or `lost`.
    pub reason: String,
    /// How long it ran; kept in microseconds.
    pub duration: Duration,
    /// When it ended.
    pub at: Timestamp,
}

/// A named recipe for sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its name and key.
    pub name: String,
    /// Rises with every change.
    pub version: u64,
    /// What spawning from it asks for.
    pub fields: TemplateFields,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// The changeable fields of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateFields {
    /// The image.
    pub image: String,
    /// Words for people.
    pub description: String,
    /// The provider; empty is the default one.
    pub provider: String,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Time to live; kept in microseconds.
    pub ttl: Duration,
    /// Shell lines that run, in order, before the sandbox is handed out.
    pub setup: Vec<String>,
    /// Environment of every command.
    pub env: BTreeMap<String, String>,
    /// The client's own words, copied to each sandbox.
    pub metadata: BTreeMap<String, String>,
    /// Sandboxes to keep ready.
    pub pool_size: u32,
    /// Hosts that the network may reach.
    pub allowed_hosts: Vec<String>,
    /// Names of secrets and where they go.
    pub secrets: BTreeMap<String, String>,
}

impl TemplateFields {
    /// Takes over what `change` names.
    pub fn apply(&mut self, change: TemplateChange) {
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        let TemplateChange {
            image,
            description,
            provider,
            memory_mb,
            vcpus,
            ttl,
            setup,
            env,
            metadata,
            pool_size,
            allowed_hosts,
            secrets,
        } = change;
        set(&mut self.image, image);
        set(&mut self.description, description);
        set(&mut self.provider, provider);
        set(&mut self.memory_mb, memory_mb);
        set(&mut self.vcpus, vcpus);
        set(&mut self.ttl, ttl);
        set(&mut self.setup, setup);
        set(&mut self.env, env);
        set(&mut self.metadata, metadata);
        set(&mut self.pool_size, pool_size);
        set(&mut self.allowed_hosts, allowed_hosts);
        set(&mut self.secrets, secrets);
    }
}

/// The fields of a template to change; `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TemplateChange {
    /// See [`TemplateFields::image`].
    pub image: Option<String>,
    /// See [`TemplateFields::description`].
    pub description: Option<String>,
    /// See [`TemplateFields::provider`].
    pub provider: Option<String>,
    /// See [`TemplateFields::memory_mb`].
    pub memory_mb: Option<u32>,
    /// See [`TemplateFields::vcpus`].
    pub vcpus: Option<u32>,
    /// See [`TemplateFields::ttl`].
    pub ttl: Option<Duration>,
    /// See [`TemplateFields::setup`].
    pub setup: Option<Vec<String>>,
    /// See [`TemplateFields::env`].
    pub env: Option<BTreeMap<String, String>>,
    /// See [`TemplateFields::metadata`].
    pub metadata: Option<BTreeMap<String, String>>,
    /// See [`TemplateFields::pool_size`].
    pub pool_size: Option<u32>,
    /// See [`TemplateFields::allowed_hosts`].
    pub allowed_hosts: Option<Vec<String>>,
    /// See [`TemplateFields::secrets`].
    pub secrets: Option<BTreeMap<String, String>>,
}
