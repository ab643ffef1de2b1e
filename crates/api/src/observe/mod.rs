//! What operators see, as JSON and as a scrape.

mod exposition;
mod host;
mod http;
mod prometheus;
mod views;

use std::time::Duration;

use stacyvm_api_types::{Diagnostics, Metrics, SystemStats};
use stacyvm_control::metrics::Overview;

pub(crate) use self::exposition::CONTENT_TYPE;
pub(crate) use self::http::UNMATCHED;
use self::{
    host::{Host, ProcessMemory},
    http::HttpMetrics,
};
use crate::{Api, access::RateLimitStatus};

/// What this surface measures itself.
pub(crate) struct Observed {
    pub(crate) http: HttpMetrics,
    host: Host,
}

impl Observed {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { http: HttpMetrics::default(), host: Host::new() }
    }
}

/// Whom it is shown to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Whoever may see the server: of what failed, which kind of failure it was.
    Any,
    /// An administrator: also what the caller was told.
    Admin,
}

/// Everything that is shown, gathered once.
struct Shown {
    version: String,
    uptime: Duration,
    /// Tasks that are alive.
    tasks: usize,
    memory: ProcessMemory,
    overview: Overview,
    rate_limit: RateLimitStatus,
}

impl Shown {
    async fn now(api: &Api) -> Self {
        Self {
            version: api.config.version.clone(),
            uptime: api.started.elapsed(),
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            memory: ProcessMemory::now(),
            overview: api.control.overview().await,
            rate_limit: api.config.access.rate_limit(),
        }
    }
}

/// R2.3: the numbers as JSON.
pub(crate) async fn metrics(api: &Api, reader: Reader) -> Metrics {
    views::metrics(&Shown::now(api).await, reader, api.control.settings())
}

/// R2.8: everything that a report about a fault needs, and no secret.
pub(crate) async fn diagnostics(api: &Api, reader: Reader) -> Diagnostics {
    let (shown, store) = tokio::join!(Shown::now(api), api.control.store_answers());
    views::diagnostics(&shown, reader, store, api.control.settings(), &api.control.rules())
}

/// R2.4: the numbers as a scrape.
pub(crate) async fn scrape(api: &Api) -> String {
    let shown = Shown::now(api).await;
    prometheus::text(&shown, &api.observed.http)
}

/// The host.
pub(crate) fn system(api: &Api) -> SystemStats {
    api.observed.host.stats(&api.config.data_dir)
}
