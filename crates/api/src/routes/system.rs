//! The server itself, and what it truthfully says about what it does not limit.

use http::StatusCode;
use stacyvm_api_types::{Health, PoolStatus, QuotaSummary, Ready};
use stacyvm_types::format_duration;

use super::providers;
use crate::{
    Api,
    json::{Json, ok},
    views,
};

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

/// R2.1: says only that the process answers.
pub(super) async fn live(api: Api) -> Json<Health> {
    ok(state(&api, "alive"))
}

/// R2.1: the store and every provider; 503 when either cannot work.
pub(super) async fn ready(api: Api) -> Json<Ready> {
    let readiness = api.control.ready().await;
    let (code, word) = if readiness.is_ready() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    let Health { status, version, uptime } = state(&api, word);
    let providers: Vec<_> = readiness.providers.iter().map(providers::view).collect();
    let store = views::store(readiness.store);
    let ready_providers = providers.iter().filter(|provider| provider.healthy).count();
    let total_providers = providers.len();
    let body =
        Ready { status, version, uptime, providers, ready_providers, total_providers, store };
    Json(code, body)
}

pub(super) async fn pool() -> Json<PoolStatus> {
    ok(PoolStatus { enabled: false })
}

pub(super) async fn quotas() -> Json<[(); 0]> {
    ok([])
}

pub(super) async fn quota_summary() -> Json<QuotaSummary> {
    ok(QuotaSummary::default())
}

pub(super) async fn snapshots() -> Json<[(); 0]> {
    ok([])
}
