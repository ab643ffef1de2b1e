//! `serve`: how it starts, refuses to start, and stops.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{Said, World, command, port, serve, wait_for};

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn ended(child: &mut Child) -> i32 {
    let status = wait_for("the end of a process", || child.try_wait().unwrap());
    status.code().unwrap_or(-1)
}

#[test]
fn a_stopping_server_finishes_what_is_in_flight() {
    let mut world = World::mock();
    let id = world.sandbox();
    let mut slow = command(["-o", "json", "exec", &id, "--shell", "--", "echo a; sleep 1; echo b"])
        .env("STACYVM_SERVER", &world.url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the command's start", || world.out(&["logs", &id]).contains('a').then_some(()));
    signal(&world.server, Signal::TERM);
    assert_eq!(ended(&mut world.server), 0);
    assert_eq!(ended(&mut slow), 0);
    let mut line = String::new();
    BufReader::new(slow.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"stdout\":\"a\\nb\\n\""), "{line}");
}

#[test]
fn a_second_signal_ends_a_server_at_once() {
    let mut world =
        World::start(&["--provider", "mock", "--store", "memory", "--shutdown-timeout", "300s"]);
    let id = world.sandbox();
    let mut slow = command(["-o", "json", "exec", &id, "--", "sleep", "300"])
        .env("STACYVM_SERVER", &world.url)
        .spawn()
        .unwrap();
    wait_for("the command's start", || {
        world.out(&["events", "--type", "exec.started"]).contains(&id).then_some(())
    });
    let begun = Instant::now();
    signal(&world.server, Signal::INT);
    wait_for("the end of listening", || (world.run(["ls"]).code == 5).then_some(()));
    signal(&world.server, Signal::INT);
    assert_eq!(ended(&mut world.server), 0);
    assert!(begun.elapsed() < Duration::from_secs(60));
    slow.kill().unwrap();
    slow.wait().unwrap();
}

#[test]
fn a_server_says_why_it_does_not_start() {
    let world = World::mock();
    let address = world.url.strip_prefix("http://").unwrap();
    let data = world.dir.path().join("other");
    let data = data.to_str().unwrap();
    let taken = world.dir.path().join("data");
    for (args, code, word) in [
        (&["--listen", address, "--data-dir", data][..], 1, "is in use"),
        (&["--listen", "127.0.0.1:0", "--data-dir", taken.to_str().unwrap()], 1, "another server"),
        (&["--listen", "0.0.0.0:0", "--data-dir", data], 2, "--insecure-no-auth"),
        (&["--listen", "nonsense"], 2, "127.0.0.1:7423"),
        (&["--listen", "127.0.0.1:0", "--data-dir", "/proc/nope"], 1, "data directory"),
    ] {
        let refused =
            command(["serve", "--provider", "mock", "--store", "memory"]).args(args).output();
        let said = Said::from(refused.unwrap());
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        assert!(said.err.contains(word), "{args:?}: {said:?}");
    }
}

/// R1.8: what the store holds is there again after a restart.
#[test]
fn a_restarted_server_knows_its_templates() {
    let mut world = World::start(&["--provider", "mock"]);
    assert_eq!(world.run(["templates", "save", "kept", "--image", "host"]).code, 0);
    signal(&world.server, Signal::TERM);
    assert_eq!(ended(&mut world.server), 0);
    std::fs::remove_file(world.dir.path().join("port")).unwrap();
    world.server = serve(world.dir.path(), &["--provider", "mock"]);
    world.url = format!("http://127.0.0.1:{}", port(world.dir.path()));
    assert!(world.out(&["templates", "ls"]).contains("kept"));
    let log = std::fs::read_to_string(world.dir.path().join("log")).unwrap();
    assert!(log.contains("StacyVM listens on http://127.0.0.1:"), "{log}");
}
