//! Domain values as wire values.

use std::time::Duration;

use stacyvm_api_types as wire;
use stacyvm_control::{Admission, Collected, Image};
use stacyvm_provider::{FileInfo, FileKind, Stats};
use stacyvm_store::{ApiKey, Sandbox, Template};
use stacyvm_types::{Cause, Event, Timestamp, WorkerId, format_duration};

use crate::text::Text;

pub(crate) fn cause(cause: &Cause) -> wire::CauseView {
    wire::CauseView { kind: cause.kind.as_str().to_owned(), detail: cause.detail.clone() }
}

/// A key as it stands at `now`, without its secret.
pub fn key(key: ApiKey, now: Timestamp) -> wire::Key {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    wire::Key {
        status: key.state(now).as_str().to_owned(),
        id: key.id.to_string(),
        name: key.name,
        role: key.role.to_string(),
        owner_id: key.owner.map(|owner| owner.to_string()),
        speak_for: key.speaks_for_others,
        created_at: key.created_at.to_string(),
        expires_at: time(key.expires_at),
        revoked_at: time(key.revoked_at),
        last_used_at: time(key.last_used_at),
        key: None,
    }
}

pub(crate) fn sandbox(row: Sandbox, preview_domain: &str) -> wire::Sandbox {
    let spec = row.spec;
    wire::Sandbox {
        id: spec.id.to_string(),
        state: row.phase.wire_state().to_owned(),
        provider: spec.provider,
        image: spec.image,
        memory_mb: spec.limits.memory_mb,
        vcpus: spec.limits.vcpus,
        owner_id: spec.owner.map(|owner| owner.to_string()).unwrap_or_default(),
        worker_id: spec.worker.to_string(),
        created_at: row.created_at.to_string(),
        expires_at: spec.expires_at.to_string(),
        metadata: spec.metadata,
        preview_domain: preview_domain.to_owned(),
        disk_mb: spec.limits.disk_mb,
        pids: spec.limits.pids,
        template: spec.template.unwrap_or_default(),
        cause: row.phase.cause().map(cause),
    }
}

pub(crate) fn admission(answer: Admission) -> wire::AdmissionReply {
    wire::AdmissionReply {
        allowed: answer.allowed,
        queueable: answer.queueable,
        reason: answer.reason.unwrap_or_default(),
        active_sandboxes: answer.active_sandboxes,
        max_sandboxes: answer.max_sandboxes,
        active_owner_sandboxes: answer.active_owner_sandboxes,
        max_owner_sandboxes: answer.max_owner_sandboxes,
        max_ttl: answer.max_ttl.map(format_duration).unwrap_or_default(),
    }
}

/// The answer with its reasons.
pub(crate) fn explained(answer: Admission) -> wire::AdmissionExplained {
    let reject = |(worker, reason): &(WorkerId, String)| wire::RejectedWorker {
        worker_id: worker.to_string(),
        reason: reason.clone(),
    };
    let wait = answer.outlook.and_then(|outlook| outlook.wait);
    wire::AdmissionExplained {
        selected_worker_id: answer.worker.as_ref().map(WorkerId::to_string).unwrap_or_default(),
        eligible_workers: answer.eligible as u64,
        worker_reason: match answer.worker {
            Some(_) => String::new(),
            None => "no_eligible_worker".to_owned(),
        },
        rejected_workers: answer.rejected.iter().map(reject).collect(),
        queue_position: answer.outlook.map(|outlook| outlook.position),
        estimated_wait: wait.map(format_duration).unwrap_or_default(),
        reply: admission(answer),
    }
}

pub(crate) fn collected(done: &Collected) -> wire::ExecReply {
    let (stdout, stderr) = (Text::of(&done.stdout), Text::of(&done.stderr));
    wire::ExecReply {
        exit_code: done.exit.code(),
        stdout: stdout.text,
        stderr: stderr.text,
        stdout_base64: stdout.base64,
        stderr_base64: stderr.base64,
        duration: format_duration(done.duration),
        exec_id: done.id.to_string(),
        reason: done.exit.reason().to_owned(),
        truncated: done.truncated,
    }
}

pub(crate) fn file(info: FileInfo) -> wire::FileInfo {
    let name = info.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    wire::FileInfo {
        size: info.size,
        mode: format!("{:04o}", info.mode),
        is_dir: info.kind == FileKind::Directory,
        mod_time: to_the_second(info.modified),
        name,
        kind: match info.kind {
            FileKind::File => wire::FileKind::File,
            FileKind::Directory => wire::FileKind::Directory,
            FileKind::Symlink => wire::FileKind::Symlink,
            FileKind::Other => wire::FileKind::Other,
        },
        path: info.path,
    }
}

pub(crate) fn to_the_second(at: Timestamp) -> String {
    let micros = at.as_micros();
    Timestamp::from_micros(micros.saturating_sub(micros.rem_euclid(1_000_000))).to_string()
}

/// When a lease lapses, if ever.
pub(crate) fn lease_end(at: Timestamp) -> Option<String> {
    (at != Timestamp::MAX).then(|| at.to_string())
}

pub(crate) fn stats(now: &Stats, cpu_pct: Option<f64>) -> wire::StatsReply {
    wire::StatsReply {
        supported: true,
        cpu_pct,
        cpu_us: now.cpu_us,
        mem_bytes: now.memory_bytes,
        mem_limit_bytes: now.memory_limit_bytes,
        pids: now.pids,
        disk_bytes: now.disk_bytes,
        disk_limit_bytes: now.disk_limit_bytes,
        net_rx_bytes: now.net_rx_bytes,
        net_tx_bytes: now.net_tx_bytes,
    }
}

pub(crate) fn template(row: Template) -> wire::Template {
    let fields = row.fields;
    let secret = |(name, inject_at)| wire::TemplateSecret { name, inject_at };
    wire::Template {
        name: row.name,
        version: row.version,
        image: fields.image,
        description: fields.description,
        provider: fields.provider,
        memory_mb: fields.memory_mb,
        vcpus: fields.vcpus,
        cpu_cores: fields.vcpus,
        ttl: format_duration(fields.ttl),
        ttl_seconds: fields.ttl.as_secs(),
        setup: fields.setup,
        env: fields.env,
        metadata: fields.metadata,
        pool_size: fields.pool_size,
        allowed_hosts: fields.allowed_hosts,
        secrets: fields.secrets.into_iter().map(secret).collect(),
        created_at: row.created_at.to_string(),
        updated_at: row.updated_at.to_string(),
    }
}

pub(crate) fn image(image: Image) -> wire::Image {
    let Image { record, workers } = image;
    wire::Image {
        name: record.name,
        size_bytes: record.size,
        created_at: record.created.to_string(),
        workers: workers.iter().map(ToString::to_string).collect(),
    }
}

pub(crate) fn event(event: Event) -> wire::Event {
    wire::Event {
        id: format!("evt-{}", event.id),
        kind: event.kind.as_str().to_owned(),
        sandbox_id: event.sandbox.map(|id| id.to_string()).unwrap_or_default(),
        owner_id: event.owner.map(|id| id.to_string()).unwrap_or_default(),
        timestamp: event.at.to_string(),
        data: event.data,
    }
}

/// How long the store took to answer, or why it did not.
pub(crate) fn store(answer: Result<Duration, String>) -> wire::StoreHealth {
    match answer {
        Ok(latency) => {
            wire::StoreHealth { healthy: true, latency_ms: millis(latency), error: None }
        }
        Err(error) => wire::StoreHealth { healthy: false, latency_ms: 0.0, error: Some(error) },
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    // Microseconds are all that anybody reads.
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R1.3: one normalised description of a file.
    #[test]
    fn a_file_has_octal_bits_a_name_and_whole_seconds() {
        let view = file(FileInfo {
            path: "/workspace/a/".to_owned(),
            size: 0,
            mode: 0o1755,
            kind: FileKind::Directory,
            modified: Timestamp::from_micros(1_999_999),
        });
        assert_eq!(
            serde_json::to_string(&view).unwrap(),
            r#"{"path":"/workspace/a/","size":0,"mode":"1755","is_dir":true,"mod_time":"1970-01-01T00:00:01Z","name":"a","kind":"directory"}"#
        );
    }
}
