//! Providers.

use std::collections::BTreeMap;

use http::StatusCode;
use stacyvm_api_types::{Code, Provider, ProviderConfig, ProviderDetail};
use stacyvm_control::Error;
use stacyvm_fleet::ProviderReport;

use super::{
    doc::{doc, text},
    table::{Route, get, post},
};
use crate::{
    Api,
    extract::PathText,
    json::{Json, ok},
    problem::{Result, echo},
    scope::Scope,
    views,
};

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get(
            "/providers",
            Scope::Read,
            list,
            doc("listProviders", "Lists the providers and how well they are.")
                .gives::<Vec<Provider>>(StatusCode::OK, "The providers."),
        )
        .slashed(),
        post(
            "/providers/test",
            Scope::Read,
            test,
            doc("testProviders", "Says of every provider whether it is usable.").gives::<BTreeMap<
                String,
                bool,
            >>(
                StatusCode::OK,
                "By name.",
            ),
        ),
        get(
            "/providers/{name}",
            Scope::Read,
            show,
            doc("getProvider", "Shows a provider.")
                .path("name", "The provider.", text())
                .gives::<ProviderDetail>(StatusCode::OK, "The provider.")
                .fails(&[Code::NotFound]),
        ),
    ]
}

/// R2.7: the same object wherever a provider is shown.
pub(crate) fn view(report: &ProviderReport) -> Provider {
    let usable = report.probe.usable;
    Provider {
        name: report.name.to_string(),
        healthy: usable,
        default: report.default,
        latency_ms: views::millis(report.latency),
        last_checked: views::to_the_second(report.checked_at),
        error: (!usable).then(|| report.probe.summary.clone()),
        summary: report.probe.summary.clone(),
        capabilities: report.capabilities.names().into_iter().map(str::to_owned).collect(),
        runtime_count: report.runtimes,
    }
}

pub(super) async fn list(api: Api) -> Json<Vec<Provider>> {
    ok(api.control.providers().await.iter().map(view).collect())
}

pub(super) async fn test(api: Api) -> Json<BTreeMap<String, bool>> {
    let reports = api.control.providers().await;
    ok(reports.iter().map(|report| (report.name.to_string(), report.probe.usable)).collect())
}

pub(super) async fn show(api: Api, path: PathText) -> Result<Json<ProviderDetail>> {
    let name = path.get("name");
    let reports = api.control.providers().await;
    let report = reports.iter().find(|report| *report.name == *name);
    let health = view(report.ok_or_else(|| Error::NoProvider(echo(name)))?);
    let count = api.control.sandboxes_of_provider(name).await?;
    Ok(ok(ProviderDetail {
        name: health.name.clone(),
        healthy: health.healthy,
        default: health.default,
        sandbox_count: usize::try_from(count).unwrap_or(usize::MAX),
        config: ProviderConfig { kind: health.name.clone() },
        health,
    }))
}
