//! Keys: made without a server and over one, kept in files, and asked for.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::world::{Said, World, command, port, serve_with, wait_for};

fn keys(dir: &Path, args: &[&str]) -> Said {
    let mut command = command(["keys", "--data-dir"]);
    command.arg(dir.join("data")).args(args).current_dir(dir).output().unwrap().into()
}

fn served(dir: tempfile::TempDir, args: &[&str], env: &[(&str, &str)]) -> World {
    let server = serve_with(dir.path(), &[&["--provider", "mock"], args].concat(), env);
    let url = format!("http://127.0.0.1:{}", port(dir.path()));
    World { server, url, dir }
}

fn with(world: &World, key: &str, args: &[&str]) -> Said {
    let mut command = command(args);
    command.env("STACYVM_SERVER", &world.url).env("STACYVM_API_KEY", key);
    command.output().unwrap().into()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// R9.1, R9.2: from the first key on every request needs one, also after a restart.
#[test]
fn the_first_key_is_made_without_a_server_and_closes_it() {
    let dir = tempfile::tempdir().unwrap();
    let refused = keys(dir.path(), &["create", "ci", "--role", "api"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("the first key must have the role admin"), "{refused:?}");
    let made = keys(dir.path(), &["create", "root", "--role", "admin"]);
    assert_eq!(made.code, 0, "{made:?}");
    let root = made.out.trim().to_owned();
    assert!(root.starts_with("svm_") && made.err.contains("not shown again"), "{made:?}");
    let again = keys(dir.path(), &["create", "root", "--role", "admin"]);
    assert_eq!(again.code, 4, "{again:?}");

    let world = served(dir, &[], &[]);
    let without = world.run(["ls"]);
    assert_eq!(without.code, 4, "{without:?}");
    assert!(without.err.contains("invalid or missing API key"), "{without:?}");
    let health = world.run(["health"]);
    assert_eq!(health.code, 0, "{health:?}");
    assert!(health.err.contains("no more without a valid key"), "{health:?}");
    assert_eq!(with(&world, &root, &["ls"]).code, 0);

    let ann = ["keys", "create", "ann-1", "--role", "api", "--owner", "ann", "--ttl", "1h"];
    let ann = with(&world, &root, &ann);
    assert_eq!(ann.code, 0, "{ann:?}");
    let ann = ann.out.trim();
    let id = with(&world, ann, &["spawn"]).out.trim().to_owned();
    assert!(with(&world, &root, &["get", &id]).out.contains("ann"));
    for interactive in [&["exec", &id, "--", "echo", "hi"][..], &["exec", "-i", &id, "--", "cat"]] {
        let ran = with(&world, ann, interactive);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_ne!(world.run(interactive).code, 0, "without a key");
    }
    let listed = with(&world, &root, &["keys", "list"]);
    assert!(listed.out.contains("ann-1") && listed.out.contains("active"), "{listed:?}");
    assert!(!listed.out.contains(&ann[25..]), "{listed:?}");
    assert_eq!(with(&world, ann, &["keys", "list"]).code, 4);
    let revoked = with(&world, &root, &["keys", "revoke", "ann-1"]);
    assert_eq!(revoked.code, 0, "{revoked:?}");
    assert_eq!(with(&world, ann, &["ls"]).code, 4);
    assert_eq!(with(&world, &root, &["keys", "revoke", "nobody"]).code, 3);

    let log = fs::read_to_string(world.dir.path().join("log")).unwrap();
    for key in [&root[25..], &ann[25..]] {
        assert!(!log.contains(key), "a secret in the log");
    }
    kill_process(Pid::from_child(&world.server), Signal::TERM).unwrap();
    let mut world = world;
    wait_for("the end", || world.server.try_wait().unwrap());
    let left = keys(world.dir.path(), &["-o", "json", "list"]);
    assert!(left.out.contains("\"status\":\"revoked\""), "{left:?}");
    let revoked = keys(world.dir.path(), &["revoke", "root"]);
    assert_eq!(revoked.code, 0, "{revoked:?}");
}

/// R9.2: keys from files, read again on SIGHUP, and shown by nothing.
#[test]
fn a_key_in_a_file_is_read_at_the_start_and_again_on_sighup() {
    const FIRST: &str = "first-0f6b2c9d4e8a1735c0de";
    const SECOND: &str = "second-7a1e5b3f9c2d8046beef";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.key");
    let write = |key: &str| {
        fs::write(&path, format!("{key}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(FIRST);
    let path_text = path.to_str().unwrap().to_owned();
    let env = [("STACYVM_AUTH_ADMIN_API_KEY_FILE", path_text.as_str())];
    let shown = command(["config", "show"]).envs(env).output().unwrap();
    assert!(!text(shown.stdout).contains(FIRST));
    let world = served(dir, &["--store", "memory"], &env);
    assert_eq!(world.run(["ls"]).code, 4);
    let from_file = command(["keys", "list", "--api-key-file", &path_text])
        .env("STACYVM_SERVER", &world.url)
        .output()
        .unwrap();
    assert!(from_file.status.success(), "{from_file:?}");
    assert_eq!(with(&world, SECOND, &["keys", "list"]).code, 4);
    write(SECOND);
    kill_process(Pid::from_child(&world.server), Signal::HUP).unwrap();
    let log = || fs::read_to_string(world.dir.path().join("log")).unwrap();
    wait_for("the new key", || log().contains("the operator's keys are new ones").then_some(()));
    assert_eq!(with(&world, SECOND, &["keys", "list"]).code, 0);
    assert_eq!(with(&world, FIRST, &["ls"]).code, 4);

    // A file that is gone changes nothing.
    fs::remove_file(&path).unwrap();
    kill_process(Pid::from_child(&world.server), Signal::HUP).unwrap();
    wait_for("the refusal", || log().contains("the settings were not reloaded").then_some(()));
    assert_eq!(with(&world, SECOND, &["ls"]).code, 0);
    assert!(!log().contains(FIRST) && !log().contains(SECOND));
    assert_eq!(with(&world, SECOND, &["kill", "--all"]).code, 0);
}

/// R9.1: who is certain to ask for credentials may listen for other machines.
#[test]
fn settings_that_ask_for_credentials_may_listen_beyond_loopback() {
    let show = |env: &[(&str, &str)]| -> Said {
        let mut command = command(["config", "show", "--listen", "0.0.0.0:7423"]);
        command.envs(env.iter().copied()).output().unwrap().into()
    };
    let refused = show(&[]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("auth.enabled: true"), "{refused:?}");
    assert_eq!(show(&[("STACYVM_AUTH_ENABLED", "true")]).code, 0);
    let given = show(&[("STACYVM_AUTH_API_KEY", "hunter2hunter2")]);
    assert_eq!(given.code, 0, "{given:?}");
    assert!(given.out.contains("(hidden)") && !given.out.contains("hunter2"), "{given:?}");
}

/// Who may do nothing fills no disk with lines either.
#[test]
fn strangers_fill_no_log() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(keys(dir.path(), &["create", "root", "--role", "admin"]).code, 0);
    let world = served(dir, &[], &[]);
    let address = world.url.strip_prefix("http://").unwrap();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).unwrap();
        let head = "GET /api/v1/sandboxes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 401 "), "{reply}");
    }
    let log = fs::read_to_string(world.dir.path().join("log")).unwrap();
    let lines = log.matches("127.0.0.1 shows no credential").count();
    assert!((1..200).contains(&lines), "{lines}");
}

/// R2.6: what is done to the keys of a stopped server is in its audit log too.
#[test]
fn keys_made_and_revoked_without_a_server_are_audited() {
    let dir = tempfile::tempdir().unwrap();
    let root = keys(dir.path(), &["create", "root", "--role", "admin"]);
    assert_eq!(root.code, 0, "{root:?}");
    assert_eq!(keys(dir.path(), &["create", "ci", "--role", "api"]).code, 0);
    assert_eq!(keys(dir.path(), &["create", "ci", "--role", "api"]).code, 4);
    assert_eq!(keys(dir.path(), &["revoke", "ci"]).code, 0);
    let world = served(dir, &[], &[]);
    let root = root.out.trim();
    let ask = |path: &str| -> Vec<serde_json::Value> {
        let address = world.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let head = format!(
            "GET /api/v1/admin/audit{path} HTTP/1.0\r\nHost: localhost\r\nX-API-Key: {root}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{reply}");
        serde_json::from_str(body).unwrap()
    };
    let mut admin: Vec<_> = ask("?method=cli")
        .iter()
        .map(|row| (row["actor"].clone(), row["path"].clone(), row["status"].clone()))
        .collect();
    admin.reverse();
    let of = |path: &str, status: u16| (json!("local"), json!(path), json!(status));
    assert_eq!(
        admin,
        [
            of("keys create root", 201),
            of("keys create ci", 201),
            of("keys create ci", 409),
            of("keys revoke ci", 200),
        ]
    );
    let mut operations: Vec<_> = ask("/operations?actor=local")
        .iter()
        .map(|row| format!("{} {}", row["action"], row["status"]).replace('"', ""))
        .collect();
    operations.reverse();
    let expected = ["create success", "create success", "create failure", "revoke success"]
        .map(|s| format!("key.{s}"));
    assert_eq!(operations, expected);
}
