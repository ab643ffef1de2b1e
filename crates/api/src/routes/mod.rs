//! The table of routes.

mod events;
mod exec;
mod exec_ws;
mod files;
mod images;
mod observe;
mod providers;
mod sandboxes;
mod system;
mod templates;

use axum::{
    Router,
    routing::{MethodRouter, delete, get, post},
};

pub(crate) use self::providers::view as provider;
use crate::Api;

/// Every route.
pub(crate) fn all() -> Router<Api> {
    let routes = Router::new()
        .route("/sandboxes/admission", post(sandboxes::admission))
        .route("/sandboxes/{id}/extend", post(sandboxes::extend))
        .route("/sandboxes/{id}/logs", get(sandboxes::logs))
        .route("/sandboxes/{id}/stats", get(sandboxes::stats))
        .route("/sandboxes/{id}/exec", post(exec::run))
        .route("/sandboxes/{id}/exec/ws", get(exec_ws::run))
        .route("/sandboxes/{id}/exec/{exec_id}", get(exec::resume))
        .route("/sandboxes/{id}/exec/{exec_id}/ws", get(exec_ws::resume))
        .route(
            "/sandboxes/{id}/files",
            get(files::read).post(files::write).put(files::upload).delete(files::remove),
        )
        .route("/sandboxes/{id}/files/list", get(files::list))
        .route("/sandboxes/{id}/files/stat", get(files::stat))
        .route("/sandboxes/{id}/files/glob", get(files::glob))
        .route("/sandboxes/{id}/files/move", post(files::rename))
        .route("/sandboxes/{id}/files/chmod", post(files::chmod))
        .route("/templates/{name}/spawn", post(templates::spawn))
        .route("/providers/test", post(providers::test))
        .route("/providers/{name}", get(providers::show))
        .route("/images/{*name}", delete(images::remove).put(images::import))
        .route("/pool/status", get(system::pool))
        .route("/quotas", get(system::quotas))
        .route("/quotas/summary", get(system::quota_summary))
        .route("/snapshots", get(system::snapshots))
        .route("/health", get(system::health))
        .route("/live", get(system::live))
        .route("/ready", get(system::ready))
        .route("/events", get(events::follow))
        .route("/metrics", get(observe::metrics))
        .route("/metrics/prometheus", get(observe::prometheus))
        .route("/diagnostics", get(observe::diagnostics))
        .route("/system/stats", get(observe::system))
        .route("/admin/metrics", get(observe::metrics))
        .route("/admin/metrics/prometheus", get(observe::prometheus))
        .route("/admin/diagnostics", get(observe::diagnostics));
    let routes = both(
        routes,
        "/sandboxes",
        get(sandboxes::list).post(sandboxes::spawn).delete(sandboxes::prune),
    );
    let routes = both(routes, "/sandboxes/{id}", get(sandboxes::show).delete(sandboxes::destroy));
    let routes = both(routes, "/templates", get(templates::list).post(templates::create));
    let routes = both(
        routes,
        "/templates/{name}",
        get(templates::show).put(templates::update).delete(templates::remove),
    );
    let routes = both(routes, "/providers", get(providers::list));
    let routes = both(routes, "/images", get(images::list));
    Router::new().nest("/api/v1", routes)
}

/// The path with and without a slash at its end; published clients send both, and follow no
/// redirect.
fn both(routes: Router<Api>, path: &str, methods: MethodRouter<Api>) -> Router<Api> {
    routes.route(path, methods.clone()).route(&format!("{path}/"), methods)
}
