//! What callers ask for and what they are told: plain words without wire formats.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use stacyvm_admission::Priority;
use stacyvm_fleet::ProviderReport;
use stacyvm_provider::{Exit, ImageRecord, Program, Size, Stdin};
use stacyvm_types::{ExecId, OwnerId, SandboxId, WorkerId};

use crate::Outlook;

/// A sandbox to spawn. `None` takes the template's value, then the server's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpawnRequest {
    /// Its id, when that was chosen before, so that a retry is the same sandbox; otherwise a fresh
    /// one.
    pub id: Option<SandboxId>,
    /// `host`, or the name of an imported image.
    pub image: Option<String>,
    /// The provider that launches it.
    pub provider: Option<String>,
    /// Memory in MiB.
    pub memory_mb: Option<u32>,
    /// Virtual CPUs.
    pub vcpus: Option<u32>,
    /// Writable space in MiB.
    pub disk_mb: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Time to live.
    pub ttl: Option<Duration>,
    /// Who owns it.
    pub owner: Option<OwnerId>,
    /// The template to start from.
    pub template: Option<String>,
    /// The client's own words about it; added to the template's.
    pub metadata: BTreeMap<String, String>,
    /// Environment of every command; added to the template's.
    pub env: BTreeMap<String, String>,
    /// How urgent it is among its owner's own when it has to wait.
    pub priority: Priority,
}

/// What a spawn from a template may change about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TemplateSpawn {
    /// Another provider.
    pub provider: Option<String>,
    /// Another time to live.
    pub ttl: Option<Duration>,
    /// Who owns the sandbox.
    pub owner: Option<OwnerId>,
    /// Added to the template's metadata.
    pub metadata: BTreeMap<String, String>,
    /// Added to the template's environment.
    pub env: BTreeMap<String, String>,
}

/// Whether a spawn would be admitted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Whether it would.
    pub allowed: bool,
    /// Whether it could wait for its turn.
    pub queueable: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Live sandboxes.
    pub active_sandboxes: u64,
    /// How many may live; 0 is no limit.
    pub max_sandboxes: u64,
    /// Live sandboxes of the request's owner.
    pub active_owner_sandboxes: u64,
    /// How many the owner may have; 0 is no limit.
    pub max_owner_sandboxes: u64,
    /// The longest time to live.
    pub max_ttl: Option<Duration>,
    /// Where it would run; empty when no worker would take it.
    pub worker: Option<WorkerId>,
    /// How many workers could take it, the one where it would run included.
    pub eligible: usize,
    /// The other workers, each with the reason.
    pub rejected: Vec<(WorkerId, String)>,
    /// Where it would stand in the queue, if it could wait.
    pub outlook: Option<Outlook>,
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// What to run.
    pub program: Program,
    /// Environment, above the sandbox's own.
    pub env: BTreeMap<String, String>,
    /// Absolute directory.
    pub workdir: Option<String>,
    /// A user inside the sandbox.
    pub user: Option<String>,
    /// When it is killed. `None` takes the server's default, zero the longest there is.
    pub timeout: Option<Duration>,
    /// What standard input is.
    pub stdin: Stdin,
    /// A terminal instead of pipes.
    pub terminal: Option<Size>,
    /// Chosen by a client that wants to start or attach idempotently; otherwise a fresh one.
    pub id: Option<ExecId>,
    /// Whether it was started before under this id: then it is followed from its beginning, and
    /// its input is not sent again.
    pub started: Started,
    /// All of standard input, followed by its end; makes `stdin` a pipe.
    pub stdin_data: Option<Bytes>,
}

impl ExecRequest {
    /// A command with nothing but its program.
    pub fn new(program: Program) -> Self {
        Self {
            program,
            env: BTreeMap::new(),
            workdir: None,
            user: None,
            timeout: None,
            stdin: Stdin::Null,
            terminal: None,
            id: None,
            started: Started::No,
            stdin_data: None,
        }
    }
}

/// Whether a command was started before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// Not as far as the caller knows.
    No,
    /// Perhaps: it is started unless the sandbox knows it.
    Perhaps,
    /// It was: it is never started again.
    Yes,
}

/// A finished command with what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// The command's id.
    pub id: ExecId,
    /// How it ended.
    pub exit: Exit,
    /// Standard output, up to the cap.
    pub stdout: Vec<u8>,
    /// Standard error, up to the cap.
    pub stderr: Vec<u8>,
    /// Whether output is missing: above the cap, or lost by the journal.
    pub truncated: bool,
    /// How long it took, as the server saw it.
    pub duration: Duration,
}

/// An imported image, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The image. Of several workers' the one that was imported last: each was imported by itself,
    /// and they may differ.
    pub record: ImageRecord,
    /// The workers that have it, by id.
    pub workers: Vec<WorkerId>,
}

/// Imported images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageList {
    /// By name.
    pub images: Vec<Image>,
    /// The workers that did not say what they have.
    pub silent: Vec<WorkerId>,
}

/// Whether the server can do its work.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// How long the store took to answer, or a sentence about why it did not.
    pub store: Result<Duration, String>,
    /// The providers.
    pub providers: Vec<ProviderReport>,
    /// Whether this server's own worker can launch; `None` where it runs no sandboxes itself.
    pub launches: Option<bool>,
}

impl Readiness {
    /// Whether the store answers and, where the server runs sandboxes itself, at least one provider
    /// can launch. Other workers do not count: their heartbeats reach a server that is ready.
    pub fn is_ready(&self) -> bool {
        self.store.is_ok() && self.launches != Some(false)
    }
}
