//! Precedence, problems, and what an old file gets to hear.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use stacyvm_config::{
    Config, LogFormat, Provider, Raw, Refused, Source, Sources, Verdict, Written, keys, lint, load,
};

const GO_EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go-example.yaml");

struct Here(tempfile::TempDir);

fn file(text: &str) -> Here {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("stacyvm.yaml"), text).unwrap();
    Here(dir)
}

impl Here {
    fn path(&self) -> PathBuf {
        self.0.path().join("stacyvm.yaml")
    }

    fn sources(&self) -> Sources {
        Sources { file: Some(self.path()), ..Sources::default() }
    }
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The problems and the warnings, without the file's path.
fn told(sources: &Sources) -> (Vec<String>, Vec<String>) {
    let (problems, warnings) = match load(sources) {
        Ok(loaded) => (Vec::new(), loaded.warnings),
        Err(Refused { problems, warnings }) => (problems, warnings),
    };
    let dir = sources.file.as_deref().and_then(Path::parent).unwrap_or_else(|| Path::new(""));
    let dir = format!("{}/", dir.display());
    let plain = |p: &stacyvm_config::Problem| p.to_string().replace(&dir, "");
    (problems.iter().map(plain).collect(), warnings.iter().map(plain).collect())
}

#[test]
fn later_sources_win_and_each_value_knows_its_own() {
    let file = file("server:\n  port: 1000\ndefaults:\n  pool_size: 1\n  vcpus: 2\n  image: a\n");
    let flag = |flag, text: &str| Written { flag, raw: Raw::one(text) };
    let loaded = load(&Sources {
        env: env(&[
            ("STACYVM_DEFAULTS_POOL_SIZE", "2"),
            ("STACYVM_LISTEN", "localhost:2000"),
            ("STACYVM_DEFAULTS_IMAGE", ""),
            ("HOME", "/nowhere"),
        ]),
        flags: vec![flag("--pool", "3")],
        ..file.sources()
    })
    .unwrap();
    let config = &loaded.config;
    assert_eq!(config.defaults.pool_size.0, 3);
    assert_eq!(config.server.listen().to_string(), "127.0.0.1:2000");
    assert_eq!((config.defaults.vcpus.0, config.defaults.memory_mb.0), (2, 1024));
    assert_eq!(config.defaults.image.as_str(), "a", "an empty variable says nothing");
    let source = |path| loaded.source(path).to_string();
    assert_eq!(source("defaults.pool_size"), "flag --pool");
    assert_eq!(source("server.port"), "env STACYVM_LISTEN");
    assert_eq!(source("defaults.vcpus"), format!("file:{}:5", file.path().display()));
    assert_eq!(loaded.source("defaults.memory_mb"), &Source::Default);
    assert_eq!(loaded.warnings, []);
}

#[test]
fn every_key_can_be_said_by_every_source() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "w1=a-key-of-its-own").unwrap();
    let dsn = dir.path().join("dsn");
    std::fs::write(&dsn, "postgres://u:p@h/d").unwrap();
    for key in keys() {
        let value = match key.path {
            "data_dir" | "database.path" => "/x",
            "server.host" => "::1",
            "server.allowed_hosts" => "a.b",
            "server.cors_allowed_origins" => "https://a.b",
            "providers.default" => "mock",
            "database.driver" => "memory",
            "logging.format" => "json",
            "logging.level" => "debug",
            "telemetry.otlp_endpoint" => "http://a:4318",
            "telemetry.otlp_headers" => "a=b",
            "telemetry.sample_ratio" => "0.5",
            "server.trusted_proxies" => "10.0.0.0/8",
            "rate_limit.key_by" => "ip",
            "worker.control_plane_url" | "worker.rpc_url" => "https://a.b",
            "worker.enabled" => "false",
            "worker.listen_addr" => "127.0.0.1:7424",
            "worker.heartbeat_interval" => "20s",
            "worker.rpc_tls.insecure_skip_verify" => "true",
            "auth.worker_tokens" => "w1=a,w2=b",
            "rate_limit.cleanup_interval" => "2m",
            "database.dsn" => "postgres://u:p@h/d",
            "database.dsn_file" => dsn.to_str().unwrap(),
            path if path.ends_with("_file") => secret.to_str().unwrap(),
            path if path.ends_with("auth") || path.ends_with("enabled") => "true",
            "defaults.spawn_overflow" => "queue",
            path if path.contains("ttl") => "45m",
            path if path.contains("timeout") => "5m",
            path if path.contains("retention") => "5h",
            _ => "7",
        };
        let line = format!("{}: {value}\n", key.path);
        let file = file(&line);
        let from_file = load(&file.sources()).unwrap();
        let from = |name: String| {
            load(&Sources { env: vec![(name, value.to_owned())], ..Sources::default() }).unwrap()
        };
        let from_env = from(key.variable());
        assert_ne!(from_file.config, Config::default(), "{line}");
        assert_eq!(from_file.config, from_env.config, "{line}");
        if let Some(alias) = key.alias.filter(|alias| *alias != "STACYVM_LISTEN") {
            assert_eq!(from(alias.to_owned()).config, from_env.config, "{alias}");
        }
    }
}

#[test]
fn postgres_needs_a_dsn_which_is_shown_to_nobody() {
    let (problems, _) = told(&file("database: {driver: postgres}").sources());
    assert!(problems[0].contains("postgres, which needs database.dsn"), "{problems:?}");
    let (problems, _) = told(&file("database: {driver: mysql}").sources());
    assert!(problems[0].contains("sqlite, postgres or memory is needed"), "{problems:?}");
    let text = "database:\n  driver: postgres\n  dsn: postgres://u:hunter2@h/d\n";
    let loaded = load(&file(text).sources()).unwrap();
    let dsn = loaded.credentials.database_dsn.clone().unwrap();
    assert_eq!(dsn.expose(), "postgres://u:hunter2@h/d");
    assert!(!format!("{loaded:?}").contains("hunter2"));
    for key in keys() {
        assert!(!key.text(&loaded.config).contains("hunter2"), "{}", key.path);
    }

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dsn");
    fs::write(&path, "host=h user=u password=hunter2\n").unwrap();
    let from_file = format!("database: {{driver: postgres, dsn_file: {}}}", path.display());
    let loaded = load(&file(&from_file).sources()).unwrap();
    let dsn = loaded.credentials.database_dsn.unwrap();
    assert_eq!(dsn.expose(), "host=h user=u password=hunter2");
    fs::write(&path, "hunter2\n").unwrap();
    let (problems, _) = told(&file(&from_file).sources());
    assert!(problems[0].contains("database.dsn_file") && !problems[0].contains("hunter2"));

    let (problems, warnings) =
        told(&file("database: {dsn: \"postgres://u:hunter2@h/d\"}").sources());
    assert_eq!(problems, Vec::<String>::new());
    assert!(warnings[0].contains("no effect while database.driver is sqlite"), "{warnings:?}");
}

#[test]
fn all_problems_are_told_at_once_with_their_places() {
    let file = file(
        "server:\n  prot: 80\n  port: 80000\n  host: example.org\ndefaults:\n  ttl: 48h\n  \
         vcpus: [1]\n  image: {name: x}\ndatabase: sqlite\nlogging:\n  level: inof\n",
    );
    let (problems, warnings) = told(&Sources {
        env: env(&[
            ("STACYVM_POOL", "many"),
            ("STACYVM_LISTEN", "7423"),
            ("STACYVM_AUTH_OIDC_PUBLIC_KEY", "hunter2hunter2"),
            ("STACYVM_AUTH_WORKER_TOKENS", "hunter2hunter2"),
            ("STACYVM_SERVER_PROT", "1"),
        ]),
        flags: vec![Written { flag: "--shutdown-timeout", raw: Raw::one("0s") }],
        ..file.sources()
    });
    let text = problems.join("\n");
    for line in [
        "stacyvm.yaml:2: server.prot: there is no such key; did you mean server.port?",
        "stacyvm.yaml:3: server.port: \"80000\" cannot be right: a whole number from 0 to 65535 \
         is needed",
        "stacyvm.yaml:4: server.host: \"example.org\" cannot be right: an address of this machine",
        "stacyvm.yaml:6: defaults.ttl: 48h0m0s is above defaults.max_ttl, which is 24h0m0s",
        "stacyvm.yaml:7: defaults.vcpus: it is a single value, not a list",
        "stacyvm.yaml:8: defaults.image.name: defaults.image holds a value",
        "stacyvm.yaml:9: database: it is a section; its keys are database.driver, database.path",
        "stacyvm.yaml:11: logging.level: \"inof\" cannot be right: a level is",
        "STACYVM_AUTH_OIDC_PUBLIC_KEY: auth.oidc_public_key: OIDC is not supported",
        "STACYVM_AUTH_WORKER_TOKENS: auth.worker_tokens: each token is written with its worker",
        "STACYVM_LISTEN: an address looks like 127.0.0.1:7423 or [::1]:7423",
        "STACYVM_POOL: defaults.pool_size: \"many\" cannot be right",
        "--shutdown-timeout: server.shutdown_timeout: \"0s\" cannot be right: the duration must be",
    ] {
        assert!(text.contains(line), "{line}\n---\n{text}");
    }
    assert_eq!(problems.len(), 13, "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("did you mean STACYVM_SERVER_PORT?"), "{warnings:?}");
}

#[test]
fn a_file_of_the_go_implementation_is_told_what_does_not_work() {
    let sources = Sources { file: Some(GO_EXAMPLE.into()), ..Sources::default() };
    let (problems, warnings) = told(&sources);
    let keys = |lines: &[String]| -> Vec<String> {
        lines.iter().map(|line| line.split(": ").nth(1).unwrap().to_owned()).collect()
    };
    assert_eq!(
        keys(&problems),
        [
            "server.cors_allowed_origins",
            "providers.default",
            "providers.firecracker.enabled",
            "providers.docker.enabled",
            "server.host",
        ]
    );
    for problem in problems.iter().filter(|p| p.contains("providers")) {
        assert!(problem.contains("not supported by this version yet"), "{problem}");
    }
    assert_eq!(
        keys(&warnings),
        [
            "providers.firecracker.firecracker_path",
            "providers.e2b.base_url",
            "providers.custom.timeout",
            "providers.docker.runtime",
            "providers.docker.dropped_caps",
            "providers.docker.added_caps",
            "providers.docker.tmpfs./tmp",
            "providers.docker.pool_security.pid_namespace",
            "providers.proot.languages",
            "defaults.pool_template",
            "auth.admin_fallback_enabled",
            "auth.oidc_groups_claim",
            "pool.max_vms",
            "pool.overflow",
        ]
    );
}

#[test]
fn a_server_beyond_loopback_must_be_asked_for() {
    let mut sources = file("server: {host: 0.0.0.0}\n").sources();
    sources.file = None;
    sources.env = env(&[("STACYVM_SERVER_HOST", "0.0.0.0")]);
    let (problems, _) = told(&sources);
    assert!(problems[0].starts_with("STACYVM_SERVER_HOST: server.host: "), "{problems:?}");
    assert!(problems[0].contains("--insecure-no-auth"), "{problems:?}");
    for (name, value) in [
        ("STACYVM_INSECURE_NO_AUTH", "true"),
        ("STACYVM_AUTH_ENABLED", "true"),
        ("STACYVM_AUTH_API_KEY", "k"),
    ] {
        let mut sources = sources.clone();
        sources.env.push((name.to_owned(), value.to_owned()));
        assert_eq!(told(&sources), (Vec::new(), Vec::new()), "{name}");
    }
}

#[test]
fn two_variables_for_one_key_must_agree() {
    let said = |pool: &str, size: &str| {
        let env = env(&[("STACYVM_POOL", pool), ("STACYVM_DEFAULTS_POOL_SIZE", size)]);
        told(&Sources { env, ..Sources::default() }).0
    };
    assert_eq!(said("2", "2"), Vec::<String>::new());
    assert_eq!(said("2", ""), Vec::<String>::new());
    assert!(said("2", "3")[0].contains("set only one"));
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    for (path, word) in
        [(dir.path().join("none.yaml"), "cannot be read"), (dir.path().into(), "not a file")]
    {
        let (problems, _) = told(&Sources { file: Some(path), ..Sources::default() });
        assert!(problems[0].contains(word), "{problems:?}");
    }
    let broken = file("server: [\n");
    assert!(told(&broken.sources()).0[0].starts_with("stacyvm.yaml:1: this is not YAML"));
}

#[test]
fn the_check_for_production_fails_on_what_this_version_cannot_do() {
    let file = file("providers: {default: mock}\nlogging: {format: json}\n");
    let loaded = load(&file.sources());
    let config = &loaded.as_ref().unwrap().config;
    assert_eq!(
        (config.providers.default, config.logging.format),
        (Provider::Mock, LogFormat::Json)
    );
    let verdict = |strict, name: &str| {
        let checks = lint(&loaded, strict);
        checks.into_iter().find(|check| check.name == name).unwrap().verdict
    };
    for name in ["providers.default", "auth.enabled", "rate_limit.enabled", "defaults.sandbox_caps"]
    {
        assert_eq!(verdict(Verdict::Warn, name), Verdict::Warn, "{name}");
        assert_eq!(verdict(Verdict::Fail, name), Verdict::Fail, "{name}");
    }
    for name in ["config", "server.host", "logging.format", "database.driver"] {
        assert_eq!(verdict(Verdict::Fail, name), Verdict::Pass, "{name}");
    }
    for check in lint(&loaded, Verdict::Fail) {
        assert_eq!(check.fix.is_empty(), check.verdict == Verdict::Pass, "{check:?}");
    }
}

/// R9.2: keys from files.
#[test]
fn a_key_is_read_from_a_file_of_its_own_and_given_in_one_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "hunter2hunter2\n").unwrap();
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&path, mode(0o600)).unwrap();
    let of_file = env(&[("STACYVM_AUTH_ADMIN_API_KEY_FILE", path.to_str().unwrap())]);
    let mut sources = Sources { env: of_file, ..Sources::default() };
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.credentials.admin_api_key.unwrap().expose(), "hunter2hunter2");
    assert!(loaded.credentials.api_key.is_none() && loaded.warnings.is_empty());

    std::fs::set_permissions(&path, mode(0o644)).unwrap();
    let (_, warnings) = told(&sources);
    assert!(warnings[0].contains("every user of this machine can read"), "{warnings:?}");

    sources.env.push(("STACYVM_AUTH_ADMIN_API_KEY".to_owned(), "hunter2hunter2".to_owned()));
    let (problems, _) = told(&sources);
    assert!(problems[0].contains("in one place only"), "{problems:?}");

    std::fs::write(&path, "two words").unwrap();
    sources.env.pop();
    let (problems, _) = told(&sources);
    assert!(problems[0].contains("auth.admin_api_key_file: "), "{problems:?}");
    assert!(!problems[0].contains("two words"), "{problems:?}");
    std::fs::remove_file(&path).unwrap();
    assert!(told(&sources).0[0].contains("cannot be read"));
}

/// R9.1: a file of the Go implementation that has a key and does not switch it on.
#[test]
fn a_key_that_is_given_and_switched_off_is_a_contradiction() {
    let file = file("auth: {enabled: false, api_key: hunter2hunter2}\n");
    let (problems, _) = told(&file.sources());
    assert!(
        problems[0].contains("auth.enabled: it is false although auth.api_key"),
        "{problems:?}"
    );
    assert!(!problems[0].contains("hunter2"), "{problems:?}");
}

/// R6.7: the checks of access, each with a right and a wrong setting.
#[test]
fn the_check_judges_credentials_limits_and_proxies() {
    const GOOD: &str = "5f0c1b7a9e3d42868f6f0a2b7c9d1e4f";
    let verdict = |text: &str, name: &str| {
        let file = file(text);
        let loaded = load(&file.sources());
        let checks = lint(&loaded, Verdict::Fail);
        let check = checks.iter().find(|check| check.name == name);
        check.map(|check| check.verdict)
    };
    let (pass, warn, fail) = (Some(Verdict::Pass), Some(Verdict::Warn), Some(Verdict::Fail));
    let keys =
        |api: &str, admin: &str| format!("auth: {{api_key: {api}, admin_api_key: {admin}}}\n");
    let other = GOOD.replace("5f", "a7");
    for (text, name, expected) in [
        ("auth: {enabled: true}\n", "auth.enabled", pass),
        ("auth: {enabled: auto}\n", "auth.enabled", fail),
        ("auth: {enabled: false}\n", "auth.enabled", fail),
        (&keys(GOOD, &other), "auth.enabled", pass),
        (&keys(GOOD, &other), "auth.api_key", pass),
        (&keys(GOOD, &other), "auth.api_key_file", warn),
        (&keys(GOOD, &other), "auth.key_separation", pass),
        (&keys(GOOD, GOOD), "auth.key_separation", fail),
        (&keys("change-me", &other), "auth.api_key", fail),
        (&keys(GOOD, "short"), "auth.admin_api_key", fail),
        ("auth: {enabled: true}\n", "auth.admin_api_key", pass),
        ("auth: {enabled: auto}\n", "auth.admin_api_key", fail),
        ("auth: {enabled: true}\nserver: {host: 0.0.0.0}\n", "server.host", warn),
        ("server: {host: 0.0.0.0, insecure_no_auth: true}\n", "server.host", fail),
        ("server: {trusted_proxies: [10.0.0.1]}\n", "server.trusted_proxies", pass),
        ("server: {trusted_proxies: [\"::/0\"]}\n", "server.trusted_proxies", fail),
        ("rate_limit: {enabled: false}\n", "rate_limit.enabled", fail),
        ("rate_limit: {enabled: true}\n", "rate_limit.enabled", pass),
        ("rate_limit: {enabled: true}\n", "rate_limit.capacity", pass),
        ("rate_limit: {enabled: true, requests_per_minute: 0}\n", "rate_limit.capacity", fail),
        ("rate_limit: {enabled: true, key_by: ip}\n", "rate_limit.key_by", warn),
    ] {
        assert_eq!(verdict(text, name), expected, "{text}{name}");
    }
}

/// R6.5: tokens of single workers, in a section of their own.
#[test]
fn workers_have_tokens_of_their_own_below_one_key() {
    let text = "auth:\n  worker_tokens:\n    w1: hunter2\n    rack.3: hunter3\n  api_key: k\n";
    let given = file(text);
    let loaded = load(&given.sources()).unwrap();
    let tokens = &loaded.credentials.workers.tokens;
    let read: Vec<_> = tokens.iter().map(|(id, own)| (id.as_str(), own[0].expose())).collect();
    assert_eq!(read, [("rack.3", "hunter3"), ("w1", "hunter2")]);
    let place = format!("file:{}:3", given.path().display());
    assert_eq!(loaded.source("auth.worker_tokens").to_string(), place);
    for wrong in ["w 1: hunter2", "w1: hunter 2", "w1: [hunter2]", "w1: \"\""] {
        let file = file(&format!("auth:\n  worker_tokens:\n    {wrong}\n"));
        let (problems, _) = told(&file.sources());
        assert!(problems[0].contains("stacyvm.yaml:3: auth.worker_tokens"), "{problems:?}");
        assert!(!problems[0].contains("hunter"), "{problems:?}");
    }
}

/// R6.5: a secret is a value or a file.
#[test]
fn a_secret_of_workers_is_given_in_one_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, "w1=hunter2hunter2\n").unwrap();
    let path = path.to_str().unwrap();
    for (key, value) in [
        ("worker_token", "hunter2"),
        ("worker_tokens", "{w1: hunter2}"),
        ("worker_signing_key", "hunter2"),
        ("worker_signing_keys", "[hunter2]"),
        ("worker_revoked_token_ids", "[hunter2]"),
    ] {
        let file = file(&format!("auth: {{{key}: {value}, {key}_file: {path}}}\n"));
        let (problems, _) = told(&file.sources());
        let expected = format!("auth.{key}_file: it is given as a value too");
        assert!(problems[0].contains(&expected), "{problems:?}");
        assert!(!problems[0].contains("hunter2"), "{problems:?}");
    }
}

#[test]
fn what_is_switched_on_between_hosts_is_whole() {
    for (text, key) in [
        ("server_cert_file: /c", "server_cert_file"),
        ("server_key_file: /c", "server_key_file"),
        ("client_cert_file: /c", "client_cert_file"),
        ("client_key_file: /c", "client_key_file"),
        ("client_names: [a]", "client_names"),
        ("insecure_skip_verify: true, ca_file: /c", "insecure_skip_verify"),
    ] {
        let on = file(&format!("worker: {{rpc_tls: {{enabled: true, {text}}}}}\n"));
        let (problems, _) = told(&on.sources());
        let expected = format!("worker.rpc_tls.{key}: ");
        assert!(problems.len() == 1 && problems[0].contains(&expected), "{problems:?}");
        let off = file(&format!("worker: {{rpc_tls: {{{text}}}}}\n"));
        assert_eq!(told(&off.sources()).0, Vec::<String>::new());
    }
    let bare = file("worker: {listen_addr: \"127.0.0.1:1\", rpc_tls: {enabled: true}}\n");
    assert!(told(&bare.sources()).0[0].contains("has no certificate to show"));
}

/// R6.5, R6.7: the checks of what is between hosts, each with a right and a wrong setting.
#[test]
fn the_check_judges_what_is_between_hosts() {
    const GOOD: &str = "5f0c1b7a9e3d42868f6f0a2b7c9d1e4f";
    let other = GOOD.replace("5f", "a7");
    let other = other.as_str();
    let verdict = |text: &str, name: &str| {
        let file = file(text);
        let loaded = load(&file.sources());
        assert!(loaded.is_ok(), "{text}{loaded:?}");
        let checks = lint(&loaded, Verdict::Fail);
        for check in &checks {
            assert_eq!(check.fix.is_empty(), check.verdict == Verdict::Pass, "{check:?}");
            assert!(!format!("{check:?}").contains(GOOD), "{check:?}");
        }
        let check = checks.iter().find(|check| check.name == name);
        check.map(|check| check.verdict)
    };
    let auth = |text: &str| format!("auth: {{{}}}\n", text.replace('A', GOOD).replace('B', other));
    let worker = |text: &str| format!("worker: {{{text}}}\n");
    let tls = |text: &str| format!("worker: {{rpc_tls: {{{text}}}}}\n");
    let listens = |text: &str| format!("worker: {{listen_addr: \"10.0.0.7:1\"{text}}}\n");
    let listens_at = |at: &str| format!("worker: {{listen_addr: \"{at}\"}}\n");
    let reached_at =
        |url: &str| format!("worker: {{listen_addr: \"127.0.0.1:1\", rpc_url: \"{url}\"}}\n");
    let (pass, warn, fail) = (Some(Verdict::Pass), Some(Verdict::Warn), Some(Verdict::Fail));
    let server = "rpc_tls: {enabled: true, server_cert_file: /c, server_key_file: /k";
    for (text, name, expected) in [
        (String::new(), "auth.worker_token", pass),
        (auth("worker_signing_key: A"), "auth.worker_token", pass),
        (auth("worker_signing_key: A, worker_token: B"), "auth.worker_token", warn),
        (auth("worker_tokens: {w1: A}"), "auth.worker_token", pass),
        (auth("worker_token: A"), "auth.worker_token", fail),
        (auth("worker_token: A, worker_tokens: {w1: B}"), "auth.worker_token", fail),
        (listens(""), "auth.worker_token", fail),
        (auth("worker_signing_key: A"), "auth.worker_signing_key", None),
        (auth("worker_signing_key: short"), "auth.worker_signing_key", fail),
        (auth("worker_signing_key: change-me-A"), "auth.worker_signing_key", fail),
        (auth("worker_signing_keys: [A]"), "auth.worker_signing_key", fail),
        (auth("worker_signing_key: A, worker_signing_keys: [B]"), "auth.worker_signing_keys", pass),
        (auth("worker_signing_key: A, worker_signing_keys: [A]"), "auth.worker_signing_keys", warn),
        (
            auth("worker_signing_key: A, worker_signing_keys: [B, B]"),
            "auth.worker_signing_keys",
            warn,
        ),
        (auth("worker_signing_key: A, worker_signing_keys: [b]"), "auth.worker_signing_keys", fail),
        (auth("worker_tokens: {w1: short}"), "auth.worker_tokens", fail),
        (auth("worker_signing_key: A"), "auth.worker_signing_key_file", warn),
        (auth("worker_tokens: {w1: A}"), "auth.worker_tokens_file", warn),
        (auth("worker_revoked_token_ids: [a]"), "auth.worker_revoked_token_ids", warn),
        (
            auth("worker_signing_key: A, worker_revoked_token_ids: [a]"),
            "auth.worker_revoked_token_ids",
            None,
        ),
        (auth("worker_tokens: {w1: A, w2: B}"), "auth.worker_separation", pass),
        (auth("worker_tokens: {w1: A, w2: A}"), "auth.worker_separation", fail),
        (auth("worker_tokens: {w1: A}, worker_signing_key: A"), "auth.worker_separation", fail),
        (auth("worker_tokens: {w1: A}, api_key: A"), "auth.worker_separation", fail),
        (String::new(), "auth.worker_separation", None),
        (listens(""), "worker.listen_addr", fail),
        (listens(&format!(", {server}}}")), "worker.listen_addr", pass),
        (worker("listen_addr: \"127.0.0.1:1\""), "worker.listen_addr", pass),
        (listens_at("0.0.0.0:1"), "worker.listen_addr", fail),
        (listens_at("[::]:1"), "worker.listen_addr", fail),
        (listens_at("[::ffff:10.0.0.7]:1"), "worker.listen_addr", fail),
        (listens_at("[::1]:1"), "worker.listen_addr", pass),
        (reached_at("http://node-7.lan:1"), "worker.rpc_url", fail),
        (reached_at("http://[2001:db8::7]:1"), "worker.rpc_url", fail),
        (reached_at("http://localhost.lan"), "worker.rpc_url", fail),
        (reached_at("http://127.0.0.1:1"), "worker.rpc_url", None),
        (reached_at("https://node-7.lan:1"), "worker.rpc_url", None),
        (String::new(), "worker.rpc_tls.enabled", None),
        (auth("worker_signing_key: A"), "worker.rpc_tls.enabled", fail),
        (auth("worker_tokens: {w1: A}"), "worker.rpc_tls.enabled", fail),
        (
            auth("worker_signing_key: A") + &listens_at("127.0.0.1:1"),
            "worker.rpc_tls.enabled",
            None,
        ),
        (
            auth("worker_signing_key: A")
                + &listens_at("127.0.0.1:1")
                + "database: {driver: postgres, dsn: \"postgres://db.lan/x\"}\n",
            "worker.rpc_tls.enabled",
            fail,
        ),
        (tls("enabled: true, server_name: workers.lan"), "worker.rpc_tls.server_name", fail),
        (tls("enabled: true, server_name: \"{id}.lan\""), "worker.rpc_tls.server_name", None),
        (worker("control_plane_url: \"http://[2001:db8::1]\""), "worker.control_plane_url", fail),
        (worker("control_plane_url: \"http://box.lan\""), "worker.control_plane_url", fail),
        (worker("control_plane_url: \"https://box.lan\""), "worker.control_plane_url", None),
        (worker("heartbeat_interval: 2m"), "worker.heartbeat_interval", warn),
        (tls("ca_file: /c"), "worker.rpc_tls.enabled", fail),
        (tls("enabled: true"), "worker.rpc_tls.ca_file", fail),
        (tls("enabled: true"), "worker.rpc_tls.client_cert_file", fail),
        (tls("enabled: true, ca_file: /c"), "worker.rpc_tls.server_cert_file", None),
        (
            tls("enabled: true, insecure_skip_verify: true"),
            "worker.rpc_tls.insecure_skip_verify",
            fail,
        ),
        (listens(&format!(", {server}}}")), "worker.rpc_tls.client_ca_file", fail),
        (
            listens(&format!(", {server}, client_ca_file: /a}}")),
            "worker.rpc_tls.client_ca_file",
            None,
        ),
        (listens(&format!(", {server}, client_ca_file: /a}}")), "worker.rpc_tls.ca_file", None),
    ] {
        assert_eq!(verdict(&text, name), expected, "{text}{name}");
    }
}

/// R6.7: there is a file with which a server may go into production.
#[test]
fn the_production_example_passes_every_check() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/howto/access.md"))
            .unwrap();
    let example = page.split("<!-- production -->\n```yaml\n").nth(1).unwrap();
    let file = file(example.split("```").next().unwrap());
    let loaded = load(&file.sources());
    for check in lint(&loaded, Verdict::Fail) {
        assert_ne!(check.verdict, Verdict::Fail, "{check:?}");
    }
}

/// R6.7: what stands between the hosts of a fleet can pass too.
#[test]
fn the_production_examples_of_a_fleet_pass_the_checks_of_workers() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/howto/worker-identity.md");
    let page = fs::read_to_string(page).unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let key = secrets.path().join("signing.key");
    fs::write(&key, "5f0c1b7a9e3d42868f6f0a2b7c9d1e4f\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&key, mode).unwrap();
    for who in ["control plane", "worker"] {
        let mark = format!("<!-- {who} -->\n```yaml\n");
        let example = page.split(&mark).nth(1).unwrap().split("```").next().unwrap();
        let file = file(&example.replace("/etc/stacyvm", secrets.path().to_str().unwrap()));
        let loaded = load(&file.sources());
        let checks = lint(&loaded, Verdict::Fail);
        let of_workers: Vec<_> = checks
            .iter()
            .filter(|check| check.name.contains("worker") || check.name == "config")
            .collect();
        assert!(2 < of_workers.len(), "{who}: {checks:?}");
        for check in of_workers {
            assert_eq!(check.verdict, Verdict::Pass, "{who}: {check:?}");
        }
    }
}

/// `UPDATE_GOLDEN=1` writes both anew.
#[test]
fn the_committed_documents_are_made_from_the_keys() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let schema = format!("{:#}\n", stacyvm_config::schema());
    let page = fs::read_to_string(docs.join("config.md")).unwrap();
    let (start, end) = ("<!-- made from crates/config -->\n", "<!-- end -->\n");
    let (before, rest) = page.split_once(start).unwrap();
    let after = rest.split_once(end).unwrap().1;
    let whole = format!("{before}{start}{}{end}{after}", stacyvm_config::reference());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(docs.join("config.schema.json"), &schema).unwrap();
        fs::write(docs.join("config.md"), &whole).unwrap();
    }
    let committed = fs::read_to_string(docs.join("config.schema.json")).unwrap_or_default();
    assert!(committed == schema, "docs/config.schema.json: run with UPDATE_GOLDEN=1");
    let page = fs::read_to_string(docs.join("config.md")).unwrap();
    assert!(page == whole, "docs/config.md: run with UPDATE_GOLDEN=1");
}
