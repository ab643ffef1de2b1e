//! What methods are asked with.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stacyvm_provider::{Error, ErrorKind, LaunchSpec, Result};
use stacyvm_types::{Generation, Limits, SandboxId, format_duration, parse_duration};

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

/// A duration in whole microseconds, as far as they reach.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Permission bits as octal digits, such as `0644`.
pub fn mode_text(mode: u32) -> String {
    format!("{mode:04o}")
}

/// Permission bits out of octal digits.
pub fn mode_of(text: &str) -> Result<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => {
            let shown = text.get(..text.floor_char_boundary(16)).unwrap_or_default();
            Err(invalid(format!("{shown:?} is not a file mode")))
        }
    }
}

/// A sandbox and its provider: what every method about a sandbox is asked with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Target {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its provider.
    #[serde(default)]
    pub provider: String,
}

impl Target {
    /// The sandbox's id.
    pub fn id(&self) -> Result<SandboxId> {
        SandboxId::parse(&self.sandbox_id).map_err(|error| invalid(error.to_string()))
    }
}

/// What to launch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SpawnParams {
    /// The sandbox.
    pub sandbox_id: String,
    /// The provider.
    #[serde(default)]
    pub provider: String,
    /// `host`, or an image's name.
    pub image: String,
    /// MiB of memory.
    pub memory_mb: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Processes and threads; the default where a caller does not know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// MiB of writable space; the default where a caller does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u32>,
    /// The time to live as text, such as `1h30m0s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// The time to live that is left, in microseconds; goes before `ttl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_us: Option<u64>,
}

impl SpawnParams {
    /// A launch on the wire.
    pub fn new(provider: &str, spec: &LaunchSpec) -> Self {
        let Limits { memory_mb, vcpus, pids, disk_mb } = spec.limits;
        Self {
            sandbox_id: spec.id.to_string(),
            provider: provider.to_owned(),
            image: spec.image.clone(),
            memory_mb,
            vcpus,
            pids: Some(pids),
            disk_mb: Some(disk_mb),
            ttl: spec.ttl.map(format_duration),
            ttl_us: spec.ttl.map(micros),
        }
    }

    /// The launch, for the generation that the lease names.
    pub fn spec(self, generation: Generation) -> Result<LaunchSpec> {
        let id = SandboxId::parse(&self.sandbox_id).map_err(|error| invalid(error.to_string()))?;
        let ttl = match (self.ttl_us, self.ttl.as_deref()) {
            (Some(micros), _) => Some(Duration::from_micros(micros)),
            (None, None | Some("")) => None,
            (None, Some(text)) => {
                Some(parse_duration(text).map_err(|_| invalid("the ttl is not a duration"))?)
            }
        };
        let limits = Limits {
            memory_mb: self.memory_mb,
            vcpus: self.vcpus,
            pids: self.pids.unwrap_or(Limits::DEFAULT.pids),
            disk_mb: self.disk_mb.unwrap_or(Limits::DEFAULT.disk_mb),
        };
        Ok(LaunchSpec { id, generation, image: self.image, limits, ttl })
    }
}

/// A spawn that will probably follow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExpectParams {
    /// The provider.
    pub provider: String,
    /// The image.
    pub image: String,
    /// MiB of memory.
    pub memory_mb: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Processes and threads.
    pub pids: u32,
    /// MiB of writable space.
    pub disk_mb: u32,
}

impl ExpectParams {
    /// An expectation on the wire.
    pub fn new(provider: &str, image: &str, limits: &Limits) -> Self {
        let Limits { memory_mb, vcpus, pids, disk_mb } = *limits;
        let (provider, image) = (provider.to_owned(), image.to_owned());
        Self { provider, image, memory_mb, vcpus, pids, disk_mb }
    }

    /// What the sandbox may use.
    pub const fn limits(&self) -> Limits {
        let Self { memory_mb, vcpus, pids, disk_mb, .. } = *self;
        Limits { memory_mb, vcpus, pids, disk_mb }
    }
}

/// How much longer a sandbox may live.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadlineParams {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its provider.
    pub provider: String,
    /// Microseconds from now.
    pub remaining_us: u64,
}

/// A file operation. Each method reads the fields that it needs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FileParams {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its provider.
    #[serde(default)]
    pub provider: String,
    /// The file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What to write, as base64, where the body is not the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Permission bits as octal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Whether a directory goes with what is in it.
    #[serde(default)]
    pub recursive: bool,
    /// What to rename.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub old_path: String,
    /// Where to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub new_path: String,
    /// What to find.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pattern: String,
    /// The first byte to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// The byte after the last one to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
}

/// The last lines that commands wrote.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogsParams {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its provider.
    #[serde(default)]
    pub provider: String,
    /// How many.
    #[serde(default = "usual_lines")]
    pub lines: u32,
}

const fn usual_lines() -> u32 {
    100
}

/// A port inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DialParams {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its provider.
    pub provider: String,
    /// The TCP port on its loopback.
    pub port: u16,
}

/// An image of a provider.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageParams {
    /// The provider.
    pub provider: String,
    /// The image.
    pub name: String,
}

/// A command that was started before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttachParams {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its provider.
    pub provider: String,
    /// The command.
    pub exec_id: String,
    /// From which byte of its output.
    pub offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_the_same_after_the_hop() {
        let spec = LaunchSpec {
            id: SandboxId::from_entropy([7; 10]),
            generation: Generation(9),
            image: "alpine:latest".to_owned(),
            limits: Limits { memory_mb: 1, vcpus: 2, pids: 3, disk_mb: 4 },
            ttl: Some(Duration::from_micros(1_234_567)),
        };
        let text = serde_json::to_string(&SpawnParams::new("mock", &spec)).unwrap();
        let after: SpawnParams = serde_json::from_str(&text).unwrap();
        assert_eq!(after.spec(Generation(9)).unwrap(), spec);
    }

    #[test]
    fn an_older_spawn_has_the_default_limits_and_a_ttl_in_words() {
        let text = r#"{"sandbox_id":"sb-01010101010101010101","image":"alpine","provider":"mock",
            "memory_mb":512,"vcpus":1,"ttl":"30m0s","owner_id":"someone","metadata":{"a":"b"}}"#;
        let params: SpawnParams = serde_json::from_str(text).unwrap();
        let spec = params.spec(Generation(1)).unwrap();
        assert_eq!(spec.ttl, Some(Duration::from_secs(1800)));
        assert_eq!(spec.limits, Limits { memory_mb: 512, vcpus: 1, ..Limits::DEFAULT });
    }

    #[test]
    fn modes_are_octal_and_no_more_than_permission_bits() {
        assert_eq!(mode_of(&mode_text(0o4755)).unwrap(), 0o4755);
        assert_eq!(mode_of("644").unwrap(), 0o644);
        for wrong in ["", "8", "-1", "10000", "rw", "é".repeat(40).as_str()] {
            assert_eq!(mode_of(wrong).unwrap_err().kind, ErrorKind::Invalid, "{wrong}");
        }
    }
}
