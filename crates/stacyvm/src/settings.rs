//! Where the settings of this process come from, and what the parts get of them.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint, builder::PossibleValuesParser};
use stacyvm_admission::Policy;
use stacyvm_api::{AccessSettings, Authentication, KeyBy, OperatorKeys, RateLimit};
use stacyvm_cli::{ExitStatus, Failure, escape::escape};
use stacyvm_config::{
    self as config, Asked, Auth, Config, Credentials, Defaults, Loaded, Raw, Secret, Sources,
    WorkerCredentials, Written,
};
use stacyvm_control::{Membership, Overflow, Retention, Rules, Settings};
use stacyvm_fleet::identity::{self, Keys, Load};
use stacyvm_types::{Limits, Resources, WorkerId};

use crate::{cluster, data_dir, failed};

/// The settings that flags can give, and the file that gives the others.
#[derive(Debug, Clone, Args)]
pub(crate) struct SettingArgs {
    /// The file with the settings; otherwise the first that exists of ./stacyvm.yaml and
    /// ~/.stacyvm/config.yaml [env: STACYVM_CONFIG]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Where to listen; port 0 is any free one [default: 127.0.0.1:7423] [env: STACYVM_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where data lives; /var/lib/stacyvm for root, otherwise the user's own data directory
    /// [env: STACYVM_DATA_DIR]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data_dir: Option<String>,
    /// What runs the sandboxes; mock isolates nothing and is for tests [default: native]
    /// [env: STACYVM_PROVIDER]
    #[arg(long, value_parser = PossibleValuesParser::new(["native", "mock"]))]
    provider: Option<String>,
    /// Sandboxes to keep ready, at most 256 [default: 4] [env: STACYVM_POOL]
    #[arg(long, value_name = "N")]
    pool: Option<String>,
    /// A name by which the server may be called, besides loopback; may be given several times
    /// [env: STACYVM_ALLOW_HOST]
    #[arg(long, value_delimiter = ',')]
    allow_host: Vec<String>,
    /// An origin whose web pages may call, such as https://dash.example.org; may be given several
    /// times [env: STACYVM_ALLOW_ORIGIN]
    #[arg(long, value_delimiter = ',')]
    allow_origin: Vec<String>,
    /// Where state is kept: in a file, in the database of database.dsn, or in memory, which is
    /// forgotten at the end [default: sqlite] [env: STACYVM_STORE]
    #[arg(long, value_parser = PossibleValuesParser::new(["sqlite", "postgres", "memory"]))]
    store: Option<String>,
    /// How long what is in flight may take to finish when the server stops [default: 10s]
    /// [env: STACYVM_SHUTDOWN_TIMEOUT]
    #[arg(long, value_name = "DURATION")]
    shutdown_timeout: Option<String>,
    /// How log lines are written to standard error [default: text] [env: STACYVM_LOG_FORMAT]
    #[arg(long, value_parser = PossibleValuesParser::new(["json", "text"]))]
    log_format: Option<String>,
    /// Listen beyond loopback although there are no credentials yet: everyone who reaches the
    /// address can run code on this host [env: STACYVM_INSECURE_NO_AUTH]
    #[arg(long)]
    insecure_no_auth: bool,
}

impl SettingArgs {
    fn flags(&self) -> Vec<Written> {
        let one = |flag, value: &Option<String>| {
            value.as_ref().map(|text| Written { flag, raw: Raw::one(text.as_str()) })
        };
        let many = |flag, values: &[String]| {
            let raw = Raw::many(values.iter().map(String::as_str));
            (!values.is_empty()).then_some(Written { flag, raw })
        };
        let set = |flag, is: bool| is.then(|| Written { flag, raw: Raw::one("true") });
        [
            one("--listen", &self.listen),
            one("--data-dir", &self.data_dir),
            one("--provider", &self.provider),
            one("--pool", &self.pool),
            many("--allow-host", &self.allow_host),
            many("--allow-origin", &self.allow_origin),
            one("--store", &self.store),
            one("--shutdown-timeout", &self.shutdown_timeout),
            one("--log-format", &self.log_format),
            set("--insecure-no-auth", self.insecure_no_auth),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// All of them.
    pub(crate) fn sources(&self) -> Sources {
        Sources { flags: self.flags(), ..sources(self.config.clone()) }
    }
}

/// Everything besides flags.
pub(crate) fn sources(file: Option<PathBuf>) -> Sources {
    let path =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|p| !p.as_os_str().is_empty());
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    Sources {
        defaults: Config { data_dir: data_dir::default().ok(), ..Config::default() },
        file: stacyvm_config::choose(
            file.or_else(|| path("STACYVM_CONFIG")),
            path("HOME").as_deref(),
        ),
        env: std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect(),
        flags: Vec::new(),
    }
}

/// The settings, or every problem with them.
pub(crate) fn load(args: &SettingArgs) -> Result<Loaded, Failure> {
    loaded(&args.sources())
}

/// What a data directory that is named adds to other sources.
pub(crate) fn data_dir_flag(dir: &Path) -> Written {
    Written { flag: "--data-dir", raw: Raw::one(dir.to_string_lossy()) }
}

/// The settings of these sources, or every problem with them.
pub(crate) fn loaded(sources: &Sources) -> Result<Loaded, Failure> {
    stacyvm_config::load(sources).map_err(|refused| {
        let lines: String =
            refused.problems.iter().map(|p| format!("\n  {}", escape(&p.to_string()))).collect();
        Failure::new(ExitStatus::USAGE, format!("the settings cannot be used:{lines}"))
    })
}

/// What a sandbox gets whose request names nothing.
pub(crate) fn limits(defaults: &Defaults) -> Limits {
    Limits {
        memory_mb: defaults.memory_mb.0,
        vcpus: defaults.vcpus.0,
        disk_mb: defaults.disk_size_mb.0,
        ..Limits::DEFAULT
    }
}

/// The limits, which can change while the server runs.
pub(crate) fn rules(config: &Config) -> Rules {
    let defaults = &config.defaults;
    Rules {
        policy: Policy {
            max_sandboxes: defaults.max_sandboxes.0.into(),
            max_per_owner: defaults.max_sandboxes_per_owner.0.into(),
            max_ttl: defaults.max_ttl.0,
        },
        capacity: Resources {
            sandboxes: config.worker.max_sandboxes.0.into(),
            ..Resources::default()
        },
        overflow: match defaults.spawn_overflow {
            config::Overflow::Reject => Overflow::Reject,
            config::Overflow::Queue => Overflow::Queue {
                places: usize::try_from(defaults.max_spawn_queue.0).unwrap_or(usize::MAX),
                patience: defaults.spawn_queue_timeout.0,
            },
        },
        default_exec_timeout: defaults.default_exec_timeout.0,
        max_exec_timeout: defaults.max_exec_timeout.0,
    }
}

/// What the API gets of them about access.
pub(crate) fn access(config: &Config) -> AccessSettings {
    let limit = &config.rate_limit;
    AccessSettings {
        authentication: match config.auth.enabled {
            Asked::Auto => Authentication::Auto,
            Asked::Always => Authentication::Required,
            Asked::Never => Authentication::Off,
        },
        trusted_proxies: config.server.trusted_proxies.iter().map(|proxy| proxy.0).collect(),
        rate_limit: RateLimit {
            enabled: limit.enabled,
            requests_per_minute: limit.requests_per_minute.0,
            burst: limit.burst.0,
            key_by: match limit.key_by {
                config::KeyBy::Owner => KeyBy::Owner,
                config::KeyBy::ApiKey => KeyBy::ApiKey,
                config::KeyBy::Ip => KeyBy::Ip,
            },
            bucket_ttl: limit.bucket_ttl.0,
            cleanup_interval: limit.cleanup_interval.0,
        },
    }
}

/// The operator's own keys, for the API.
pub(crate) fn operator_keys(credentials: &Credentials) -> OperatorKeys {
    let text = |key: &Option<Secret>| key.as_ref().map(|key| key.expose().to_owned());
    OperatorKeys { api: text(&credentials.api_key), admin: text(&credentials.admin_api_key) }
}

/// What the secrets of workers are read from: the settings, and the files that they name.
pub(crate) fn worker_keys(auth: &Auth) -> Load<Keys> {
    let (files, auth) = (WorkerCredentials::files(auth), auth.clone());
    Load { files, read: Box::new(move || WorkerCredentials::read(&auth).map(|all| keys_of(&all))) }
}

/// The secrets of workers, for what makes and checks credentials.
pub(crate) fn keys_of(found: &WorkerCredentials) -> Keys {
    let secret = |secret: &Secret| identity::Secret::new(secret.expose());
    Keys {
        shared: found.shared.iter().map(secret).collect(),
        tokens: found
            .tokens
            .iter()
            .map(|(id, own)| (id.clone(), own.iter().map(secret).collect()))
            .collect(),
        signing: found.signing_key.as_ref().map(secret),
        also: found.signing_keys.iter().map(secret).collect(),
        revoked: found.revoked.clone(),
    }
}

/// What control gets of the settings.
pub(crate) fn control(config: &Config, worker: WorkerId) -> Settings {
    let defaults = &config.defaults;
    Settings {
        default_image: defaults.image.as_str().to_owned(),
        default_ttl: defaults.ttl.0,
        rules: rules(config),
        retention: Retention {
            ended_sandboxes: config.retention.ended_sandboxes.0,
            exec_logs: config.retention.exec_logs.0,
            events: config.retention.events.0,
            audit: config.retention.audit.0,
            admin_audit: config.auth.admin_audit_retention.0,
            idempotency_keys: config.retention.idempotency_keys.0,
        },
        default_limits: limits(defaults),
        runs_sandboxes: config.worker.enabled,
        ..Settings::new(worker, config.providers.default.word())
    }
}

/// What the server's own worker says of itself: which data directory it has, and where it takes
/// calls.
pub(crate) fn membership(config: &Config, instance: String, url: Option<String>) -> Membership {
    let lease = config.worker.heartbeat_interval.lease();
    Membership {
        instance,
        hostname: cluster::hostname(),
        url,
        heartbeat: config.worker.heartbeat_interval.0,
        lease_term: lease,
        // Who has the store for himself has nobody to be fenced from.
        term: (config.database.driver == config::Driver::Postgres).then_some(lease),
    }
}

/// How to reach the database of `postgres`.
pub(crate) fn dsn(credentials: &Credentials) -> Result<&str, Failure> {
    let dsn = credentials.database_dsn.as_ref().map(Secret::expose);
    dsn.ok_or_else(|| failed("database.driver is postgres, and there is no database.dsn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_says_is_what_control_does_by_itself() {
        let worker = WorkerId::parse("local").unwrap();
        let plain = Settings::new(worker.clone(), "native");
        assert_eq!(control(&Config::default(), worker), plain);
        assert_eq!(limits(&Defaults::default()), Limits::DEFAULT);
        assert_eq!(access(&Config::default()), AccessSettings::default());
    }

    #[test]
    fn every_bound_of_the_settings_is_one_of_control() {
        let mut config = Config::default();
        let most = Settings::new(WorkerId::parse("local").unwrap(), "native").max_limits;
        config.defaults.memory_mb.0 = most.memory_mb;
        config.defaults.vcpus.0 = most.vcpus;
        config.defaults.disk_size_mb.0 = most.disk_mb;
        for key in stacyvm_config::keys().iter().filter(|key| key.path.starts_with("defaults.")) {
            let (name, value) = (key.variable(), key.text(&config));
            let sources = Sources { env: vec![(name, value)], ..Sources::default() };
            let loaded = stacyvm_config::load(&sources).unwrap();
            let settings = control(&loaded.config, WorkerId::parse("local").unwrap());
            assert_eq!(settings.problems(), Vec::<String>::new(), "{}", key.path);
        }
    }

    #[test]
    fn every_flag_belongs_to_a_key() {
        let all = SettingArgs {
            config: None,
            listen: Some(String::new()),
            data_dir: Some(String::new()),
            provider: Some(String::new()),
            pool: Some(String::new()),
            allow_host: vec![String::new()],
            allow_origin: vec![String::new()],
            store: Some(String::new()),
            shutdown_timeout: Some(String::new()),
            log_format: Some(String::new()),
            insecure_no_auth: true,
        };
        let mut given: Vec<_> = all.flags().iter().map(|written| written.flag).collect();
        given.extend(crate::worker::every_flag());
        let mut known: Vec<_> = stacyvm_config::keys().iter().filter_map(|key| key.flag).collect();
        given.sort_unstable();
        known.sort_unstable();
        given.dedup();
        known.dedup();
        assert_eq!(given, known);
    }
}
