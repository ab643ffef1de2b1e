//! `worker token`, and the tokens that a server signs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::world::{Said, World, command, port, serve_with, wait_for};

const KEY: &str = "5f0c1b7a9e3d42868f6f0a2b7c9d1e4f";
const NEXT: &str = "a70c1b7a9e3d42868f6f0a2b7c9d1e4f";

fn key_file(dir: &Path, name: &str, key: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("{key}\n")).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// Runs `worker token` with this file of the signing key.
fn token(key: &Path, args: &[&str]) -> Said {
    let mut command = command(["worker", "token"]);
    command.env("STACYVM_AUTH_WORKER_SIGNING_KEY_FILE", key);
    command.args(args).output().unwrap().into()
}

fn issued(key: &Path, args: &[&str]) -> String {
    let said = token(key, &[&["issue", "--worker-id", "w1"], args].concat());
    assert_eq!(said.code, 0, "{said:?}");
    said.out.trim().to_owned()
}

/// R6.5: what is issued here is verified here, and by nobody else.
#[test]
fn a_token_is_issued_inspected_and_verified_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let (key, next) = (key_file(dir.path(), "key", KEY), key_file(dir.path(), "next", NEXT));
    let rpc = ["--audience", "worker:rpc", "--scope", "worker:exec", "--scope", "worker:files"];
    let signed = issued(&key, &[&rpc[..], &["--ttl", "15m", "--token-id", "t1"]].concat());
    let read = |said: &Said| -> Value { serde_json::from_str(&said.out).unwrap() };

    let inspected = read(&token(&next, &["-o", "json", "inspect", &signed]));
    assert_eq!(inspected["signature_verified"], false);
    let verified = token(&key, &["-o", "json", "verify", &signed, "--worker-id", "w1"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    let verified = read(&verified);
    for shown in [&inspected, &verified] {
        assert_eq!((&shown["worker_id"], &shown["token_id"]), (&"w1".into(), &"t1".into()));
        assert_eq!(shown["audience"], "worker:rpc");
        assert_eq!(shown["scopes"], serde_json::json!(["worker:exec", "worker:files"]));
    }
    assert_eq!(verified["signature_verified"], true);
    let words = token(&key, &["inspect", &signed]);
    assert!(words.err.contains("The signature was not checked"), "{words:?}");

    for (key, args, why) in [
        (
            &next,
            &["verify", &signed][..],
            "no key that is configured here made the token's signature",
        ),
        (&key, &["verify", &signed, "--worker-id", "w2"], "the token is for another worker"),
        (&key, &["verify", &signed, "--audience", "worker:control-plane"], "not for the audience"),
        (&key, &["verify", "hunter2"], "this is not a worker token"),
        (&key, &["inspect", "hunter2"], "this is not a worker token"),
    ] {
        let said = token(key, args);
        assert_eq!((said.code, said.out.as_str()), (4, ""), "{said:?}");
        assert!(said.err.contains(why) && said.err.lines().count() == 1, "{said:?}");
        assert!(!said.err.contains(KEY) && !said.err.contains(NEXT), "{said:?}");
    }
    let revoked = command(["worker", "token", "verify", &signed])
        .env("STACYVM_AUTH_WORKER_SIGNING_KEY_FILE", &key)
        .env("STACYVM_AUTH_WORKER_REVOKED_TOKEN_IDS", "t0,t1")
        .output()
        .unwrap();
    let revoked = Said::from(revoked);
    assert!(revoked.code == 4 && revoked.err.contains("the token was revoked"), "{revoked:?}");

    let mut piped = command(["worker", "token", "verify", "-"]);
    piped.env("STACYVM_AUTH_WORKER_SIGNING_KEY_FILE", &key);
    let mut piped =
        piped.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    writeln!(piped.stdin.take().unwrap(), "{signed}").unwrap();
    assert!(piped.wait().unwrap().success());
}

#[test]
fn a_token_that_cannot_be_made_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let key = key_file(dir.path(), "key", KEY);
    for (args, why) in [
        (&["--ttl", "16m"][..], "1s to 15m"),
        (&["--scope", "worker:everything"], "worker:heartbeat"),
        (&["--audience", "worker:rpc"], "at least one --scope"),
        (&["--audience", "api"], "worker:rpc"),
        (&["--token-id", "a,b"], "1 to 128"),
    ] {
        let said = token(&key, &[&["issue", "--worker-id", "w1"], args].concat());
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains(why), "{said:?}");
    }
    let without: Said =
        command(["worker", "token", "issue", "--worker-id", "w1"]).output().unwrap().into();
    assert_eq!(without.code, 4, "{without:?}");
    assert!(without.err.contains("no worker signing key is configured"), "{without:?}");
    let plan = token(&key, &["-o", "json", "rotation-plan"]);
    assert!(plan.out.contains(key.to_str().unwrap()) && !plan.out.contains(KEY), "{plan:?}");
    let shown: Said = command(["config", "show"])
        .env("STACYVM_AUTH_WORKER_SIGNING_KEY", KEY)
        .env("STACYVM_AUTH_WORKER_TOKENS", format!("w1={NEXT}"))
        .output()
        .unwrap()
        .into();
    assert!(shown.code == 0 && shown.out.contains("(hidden)"), "{shown:?}");
    assert!(!shown.out.contains(KEY) && !shown.out.contains(NEXT), "{shown:?}");
}

/// A token from the server's own route.
fn from_server(world: &World) -> String {
    let body = r#"{"worker_id":"w1"}"#;
    let address = world.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /api/v1/admin/worker-tokens HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let json: Value = serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    json["token"].as_str().unwrap().to_owned()
}

/// R6.5: keys of the settings are read again on SIGHUP.
#[test]
fn a_running_server_signs_with_the_key_of_the_settings_that_it_was_told_to_read() {
    let dir = tempfile::tempdir().unwrap();
    let (first, next) = (key_file(dir.path(), "first", KEY), key_file(dir.path(), "next", NEXT));
    let settings = dir.path().join("stacyvm.yaml");
    let write = |auth: &str| fs::write(&settings, format!("auth: {{{auth}}}\n")).unwrap();
    write(&format!("worker_signing_key: {KEY}"));
    let server = serve_with(dir.path(), &["--provider", "mock", "--store", "memory"], &[]);
    let url = format!("http://127.0.0.1:{}", port(dir.path()));
    let world = World { server, url, dir };
    let is_good = |token_text: &str, key: &Path| token(key, &["verify", token_text]).code == 0;
    assert!(is_good(&from_server(&world), &first));

    write(&format!("worker_signing_key_file: {}, worker_signing_keys: [{KEY}]", next.display()));
    kill_process(Pid::from_child(&world.server), Signal::HUP).unwrap();
    wait_for("the new key", || is_good(&from_server(&world), &next).then_some(()));
    let log = fs::read_to_string(world.dir.path().join("log")).unwrap();
    assert!(![KEY, NEXT].iter().any(|secret| log.contains(secret)), "{log}");
}

/// R6.5: files of secrets are read again when they change, without a signal.
#[test]
fn a_running_server_signs_with_the_key_that_its_file_holds_now() {
    let dir = tempfile::tempdir().unwrap();
    let key = key_file(dir.path(), "key", KEY);
    let first = key_file(dir.path(), "first", KEY);
    let next = key_file(dir.path(), "next", NEXT);
    let env = [("STACYVM_AUTH_WORKER_SIGNING_KEY_FILE", key.to_str().unwrap())];
    let server = serve_with(dir.path(), &["--provider", "mock", "--store", "memory"], &env);
    let url = format!("http://127.0.0.1:{}", port(dir.path()));
    let world = World { server, url, dir };
    let is_good = |token_text: &str, key: &Path| token(key, &["verify", token_text]).code == 0;
    assert!(is_good(&from_server(&world), &first));

    fs::write(&key, "two words\n").unwrap();
    let log = || fs::read_to_string(world.dir.path().join("log")).unwrap();
    wait_for("the refusal", || {
        assert!(is_good(&from_server(&world), &first), "the old key stays");
        log().contains("the old ones stay").then_some(())
    });
    fs::rename(world.dir.path().join("next"), &key).unwrap();
    let next = key_file(world.dir.path(), next.file_name().unwrap().to_str().unwrap(), NEXT);
    wait_for("the new key", || is_good(&from_server(&world), &next).then_some(()));
    let log = log();
    assert_eq!(log.matches("the old ones stay").count(), 1, "{log}");
    assert!(![KEY, NEXT, "two words"].iter().any(|secret| log.contains(secret)), "{log}");
}
