//! What an operator should know about a configuration that can be right.

mod access;
mod worker;

use crate::{
    database,
    keys::keys,
    load::Loaded,
    load::Refused,
    names::Origin,
    problem::Problem,
    values::{Driver, LogFormat, Provider},
};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Fine for trying out.
    Warn,
    /// Not to be run like this.
    Fail,
}

impl Verdict {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One check and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The key, or what was looked at.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// What to do about it; empty after [`Verdict::Pass`].
    pub fix: String,
}

/// Judges a configuration; `strict` is the verdict on what must not be so in production:
/// [`Verdict::Fail`] there, [`Verdict::Warn`] elsewhere.
pub fn lint(loaded: &Result<Loaded, Refused>, strict: Verdict) -> Vec<Check> {
    let (warnings, mut checks) = match loaded {
        Ok(loaded) => (&loaded.warnings, vec![read(loaded)]),
        Err(refused) => (&refused.warnings, refused.problems.iter().map(failed).collect()),
    };
    checks.extend(warnings.iter().map(warned));
    if let Ok(loaded) = loaded {
        checks.extend(server(loaded, strict));
        checks.extend(access::checks(loaded, strict));
        checks.extend(worker::checks(loaded, strict));
        checks.extend(defaults(loaded, strict));
    }
    checks
}

fn check(
    name: &str,
    verdict: Verdict,
    message: impl Into<String>,
    fix: impl Into<String>,
) -> Check {
    Check { name: name.to_owned(), verdict, message: message.into(), fix: fix.into() }
}

fn pass(name: &str, message: impl Into<String>) -> Check {
    check(name, Verdict::Pass, message, "")
}

fn read(loaded: &Loaded) -> Check {
    let said = keys().iter().filter(|key| loaded.sources.contains_key(key.path)).count();
    let from = match &loaded.file {
        Some(path) => path.display().to_string(),
        None => "no file".to_owned(),
    };
    pass("config", format!("loaded from {from}; {said} of {} keys are set", keys().len()))
}

fn failed(problem: &Problem) -> Check {
    let fix = "correct it; docs/config.md describes every key";
    named(problem, Verdict::Fail, fix)
}

fn warned(problem: &Problem) -> Check {
    let fix = match problem.key.ends_with("_file") {
        true => "give the right to read it to the server's user only",
        false => "remove it, or correct its name",
    };
    named(problem, Verdict::Warn, fix)
}

fn named(problem: &Problem, verdict: Verdict, fix: &str) -> Check {
    let without_key = Problem { key: String::new(), ..problem.clone() };
    let name = if problem.key.is_empty() { "config" } else { problem.key.as_str() };
    check(name, verdict, without_key.to_string(), fix)
}

fn server(loaded: &Loaded, strict: Verdict) -> Vec<Check> {
    let server = &loaded.config.server;
    let listen = server.listen();
    let plain = |origin: &&Origin| {
        let rest = origin.as_str().strip_prefix("http://");
        rest.is_some_and(|host| {
            !["localhost", "127.", "[::1]"].iter().any(|name| host.starts_with(name))
        })
    };
    vec![
        if listen.ip().is_loopback() {
            pass("server.host", format!("{listen} can be reached from this machine only"))
        } else if loaded.config.auth.asks() {
            check(
                "server.host",
                Verdict::Warn,
                format!("{listen} can be reached from other machines, and keys travel without TLS"),
                "put a proxy that does TLS before it, and let nobody else reach the address",
            )
        } else {
            check(
                "server.host",
                strict,
                format!("{listen} can be reached from other machines, without credentials and TLS"),
                "set auth.enabled to true, and put a proxy that does TLS before it",
            )
        },
        match server.cors_allowed_origins.iter().find(plain) {
            None => pass("server.cors_allowed_origins", "only pages that are named may call"),
            Some(origin) => check(
                "server.cors_allowed_origins",
                strict,
                format!("whoever is on the way can change the pages of {}", origin.as_str()),
                "serve that page over https",
            ),
        },
    ]
}

fn defaults(loaded: &Loaded, strict: Verdict) -> Vec<Check> {
    let config = &loaded.config;
    vec![
        match (config.providers.default, config.providers.mock.enabled) {
            (Provider::Native, false) => pass("providers.default", "native isolates sandboxes"),
            (Provider::Mock, _) => check(
                "providers.default",
                strict,
                "mock isolates nothing: commands run as this server's user",
                "set providers.default to native",
            ),
            (Provider::Native, true) => check(
                "providers.mock.enabled",
                strict,
                "a request may name mock, which isolates nothing",
                "set providers.mock.enabled to false",
            ),
        },
        match config.defaults.max_ttl.0 {
            Some(_) => pass("defaults.max_ttl", "every sandbox ends at some time"),
            None => check(
                "defaults.max_ttl",
                strict,
                "a sandbox may live without end",
                "set a longest life, such as 24h",
            ),
        },
        match (config.defaults.default_exec_timeout.0, config.defaults.max_exec_timeout.0) {
            (_, Some(_)) => pass("defaults.exec_timeouts", "every command ends at some time"),
            (Some(_), None) => check(
                "defaults.exec_timeouts",
                strict,
                "a request may ask for any deadline",
                "set defaults.max_exec_timeout, such as 10m",
            ),
            (None, None) => check(
                "defaults.exec_timeouts",
                strict,
                "a command that names no deadline has none",
                "set defaults.max_exec_timeout, such as 10m",
            ),
        },
        match (config.defaults.max_sandboxes.0, config.defaults.max_sandboxes_per_owner.0) {
            (1.., 1..) => {
                pass("defaults.sandbox_caps", "sandboxes are counted, of all and of each")
            }
            _ => check(
                "defaults.sandbox_caps",
                strict,
                "sandboxes have no limit, of all or of one owner",
                "set defaults.max_sandboxes and defaults.max_sandboxes_per_owner",
            ),
        },
        match config.database.driver {
            Driver::Sqlite | Driver::Postgres => {
                pass("database.driver", "state survives a restart")
            }
            Driver::Memory => check(
                "database.driver",
                strict,
                "a restart forgets every sandbox",
                "set database.driver to sqlite",
            ),
        },
        match loaded.credentials.database_dsn.as_ref().filter(|dsn| !database::is_protected(dsn)) {
            Some(_) if config.database.driver == Driver::Postgres => check(
                "database.tls",
                strict,
                "somebody on the way to the database can read what is said, or answer in its place",
                "give database.dsn sslmode=verify-full, and sslrootcert where it is needed",
            ),
            _ => pass("database.tls", "the way to the database is on this host or protected"),
        },
        match config.logging.format {
            LogFormat::Json => pass("logging.format", "programs can read the log"),
            LogFormat::Text => check(
                "logging.format",
                strict,
                "text is for people; programs read json",
                "set logging.format to json",
            ),
        },
    ]
}
