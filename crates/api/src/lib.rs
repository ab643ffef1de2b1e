//! The HTTP surface: one file per resource under `routes`, each handler three lines (take the
//! request apart, call control, wrap the answer). `docs/http.md` is the contract.
//!
//! Promises:
//! - Every reply of a route is JSON (or the stream that its page names), every error has the one
//!   envelope, and no internal text is in it.
//! - Nothing reaches a handler whose `Host`, `Origin` or browser context is not allowed.
//! - A route is a row of one table with its scope and its doc; there is no other way to add one.
//! - Heads, bodies without progress, idle connections and stopping are bounded in time; whole
//!   requests and streams are not.
//! - Every connection is owned: [`serve()`] returns when the last one is gone or its time is over.

mod access;
mod audit;
mod body;
mod csv;
mod edge;
mod extract;
mod follow;
mod idempotency;
mod json;
mod observe;
mod openapi;
mod origin;
mod problem;
mod routes;
mod scope;
mod text;
mod views;

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use stacyvm_control::Control;
use stacyvm_fleet::identity::{Audience, Checked, KeyRing, Keys};
use stacyvm_types::{Timestamp, time::Clock};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use access::{
    Access, AccessSettings, Authentication, KeyBy, OperatorKeys, RateLimit, RateLimitStatus,
};
pub use routes::{Listed, demanded, list as routes};
pub use scope::Scope;
pub use stacyvm_listen::{Limits, serve, serve_with};
pub use views::key as key_view;

/// What the operator decides about the HTTP surface.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Names besides loopback by which the server may be called, with or without a port.
    pub allowed_hosts: Vec<String>,
    /// Foreign origins whose pages may call, such as `https://dash.example.org`.
    pub allowed_origins: Vec<String>,
    /// Shown by the health routes.
    pub version: String,
    /// Who may call.
    pub access: Arc<Access>,
    /// What worker credentials are made and checked with.
    pub worker_keys: Arc<KeyRing>,
    /// The largest JSON body in bytes.
    pub max_json_body: usize,
    /// The largest uploaded file or image archive in bytes.
    pub max_upload: u64,
    /// Shown in sandboxes; clients build preview addresses from it.
    pub preview_domain: String,
    /// A directory on the file system that holds the server's data; how full that is can be asked.
    pub data_dir: PathBuf,
    /// Waits and heartbeats.
    pub timing: Timing,
    /// Makes a request's span part of its caller's trace, and tells the trace's id; `None` when
    /// nobody makes traces.
    pub join_trace: Option<JoinTrace>,
    /// Cancelled when the server stops: streams then end with an `interrupted` frame.
    pub stopping: CancellationToken,
    /// Counts WebSocket sessions, which outlive their HTTP exchange. Wait for it after
    /// [`serve()`]; sessions end by themselves soon after `stopping`.
    pub sessions: TaskTracker,
}

/// See [`ApiConfig::join_trace`].
pub type JoinTrace = fn(&tracing::Span, &http::HeaderMap) -> Option<String>;

/// Waits and heartbeats of the HTTP surface.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// The longest pause in a request body.
    pub body_progress: Duration,
    /// Silence on an NDJSON stream before a blank line.
    pub stream_heartbeat: Duration,
    /// Silence on an event stream before a comment.
    pub event_heartbeat: Duration,
    /// The longest time between looks at the event log.
    pub event_poll: Duration,
    /// The wait for a WebSocket's first message.
    pub first_message: Duration,
    /// The time between WebSocket pings; three without an answer end the session.
    pub ping: Duration,
    /// How long a stopping server waits for a command before it answers that the command goes on.
    pub hand_back: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            body_progress: Duration::from_secs(30),
            stream_heartbeat: Duration::from_secs(10),
            event_heartbeat: Duration::from_secs(15),
            event_poll: Duration::from_secs(1),
            first_message: Duration::from_secs(10),
            ping: Duration::from_secs(30),
            hand_back: Duration::from_secs(2),
        }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            access: Arc::new(Access::open()),
            worker_keys: Arc::new(KeyRing::of(Keys::default())),
            max_json_body: 2 << 20,
            max_upload: 4 << 30,
            preview_domain: "localhost".to_owned(),
            data_dir: PathBuf::from("/"),
            timing: Timing::default(),
            join_trace: None,
            stopping: CancellationToken::new(),
            sessions: TaskTracker::new(),
        }
    }
}

/// What every handler shares.
#[derive(Clone)]
struct Api {
    control: Control,
    config: Arc<ApiConfig>,
    started: Instant,
    observed: Arc<observe::Observed>,
    /// What finds out about callers that say they are workers.
    workers: Arc<Checked>,
}

/// The control plane's time, by which workers' credentials are judged.
struct ControlClock(Control);

impl Clock for ControlClock {
    fn now(&self) -> Timestamp {
        self.0.time()
    }
}

/// The routes over a control plane.
pub fn router(control: Control, config: ApiConfig) -> Router {
    let (started, observed) = (Instant::now(), Arc::new(observe::Observed::new()));
    let (keys, clock) = (config.worker_keys.clone(), Arc::new(ControlClock(control.clone())));
    let workers = Arc::new(Checked::at(Audience::ControlPlane, keys, clock));
    let api = Api { control, config: Arc::new(config), started, observed, workers };
    routes::router(routes::table())
        .fallback(edge::no_route)
        .method_not_allowed_fallback(edge::no_method)
        // Inside of whatever says who asks, and whether it may.
        .layer(axum::middleware::from_fn_with_state(api.clone(), idempotency::pass))
        .layer(axum::middleware::from_fn_with_state(api.clone(), access::enter))
        .layer(axum::middleware::from_fn_with_state(api.clone(), edge::pass))
        .with_state(api)
}
