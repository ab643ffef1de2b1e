//! Sandboxes.

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use stacyvm_admission::Priority;
use stacyvm_api_types::{
    AdmissionExplained, AdmissionReply, Code, ExtendRequest, PruneReply, Sandbox as View,
    SpawnRequest, StatsReply, StatusReply,
};
use stacyvm_control as control;
use stacyvm_provider::Stats;
use stacyvm_store::Include;
use stacyvm_types::SandboxId;
use tokio::time::Instant;

use super::{
    doc::{SPAWN, choice, doc, flag, number, text},
    table::{Route, delete, get, post},
};
use crate::{
    Api,
    extract::{Body, PathText, Query, Sandbox, User, count, duration, given},
    idempotency::{Once, Work},
    json::{Json, created, ok},
    problem::{Problem, Result, echo},
    scope::Scope,
    views,
};

const DEFAULT_LINES: u64 = 100;
const MOST_LINES: u64 = 10_000;
const CPU_WINDOW: Duration = Duration::from_millis(100);

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get(
            "/sandboxes",
            Scope::Read,
            list,
            doc("listSandboxes", "Lists the sandboxes, newest first.")
                .query(
                    "include",
                    "Whether sandboxes that have ended are shown too.",
                    choice(&["ended", ""]),
                )
                .gives::<Vec<View>>(StatusCode::OK, "The sandboxes."),
        )
        .slashed(),
        post(
            "/sandboxes",
            Scope::Api,
            spawn,
            doc("spawnSandbox", "Spawns a sandbox.")
                .detail(
                    "Answers when commands can run in it. Only `network_mode: none` \
                     exists.",
                )
                .for_owner()
                .takes::<SpawnRequest>()
                .shows_sandbox(StatusCode::CREATED, "It runs.")
                .fails(SPAWN)
                .once(Work::Spawn),
        )
        .slashed(),
        delete(
            "/sandboxes",
            Scope::Api,
            prune,
            doc("pruneSandboxes", "Destroys every expired sandbox.")
                .gives::<PruneReply>(StatusCode::OK, "How many there were."),
        )
        .slashed(),
        post(
            "/sandboxes/admission",
            Scope::Read,
            admission,
            doc("askAdmission", "Says whether a spawn would be admitted now; creates nothing.")
                .for_owner()
                .query(
                    "explain",
                    "Whether workers, the place in the queue and the expected wait \
                     are shown too.",
                    flag(),
                )
                .takes::<SpawnRequest>()
                .gives::<AdmissionReply>(
                    StatusCode::OK,
                    "The answer, which may be no; with `explain` an \
                     `AdmissionExplained`.",
                )
                .or_gives::<AdmissionExplained>()
                .fails(&[Code::NotFound]),
        ),
        get(
            "/sandboxes/{id}",
            Scope::Read,
            show,
            doc("getSandbox", "Shows a sandbox.")
                .detail(
                    "One that has ended is a 404 whose `details.cause` says why, \
                     unless it is asked for.",
                )
                .sandbox()
                .query(
                    "include",
                    "Whether sandboxes that have ended are shown too.",
                    choice(&["ended", ""]),
                )
                .shows_sandbox(StatusCode::OK, "The sandbox."),
        )
        .slashed(),
        delete(
            "/sandboxes/{id}",
            Scope::Api,
            destroy,
            doc("destroySandbox", "Destroys a sandbox.")
                .detail("Repeating it is safe: what does not exist is destroyed already.")
                .path("id", "The sandbox.", text())
                .gives::<StatusReply>(StatusCode::OK, "It is gone, and so is everything in it.")
                .fails(&[Code::Conflict]),
        )
        .slashed(),
        post(
            "/sandboxes/{id}/extend",
            Scope::Api,
            extend,
            doc("extendSandbox", "Gives a sandbox a new deadline: now and the time to live.")
                .sandbox()
                .takes::<ExtendRequest>()
                .shows_sandbox(StatusCode::OK, "The sandbox with its new deadline.")
                .fails(&[Code::Conflict, Code::WrongState])
                .once(Work::Other),
        ),
        get(
            "/sandboxes/{id}/logs",
            Scope::Read,
            logs,
            doc("getSandboxLogs", "Shows the last lines that commands wrote.")
                .inside()
                .query(
                    "lines",
                    "How many; 0 means 100, and more than 10,000 means 10,000.",
                    number(),
                )
                .gives::<Vec<String>>(StatusCode::OK, "The lines, oldest first."),
        ),
        get(
            "/sandboxes/{id}/stats",
            Scope::Read,
            stats,
            doc("getSandboxStats", "Shows what a sandbox uses now.")
                .inside()
                .gives::<StatsReply>(StatusCode::OK, "What the host can say."),
        ),
    ]
}

/// A reply that says in one word what was done.
pub(super) fn status(done: &str) -> Json<StatusReply> {
    ok(StatusReply { status: done.to_owned() })
}

fn wanted(request: SpawnRequest, user: User) -> Result<control::SpawnRequest> {
    if let Some(mode) = given(request.network_mode)
        && mode != "none"
    {
        return Err(Problem::bad_request(format!(
            "network_mode {:?} is not supported; sandboxes have no network, so it must be \
             \"none\" or absent",
            echo(&mode)
        )));
    }
    Ok(control::SpawnRequest {
        id: None,
        image: given(request.image),
        provider: given(request.provider),
        memory_mb: count(request.memory_mb),
        vcpus: count(request.vcpus),
        disk_mb: count(request.disk_mb),
        pids: count(request.pids),
        ttl: duration("ttl", request.ttl)?,
        owner: user.or(request.owner_id)?,
        template: given(request.template),
        metadata: request.metadata.unwrap_or_default(),
        env: request.env.unwrap_or_default(),
        priority: priority(request.priority)?,
    })
}

fn priority(asked: Option<u32>) -> Result<Priority> {
    let asked = u8::try_from(asked.unwrap_or(0)).ok().and_then(Priority::new);
    asked.ok_or_else(|| {
        Problem::bad_request(format!("priority must be between 0 and {}", Priority::MAX))
    })
}

fn include(query: &Query) -> Result<Include> {
    match query.text("include") {
        None => Ok(Include::Live),
        Some("ended") => Ok(Include::Ended),
        Some(other) => {
            let message = format!("include must be \"ended\" or absent, and is {:?}", echo(other));
            Err(Problem::bad_request(message))
        }
    }
}

pub(super) fn view(api: &Api, row: stacyvm_store::Sandbox) -> View {
    views::sandbox(row, &api.config.preview_domain)
}

/// R1.1: spawns a sandbox.
pub(super) async fn spawn(
    api: Api,
    user: User,
    once: Once,
    Body(request): Body<SpawnRequest>,
) -> Result<Json<View>> {
    let row = api.control.spawn_once(once.turn(), wanted(request, user)?).await?;
    Ok(created(view(&api, row)))
}

/// R3.6: published clients refuse keys that they do not know, so reasons are for those who ask.
pub(super) async fn admission(
    api: Api,
    user: User,
    query: Query,
    Body(request): Body<SpawnRequest>,
) -> Result<Response> {
    let explain = query.flag("explain")?;
    let answer = api.control.admission(wanted(request, user)?, explain).await?;
    Ok(if explain {
        ok(views::explained(answer)).into_response()
    } else {
        ok(views::admission(answer)).into_response()
    })
}

pub(super) async fn list(api: Api, query: Query) -> Result<Json<Vec<View>>> {
    let rows = api.control.list(include(&query)?).await?;
    Ok(ok(rows.into_iter().map(|row| view(&api, row)).collect()))
}

pub(super) async fn show(api: Api, Sandbox(id): Sandbox, query: Query) -> Result<Json<View>> {
    let row = match include(&query)? {
        Include::Live => api.control.get(&id).await?,
        Include::Ended => api.control.get_any(&id).await?,
    };
    Ok(ok(view(&api, row)))
}

/// Idempotent: what cannot exist is destroyed already.
pub(super) async fn destroy(api: Api, path: PathText) -> Result<Json<StatusReply>> {
    if let Ok(id) = SandboxId::parse(path.get("id")) {
        api.control.destroy(&id).await?;
    }
    Ok(status("destroyed"))
}

pub(super) async fn prune(api: Api) -> Result<Json<PruneReply>> {
    Ok(ok(PruneReply { pruned: api.control.prune().await? }))
}

pub(super) async fn extend(
    api: Api,
    Sandbox(id): Sandbox,
    once: Once,
    Body(request): Body<ExtendRequest>,
) -> Result<Json<View>> {
    let ttl = duration("ttl", request.ttl)?;
    let ttl = ttl.ok_or_else(|| Problem::bad_request("ttl is required"))?;
    if ttl.is_zero() {
        return Err(Problem::bad_request("ttl must be positive"));
    }
    let row = api.control.extend_once(once.turn(), &id, ttl).await?;
    Ok(ok(view(&api, row)))
}

/// R1.5: the last lines that commands wrote.
pub(super) async fn logs(
    api: Api,
    Sandbox(id): Sandbox,
    query: Query,
) -> Result<Json<Vec<String>>> {
    let lines = query.number("lines")?.filter(|lines| *lines != 0).unwrap_or(DEFAULT_LINES);
    let lines = usize::try_from(lines.min(MOST_LINES)).unwrap_or(usize::MAX);
    Ok(ok(api.control.logs(&id, lines).await?))
}

/// R1.5: what the sandbox uses now.
pub(super) async fn stats(api: Api, Sandbox(id): Sandbox) -> Result<Json<StatsReply>> {
    let begun = Instant::now();
    let before = match api.control.stats(&id).await {
        Ok(stats) => stats,
        Err(control::Error::Unsupported(_)) => return Ok(ok(StatsReply::default())),
        Err(error) => return Err(error.into()),
    };
    if before.cpu_us.is_none() {
        return Ok(ok(views::stats(&before, None)));
    }
    tokio::time::sleep(CPU_WINDOW).await;
    let now = api.control.stats(&id).await?;
    Ok(ok(views::stats(&now, load(&before, &now, begun.elapsed()))))
}

/// Percent of one processor.
fn load(before: &Stats, now: &Stats, window: Duration) -> Option<f64> {
    let used = Duration::from_micros(now.cpu_us?.saturating_sub(before.cpu_us?));
    let percent = used.as_secs_f64() / window.as_secs_f64() * 100.0;
    Some((percent * 100.0).round() / 100.0)
}
