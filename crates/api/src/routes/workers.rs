//! Workers as operators see and treat them, below `/workers` and `/admin/workers`.

use std::collections::BTreeSet;

use http::StatusCode;
use stacyvm_api_types::{
    Code, HeartbeatReply, HeartbeatRequest, RenewReply, RenewRequest, StatusReply, Worker,
    WorkerCapacity, WorkerLoad, WorkerOffer, pattern as form,
};
use stacyvm_control::{Error, Member};
use stacyvm_store::WorkerRow;
use stacyvm_types::{Resources, Timestamp, WorkerId};

use super::{
    doc::{Doc, doc, matching},
    heartbeat,
    sandboxes::status,
    table::{Route, delete, get, post},
};
use crate::{
    Api,
    extract::{Body, OptionalBody, PathText},
    json::{Json, ok},
    problem::{Result, echo},
    scope::Scope,
    views,
};

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/workers", Scope::Read, list, listed("listWorkers")),
        get("/workers/{id}", Scope::Read, one, shown("getWorker")),
        get("/admin/workers", Scope::Admin, list, listed("adminListWorkers")),
        get("/admin/workers/{id}", Scope::Admin, one, shown("adminGetWorker")),
        delete(
            "/admin/workers/{id}",
            Scope::Admin,
            remove,
            named(doc("removeWorker", "Forgets a worker that holds no sandbox."))
                .detail(
                    "One that is still there comes back with its next heartbeat: stop it, or take \
                     its credential away, first.",
                )
                .gives::<StatusReply>(StatusCode::OK, "It is forgotten.")
                .fails(&[Code::Conflict]),
        ),
        post(
            "/admin/workers/{id}/drain",
            Scope::Admin,
            drain,
            named(doc("drainWorker", "Takes nothing new on a worker from now on."))
                .detail("What runs there goes on. It lasts until it is undone, over restarts too.")
                .gives::<Worker>(StatusCode::OK, "The worker."),
        ),
        post(
            "/admin/workers/{id}/undrain",
            Scope::Admin,
            undrain,
            named(doc("undrainWorker", "Lets a worker take sandboxes again."))
                .gives::<Worker>(StatusCode::OK, "The worker."),
        ),
        post(
            "/admin/workers/{id}/heartbeat",
            Scope::Admin,
            heartbeat,
            path(doc("adminHeartbeat", "Says for a worker that it lives."))
                .detail("As the worker's own `/worker/{id}/heartbeat`.")
                .takes::<HeartbeatRequest>()
                .gives::<HeartbeatReply>(StatusCode::OK, "The worker, and its lease.")
                .fails(&[Code::NotFound, Code::Conflict]),
        ),
        post(
            "/admin/workers/{id}/leases/{resource}/renew",
            Scope::Admin,
            renew,
            path(doc("adminRenewLease", "Renews a lease for the worker that holds it."))
                .detail("As the worker's own `/worker/{id}/leases/{resource}/renew`.")
                .path("resource", "The sandbox.", matching(form::SANDBOX))
                .may_take::<RenewRequest>()
                .gives::<RenewReply>(StatusCode::OK, "The lease as it stands.")
                .fails(&[Code::NotFound, Code::Conflict]),
        ),
    ]
}

/// The path names a worker.
pub(super) fn path(doc: Doc) -> Doc {
    doc.path("id", "The worker.", matching(form::WORKER))
}

/// The path names a worker that must be there.
fn named(doc: Doc) -> Doc {
    path(doc).fails(&[Code::NotFound])
}

fn listed(id: &'static str) -> Doc {
    doc(id, "Lists the workers and what is known of them.")
        .detail("Not for keys of one owner: it is about all owners.")
        .gives::<Vec<Worker>>(StatusCode::OK, "The workers, by id.")
}

fn shown(id: &'static str) -> Doc {
    named(doc(id, "Shows one worker."))
        .detail("Not for keys of one owner: it is about all owners.")
        .gives::<Worker>(StatusCode::OK, "The worker.")
}

/// The worker that the path names. An id that cannot exist is not found.
fn worker(path: &PathText) -> Result<WorkerId> {
    let text = path.get("id");
    let id = WorkerId::parse(text);
    Ok(id.map_err(|_| Error::NotFound(format!("not found: worker {:?}", echo(text))))?)
}

async fn list(api: Api) -> Result<Json<Vec<Worker>>> {
    api.control.whole_server()?;
    let (members, now) = (api.control.workers().await?, api.control.time());
    Ok(ok(members.into_iter().map(|member| member_view(member, now)).collect()))
}

async fn one(api: Api, path: PathText) -> Result<Json<Worker>> {
    api.control.whole_server()?;
    show(&api, &worker(&path)?).await
}

async fn show(api: &Api, id: &WorkerId) -> Result<Json<Worker>> {
    let member = api.control.worker(id).await?;
    Ok(ok(member_view(member, api.control.time())))
}

async fn remove(api: Api, path: PathText) -> Result<Json<StatusReply>> {
    api.control.remove_worker(&worker(&path)?).await?;
    Ok(status("deleted"))
}

async fn drain(api: Api, path: PathText) -> Result<Json<Worker>> {
    let id = worker(&path)?;
    api.control.drain_worker(&id, true).await?;
    show(&api, &id).await
}

async fn undrain(api: Api, path: PathText) -> Result<Json<Worker>> {
    let id = worker(&path)?;
    api.control.drain_worker(&id, false).await?;
    show(&api, &id).await
}

async fn heartbeat(
    api: Api,
    path: PathText,
    Body(request): Body<HeartbeatRequest>,
) -> Result<Json<HeartbeatReply>> {
    heartbeat::hear(&api, worker(&path)?, request).await
}

async fn renew(
    api: Api,
    path: PathText,
    OptionalBody(request): OptionalBody<RenewRequest>,
) -> Result<Json<RenewReply>> {
    heartbeat::renew_for(&api, &worker(&path)?, path.get("resource"), request).await
}

fn member_view(member: Member, now: Timestamp) -> Worker {
    let Resources { sandboxes, memory_mb, vcpus } = member.load;
    Worker { load: Some(WorkerLoad { sandboxes, memory_mb, vcpus }), ..view(member.row, now) }
}

/// A worker as it stands at `now`, without what its sandboxes take.
pub(super) fn view(row: WorkerRow, now: Timestamp) -> Worker {
    let status = row.status(now);
    let stale = !row.is_fresh(now);
    let WorkerRow { beat, cordoned, lease_until, heartbeat_at, created_at, updated_at } = row;
    let capabilities: BTreeSet<_> =
        beat.offers.iter().flat_map(|o| o.capabilities.clone()).collect();
    Worker {
        id: beat.id.to_string(),
        hostname: beat.hostname,
        status: status.to_owned(),
        providers: beat.offers.iter().map(|offer| offer.provider.clone()).collect(),
        capabilities: capabilities.into_iter().collect(),
        capacity: WorkerCapacity {
            max_sandboxes: beat.capacity.sandboxes,
            memory_mb: beat.capacity.memory_mb,
            vcpus: beat.capacity.vcpus,
            rpc_url: beat.url.unwrap_or_default(),
        },
        last_heartbeat: views::to_the_second(heartbeat_at),
        created_at: views::to_the_second(created_at),
        updated_at: views::to_the_second(updated_at),
        stale,
        version: beat.version,
        cordoned,
        lease_expires_at: views::lease_end(lease_until),
        load: None,
        offers: beat
            .offers
            .into_iter()
            .map(|offer| WorkerOffer {
                provider: offer.provider,
                default: offer.default,
                ready: offer.ready,
                capabilities: offer.capabilities.into_iter().collect(),
                images: offer.images.into_iter().collect(),
            })
            .collect(),
    }
}
