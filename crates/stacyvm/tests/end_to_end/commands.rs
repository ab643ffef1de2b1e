//! The commands against a server.

use std::fs;

use crate::world::{Said, World, command};

#[test]
fn a_sandbox_is_made_shown_and_ended() {
    let world = World::mock();
    let made = world.run(["spawn", "--ttl", "10m", "--metadata", "k=v\u{1b}[31m"]);
    let id = made.out.trim();
    assert!(id.starts_with("sb-") && made.err.contains("mock"), "{made:?}");
    let list = world.out(&["ls"]);
    assert!(list.starts_with("ID ") && list.contains(id), "{list}");
    assert_eq!(world.out(&["ls", "-q"]).trim(), id);
    let shown = world.out(&["get", id]);
    assert!(shown.contains("k=v\\u{1b}[31m"), "what a client stored is escaped: {shown:?}");
    assert_eq!(world.run(["extend", id, "1h"]).code, 0);
    assert_eq!(world.run(["kill", id]).code, 0);
    assert_eq!(world.run(["ls"]).err, "No sandboxes\n");
    assert!(world.out(&["ls", "-a"]).contains("destroyed"));
    assert!(world.out(&["get", id]).contains("requested"));
}

/// R5.7: a verb for each thing that is done to a worker.
#[test]
fn a_worker_is_shown_drained_and_let_in_again() {
    let world = World::mock();
    let id = world.sandbox();
    let list = world.out(&["workers"]);
    assert!(list.starts_with("ID ") && list.contains("local  online  1"), "{list}");
    assert_eq!(world.out(&["workers", "ls"]), list);
    let shown = world.out(&["workers", "get", "local"]);
    assert!(shown.contains("mock (ready, default"), "{shown}");
    let drained = world.run(["drain", "local"]);
    assert_eq!((drained.code, drained.out.as_str()), (0, ""));
    assert!(drained.err.contains("it is draining, sandboxes: 1"), "{drained:?}");
    assert_eq!(world.run(["spawn"]).code, 4);
    assert_eq!(world.run(["workers", "remove", "local"]).code, 4, "it holds a sandbox");
    let undone = world.out(&["-o", "json", "drain", "local", "--undo"]);
    assert!(undone.starts_with("{\"id\":\"local\"") && undone.contains("online"), "{undone}");
    assert_eq!(world.run(["spawn"]).code, 0);
    assert_eq!(world.run(["workers", "drain", "w9"]).code, 3);
    assert_eq!(world.run(["kill", id.trim()]).code, 0);
    let json = world.out(&["-o", "json", "workers"]);
    assert!(json.starts_with("[{\"id\":\"local\""), "{json}");
}

#[test]
fn json_is_what_the_api_answers() {
    let world = World::mock();
    let made = world.run(["-o", "json", "spawn"]);
    assert!(made.err.is_empty() && made.out.starts_with("{\"id\":\"sb-"), "{made:?}");
    let list = world.out(&["ls", "--output", "json"]);
    assert_eq!(list.trim(), format!("[{}]", made.out.trim()));
    let id = &made.out[7..30];
    let ran = world.run(["-o", "json", "exec", id, "--", "sh", "-c", "echo hi; exit 3"]);
    assert_eq!(ran.code, 3);
    assert!(ran.out.contains("\"stdout\":\"hi\\n\""), "{ran:?}");
    assert!(world.out(&["-o", "json", "health"]).starts_with("{\"status\":\"ready\""));
}

/// R1.2: the command's own streams and exit code.
#[test]
fn exec_is_the_command_to_its_caller() {
    let world = World::mock();
    let id = &world.sandbox();
    let ran = world.run(["exec", id, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(ran, Said { code: 7, out: "out\n".to_owned(), err: "err\n".to_owned() });
    let ran = world.run(["exec", id, "-e", "A=b c", "--shell", "--", "echo", "$A|", "cat"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "b c\n"));
    let big = vec![b'x'; 3 << 20];
    let ran = world.run_with(&["exec", "-i", id, "--", "cat"], &big);
    assert_eq!((ran.code, ran.out.len()), (0, big.len()), "{}", ran.err);
    assert_eq!(world.run(["exec", id, "--", "cat"]).code, 0, "without -i there is no input");
    let killed = world.run(["exec", id, "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 137);
}

#[test]
fn exec_tells_its_own_failures_from_the_commands() {
    let world = World::mock();
    let id = &world.sandbox();
    let slow = world.run(["exec", id, "--timeout", "200ms", "--", "sleep", "30"]);
    assert_eq!(slow.code, 124, "{slow:?}");
    assert_eq!(world.run(["exec", id, "--", "/nonexistent"]).code, 126);
    let unknown = world.run(["exec", "sb-00000000000000000000", "--", "true"]);
    assert_eq!((unknown.code, unknown.out.as_str()), (125, ""));
    assert_eq!(world.run(["exec", id]).code, 2);
    assert_eq!(world.run(["exec", id, "-it", "--", "sh"]).code, 2);
    let nowhere = command(["--server", "http://127.0.0.1:1", "exec", id, "--", "true"]).output();
    assert_eq!(Said::from(nowhere.unwrap()).code, 125);
}

#[test]
fn mistakes_are_answered_with_a_sentence_and_a_code() {
    let world = World::mock();
    for (args, code, word) in [
        (&["get", "sb-00000000000000000000"][..], 3, "not found"),
        (&["get", "nonsense"], 2, "20 lower-case hex digits"),
        (&["--nonsense"], 2, "--nonsense"),
        (&["spawn", "--ttl", "5 days"], 2, "90s or 1h30m"),
        (&["spawn", "--metadata", "x"], 2, "KEY=VALUE"),
        (&["--server", "https://x", "ls"], 2, "http://"),
        (&["--server", "http://127.0.0.1:1", "ls"], 5, "stacyvm serve"),
        (&["templates", "get", "none"], 3, "not found"),
        (&["cp", "/a", "/b"], 2, "ID:/path"),
        (&["image", "ls"], 1, "no worker that imports images"),
    ] {
        let said = world.run(args);
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        assert!(said.out.is_empty() && said.err.contains(word), "{args:?}: {said:?}");
    }
}

/// R1.3
#[test]
fn files_go_in_and_out() {
    let world = World::mock();
    let id = &world.sandbox();
    let here = world.dir.path().join("tree");
    fs::create_dir_all(here.join("sub")).unwrap();
    fs::write(here.join("one"), [0, 255, 10, 13]).unwrap();
    fs::write(here.join("sub/two"), "two").unwrap();
    let there = &format!("{id}:/workspace/there");
    let (from, back) = (here.to_str().unwrap(), world.dir.path().join("back"));
    assert_eq!(world.run(["cp", from, there]).err, "2 files copied\n");
    assert_eq!(world.out(&["files", "glob", id, "/workspace/there/**/two"]).trim(), {
        "/workspace/there/sub/two"
    });
    assert_eq!(world.run(["cp", there, back.to_str().unwrap()]).code, 0);
    assert_eq!(fs::read(back.join("one")).unwrap(), [0, 255, 10, 13]);
    assert_eq!(fs::read(back.join("sub/two")).unwrap(), b"two");
    let file = &format!("{id}:/workspace/piped");
    assert_eq!(world.run_with(&["cp", "-", file], b"bytes\0").code, 0);
    assert_eq!(world.out(&["cp", file, "-"]), "bytes\0");
    assert_eq!(world.out(&["files", "cat", id, "/workspace/piped"]), "bytes\0");
    assert_eq!(world.run(["files", "chmod", id, "0700", "/workspace/piped"]).code, 0);
    assert!(world.out(&["files", "stat", id, "/workspace/piped"]).contains("- 0700  6 "));
    assert_eq!(world.run(["files", "mv", id, "/workspace/piped", "/workspace/moved"]).code, 0);
    assert_eq!(world.run(["files", "cat", id, "/workspace/piped"]).code, 3);
    assert_eq!(world.run(["files", "rm", "-r", id, "/workspace/there"]).code, 0);
    let put = world.run_with(&["files", "put", id, "/workspace/p", "--mode", "0600"], b"abc");
    assert_eq!(put.code, 0, "{put:?}");
    assert!(world.out(&["files", "ls", id]).contains("- 0600  3 "));
}

/// Names are chosen inside: none of them may steer the terminal or leave the target directory.
#[test]
fn names_from_a_sandbox_are_not_trusted() {
    let world = World::mock();
    let id = &world.sandbox();
    let line = "printf x > \"$(printf 'evil\\033[2Jname')\"; ln -s /etc link; mkdir sub";
    assert_eq!(world.run(["exec", id, "--shell", "--", line]).code, 0);
    let listed = world.out(&["files", "ls", id]);
    assert!(listed.contains("evil\\u{1b}[2Jname") && !listed.contains('\u{1b}'), "{listed:?}");
    let back = world.dir.path().join("back");
    let copied = world.run(["cp", &format!("{id}:/workspace"), back.to_str().unwrap()]);
    assert!(copied.code == 1 && copied.err.contains("link: it is a link"), "{copied:?}");
    assert!(!copied.err.contains('\u{1b}'));
    assert!(back.join("evil\u{1b}[2Jname").is_file() && back.join("sub").is_dir());
    assert!(!back.join("link").exists());
}

/// R1.4, R2.5
#[test]
fn templates_and_events_are_shown() {
    let world = World::mock();
    assert_eq!(world.run(["templates", "save", "py", "--image", "host", "--ttl", "1h"]).code, 0);
    assert_eq!(world.run(["templates", "save", "py", "--vcpus", "2"]).code, 0);
    assert!(world.out(&["templates", "ls"]).contains("512 MiB  2      1h0m0s"));
    let id = world.out(&["templates", "spawn", "py"]);
    assert_eq!(world.run(["templates", "rm", "py"]).code, 0);
    let events = world.out(&["events", "--type", "sandbox.running"]);
    assert!(events.contains("evt-") && events.contains(id.trim()), "{events}");
}

#[test]
fn completions_and_version_need_no_server() {
    for shell in ["bash", "zsh", "fish"] {
        let said: Said = command(["completions", shell]).output().unwrap().into();
        assert!(said.code == 0 && said.out.contains("spawn"), "{shell}");
    }
    let said: Said = command(["version"]).output().unwrap().into();
    assert!(said.out.starts_with("stacyvm 0."), "{said:?}");
}
