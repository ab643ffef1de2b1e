//! The keys that work, each with its meaning: the one table that reading, showing, the schema and
//! the documentation are made from.

use serde_json::Value;

use crate::{config::Config, secret::Raw, values::Setting};

/// When a changed value is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// After SIGHUP.
    Reload,
    /// After a restart.
    Restart,
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its path, such as `server.port`.
    pub path: &'static str,
    /// What it means, in one sentence without a full stop.
    pub meaning: &'static str,
    /// When a changed value is used.
    pub effect: Effect,
    /// An older variable with the same meaning, besides [`Key::variable`].
    pub alias: Option<&'static str>,
    /// The flag of `serve` that sets it.
    pub flag: Option<&'static str>,
    pub(crate) read: fn(&mut Config, &Raw) -> Result<(), String>,
    /// See [`Setting::KEYED`].
    pub(crate) keyed: fn() -> bool,
    show: fn(&Config) -> Value,
    copy: fn(&Config, &mut Config),
    pub(crate) schema: fn() -> Value,
}

impl Key {
    /// Its variable: `STACYVM_` and the path in upper case with underscores.
    pub fn variable(&self) -> String {
        variable(self.path)
    }

    /// The value in a configuration, as it may be shown.
    pub fn shown(&self, config: &Config) -> Value {
        (self.show)(config)
    }

    /// Takes the value of one configuration over into another.
    pub fn copy(&self, from: &Config, to: &mut Config) {
        (self.copy)(from, to);
    }

    /// The value in a configuration as text.
    pub fn text(&self, config: &Config) -> String {
        match self.shown(config) {
            Value::String(text) => text,
            Value::Array(items) => {
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
            }
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }
}

/// The variable of a path.
pub(crate) fn variable(path: &str) -> String {
    format!("STACYVM_{}", path.to_ascii_uppercase().replace('.', "_"))
}

fn schema_of<T: Setting>(_: fn(&mut Config) -> &mut T) -> Value {
    T::schema()
}

const fn keyed_of<T: Setting>(_: fn(&mut Config) -> &mut T) -> bool {
    T::KEYED
}

macro_rules! path {
    ($first:ident $(. $rest:ident)*) => {
        concat!(stringify!($first) $(, ".", stringify!($rest))*)
    };
}

macro_rules! key {
    ($($field:ident).+, $effect:ident, $alias:expr, $flag:expr, $meaning:literal) => {
        Key {
            path: path!($($field).+),
            meaning: $meaning,
            effect: Effect::$effect,
            alias: $alias,
            flag: $flag,
            read: |config, raw| {
                config.$($field).+ = Setting::read(raw)?;
                Ok(())
            },
            keyed: || keyed_of(|config| &mut config.$($field).+),
            show: |config| Setting::show(&config.$($field).+),
            copy: |from, to| to.$($field).+.clone_from(&from.$($field).+),
            schema: || schema_of(|config| &mut config.$($field).+),
        }
    };
}

/// Every key that works, in the order of the documentation.
pub fn keys() -> &'static [Key] {
    KEYS
}

static KEYS: &[Key] = &[
    key!(
        data_dir,
        Restart,
        None,
        Some("--data-dir"),
        "Where data lives; `/var/lib/stacyvm` for root, otherwise the user's own data directory"
    ),
    key!(
        server.host,
        Restart,
        Some("STACYVM_LISTEN"),
        Some("--listen"),
        "The address to listen on; beyond loopback only where credentials are asked for, or with \
         `server.insecure_no_auth`"
    ),
    key!(
        server.port,
        Restart,
        Some("STACYVM_LISTEN"),
        Some("--listen"),
        "The port to listen on; 0 is any free one"
    ),
    key!(
        server.preview_domain,
        Restart,
        None,
        None,
        "Shown in sandboxes, for clients that build preview addresses"
    ),
    key!(
        server.allowed_hosts,
        Restart,
        Some("STACYVM_ALLOW_HOST"),
        Some("--allow-host"),
        "Names by which the server may be called, besides loopback"
    ),
    key!(
        server.cors_allowed_origins,
        Restart,
        Some("STACYVM_ALLOW_ORIGIN"),
        Some("--allow-origin"),
        "Origins whose web pages may call, besides the server's own; `*` is refused"
    ),
    key!(
        server.shutdown_timeout,
        Restart,
        Some("STACYVM_SHUTDOWN_TIMEOUT"),
        Some("--shutdown-timeout"),
        "How long what is in flight may take to finish when the server stops"
    ),
    key!(
        server.insecure_no_auth,
        Restart,
        Some("STACYVM_INSECURE_NO_AUTH"),
        Some("--insecure-no-auth"),
        "Listen beyond loopback although no credentials are asked for: everyone who reaches the \
         address can run code on this host"
    ),
    key!(
        server.trusted_proxies,
        Restart,
        None,
        None,
        "Addresses of proxies, or ranges of them, whose `X-Forwarded-For` says where a request \
         comes from"
    ),
    key!(
        worker.enabled,
        Restart,
        None,
        None,
        "Whether `serve` runs sandboxes on its own host; without that they run on other workers \
         only; `stacyvm worker` runs them whatever this says"
    ),
    key!(
        worker.id,
        Restart,
        None,
        Some("--id"),
        "What this host's worker is called; when it is not set, `local` for a server that has its \
         store for itself, the host name and a part of the data directory's own word for one that \
         shares it, and the host name for `stacyvm worker`"
    ),
    key!(
        worker.control_plane_url,
        Restart,
        None,
        Some("--control-plane"),
        "Where `stacyvm worker` finds its control plane, by loopback or one of the names in the \
         `server.allowed_hosts` there"
    ),
    key!(
        worker.listen_addr,
        Restart,
        None,
        Some("--rpc-listen"),
        "The address with its port where the worker takes calls from control planes; none when \
         it is not set"
    ),
    key!(
        worker.rpc_url,
        Restart,
        None,
        Some("--rpc-url"),
        "The address under which control planes reach `worker.listen_addr`, such as \
         https://node-7.example.org:7424; made of that address, and of the host name where it is \
         every address, when it is not set"
    ),
    key!(
        worker.heartbeat_interval,
        Restart,
        None,
        Some("--heartbeat-interval"),
        "How often the worker says that it lives; its lease is three times as long"
    ),
    key!(
        worker.shutdown_timeout,
        Restart,
        None,
        None,
        "How long what is in flight may take to finish when the worker stops"
    ),
    key!(
        worker.preview_domain,
        Restart,
        None,
        None,
        "Where the sandboxes of this worker are shown; `server.preview_domain` when it is not set"
    ),
    key!(
        worker.rpc_tls.enabled,
        Restart,
        None,
        None,
        "Use TLS between control planes and workers; see howto/worker-identity.md"
    ),
    key!(
        worker.rpc_tls.server_cert_file,
        Restart,
        None,
        None,
        "The certificate that this worker shows, with its chain, as PEM"
    ),
    key!(
        worker.rpc_tls.server_key_file,
        Restart,
        None,
        None,
        "The key of `worker.rpc_tls.server_cert_file`"
    ),
    key!(
        worker.rpc_tls.client_ca_file,
        Restart,
        None,
        None,
        "The authorities of control planes; with it, this worker asks for a certificate"
    ),
    key!(
        worker.rpc_tls.client_names,
        Restart,
        None,
        None,
        "Names of which a control plane's certificate must have one; any when it is empty"
    ),
    key!(
        worker.rpc_tls.ca_file,
        Restart,
        None,
        None,
        "The authorities of workers, for control planes"
    ),
    key!(
        worker.rpc_tls.client_cert_file,
        Restart,
        None,
        None,
        "The certificate that a control plane shows workers, with its chain, as PEM"
    ),
    key!(
        worker.rpc_tls.client_key_file,
        Restart,
        None,
        None,
        "The key of `worker.rpc_tls.client_cert_file`"
    ),
    key!(
        worker.rpc_tls.server_name,
        Restart,
        None,
        None,
        "The name in the certificate of a worker, with `{id}` for its id"
    ),
    key!(
        worker.rpc_tls.insecure_skip_verify,
        Restart,
        None,
        None,
        "Believe whatever answers in the place of a worker; for trying out"
    ),
    key!(
        worker.max_sandboxes,
        Reload,
        None,
        None,
        "Sandboxes that this server's own worker takes; 0 is no limit"
    ),
    key!(
        providers.default,
        Restart,
        Some("STACYVM_PROVIDER"),
        Some("--provider"),
        "What runs the sandboxes of requests that name no provider: `native` or `mock`"
    ),
    key!(
        providers.mock.enabled,
        Restart,
        None,
        None,
        "Offer the mock provider, which isolates nothing, besides the default; for tests"
    ),
    key!(defaults.image, Restart, None, None, "The image of a request that names none"),
    key!(defaults.ttl, Restart, None, None, "The life of a sandbox whose request says none"),
    key!(
        defaults.max_ttl,
        Reload,
        None,
        None,
        "The longest life of a sandbox, extensions included; `0s` is no limit"
    ),
    key!(defaults.memory_mb, Restart, None, None, "Memory of a sandbox, in MiB"),
    key!(defaults.vcpus, Restart, None, None, "Virtual CPUs of a sandbox"),
    key!(defaults.disk_size_mb, Restart, None, None, "Writable space of a sandbox, in MiB"),
    key!(
        defaults.default_exec_timeout,
        Reload,
        None,
        None,
        "The deadline of a command that names none; `0s` is the longest there is"
    ),
    key!(
        defaults.max_exec_timeout,
        Reload,
        None,
        None,
        "The longest deadline of a command; `0s` is no limit"
    ),
    key!(
        defaults.max_sandboxes,
        Reload,
        None,
        None,
        "Sandboxes that may live at the same time; 0 is no limit"
    ),
    key!(
        defaults.max_sandboxes_per_owner,
        Reload,
        None,
        None,
        "Those of one owner, unless its quota says otherwise; 0 is no limit"
    ),
    key!(
        defaults.spawn_overflow,
        Reload,
        None,
        None,
        "What becomes of a spawn that finds no place: `reject`, or `queue`, which lets it wait"
    ),
    key!(defaults.spawn_queue_timeout, Reload, None, None, "How long a spawn may wait for a place"),
    key!(defaults.max_spawn_queue, Reload, None, None, "Spawns that may wait at the same time"),
    key!(
        defaults.pool_size,
        Restart,
        Some("STACYVM_POOL"),
        Some("--pool"),
        "Sandboxes of the native provider to keep ready"
    ),
    key!(
        auth.enabled,
        Restart,
        None,
        None,
        "Whether credentials are asked for: `true`, `false`, or `auto`, which is as soon as there \
         is one; see howto/access.md"
    ),
    key!(
        auth.api_key,
        Reload,
        None,
        None,
        "The key of the operator's own programs: role api, for every owner"
    ),
    key!(auth.api_key_file, Reload, None, None, "A file that holds `auth.api_key`"),
    key!(auth.admin_api_key, Reload, None, None, "The key for everything"),
    key!(auth.admin_api_key_file, Reload, None, None, "A file that holds `auth.admin_api_key`"),
    key!(
        auth.worker_token,
        Reload,
        None,
        Some("--worker-token"),
        "The token between control planes and all workers that have none of their own"
    ),
    key!(
        auth.worker_token_file,
        Reload,
        None,
        Some("--worker-token-file"),
        "A file that holds `auth.worker_token`; of several, one a line, the first is shown and all \
         are accepted"
    ),
    key!(
        auth.worker_tokens,
        Reload,
        None,
        None,
        "The tokens of single workers, by their ids; each takes the place of `auth.worker_token`"
    ),
    key!(
        auth.worker_tokens_file,
        Reload,
        None,
        None,
        "A file that holds `auth.worker_tokens`, one `id=token` a line; of several for one worker, \
         the first is shown and all are accepted"
    ),
    key!(
        auth.worker_signing_key,
        Reload,
        None,
        None,
        "The key that signs short-lived worker tokens, and is accepted"
    ),
    key!(
        auth.worker_signing_key_file,
        Reload,
        None,
        None,
        "A file that holds `auth.worker_signing_key`"
    ),
    key!(
        auth.worker_signing_keys,
        Reload,
        None,
        None,
        "Keys that are accepted besides, while keys are changed"
    ),
    key!(
        auth.worker_signing_keys_file,
        Reload,
        None,
        None,
        "A file that holds `auth.worker_signing_keys`, one a line"
    ),
    key!(
        auth.worker_revoked_token_ids,
        Reload,
        None,
        None,
        "The ids of signed worker tokens that are not accepted any more"
    ),
    key!(
        auth.worker_revoked_token_ids_file,
        Reload,
        None,
        None,
        "A file that holds `auth.worker_revoked_token_ids`, one a line"
    ),
    key!(rate_limit.enabled, Restart, None, None, "Limit how often one caller may call"),
    key!(
        rate_limit.requests_per_minute,
        Restart,
        None,
        None,
        "Requests a minute in the long run; `0` is no limit"
    ),
    key!(rate_limit.burst, Restart, None, None, "Requests at once; `0` is as many as a minute's"),
    key!(
        rate_limit.key_by,
        Restart,
        None,
        None,
        "What is counted by: `owner` (else the credential, else the address), `api_key` (else the \
         address) or `ip`"
    ),
    key!(
        rate_limit.bucket_ttl,
        Restart,
        None,
        None,
        "How long a caller that stays away is remembered"
    ),
    key!(
        rate_limit.cleanup_interval,
        Restart,
        None,
        None,
        "How often it is looked for callers that stay away"
    ),
    key!(
        auth.admin_audit_retention,
        Restart,
        None,
        None,
        "How long records of admin requests are kept; `0s` is for ever"
    ),
    key!(
        retention.ended_sandboxes,
        Restart,
        None,
        None,
        "How long a sandbox is remembered after its end, with the records of its commands; `0s` \
         is for ever"
    ),
    key!(
        retention.exec_logs,
        Restart,
        None,
        None,
        "How long the record of a command is kept after its end; `0s` is for ever"
    ),
    key!(
        retention.events,
        Restart,
        None,
        None,
        "How long events are kept, and can be replayed; `0s` is for ever"
    ),
    key!(
        retention.audit,
        Restart,
        None,
        None,
        "How long records of operations are kept; `0s` is for ever"
    ),
    key!(
        retention.idempotency_keys,
        Restart,
        None,
        None,
        "How long a request can be repeated under its idempotency key; `0s` is for ever"
    ),
    key!(
        database.driver,
        Restart,
        Some("STACYVM_STORE"),
        Some("--store"),
        "Where state is kept: `sqlite`, a file of one server; `postgres`, a database that servers \
         share; or `memory`, which is forgotten at the end"
    ),
    key!(
        database.path,
        Restart,
        None,
        None,
        "The file of `sqlite`; a relative path begins in the data directory"
    ),
    key!(
        database.dsn,
        Restart,
        None,
        None,
        "The database of `postgres`, as a URL or as pairs, with libpq's words, `sslmode` and \
         `sslrootcert` among them; a secret"
    ),
    key!(database.dsn_file, Restart, None, None, "A file that holds `database.dsn`"),
    key!(
        logging.level,
        Reload,
        Some("STACYVM_LOG"),
        None,
        "What is logged: `error`, `warn`, `info`, `debug`, `trace` or `off`, also of parts, such \
         as `stacyvm_control=debug,warn`"
    ),
    key!(
        logging.format,
        Restart,
        Some("STACYVM_LOG_FORMAT"),
        Some("--log-format"),
        "How log lines are written: `json`, or `text` (also called `pretty`)"
    ),
    key!(
        telemetry.otlp_endpoint,
        Restart,
        None,
        None,
        "Where traces are sent, as OTLP over plain HTTP; none are made when it is not set"
    ),
    key!(
        telemetry.otlp_headers,
        Restart,
        None,
        None,
        "Headers of what is sent there, each `name=value`; a secret"
    ),
    key!(
        telemetry.sample_ratio,
        Restart,
        None,
        None,
        "The share of traces that begin here and are kept, from 0 to 1; callers decide about theirs"
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_and_variable_is_there_once() {
        let mut names = BTreeSet::new();
        for key in keys() {
            assert!(names.insert(key.path.to_owned()), "{}", key.path);
            assert!(names.insert(key.variable()), "{}", key.path);
        }
        for later in crate::later::ALL {
            assert!(names.insert(later.path.to_owned()), "{}", later.path);
        }
    }

    #[test]
    fn every_default_is_read_back_as_it_is_shown() {
        let default = Config::default();
        for key in keys() {
            let mut config = Config::default();
            let text = key.text(&default);
            if !text.is_empty() {
                (key.read)(&mut config, &Raw::one(text)).unwrap();
            }
            assert_eq!(config, default, "{}", key.path);
        }
    }
}
