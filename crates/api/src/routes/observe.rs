//! What operators see.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use stacyvm_api_types::{Diagnostics, Metrics, SystemStats};

use super::{
    doc::{Doc, doc},
    table::{Route, get},
};
use crate::{
    Api,
    json::{Json, ok},
    observe::{self, Reader},
    problem::Result,
    scope::Scope,
};

/// The routes of this file. What they show names nobody and holds no secret, so that whoever may
/// see the server may see them; administrators have addresses of their own, as earlier servers had,
/// where the last errors are sentences and not just their kinds.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/metrics", Scope::Read, metrics, metrics_doc("getMetrics")),
        get("/metrics/prometheus", Scope::Read, prometheus, scrape_doc("scrapeMetrics")),
        get("/diagnostics", Scope::Read, diagnostics, diagnostics_doc("getDiagnostics")),
        get(
            "/system/stats",
            Scope::Read,
            system,
            doc("getSystemStats", "Shows figures of the host.")
                .gives::<SystemStats>(StatusCode::OK, "The figures."),
        ),
        get("/admin/metrics", Scope::Admin, admin_metrics, metrics_doc("adminGetMetrics")),
        get(
            "/admin/metrics/prometheus",
            Scope::Admin,
            prometheus,
            scrape_doc("adminScrapeMetrics"),
        ),
        get(
            "/admin/diagnostics",
            Scope::Admin,
            admin_diagnostics,
            diagnostics_doc("adminGetDiagnostics"),
        ),
    ]
}

fn metrics_doc(id: &'static str) -> Doc {
    doc(id, "Shows the numbers of every part of the server.")
        .gives::<Metrics>(StatusCode::OK, "The numbers.")
}

fn scrape_doc(id: &'static str) -> Doc {
    doc(id, "Shows the numbers of every part of the server to Prometheus.").gives_text(
        StatusCode::OK,
        "A scrape in the text format 0.0.4.",
        "text/plain",
    )
}

fn diagnostics_doc(id: &'static str) -> Doc {
    doc(id, "Shows what a report about a fault needs, without secrets.")
        .gives::<Diagnostics>(StatusCode::OK, "The report.")
}

pub(super) async fn metrics(api: Api) -> Result<Json<Metrics>> {
    api.control.whole_server()?;
    Ok(ok(observe::metrics(&api, Reader::Any).await))
}

pub(super) async fn admin_metrics(api: Api) -> Result<Json<Metrics>> {
    api.control.whole_server()?;
    Ok(ok(observe::metrics(&api, Reader::Admin).await))
}

pub(super) async fn prometheus(api: Api) -> Result<Response> {
    api.control.whole_server()?;
    let kind = HeaderValue::from_static(observe::CONTENT_TYPE);
    Ok(([(header::CONTENT_TYPE, kind)], observe::scrape(&api).await).into_response())
}

pub(super) async fn diagnostics(api: Api) -> Result<Json<Diagnostics>> {
    api.control.whole_server()?;
    Ok(ok(observe::diagnostics(&api, Reader::Any).await))
}

pub(super) async fn admin_diagnostics(api: Api) -> Result<Json<Diagnostics>> {
    api.control.whole_server()?;
    Ok(ok(observe::diagnostics(&api, Reader::Admin).await))
}

pub(super) async fn system(api: Api) -> Result<Json<SystemStats>> {
    api.control.whole_server()?;
    Ok(ok(observe::system(&api)))
}
