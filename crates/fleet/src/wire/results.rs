//! What methods answer.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use stacyvm_provider::{
    Capabilities, Error, ErrorKind, FileInfo, FileKind, ImageRecord, Probe, Result, Runtime,
    RuntimeState, Stats, capabilities::Finding,
};
use stacyvm_types::{Generation, SandboxId, Timestamp};

use super::{few::few, mode_of, mode_text, params::micros};
use crate::ProviderReport;

/// What the other end says is not what this version can read.
fn unreadable(what: &str) -> Error {
    Error::unknown(ErrorKind::Unavailable, format!("the worker's {what} cannot be understood"))
}

/// Whether a worker lives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The worker's id.
    pub worker_id: String,
}

/// A state without more: what spawn and status answer, for older callers too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its runtime's name, which is the sandbox's.
    pub runtime_id: String,
    /// `running`, `paused` or `dead`.
    pub state: String,
    /// Its provider.
    pub provider: String,
    /// Its worker.
    pub worker_id: String,
    /// The generation that launched it, or the highest seen.
    #[serde(default)]
    pub generation: u64,
    /// The image.
    #[serde(default)]
    pub image: String,
    /// When it was launched, in microseconds since 1970.
    #[serde(default)]
    pub created_us: i64,
}

const fn state_word(state: RuntimeState) -> &'static str {
    match state {
        RuntimeState::Running => "running",
        RuntimeState::Paused => "paused",
        RuntimeState::Dead => "dead",
    }
}

fn state_of(word: &str) -> Result<RuntimeState> {
    match word {
        "running" => Ok(RuntimeState::Running),
        "paused" => Ok(RuntimeState::Paused),
        "dead" | "stopped" => Ok(RuntimeState::Dead),
        _ => Err(unreadable("state of a sandbox")),
    }
}

impl Status {
    /// A runtime on the wire.
    pub fn new(worker: &str, provider: &str, runtime: &Runtime) -> Self {
        Self {
            sandbox_id: runtime.id.to_string(),
            runtime_id: runtime.id.to_string(),
            state: state_word(runtime.state).to_owned(),
            provider: provider.to_owned(),
            worker_id: worker.to_owned(),
            generation: runtime.generation.0,
            image: runtime.image.clone(),
            created_us: runtime.created.as_micros(),
        }
    }

    /// The runtime.
    pub fn runtime(self) -> Result<Runtime> {
        Ok(Runtime {
            id: SandboxId::parse(&self.sandbox_id).map_err(|_| unreadable("sandbox id"))?,
            generation: Generation(self.generation),
            state: state_of(&self.state)?,
            image: self.image,
            created: Timestamp::from_micros(self.created_us),
        })
    }
}

/// One runtime of many.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RuntimeEntry {
    /// The sandbox.
    pub sandbox_id: String,
    /// The provider that has it.
    pub provider: String,
    /// `running`, `paused` or `dead`.
    pub state: String,
    /// The highest generation seen.
    pub generation: u64,
    /// The image.
    pub image: String,
    /// When it was launched, in microseconds since 1970.
    pub created_us: i64,
}

impl RuntimeEntry {
    /// A runtime on the wire.
    pub fn new(provider: &str, runtime: &Runtime) -> Self {
        Self {
            sandbox_id: runtime.id.to_string(),
            provider: provider.to_owned(),
            state: state_word(runtime.state).to_owned(),
            generation: runtime.generation.0,
            image: runtime.image.clone(),
            created_us: runtime.created.as_micros(),
        }
    }

    /// The runtime and its provider.
    pub fn runtime(self) -> Result<(Arc<str>, Runtime)> {
        let runtime = Runtime {
            id: SandboxId::parse(&self.sandbox_id).map_err(|_| unreadable("sandbox id"))?,
            generation: Generation(self.generation),
            state: state_of(&self.state)?,
            image: self.image,
            created: Timestamp::from_micros(self.created_us),
        };
        Ok((self.provider.into(), runtime))
    }
}

/// Every runtime.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RuntimeList {
    /// Those that are there.
    #[serde(deserialize_with = "few")]
    pub runtimes: Vec<RuntimeEntry>,
    /// Providers that did not answer.
    #[serde(default, deserialize_with = "few")]
    pub silent: Vec<String>,
}

/// One thing that a probe looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindingEntry {
    name: String,
    ok: bool,
    detail: String,
}

/// One provider's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProviderEntry {
    /// Its name.
    pub name: String,
    /// Whether it is the one used when a request names none.
    #[serde(default)]
    pub default: bool,
    /// The names of what it can do.
    #[serde(deserialize_with = "few")]
    pub capabilities: Vec<String>,
    /// Whether it can launch sandboxes.
    pub usable: bool,
    /// Why not, or how well.
    #[serde(default)]
    pub summary: String,
    /// What was looked at.
    #[serde(default, deserialize_with = "few")]
    pub findings: Vec<FindingEntry>,
    /// Its runtimes, where they can be counted.
    #[serde(default)]
    pub runtimes: Option<u64>,
    /// Microseconds that the look took.
    #[serde(default)]
    pub latency_us: u64,
    /// When, in microseconds since 1970.
    #[serde(default)]
    pub checked_us: i64,
}

impl ProviderEntry {
    /// A report on the wire.
    pub fn new(report: &ProviderReport) -> Self {
        let findings = report.probe.findings.iter().map(|finding| FindingEntry {
            name: finding.name.to_string(),
            ok: finding.ok,
            detail: finding.detail.clone(),
        });
        Self {
            name: report.name.to_string(),
            default: report.default,
            capabilities: report.capabilities.names().into_iter().map(str::to_owned).collect(),
            usable: report.probe.usable,
            summary: report.probe.summary.clone(),
            findings: findings.collect(),
            runtimes: report.runtimes.map(|count| count as u64),
            latency_us: micros(report.latency),
            checked_us: report.checked_at.as_micros(),
        }
    }

    /// The report.
    pub fn report(self) -> ProviderReport {
        let findings = self.findings.into_iter().map(|finding| Finding {
            name: finding.name.into(),
            ok: finding.ok,
            detail: finding.detail,
        });
        ProviderReport {
            name: self.name.into(),
            default: self.default,
            capabilities: Capabilities::from_names(self.capabilities.iter().map(String::as_str)),
            probe: Probe {
                usable: self.usable,
                summary: self.summary,
                findings: findings.collect(),
            },
            runtimes: self.runtimes.and_then(|count| usize::try_from(count).ok()),
            latency: Duration::from_micros(self.latency_us),
            checked_at: Timestamp::from_micros(self.checked_us),
        }
    }
}

/// Every provider's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProviderList {
    /// By name.
    #[serde(deserialize_with = "few")]
    pub providers: Vec<ProviderEntry>,
}

/// One imported image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageEntry {
    name: String,
    size: u64,
    created_us: i64,
}

impl ImageEntry {
    /// An image on the wire.
    pub fn new(image: &ImageRecord) -> Self {
        let created_us = image.created.as_micros();
        Self { name: image.name.clone(), size: image.size, created_us }
    }

    /// The image.
    pub fn record(self) -> ImageRecord {
        let created = Timestamp::from_micros(self.created_us);
        ImageRecord { name: self.name, size: self.size, created }
    }
}

/// A provider's images.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageList {
    /// By name.
    #[serde(deserialize_with = "few")]
    pub images: Vec<ImageEntry>,
}

/// A file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileEntry {
    path: String,
    size: u64,
    mode: String,
    is_dir: bool,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    modified_us: i64,
}

impl FileEntry {
    /// A file on the wire.
    pub fn new(info: &FileInfo) -> Self {
        let kind = match info.kind {
            FileKind::File => "file",
            FileKind::Directory => "directory",
            FileKind::Symlink => "symlink",
            FileKind::Other => "other",
        };
        Self {
            path: info.path.clone(),
            size: info.size,
            mode: mode_text(info.mode),
            is_dir: info.kind == FileKind::Directory,
            kind: kind.to_owned(),
            modified_us: info.modified.as_micros(),
        }
    }

    /// The file.
    pub fn info(self) -> Result<FileInfo> {
        let kind = match (&*self.kind, self.is_dir) {
            ("directory", _) | ("", true) => FileKind::Directory,
            ("file" | "", _) => FileKind::File,
            ("symlink", _) => FileKind::Symlink,
            _ => FileKind::Other,
        };
        Ok(FileInfo {
            path: self.path,
            size: self.size,
            mode: mode_of(&self.mode).map_err(|_| unreadable("file mode"))?,
            kind,
            modified: Timestamp::from_micros(self.modified_us),
        })
    }
}

/// One file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileResult {
    /// The sandbox.
    pub sandbox_id: String,
    /// The file.
    pub file: FileEntry,
    /// Its content as base64, where it was asked for in the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// The entries of a directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileList {
    /// The sandbox.
    pub sandbox_id: String,
    /// By name.
    #[serde(deserialize_with = "few")]
    pub files: Vec<FileEntry>,
}

/// A file whose bytes are the body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opened {
    /// The file.
    pub file: FileEntry,
    /// The first byte that follows.
    pub start: u64,
    /// The byte after the last one.
    pub end: u64,
}

/// Paths that match.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Matches {
    /// The sandbox.
    pub sandbox_id: String,
    /// Sorted.
    #[serde(deserialize_with = "few")]
    pub matches: Vec<String>,
}

/// Lines that commands wrote.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogLines {
    /// The sandbox.
    pub sandbox_id: String,
    /// Oldest first.
    #[serde(deserialize_with = "few")]
    pub lines: Vec<String>,
}

/// What a sandbox uses.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StatsResult {
    cpu_us: Option<u64>,
    memory_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    pids: Option<u64>,
    disk_bytes: Option<u64>,
    disk_limit_bytes: Option<u64>,
    net_rx_bytes: Option<u64>,
    net_tx_bytes: Option<u64>,
}

/// Both ways between two shapes of the same figures; a field that one of them lacks is an error of
/// the compiler.
macro_rules! same_figures {
    ($one:ident, $other:ident { $($field:ident),* $(,)? }) => {
        impl From<$one> for $other {
            fn from($one { $($field),* }: $one) -> Self {
                Self { $($field),* }
            }
        }

        impl From<$other> for $one {
            fn from($other { $($field),* }: $other) -> Self {
                Self { $($field),* }
            }
        }
    };
}

same_figures!(
    Stats,
    StatsResult {
        cpu_us,
        memory_bytes,
        memory_limit_bytes,
        pids,
        disk_bytes,
        disk_limit_bytes,
        net_rx_bytes,
        net_tx_bytes,
    }
);
