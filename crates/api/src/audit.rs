//! R2.6: every request to an admin route is recorded once it is answered, whatever the answer, and
//! also when nobody waits for it. Of requests without a valid credential, without the right to what
//! they ask, to no route or above a rate as many are recorded as do not fill the disk, or the queue so that records of others are lost.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{extract::Request, response::Response};
use http::{StatusCode, header};
use stacyvm_control::{AdminRequest, Caller};
use tokio::time::Instant;

use crate::{
    Api,
    access::address,
    problem::echo,
    routes::{demanded, table::BASE},
};

/// The status of a request whose caller left before the answer.
const LEFT: u16 = 499;
/// The actor of a request that never showed who it is from.
const ANONYMOUS: &str = "anonymous";

/// Where whoever learns who asks leaves the name for the record.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<OnceLock<String>>);

impl Asked {
    /// Says who asks. The first name stays.
    pub(crate) fn by(&self, caller: &Caller) {
        let _ = self.0.set(caller.actor.clone());
    }
}

/// A request to an admin route on its way.
pub(crate) struct Watched {
    api: Api,
    client: Option<IpAddr>,
    begun: Instant,
    asked: Asked,
    /// Whether there is such a route.
    is_routed: bool,
    request: AdminRequest,
}

impl Watched {
    /// Begins a record of the request, if it is to an admin route.
    pub(crate) fn begin(api: &Api, request: &mut Request, id: &str) -> Option<Self> {
        let path = request.uri().path();
        let below = path.strip_prefix(BASE)?.strip_prefix("/admin")?;
        if !below.is_empty() && !below.starts_with('/') {
            return None;
        }
        let agent = request.headers().get(header::USER_AGENT).map(|value| value.as_bytes());
        let client = address(api, request);
        let record = AdminRequest {
            actor: ANONYMOUS.to_owned(),
            method: echo(request.method().as_str()),
            path: path.to_owned(),
            status: LEFT,
            duration: Duration::ZERO,
            request_id: id.to_owned(),
            remote_addr: client.map(|ip| ip.to_string()).unwrap_or_default(),
            user_agent: agent.map(String::from_utf8_lossy).unwrap_or_default().into_owned(),
        };
        let is_routed = demanded(request).is_some();
        let asked = Asked::default();
        request.extensions_mut().insert(asked.clone());
        Some(Self {
            api: api.clone(),
            client,
            begun: Instant::now(),
            asked,
            is_routed,
            request: record,
        })
    }

    /// The answer is there.
    pub(crate) fn answered(mut self, response: &Response) {
        self.request.status = response.status().as_u16();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut request = self.request.clone();
        let actor = self.asked.0.get().filter(|actor| *actor != ANONYMOUS);
        if let Some(actor) = actor {
            request.actor.clone_from(actor);
        }
        let Api { control, config, .. } = &self.api;
        let refused = [StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
        let is_refused = refused.iter().any(|status| request.status == *status);
        let is_bounded = actor.is_none() || is_refused || !self.is_routed;
        let actor = actor.map(String::as_str);
        if is_bounded && !config.access.records_refused(actor, self.client, Instant::now()) {
            return;
        }
        request.duration = self.begun.elapsed();
        control.record_admin(request);
    }
}
