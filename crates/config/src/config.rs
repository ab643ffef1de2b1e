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
    worker::{
        ControlPlane, Heartbeat, NameTemplate, Passwords, RpcAddress, TokenId, WorkerName,
        WorkerTokens,
    },
};

/// Everything that an operator decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Where data lives; the platform's place when it is not said.
    pub data_dir: Option<PathBuf>,
    /// Where and for whom the server listens.
    pub server: Server,
    /// The worker of this host, and the way to workers of others.
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

/// The worker of this host, and the way to workers of others.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct Worker {
    pub enabled: bool,
    pub id: Option<WorkerName>,
    pub control_plane_url: ControlPlane,
    pub listen_addr: Option<RpcAddress>,
    pub rpc_url: Option<ControlPlane>,
    pub heartbeat_interval: Heartbeat,
    pub shutdown_timeout: Term,
    pub preview_domain: Option<Domain>,
    pub rpc_tls: RpcTls,
    pub max_sandboxes: Number<0, 1_000_000>,
}

/// TLS between control planes and workers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the keys' meanings are in the table")]
pub struct RpcTls {
    pub enabled: bool,
    pub server_cert_file: Option<PathBuf>,
    pub server_key_file: Option<PathBuf>,
    pub client_ca_file: Option<PathBuf>,
    pub client_names: Vec<Domain>,
    pub ca_file: Option<PathBuf>,
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    pub server_name: NameTemplate,
    pub insecure_skip_verify: bool,
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
    pub worker_token: Password,
    pub worker_token_file: Option<PathBuf>,
    pub worker_tokens: WorkerTokens,
    pub worker_tokens_file: Option<PathBuf>,
    pub worker_signing_key: Password,
    pub worker_signing_key_file: Option<PathBuf>,
    pub worker_signing_keys: Passwords,
    pub worker_signing_keys_file: Option<PathBuf>,
    pub worker_revoked_token_ids: Vec<TokenId>,
    pub worker_revoked_token_ids_file: Option<PathBuf>,
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
        Self {
            enabled: true,
            id: None,
            control_plane_url: ControlPlane::default(),
            listen_addr: None,
            rpc_url: None,
            heartbeat_interval: Heartbeat(Duration::from_secs(10)),
            shutdown_timeout: Term(Duration::from_secs(10)),
            preview_domain: None,
            rpc_tls: RpcTls::default(),
            max_sandboxes: Number(0),
        }
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
            worker_token: Password::default(),
            worker_token_file: None,
            worker_tokens: WorkerTokens::default(),
            worker_tokens_file: None,
            worker_signing_key: Password::default(),
            worker_signing_key_file: None,
            worker_signing_keys: Passwords::default(),
            worker_signing_keys_file: None,
            worker_revoked_token_ids: Vec::new(),
            worker_revoked_token_ids_file: None,
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
    found.extend(rpc_tls(&config.worker));
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

/// What must hold between the files of TLS once it is switched on.
fn rpc_tls(worker: &Worker) -> Vec<(&'static str, String)> {
    let tls = &worker.rpc_tls;
    if !tls.enabled {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut needs = |holds: bool, key, message: &str| {
        if !holds {
            found.push((key, message.to_owned()));
        }
    };
    let (cert, key) = (tls.server_cert_file.is_some(), tls.server_key_file.is_some());
    needs(
        key || !cert,
        "worker.rpc_tls.server_cert_file",
        "its key is missing: set server_key_file",
    );
    needs(
        cert || !key,
        "worker.rpc_tls.server_key_file",
        "its certificate is missing: set server_cert_file",
    );
    let (cert, key) = (tls.client_cert_file.is_some(), tls.client_key_file.is_some());
    needs(
        key || !cert,
        "worker.rpc_tls.client_cert_file",
        "its key is missing: set client_key_file",
    );
    needs(
        cert || !key,
        "worker.rpc_tls.client_key_file",
        "its certificate is missing: set client_cert_file",
    );
    needs(
        worker.listen_addr.is_none() || tls.server_cert_file.is_some(),
        "worker.rpc_tls.enabled",
        "worker.listen_addr has no certificate to show: set server_cert_file and server_key_file",
    );
    needs(
        tls.client_names.is_empty() || tls.client_ca_file.is_some(),
        "worker.rpc_tls.client_names",
        "nobody is asked for a certificate: set client_ca_file",
    );
    needs(
        !tls.insecure_skip_verify || tls.ca_file.is_none(),
        "worker.rpc_tls.insecure_skip_verify",
        "it is true although ca_file is given; remove one of them",
    );
    found
}
