//! What workers say themselves, with credentials of their own: that they live, and what they hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use http::{StatusCode, Uri};
use stacyvm_api_types::{
    CapacityRequest, Code, HeartbeatReply, HeartbeatRequest, Lease, OfferRequest, RenewReply,
    RenewRequest, pattern as form,
};
use stacyvm_control::Error;
use stacyvm_fleet::identity::Scope as Right;
use stacyvm_types::{Beat, Offer, Resources, SandboxId, WorkerId, format_duration};

use super::{
    doc::{doc, matching},
    table::{Route, post},
    workers::{path, view},
};
use crate::{
    Api,
    extract::{Body, OptionalBody, PathText, duration, given},
    json::{Json, ok},
    problem::{Problem, Result, echo},
    scope::Scope,
    views,
};

/// The longest address of a worker.
const MAX_URL: usize = 512;
/// The longest host name.
const MAX_HOSTNAME: usize = 253;
/// The longest name of an instance, and of a version.
const MAX_INSTANCE: usize = 128;
const MAX_VERSION: usize = 64;
/// The longest word for what a worker does.
const MAX_STATUS: usize = 32;
/// The longest name of a provider or of what one can do.
const MAX_NAME: usize = 64;

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
        lease_expires_in: format_duration(row.lease_until.saturating_since(now)),
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

/// What the worker says, if all of it makes sense.
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
    let printable = |c: char| !c.is_control();
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let status = text("status", status, MAX_STATUS, word)?;
    let instance = text("instance", instance, MAX_INSTANCE, word)?;
    let hostname = text("hostname", hostname, MAX_HOSTNAME, printable)?;
    let version = text("version", version, MAX_VERSION, |c| c.is_ascii_graphic())?;
    let CapacityRequest { max_sandboxes, memory_mb, vcpus, rpc_url } = capacity.unwrap_or_default();
    let offers = match offers {
        Some(offers) => offers,
        None => {
            let offer = |provider| OfferRequest {
                provider,
                default: None,
                ready: Some(true),
                capabilities: capabilities.clone(),
                images: None,
            };
            providers.unwrap_or_default().into_iter().map(offer).collect()
        }
    };
    Ok(Beat {
        instance: instance.unwrap_or_else(|| id.to_string()),
        hostname: hostname.unwrap_or_else(|| id.to_string()),
        version: version.unwrap_or_default(),
        url: given(rpc_url).map(url).transpose()?,
        draining: status.is_some_and(|status| !status.eq_ignore_ascii_case("online")),
        offers: distinct(offers)?,
        capacity: Resources {
            sandboxes: max_sandboxes.unwrap_or_default().into(),
            memory_mb: memory_mb.unwrap_or_default().into(),
            vcpus: vcpus.unwrap_or_default().into(),
        },
        id,
    })
}

fn text(
    field: &str,
    text: Option<String>,
    longest: usize,
    takes: fn(char) -> bool,
) -> Result<Option<String>> {
    let Some(text) = given(text) else { return Ok(None) };
    if longest < text.len() || !text.chars().all(takes) {
        let message = format!("{field} is longer than {longest} bytes or holds what it may not");
        return Err(Problem::bad_request(message));
    }
    Ok(Some(text))
}

/// A list that is not longer than is sane.
fn bounded<T>(field: &str, list: Option<Vec<T>>, most: usize) -> Result<Vec<T>> {
    let list = list.unwrap_or_default();
    if most < list.len() {
        let message = format!("{field} must be at most {most}, and there are {}", list.len());
        return Err(Problem::bad_request(message));
    }
    Ok(list)
}

/// The offers by the names of their providers.
fn distinct(offers: Vec<OfferRequest>) -> Result<Vec<Offer>> {
    let offers = bounded("providers", Some(offers), HeartbeatRequest::MAX_OFFERS)?;
    let mut known = BTreeMap::new();
    for asked in offers {
        let provider = name("a provider", asked.provider)?;
        let capabilities =
            bounded("capabilities", asked.capabilities, HeartbeatRequest::MAX_CAPABILITIES)?;
        let images = bounded("images", asked.images, HeartbeatRequest::MAX_IMAGES)?;
        let offer = Offer {
            default: asked.default.unwrap_or_default(),
            ready: asked.ready.unwrap_or_default(),
            capabilities: capabilities
                .into_iter()
                .map(|word| name("a capability", word))
                .collect::<Result<_>>()?,
            images: images.into_iter().map(image).collect::<Result<BTreeSet<_>>>()?,
            provider: provider.clone(),
        };
        if known.insert(provider.clone(), offer).is_some() {
            let message = format!("the provider {provider} is named twice");
            return Err(Problem::bad_request(message));
        }
    }
    Ok(known.into_values().collect())
}

fn name(what: &str, text: String) -> Result<String> {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !begins || MAX_NAME < text.len() || !text.bytes().all(inside) {
        let message = format!(
            "the name of {what} is 1 to {MAX_NAME} of A-Z a-z 0-9 . _ -, and not {:?}",
            echo(&text)
        );
        return Err(Problem::bad_request(message));
    }
    Ok(text)
}

fn image(text: String) -> Result<String> {
    let takes = (1..=form::IMAGE_LENGTH).contains(&text.len()) && !text.contains(char::is_control);
    if takes {
        Ok(text)
    } else {
        let message = format!("{:?} cannot be an image's name", echo(&text));
        Err(Problem::bad_request(message))
    }
}

/// Where the worker takes calls: a host and a port, and nothing that would be sent along.
fn url(text: String) -> Result<String> {
    let is_address = |uri: &Uri| {
        let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.host().is_some_and(|host| !host.is_empty());
        let bare = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        scheme && host && bare && matches!(uri.path(), "" | "/") && uri.query().is_none()
    };
    if text.len() <= MAX_URL && text.parse().as_ref().is_ok_and(is_address) {
        return Ok(text);
    }
    let message = "capacity.rpc_url must be http://host:port or https://host:port";
    Err(Problem::bad_request(format!("{message}, and is {:?}", echo(&text))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(request: serde_json::Value) -> Result<Beat, String> {
        let request = serde_json::from_value(request).map_err(|error| error.to_string())?;
        beat(WorkerId::parse("w1").unwrap(), request).map_err(|problem| problem.message)
    }

    #[test]
    fn what_an_earlier_worker_says_is_enough() {
        let old = json!({
            "hostname": "rack-1", "status": "online", "providers": ["mock", "docker"],
            "capabilities": ["remote_worker", "heartbeat"],
            "capacity": {
                "max_sandboxes": 8, "max_sandboxes_per_owner": 2, "preview_domain": "x.example",
                "rpc_url": "http://10.0.0.7:7424",
            },
        });
        let beat = read(old).unwrap();
        assert_eq!((&*beat.instance, &*beat.hostname, beat.draining), ("w1", "rack-1", false));
        assert_eq!(beat.url.as_deref(), Some("http://10.0.0.7:7424"));
        assert_eq!((beat.capacity.sandboxes, beat.capacity.memory_mb), (8, 0));
        let offered: Vec<_> = beat.offers.iter().map(|o| (&*o.provider, o.ready)).collect();
        assert_eq!(offered, [("docker", true), ("mock", true)]);
        assert!(beat.offers.iter().all(|offer| offer.capabilities.contains("heartbeat")));
        assert!(read(json!({"status": "draining"})).unwrap().draining);
        assert_eq!(read(json!({})).unwrap().hostname, "w1");
    }

    #[test]
    fn what_is_more_than_sane_is_refused() {
        let names = |count: usize| (0..count).map(|n| format!("p{n}")).collect::<Vec<_>>();
        let offer = |more: serde_json::Value| {
            let mut offer = json!({"provider": "mock"});
            offer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"offers": [offer]})
        };
        assert_eq!(read(json!({"providers": names(32)})).unwrap().offers.len(), 32);
        assert!(read(offer(json!({"images": names(1024)}))).is_ok());
        for (request, says) in [
            (json!({"hostname": "a".repeat(254)}), "hostname"),
            (json!({"hostname": "a\nb"}), "hostname"),
            (json!({"status": "on line"}), "status"),
            (json!({"instance": "a/b"}), "instance"),
            (json!({"version": "v".repeat(65)}), "version"),
            (json!({"providers": names(33)}), "at most 32"),
            (json!({"providers": ["mock", "mock"]}), "named twice"),
            (json!({"providers": [""]}), "the name of a provider"),
            (json!({"providers": ["-x"]}), "the name of a provider"),
            (json!({"offers": [{}]}), "the name of a provider"),
            (offer(json!({"capabilities": names(65)})), "at most 64"),
            (offer(json!({"capabilities": ["a b"]})), "the name of a capability"),
            (offer(json!({"images": names(1025)})), "at most 1024"),
            (offer(json!({"images": [""]})), "image's name"),
            (json!({"capacity": {"rpc_url": "ftp://a:1"}}), "rpc_url"),
            (json!({"capacity": {"rpc_url": "http://u:p@a:1"}}), "rpc_url"),
            (json!({"capacity": {"rpc_url": "http://a:1/rpc?x=y"}}), "rpc_url"),
            (json!({"capacity": {"rpc_url": "10.0.0.7:7424"}}), "rpc_url"),
        ] {
            let refused = read(request.clone()).unwrap_err();
            assert!(refused.contains(says), "{request}: {refused}");
        }
    }
}
