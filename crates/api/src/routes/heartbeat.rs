//! What workers say themselves, with credentials of their own: that they live, and what they hold.

use std::time::Duration;

use http::StatusCode;
use stacyvm_api_types::{
    CapacityRequest, Code, HeartbeatReply, HeartbeatRequest, Lease, OfferRequest, RenewReply,
    RenewRequest, pattern as form,
};
use stacyvm_control::Error;
use stacyvm_fleet::{
    identity::Scope as Right,
    wire::{Capacity, Heartbeat, OfferEntry},
};
use stacyvm_types::{Beat, SandboxId, WorkerId, format_duration};

use super::{
    doc::{doc, matching},
    table::{Route, post},
    workers::{path, view},
};
use crate::{
    Api,
    extract::{Body, OptionalBody, PathText, duration, given},
    json::{Json, ok},
    problem::{Problem, Result},
    scope::Scope,
    views,
};

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        post(
            "/worker/{id}/heartbeat",
            Scope::Worker(Right::Heartbeat),
            heartbeat,
            path(doc("heartbeat", "Says that a worker lives, which renews its lease."))
                .detail(
                    "With the lease of the worker it renews those of its sandboxes. Without \
                     `instance` and `offers` it is a heartbeat of an earlier release: every named \
                     provider is ready. The id is refused while another instance's lease holds.",
                )
                .takes::<HeartbeatRequest>()
                .gives::<HeartbeatReply>(StatusCode::OK, "The worker, and its lease.")
                .fails(&[Code::Conflict]),
        ),
        post(
            "/worker/{id}/leases/{resource}/renew",
            Scope::Worker(Right::Lease),
            renew,
            path(doc("renewLease", "Renews the lease of a sandbox for the worker that holds it."))
                .detail(
                    "All leases of a worker last as long as its own, which a heartbeat renews: \
                     whoever sends heartbeats needs none of these.",
                )
                .path("resource", "The sandbox.", matching(form::SANDBOX))
                .may_take::<RenewRequest>()
                .gives::<RenewReply>(StatusCode::OK, "The lease as it stands.")
                .fails(&[Code::Conflict]),
        ),
    ]
}

/// The worker that the path names and that was let in.
fn worker(path: &PathText) -> Result<WorkerId> {
    let id = WorkerId::parse(path.get("id"));
    id.map_err(|error| Problem::bad_request(format!("the worker's id is not valid: {error}")))
}

async fn heartbeat(
    api: Api,
    path: PathText,
    Body(request): Body<HeartbeatRequest>,
) -> Result<Json<HeartbeatReply>> {
    hear(&api, worker(&path)?, request).await
}

async fn renew(
    api: Api,
    path: PathText,
    OptionalBody(request): OptionalBody<RenewRequest>,
) -> Result<Json<RenewReply>> {
    renew_for(&api, &worker(&path)?, path.get("resource"), request).await
}

/// R5.3: a worker lives.
pub(super) async fn hear(
    api: &Api,
    id: WorkerId,
    request: HeartbeatRequest,
) -> Result<Json<HeartbeatReply>> {
    let row = api.control.heard_of(beat(id, request)?).await?;
    let now = api.control.time();
    Ok(ok(HeartbeatReply {
        lease_expires_in: format_duration(row.lease_until.saturating_since(row.heartbeat_at)),
        drain: row.cordoned,
        server_time: now.to_string(),
        worker: view(row, now),
    }))
}

/// R6.5: only who holds it, and only while it holds.
pub(super) async fn renew_for(
    api: &Api,
    holder: &WorkerId,
    resource: &str,
    request: RenewRequest,
) -> Result<Json<RenewReply>> {
    if duration("ttl", request.ttl)? == Some(Duration::ZERO) {
        return Err(Problem::bad_request("ttl must be a positive duration"));
    }
    let id = SandboxId::parse(resource)
        .map_err(|_| Error::Conflict("lease is not held by worker or has expired".to_owned()))?;
    let lease = api.control.renew_lease(&id, holder).await?;
    Ok(ok(RenewReply {
        lease: Lease {
            resource_id: id.to_string(),
            resource_type: "sandbox".to_owned(),
            holder_id: lease.holder.to_string(),
            generation: lease.generation.0,
            expires_at: views::lease_end(lease.expires_at),
        },
    }))
}

/// What the worker says, if it makes sense.
fn beat(id: WorkerId, request: HeartbeatRequest) -> Result<Beat> {
    let HeartbeatRequest {
        hostname,
        status,
        providers,
        capabilities,
        capacity,
        instance,
        version,
        offers,
    } = request;
    let CapacityRequest { max_sandboxes, memory_mb, vcpus, rpc_url } = capacity.unwrap_or_default();
    let entry = |offer: OfferRequest| OfferEntry {
        provider: offer.provider,
        default: offer.default.unwrap_or_default(),
        ready: offer.ready.unwrap_or_default(),
        capabilities: offer.capabilities.unwrap_or_default(),
        images: offer.images.unwrap_or_default(),
    };
    let heartbeat = Heartbeat {
        hostname: given(hostname).unwrap_or_else(|| id.to_string()),
        status: status.unwrap_or_default().to_ascii_lowercase(),
        providers: providers.unwrap_or_default(),
        capabilities: capabilities.unwrap_or_default(),
        capacity: Capacity {
            max_sandboxes: max_sandboxes.unwrap_or_default().into(),
            memory_mb: memory_mb.unwrap_or_default().into(),
            vcpus: vcpus.unwrap_or_default().into(),
            rpc_url: rpc_url.unwrap_or_default(),
        },
        instance: given(instance),
        version,
        offers: offers.map(|offers| offers.into_iter().map(entry).collect()),
    };
    heartbeat.read(id).map_err(Problem::bad_request)
}
