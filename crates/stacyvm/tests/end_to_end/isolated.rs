//! Real sandboxes: `run`, terminals, a server that comes back. Needs root.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::Signal;

use crate::{
    serving::{ended, signal},
    world::{BINARY, LIMIT, Said, World, command, port, wait_for},
};

/// Whether real sandboxes can be tried here; says why not.
fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

fn run(data: &Path, args: &[&str]) -> Command {
    let mut command = command(["run", "--data-dir"]);
    command.arg(data).args(args);
    command
}

fn nothing_is_left(data: &Path) {
    let left: Vec<_> = fs::read_dir(data.join("oneshot")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// R1.11
#[test]
fn run_is_the_command_to_its_caller_and_leaves_nothing() {
    if !possible() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let said = |args: &[&str]| Said::from(run(data.path(), args).output().unwrap());
    let ran = said(&["--", "sh", "-c", "echo out; echo err >&2; id -u; exit 9"]);
    assert_eq!(ran, Said { code: 9, out: "out\n0\n".to_owned(), err: "err\n".to_owned() });
    assert_eq!(said(&["--timeout", "300ms", "--", "sleep", "30"]).code, 124);
    assert_eq!(said(&["--", "/nonexistent"]).code, 126);
    let missing = said(&["--image", "nope", "--", "true"]);
    assert!(missing.code == 125 && missing.err.contains("stacyvm image import"), "{missing:?}");
    assert_eq!(said(&["--", "sh", "-c", "kill -9 $$"]).code, 137);
    nothing_is_left(data.path());
}

/// R1.11: also when it is told to end, or its output is not wanted any more.
#[test]
fn an_interrupted_run_leaves_nothing() {
    if !possible() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let args = ["--", "sh", "-c", "echo ready; exec sleep 300"];
        let mut child = run(data.path(), &args).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        signal(&child, number);
        assert_eq!(ended(&mut child), code);
        nothing_is_left(data.path());
    }
    let yes = ["--", "sh", "-c", "while :; do echo y; done"];
    let mut child = run(data.path(), &yes).stdout(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut some).unwrap();
    drop(child.stdout.take());
    assert_eq!(ended(&mut child), 141);
    nothing_is_left(data.path());
}

/// R1.11: what a killed run could not clean up, the next one does.
#[test]
fn the_next_run_cleans_up_after_a_killed_one() {
    if !possible() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let args = ["--", "sh", "-c", "echo ready; exec sleep 300"];
    let mut child = run(data.path(), &args).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(run(data.path(), &["--", "true"]).status().unwrap().code(), Some(0));
    nothing_is_left(data.path());
}

/// R1.8: live sandboxes outlast the server, and a command's stream goes on where it was.
#[test]
fn a_command_is_followed_over_a_restart_of_the_server() {
    if !possible() {
        return;
    }
    let mut world = World::start(&["--pool", "0"]);
    let id = world.sandbox();
    let port_before = port(world.dir.path());
    let line = "i=0; while [ $i -lt 50 ]; do echo $i; sleep 0.05; i=$((i+1)); done; exit 3";
    let mut follower = command(["exec", &id, "--", "sh", "-c", line])
        .env("STACYVM_SERVER", &world.url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 4];
    std::io::Read::read_exact(follower.stdout.as_mut().unwrap(), &mut first).unwrap();
    world.server.kill().unwrap();
    world.server.wait().unwrap();
    fs::remove_file(world.dir.path().join("port")).unwrap();
    let listen = format!("127.0.0.1:{port_before}");
    world.server = serve_at(world.dir.path(), &listen);
    port(world.dir.path());
    let output = follower.wait_with_output().unwrap();
    let text = [&first[..], &output.stdout].concat();
    let wanted: String = (0..50).map(|n| format!("{n}\n")).collect();
    assert_eq!((output.status.code(), String::from_utf8(text).unwrap()), (Some(3), wanted));
}

fn serve_at(dir: &Path, listen: &str) -> std::process::Child {
    let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = command(["serve", "--pool", "0", "--listen", listen, "--data-dir"]);
    command.arg(dir.join("data")).arg("--port-file").arg(dir.join("port"));
    command.stderr(log).spawn().unwrap()
}

/// R1.2: a real terminal at both ends; `tests/end_to_end/terminal.py` holds the other end.
#[test]
fn a_terminal_is_a_terminal_and_is_given_back() {
    if !possible() {
        return;
    }
    let world = World::start(&["--pool", "0"]);
    let id = world.sandbox();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end/terminal.py");
    let data = world.dir.path().join("run");
    let mut child = Command::new("python3")
        .args([script, BINARY, &id])
        .arg(&data)
        .env("STACYVM_SERVER", &world.url)
        .env("TERM", "xterm")
        .spawn()
        .unwrap();
    let status = wait_for("the terminal's end", || child.try_wait().unwrap());
    assert!(status.success(), "see above; limit {LIMIT:?}");
    nothing_is_left(&data);
}
