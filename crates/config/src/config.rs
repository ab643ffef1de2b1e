//! The settings and their defaults. What they mean stands in [`crate::keys`].

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use crate::{
    database::Dsn,
    names::{Domain, HostName, Image, LogFilter, Origin, Proxy},
    telemetry::{Collector, Headers, Share},
    values::{
        Asked, Driver, Host, KeyBy, LogFormat, Number, Overflow, Password, Provider, Span, Term,
    },
};

/// Everything that an operator decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Where data lives; the platform's place when it is not said.
    pub data_dir: Option<PathBuf>,
    /// Where and for whom the server listens.
    pub server: Server,
    /// What this server's own worker takes.
    pub worker: Worker,
    /// What runs sandboxes.
    pub providers: Providers,
    /// What a request gets that does not say it, and the most that it may ask for.
    pub defaults: Defaults,
    /// Who may call.
    pub auth: Auth,
    /// How often one caller may call.
    pub rate_limit: RateLimit,
    /// How long things are kept.
    pub retention: Retention,
    /// Where state is kept.
    pub database: Database,
    /// What the server says about itself.
    pub logging: Logging,
    /// Where traces go.
    pub telemetry: Telemetry,
}

/// Where and for whom the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct Server {
    pub host: Host,
    pub port: Number<0, 65_535>,
    pub preview_domain: Domain,
    pub allowed_hosts: Vec<HostName>,
    pub cors_allowed_origins: Vec<Origin>,
    pub shutdown_timeout: Term,
    pub insecure_no_auth: bool,
    pub trusted_proxies: Vec<Proxy>,
}

/// What this server's own worker takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct Worker {
    pub max_sandboxes: Number<0, 1_000_000>,
}

/// What runs sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct Providers {
    pub default: Provider,
    pub mock: Mock,
}

/// The provider for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct Mock {
    pub enabled: bool,
}

/// What a request gets that does not say it, and the most that it may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct Defaults {
    pub image: Image,
    pub ttl: Term,
    pub max_ttl: Span,
    pub memory_mb: Number<1, 65_536>,
    pub vcpus: Number<1, 64>,
    pub disk_size_mb: Number<1, 65_536>,
    pub default_exec_timeout: Span,
    pub max_exec_timeout: Span,
    pub max_sandboxes: Number<0, 1_000_000>,
    pub max_sandboxes_per_owner: Number<0, 1_000_000>,
    pub spawn_overflow: Overflow,
    pub spawn_queue_timeout: Term,
    pub max_spawn_queue: Number<1, 100_000>,
    pub pool_size: Number<0, 256>,
}

/// Who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct Auth {
    pub enabled: Asked,
    pub api_key: Password,
    pub api_key_file: Option<PathBuf>,
    pub admin_api_key: Password,
    pub admin_api_key_file: Option<PathBuf>,
    pub admin_audit_retention: Span,
}

/// How often one caller may call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct RateLimit {
    pub enabled: bool,
    pub requests_per_minute: Number<0, 1_000_000>,
    pub burst: Number<0, 1_000_000>,
    pub key_by: KeyBy,
    pub bucket_ttl: Term,
    pub cleanup_interval: Term,
}

/// How long things are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct Retention {
    pub ended_sandboxes: Span,
    pub exec_logs: Span,
    pub events: Span,
    pub audit: Span,
    pub idempotency_keys: Span,
}

/// Where state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct Database {
    pub driver: Driver,
    pub path: PathBuf,
    pub dsn: Dsn,
    pub dsn_file: Option<PathBuf>,
}

/// What the server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct Logging {
    pub level: LogFilter,
    pub format: LogFormat,
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct Telemetry {
    pub otlp_endpoint: Option<Collector>,
    pub otlp_headers: Headers,
    pub sample_ratio: Share,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: Host(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: Number(7423),
            preview_domain: Domain("localhost".to_owned()),
            allowed_hosts: Vec::new(),
            cors_allowed_origins: Vec::new(),
            shutdown_timeout: Term(Duration::from_secs(10)),
            insecure_no_auth: false,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self { max_sandboxes: Number(0) }
    }
}

impl Default for Providers {
    fn default() -> Self {
        Self { default: Provider::Native, mock: Mock { enabled: false } }
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            image: Image("host".to_owned()),
            ttl: Term(Duration::from_secs(30 * 60)),
            max_ttl: Span(Some(Duration::from_secs(24 * 60 * 60))),
            memory_mb: Number(1024),
            vcpus: Number(1),
            disk_size_mb: Number(1024),
            default_exec_timeout: Span(None),
            max_exec_timeout: Span(Some(Duration::from_secs(10 * 60))),
            max_sandboxes: Number(0),
            max_sandboxes_per_owner: Number(0),
            spawn_overflow: Overflow::Reject,
            spawn_queue_timeout: Term(Duration::from_secs(30)),
            max_spawn_queue: Number(100),
            pool_size: Number(4),
        }
    }
}

/// Ninety days.
const QUARTER: Span = Span(Some(Duration::from_secs(2160 * 60 * 60)));

impl Default for Retention {
    fn default() -> Self {
        let week = Span(Some(Duration::from_secs(168 * 60 * 60)));
        Self {
            ended_sandboxes: week,
            exec_logs: week,
            events: week,
            audit: QUARTER,
            idempotency_keys: Span(Some(Duration::from_secs(24 * 60 * 60))),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: Asked::Auto,
            api_key: Password::default(),
            api_key_file: None,
            admin_api_key: Password::default(),
            admin_api_key_file: None,
            admin_audit_retention: QUARTER,
        }
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            enabled: false,
            requests_per_minute: Number(120),
            burst: Number(60),
            key_by: KeyBy::Owner,
            bucket_ttl: Term(Duration::from_secs(15 * 60)),
            cleanup_interval: Term(Duration::from_secs(60)),
        }
    }
}

impl Auth {
    /// The keys of the settings that give a credential.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        [
            (self.api_key.0.is_some(), "auth.api_key"),
            (self.api_key_file.is_some(), "auth.api_key_file"),
            (self.admin_api_key.0.is_some(), "auth.admin_api_key"),
            (self.admin_api_key_file.is_some(), "auth.admin_api_key_file"),
        ]
        .into_iter()
        .filter_map(|(given, key)| given.then_some(key))
        .collect()
    }

    /// Whether a server with these settings certainly asks for credentials.
    pub(crate) fn asks(&self) -> bool {
        match self.enabled {
            Asked::Always => true,
            Asked::Auto => !self.given().is_empty(),
            Asked::Never => false,
        }
    }
}

impl Default for Database {
    fn default() -> Self {
        Self {
            driver: Driver::Sqlite,
            path: PathBuf::from("stacyvm.db"),
            dsn: Dsn::default(),
            dsn_file: None,
        }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self { level: LogFilter("info".to_owned()), format: LogFormat::Text }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp_endpoint: None, otlp_headers: Headers::default(), sample_ratio: Share::ALL }
    }
}

impl Server {
    /// Where to listen.
    #[expect(clippy::cast_possible_truncation, reason = "the type holds 0 to 65535")]
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.host.0, self.port.0 as u16)
    }
}

/// What must hold between keys: the key to blame, and why.
pub(crate) fn contradictions(config: &Config) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let (listen, auth) = (config.server.listen(), &config.auth);
    if !listen.ip().is_loopback() && !config.server.insecure_no_auth && !auth.asks() {
        found.push((
            "server.host",
            format!(
                "{listen} can be reached from other machines, and these settings do not make sure \
                 that credentials are asked for: everyone there could run code here. Set \
                 auth.enabled: true and make a key with `stacyvm keys create`, or listen on \
                 127.0.0.1, or say --insecure-no-auth (server.insecure_no_auth: true) if an open \
                 server is what you want"
            ),
        ));
    }
    if let (Asked::Never, [given, ..]) = (auth.enabled, &auth.given()[..]) {
        found.push((
            "auth.enabled",
            format!("it is false although {given} is given; remove one of them"),
        ));
    }
    if let Span(Some(max)) = config.defaults.max_ttl
        && max < config.defaults.ttl.0
    {
        found.push((
            "defaults.ttl",
            format!(
                "{} is above defaults.max_ttl, which is {}",
                stacyvm_types::format_duration(config.defaults.ttl.0),
                stacyvm_types::format_duration(max),
            ),
        ));
    }
    if let (Span(Some(default)), Span(Some(max))) =
        (config.defaults.default_exec_timeout, config.defaults.max_exec_timeout)
        && max < default
    {
        found.push((
            "defaults.default_exec_timeout",
            format!(
                "{} is above defaults.max_exec_timeout, which is {}",
                stacyvm_types::format_duration(default),
                stacyvm_types::format_duration(max),
            ),
        ));
    }
    found
}
