//! The settings: files, variables, flags, `config`, and SIGHUP.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{Said, World, command, port, serve_with, wait_for};

fn in_dir(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Said {
    command(args).current_dir(dir).envs(env.iter().copied()).output().unwrap().into()
}

fn started(yaml: &str, args: &[&str], env: &[(&str, &str)]) -> World {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("stacyvm.yaml"), yaml).unwrap();
    let server = serve_with(dir.path(), args, env);
    let url = format!("http://127.0.0.1:{}", port(dir.path()));
    World { server, url, dir }
}

fn log(world: &World) -> String {
    fs::read_to_string(world.dir.path().join("log")).unwrap()
}

#[test]
fn a_server_takes_its_settings_from_file_environment_and_flags() {
    let yaml = "providers: {default: mock}\ndatabase: {driver: memory}\n\
                defaults: {memory_mb: 100, vcpus: 2, image: from-file, ttl: 2h, max_ttl: 3h}\n\
                server: {preview_domain: box.example, shutdown_timeout: 7s}\n\
                logging: {format: json}\n";
    let env = [("STACYVM_DEFAULTS_VCPUS", "3"), ("STACYVM_SHUTDOWN_TIMEOUT", "6s")];
    let mut world = started(yaml, &["--shutdown-timeout", "5s"], &env);
    let id = world.sandbox();
    let sandbox = world.out(&["-o", "json", "get", &id]);
    for part in
        ["\"memory_mb\":100", "\"vcpus\":3", "\"image\":\"from-file\"", "box.example", "mock"]
    {
        assert!(sandbox.contains(part), "{part}: {sandbox}");
    }
    assert!(world.run(["spawn", "--ttl", "4h"]).err.contains("max ttl 3h0m0s"));
    kill_process(Pid::from_child(&world.server), Signal::TERM).unwrap();
    assert_eq!(wait_for("the end", || world.server.try_wait().unwrap()).code(), Some(0));
    let log = log(&world);
    assert!(log.contains("\"limit\":\"5s\""), "the flag wins: {log}");
}

#[test]
fn a_mock_beside_the_default_is_offered() {
    let world =
        started("providers: {default: mock, mock: {enabled: true}}\n", &["--store", "memory"], &[]);
    assert_eq!(world.out(&["-o", "json", "providers"]).matches("\"mock\"").count(), 1);
}

#[test]
fn settings_with_problems_start_nothing_and_are_told_together() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.yaml"), "server:\n  prot: 1\nauth: {oidc_enabled: true}\n")
        .unwrap();
    let said = in_dir(dir.path(), &["serve", "--config", "bad.yaml", "--pool", "999"], &[]);
    assert_eq!((said.code, said.out.as_str()), (2, ""), "{said:?}");
    for part in [
        "bad.yaml:2: server.prot: there is no such key; did you mean server.port?",
        "bad.yaml:3: auth.oidc_enabled: OIDC is not supported by this version yet",
        "--pool: defaults.pool_size: \"999\" cannot be right",
    ] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
    let none = in_dir(dir.path(), &["config", "show"], &[("STACYVM_CONFIG", "none.yaml")]);
    assert_eq!(none.code, 2, "{none:?}");
    assert!(none.err.contains("none.yaml: it cannot be read"), "{none:?}");
}

#[test]
fn show_names_the_origin_of_every_value() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    fs::create_dir_all(home.join(".stacyvm")).unwrap();
    fs::write(home.join(".stacyvm/config.yaml"), "defaults:\n  vcpus: 2\n").unwrap();
    let home = home.to_str().unwrap();
    let env = [("HOME", home), ("STACYVM_LOG", "debug"), ("STACYVM_LGO", "x")];
    let said = in_dir(dir.path(), &["config", "show", "--pool", "9"], &env);
    assert_eq!(said.code, 0, "{said:?}");
    let row = |key: &str| -> Vec<String> {
        let line = said.out.lines().find(|line| line.starts_with(key)).unwrap();
        line.split("  ").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
    };
    let file = format!("file:{home}/.stacyvm/config.yaml:2");
    assert_eq!(row("defaults.vcpus"), ["defaults.vcpus", "2", &file]);
    assert_eq!(row("logging.level"), ["logging.level", "debug", "env STACYVM_LOG"]);
    assert_eq!(row("defaults.pool_size"), ["defaults.pool_size", "9", "flag --pool"]);
    assert_eq!(row("server.port"), ["server.port", "7423", "default"]);
    assert!(said.err.contains("warning: STACYVM_LGO"), "{said:?}");
    // The working directory comes before the home directory.
    fs::write(dir.path().join("stacyvm.yaml"), "server:\n  port: 1\n").unwrap();
    let said = in_dir(dir.path(), &["-o", "json", "config", "show"], &env);
    assert!(said.out.contains("\"file\":\"./stacyvm.yaml\""), "{said:?}");
    for part in ["\"origin\":\"file:./stacyvm.yaml\"", "\"line\":2", "\"value\":1"] {
        assert!(said.out.contains(part), "{part}: {said:?}");
    }
}

#[test]
fn lint_judges_and_its_exit_code_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("some.yaml");
    let path = file.to_str().unwrap();
    fs::write(&file, "logging: {format: json}\npool: {overflow: reject}\n").unwrap();
    let said = in_dir(dir.path(), &["config", "lint", "--file", path], &[]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert!(said.out.contains("[PASS] config: loaded from "), "{said:?}");
    assert!(said.out.contains("[WARN] pool.overflow: "), "{said:?}");
    assert!(said.out.contains("[PASS] logging.format: programs can read the log\n"), "{said:?}");
    assert!(
        said.out.contains("[WARN] auth.enabled: credentials are asked for only once"),
        "{said:?}"
    );
    assert!(said.out.contains("\n  fix: "), "{said:?}");

    let strict = in_dir(dir.path(), &["config", "lint", "--production", "--file", path], &[]);
    let failing = strict.out.matches("[FAIL]").count();
    assert_eq!(strict.code, 1, "{strict:?}");
    assert!(strict.out.contains("[FAIL] auth.enabled: "), "{strict:?}");
    let sentence = format!("stacyvm: config lint found {failing} failing check(s)\n");
    assert_eq!(strict.err, sentence);

    fs::write(&file, "database: {dsn: \"mysql://u:hunter2@h/d\"}\ncolour: red\n").unwrap();
    let broken = in_dir(dir.path(), &["config", "lint", "--file", path, "-o", "json"], &[]);
    assert_eq!(broken.code, 1, "{broken:?}");
    for part in ["\"failing\":2", "\"name\":\"database.dsn\"", "\"status\":\"fail\"", "colour"] {
        assert!(broken.out.contains(part), "{part}: {broken:?}");
    }
    assert!(!format!("{broken:?}").contains("hunter2"), "{broken:?}");
}

#[test]
fn the_schema_is_the_committed_one() {
    let said: Said = command(["config", "schema"]).output().unwrap().into();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.schema.json");
    assert_eq!((said.code, said.out), (0, fs::read_to_string(docs).unwrap()));
}

#[test]
fn a_hang_up_reloads_what_can_change_and_keeps_what_was_right() {
    let base = "providers: {default: mock}\ndatabase: {driver: memory}\n";
    let mut world = started(&format!("{base}logging: {{level: warn}}\n"), &[], &[]);
    let quiet = world.sandbox();
    let file = world.dir.path().join("stacyvm.yaml");
    let child = Pid::from_child(&world.server);
    let reload = |yaml: &str, word: &str| {
        let before = log(&world).matches(word).count();
        fs::write(&file, format!("{base}{yaml}")).unwrap();
        kill_process(child, Signal::HUP).unwrap();
        wait_for(word, || (before < log(&world).matches(word).count()).then_some(()));
    };
    reload("logging: {level: info}\ndefaults: {vcpus: 2}\n", "the settings were reloaded");
    assert!(
        log(&world).contains("needs a restart key=\"defaults.vcpus\" before=\"1\" after=\"2\"")
    );
    let loud = world.sandbox();
    assert!(world.out(&["-o", "json", "get", &loud]).contains("\"vcpus\":1"));
    assert!(!log(&world).contains(&quiet), "{}", log(&world));
    assert!(log(&world).contains(&loud), "{}", log(&world));
    reload("logging: {level: loud}\n", "the settings were not reloaded");
    assert!(log(&world).contains("cannot be right"), "{}", log(&world));
    // What needs a restart is said again as long as it does.
    reload("logging: {level: debug}\ndefaults: {vcpus: 2}\n", "key=\"defaults.vcpus\"");
    assert!(log(&world).contains("changed key=\"logging.level\" before=\"info\" after=\"debug\""));
    kill_process(child, Signal::TERM).unwrap();
    assert_eq!(wait_for("the end", || world.server.try_wait().unwrap()).code(), Some(0));
    assert!(log(&world).contains("stopped"));
}

/// R6.7: what is handed out as examples for production are such.
#[test]
fn the_examples_for_production_pass_the_production_lint() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let dir = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    secret("signing.key", "5f0c1b7a9e3d42868f6f0a2b7c9d1e4f\n");
    secret("dsn", "postgres://stacyvm:7c9d1e4f@db.example.org/stacyvm?sslmode=verify-full\n");
    for name in ["stacyvm.yaml", "cluster.yaml", "worker.yaml"] {
        let text = fs::read_to_string(deploy.join(name)).unwrap();
        let file = dir.path().join(name);
        fs::write(&file, text.replace("/etc/stacyvm", dir.path().to_str().unwrap())).unwrap();
        let args = ["config", "lint", "--production", "--file"];
        let said: Said = command(args).arg(&file).output().unwrap().into();
        assert_eq!(said.code, 0, "{name}: {said:?}");
        assert!(!said.out.contains("[WARN]"), "{name}: {said:?}");
    }
}

/// R4.2: a server that leaves sandboxes to workers needs nothing of its host, and says that it is
/// ready: the heartbeats of workers come to servers that are.
#[test]
fn a_server_without_sandboxes_of_its_own_is_ready_and_runs_none() {
    let world = started("worker: {enabled: false}\n", &["--store", "memory"], &[]);
    let health = world.run(["health"]);
    assert_eq!(health.code, 0, "{health:?}");
    assert_eq!(world.out(&["-o", "json", "providers"]).trim(), "[]");
    let spawned = world.run(["spawn"]);
    assert_ne!(spawned.code, 0, "{spawned:?}");
    assert!(spawned.err.contains("native"), "{spawned:?}");
}
