//! Real sandboxes behind the built binary: `run`, terminals, a server that comes back. As root and
//! as a plain user; ignored where this host gives too little, with the reason in the name.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

#[path = "end_to_end/world.rs"]
mod world;

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
};

use libtest_mimic::{Arguments, Trial};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use world::{BINARY, Said, World, command, port, wait_for};

const TESTS: &[(&str, fn())] = &[
    ("run_is_the_command_to_its_caller_and_leaves_nothing", run_is_the_command),
    ("an_interrupted_run_leaves_nothing", an_interrupted_run),
    ("the_next_run_cleans_up_after_a_killed_one", the_next_run_cleans_up),
    ("a_command_is_followed_over_a_restart_of_the_server", a_restart),
    ("a_terminal_is_a_terminal_and_is_given_back", a_terminal),
];

fn main() -> ExitCode {
    let data = tempfile::tempdir().unwrap();
    let doctor = command(["doctor", "--data-dir"]).arg(data.path()).output().unwrap();
    let ignored = (!doctor.status.success()).then_some("stacyvm doctor says no");
    let trial = |name: &str, ignored: Option<&str>, test: fn()| {
        let name = ignored.map_or_else(|| name.to_owned(), |why| format!("{name} ({why})"));
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(ignored.is_some())
    };
    let mut trials: Vec<_> = TESTS.iter().map(|(name, test)| trial(name, ignored, *test)).collect();
    let no_root = (!geteuid().is_root()).then_some("needs root to become another user");
    trials.push(trial("a_plain_user_can_run_too", no_root, a_plain_user));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn ended(child: &mut Child) -> i32 {
    wait_for("the end of a process", || child.try_wait().unwrap()).code().unwrap_or(-1)
}

fn first_bytes<const N: usize>(child: &mut Child) -> [u8; N] {
    let mut bytes = [0; N];
    child.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

fn run(data: &Path, args: &[&str]) -> Command {
    let mut command = command(["run", "--data-dir"]);
    command.arg(data).args(args);
    command
}

fn nothing_is_left(data: &Path) {
    let left: Vec<_> = fs::read_dir(data.join("oneshot")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let data = data.canonicalize().unwrap();
    for place in ["/run", "/dev/shm"] {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let home = fs::read_link(entry.path().join("home"));
            assert!(!home.is_ok_and(|home| home.starts_with(&data)), "{:?} is left", entry.path());
        }
    }
}

/// R1.11
fn run_is_the_command() {
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
fn an_interrupted_run() {
    let data = tempfile::tempdir().unwrap();
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let args = ["--", "sh", "-c", "echo ready; exec sleep 300"];
        let mut child = run(data.path(), &args).stdout(Stdio::piped()).spawn().unwrap();
        let _: [u8; 6] = first_bytes(&mut child);
        kill_process(Pid::from_child(&child), number).unwrap();
        assert_eq!(ended(&mut child), code);
        nothing_is_left(data.path());
    }
    let yes = ["--", "sh", "-c", "while :; do echo y; done"];
    let mut child = run(data.path(), &yes).stdout(Stdio::piped()).spawn().unwrap();
    let _: [u8; 6] = first_bytes(&mut child);
    drop(child.stdout.take());
    assert_eq!(ended(&mut child), 141);
    nothing_is_left(data.path());
}

/// R1.11: what a killed run could not clean up, the next one does.
fn the_next_run_cleans_up() {
    let data = tempfile::tempdir().unwrap();
    let args = ["--", "sh", "-c", "echo ready; exec sleep 300"];
    let mut child = run(data.path(), &args).stdout(Stdio::piped()).spawn().unwrap();
    let _: [u8; 6] = first_bytes(&mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(run(data.path(), &["--", "true"]).status().unwrap().code(), Some(0));
    nothing_is_left(data.path());
}

/// R1.8: live sandboxes outlast the server, and a command's stream goes on where it was.
fn a_restart() {
    let mut world = World::start(&["--pool", "0"]);
    let id = world.sandbox();
    let port_before = port(world.dir.path());
    let line = "i=0; while [ $i -lt 50 ]; do echo $i; sleep 0.05; i=$((i+1)); done; exit 3";
    let mut follower = command(["exec", &id, "--", "sh", "-c", line])
        .env("STACYVM_SERVER", &world.url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let first: [u8; 4] = first_bytes(&mut follower);
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

/// R1.2: a real terminal at both ends; `tests/terminal.py` holds the other end.
fn a_terminal() {
    let world = World::start(&["--pool", "0"]);
    let id = world.sandbox();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/terminal.py");
    let data = world.dir.path().join("run");
    let mut child = Command::new("python3")
        .args([script, BINARY, &id])
        .arg(&data)
        .env("STACYVM_SERVER", &world.url)
        .env("TERM", "xterm")
        .spawn()
        .unwrap();
    let status = wait_for("the terminal's end", || child.try_wait().unwrap());
    assert!(status.success(), "see above");
    nothing_is_left(&data);
}

/// R1.11: without root, in a home directory of its own.
fn a_plain_user() {
    let home = tempfile::Builder::new().prefix("stacyvm").tempdir_in("/tmp").unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let binary = home.path().join("stacyvm");
    fs::copy(BINARY, &binary).unwrap();
    let ran = Command::new("setpriv")
        .args(["--reuid", "23456", "--regid", "23456", "--clear-groups", "--"])
        .arg(&binary)
        .args(["run", "--", "sh", "-c", "id -u; exit 4"])
        .env("HOME", home.path())
        .env_remove("XDG_DATA_HOME")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = Said::from(ran);
    assert_eq!(said, Said { code: 4, out: "0\n".to_owned(), err: String::new() });
    nothing_is_left(&home.path().join(".local/share/stacyvm"));
}
