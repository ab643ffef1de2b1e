//! The server itself, and what it truthfully says about what it does not limit.

use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};
use stacyvm_api_types::{Health, PoolStatus, Ready, StatusReply, StoreHealth};
use stacyvm_types::format_duration;

use super::{
    doc::doc,
    providers,
    table::{Route, get},
};
use crate::{
    Api,
    access::Identity,
    json::{Json, ok},
    openapi,
    scope::Scope,
    views,
};

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get(
            "/health",
            Scope::Read,
            health,
            doc("getHealth", "Says that the server works, and its version.")
                .gives::<Health>(StatusCode::OK, "It works."),
        ),
        get(
            "/live",
            Scope::Probe,
            live,
            doc("getLive", "Says that the process answers.")
                .gives::<Health>(StatusCode::OK, "It answers."),
        ),
        get(
            "/ready",
            Scope::Probe,
            ready,
            doc("getReady", "Says whether the store and a provider can work.")
                .gives::<Ready>(StatusCode::OK, "They can.")
                .gives::<Ready>(StatusCode::SERVICE_UNAVAILABLE, "They cannot; the body says why."),
        ),
        get(
            "/pool/status",
            Scope::Read,
            pool,
            doc("getPoolStatus", "Says whether users share runtimes.")
                .gives::<PoolStatus>(StatusCode::OK, "They do not."),
        ),
        get(
            "/snapshots",
            Scope::Read,
            snapshots,
            doc("listSnapshots", "Lists the snapshots.")
                .gives::<[(); 0]>(StatusCode::OK, "There are none."),
        ),
        get(
            "/openapi.json",
            Scope::Read,
            document,
            doc("getOpenApi", "Shows this document.")
                .gives::<Map<String, Value>>(StatusCode::OK, "OpenAPI 3.1."),
        ),
    ]
}

fn state(api: &Api, status: &str) -> Health {
    Health {
        status: status.to_owned(),
        uptime: format_duration(api.started.elapsed()),
        version: api.config.version.clone(),
    }
}

pub(super) async fn health(api: Api) -> Json<Health> {
    ok(state(&api, "ok"))
}

/// A probe's answer, of which nobody in particular sees one word only.
fn told(identity: &Identity, full: Response, code: StatusCode, word: &str) -> Response {
    if identity.may(Scope::Read) {
        return full;
    }
    Json(code, StatusReply { status: word.to_owned() }).into_response()
}

/// R2.1: says only that the process answers.
pub(super) async fn live(api: Api, identity: Identity) -> Response {
    let full = ok(state(&api, "alive")).into_response();
    told(&identity, full, StatusCode::OK, "alive")
}

/// R2.1: the store and every provider; 503 when either cannot work.
pub(super) async fn ready(api: Api, identity: Identity) -> Response {
    let readiness = api.control.ready().await;
    let (code, word) = if readiness.is_ready() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    let Health { status, version, uptime } = state(&api, word);
    let providers: Vec<_> = readiness.providers.iter().map(providers::view).collect();
    let store = match readiness.store {
        Ok(latency) => {
            StoreHealth { healthy: true, latency_ms: views::millis(latency), error: None }
        }
        Err(error) => StoreHealth { healthy: false, latency_ms: 0.0, error: Some(error) },
    };
    let ready_providers = providers.iter().filter(|provider| provider.healthy).count();
    let total_providers = providers.len();
    let body =
        Ready { status, version, uptime, providers, ready_providers, total_providers, store };
    told(&identity, Json(code, body).into_response(), code, word)
}

pub(super) async fn pool() -> Json<PoolStatus> {
    ok(PoolStatus { enabled: false })
}

pub(super) async fn snapshots() -> Json<[(); 0]> {
    ok([])
}

/// R8.3: the document of every route.
pub(super) async fn document() -> Response {
    let mut response = Response::new(openapi::text().into());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
