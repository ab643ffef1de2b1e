//! `spawn`, `list`, `get`, `kill`, `extend`, `logs`, `stats`.

use std::time::Duration;

use stacyvm_api_types::{Sandbox, SpawnRequest};
use stacyvm_client::Show;
use stacyvm_types::{SandboxId, format_duration};

use super::map;
use crate::{
    Context, ExitStatus, Failure,
    args::{KillArgs, ListArgs, SpawnArgs},
    output::{Rows, say, short_size, short_time},
};

pub(super) async fn spawn(context: &Context, args: SpawnArgs) -> Result<(), Failure> {
    let request = SpawnRequest {
        image: args.image,
        provider: args.provider,
        memory_mb: args.memory,
        vcpus: args.vcpus,
        disk_mb: args.disk,
        ttl: args.ttl.map(format_duration),
        owner_id: args.owner,
        template: args.template,
        metadata: map(args.metadata),
        env: map(args.env),
        ..SpawnRequest::default()
    };
    let sandbox = context.client.spawn(&request).await?;
    show_new(context, sandbox.json(), &sandbox)
}

/// The id of a new sandbox as data, the rest as words.
pub(super) fn show_new(context: &Context, json: &[u8], sandbox: &Sandbox) -> Result<(), Failure> {
    context.out.line(json, &sandbox.id)?;
    if !context.out.is_json() {
        let Sandbox { id, provider, image, expires_at, .. } = sandbox;
        let until = short_time(expires_at);
        let words = format!("Sandbox {id} runs until {until} UTC ({provider}, {image})");
        say(&crate::escape::escape(&words));
    }
    Ok(())
}

pub(super) async fn list(context: &Context, args: ListArgs) -> Result<(), Failure> {
    let show = if args.all { Show::Ended } else { Show::Live };
    let sandboxes = context.client.sandboxes(show).await?;
    let headings: &[_] = match args.quiet {
        true => &[],
        false => &["ID", "STATE", "PROVIDER", "IMAGE", "CREATED", "EXPIRES"],
    };
    let mut rows = Rows::new(headings);
    for sandbox in &*sandboxes {
        if args.quiet {
            rows.push([&sandbox.id]);
            continue;
        }
        let Sandbox { id, state, provider, image, created_at, expires_at, .. } = sandbox;
        rows.push([id, state, provider, image, &short_time(created_at), &short_time(expires_at)]);
    }
    let none = if args.quiet { "" } else { "No sandboxes" };
    if args.quiet && rows.is_empty() && !context.out.is_json() {
        return Ok(());
    }
    context.out.rows(sandboxes.json(), &rows, none)
}

pub(super) async fn get(context: &Context, id: &SandboxId) -> Result<(), Failure> {
    let sandbox = context.client.sandbox(id, Show::Ended).await?;
    let mut rows = Rows::new(&[]);
    let mut row = |name: &str, value: &str| {
        if !value.is_empty() {
            rows.push([name, value]);
        }
    };
    row("id", &sandbox.id);
    row("state", &sandbox.state);
    if let Some(cause) = &sandbox.cause {
        row("cause", &format!("{}: {}", cause.kind, cause.detail));
    }
    row("provider", &sandbox.provider);
    row("image", &sandbox.image);
    row("template", &sandbox.template);
    row("owner", &sandbox.owner_id);
    row("worker", &sandbox.worker_id);
    row("memory", &format!("{} MiB", sandbox.memory_mb));
    row("vcpus", &sandbox.vcpus.to_string());
    row("disk", &format!("{} MiB", sandbox.disk_mb));
    row("processes", &sandbox.pids.to_string());
    row("created", &sandbox.created_at);
    row("expires", &sandbox.expires_at);
    for (key, value) in &sandbox.metadata {
        row("metadata", &format!("{key}={value}"));
    }
    context.out.rows(sandbox.json(), &rows, "")
}

/// Ends all it can, and fails if one could not be ended.
pub(super) async fn kill(context: &Context, args: KillArgs) -> Result<ExitStatus, Failure> {
    if args.expired {
        let reply = context.client.prune().await?;
        let words = format!("{} expired sandboxes ended", reply.pruned);
        context.out.done(reply.json(), &words)?;
        return Ok(ExitStatus::OK);
    }
    let mut ids = args.ids;
    if args.all {
        for sandbox in &*context.client.sandboxes(Show::Live).await? {
            let id = SandboxId::parse(&sandbox.id);
            ids.push(id.map_err(|e| Failure::new(ExitStatus::FAILED, e.to_string()))?);
        }
    }
    let mut status = ExitStatus::OK;
    for id in ids {
        match context.client.destroy(&id).await {
            Ok(reply) => context.out.done(reply.json(), &format!("Sandbox {id} ended"))?,
            Err(error) => {
                let failure = Failure::from(error);
                say(&format!("stacyvm: {id}: {}", failure.message));
                status = failure.status;
                if status == ExitStatus::UNREACHABLE {
                    break;
                }
            }
        }
    }
    Ok(status)
}

pub(super) async fn extend(
    context: &Context,
    id: &SandboxId,
    ttl: Duration,
) -> Result<(), Failure> {
    let sandbox = context.client.extend(id, ttl).await?;
    let words = format!("Sandbox {id} lives until {} UTC", short_time(&sandbox.expires_at));
    context.out.done(sandbox.json(), &words)
}

pub(super) async fn logs(context: &Context, id: &SandboxId, lines: u32) -> Result<(), Failure> {
    let logs = context.client.logs(id, lines).await?;
    if context.out.is_json() {
        return context.out.done(logs.json(), "");
    }
    let mut text = String::new();
    for line in &*logs {
        text.push_str(line);
        text.push('\n');
    }
    context.out.raw(text.as_bytes())
}

pub(super) async fn stats(context: &Context, id: &SandboxId) -> Result<(), Failure> {
    let stats = context.client.stats(id).await?;
    let mut rows = Rows::new(&[]);
    let of = |part: u64, limit: Option<u64>| match limit {
        Some(limit) => format!("{} of {}", short_size(part), short_size(limit)),
        None => short_size(part),
    };
    if let Some(percent) = stats.cpu_pct {
        rows.push(["cpu", &format!("{percent:.1} %")]);
    }
    if let Some(micros) = stats.cpu_us {
        rows.push(["cpu time", &format_duration(Duration::from_micros(micros))]);
    }
    if let Some(bytes) = stats.mem_bytes {
        rows.push(["memory", &of(bytes, stats.mem_limit_bytes)]);
    }
    if let Some(pids) = stats.pids {
        rows.push(["processes", &pids.to_string()]);
    }
    if let Some(bytes) = stats.disk_bytes {
        rows.push(["disk", &of(bytes, stats.disk_limit_bytes)]);
    }
    if let (Some(received), Some(sent)) = (stats.net_rx_bytes, stats.net_tx_bytes) {
        let words = format!("{} received, {} sent", short_size(received), short_size(sent));
        rows.push(["network", &words]);
    }
    context.out.rows(stats.json(), &rows, "This sandbox's provider has no figures")
}
