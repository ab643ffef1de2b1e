//! Starting commands, what they are given, and how they end.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use stacyvm_types::ExecId;
use tokio::{join, time};

use super::{
    Scene, list,
    scene::{argv, collect_from, eventually, shell, soon},
};
use crate::{ErrorKind, ExecEvent, ExecInput, ExecSpec, Exit, Stdin};

list! {
    a_shell_line_runs_in_sh if |_| true;
    arguments_arrive_as_they_were_given if |_| true;
    exit_codes_are_the_commands_own if |_| true;
    a_killed_command_tells_its_signal if |_| true;
    a_missing_program_is_not_executable if |_| true;
    a_file_that_is_no_program_is_not_executable if |_| true;
    an_empty_command_is_invalid if |_| true;
    an_id_that_was_started_starts_nothing_again if |_| true;
    two_starts_of_one_id_at_once_run_it_once if |_| true;
    an_unknown_exec_is_not_found if |_| true;
    standard_input_arrives_whole_and_ends if |_| true;
    without_standard_input_a_command_reads_its_end if |_| true;
    input_for_a_command_that_does_not_read_is_held_back if |_| true;
    a_signal_reaches_the_commands_group if |_| true;
    a_signal_passes_input_that_nobody_reads if |_| true;
    many_commands_run_at_once if |_| true;
}

async fn a_shell_line_runs_in_sh(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let done = sandbox.sh("echo out; echo err >&2; x=$((40+2)); echo $x | cat").await;
    assert_eq!(done.exit, Exit::Code(0));
    assert_eq!((&*done.stdout, &*done.stderr), (&b"out\n42\n"[..], &b"err\n"[..]));
}

async fn arguments_arrive_as_they_were_given(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let done = sandbox.run(argv(&["printf", "[%s]", "a b", "", "*", "$HOME", "ü\n'\""])).await;
    assert_eq!(done.stdout, "[a b][][*][$HOME][ü\n'\"]".as_bytes());
}

async fn exit_codes_are_the_commands_own(scene: Scene) {
    let sandbox = scene.sandbox().await;
    for code in [0, 1, 42, 127, 255] {
        assert_eq!(sandbox.sh(&format!("exit {code}")).await.exit, Exit::Code(code));
    }
}

async fn a_killed_command_tells_its_signal(scene: Scene) {
    let sandbox = scene.sandbox().await;
    for signal in [9, 15, 11] {
        assert_eq!(sandbox.sh(&format!("kill -{signal} $$")).await.exit, Exit::Signal(signal));
    }
}

async fn a_missing_program_is_not_executable(scene: Scene) {
    let sandbox = scene.sandbox().await;
    for program in ["no-such-program", "/no/such/program", "./missing"] {
        let error = sandbox.guest.exec(argv(&[program])).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::NotExecutable, "{program}: {error:?}");
    }
    assert_eq!(sandbox.sh("no-such-program").await.exit, Exit::Code(127));
}

async fn a_file_that_is_no_program_is_not_executable(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.put("/workspace/plain", "echo no").await;
    sandbox.put("/workspace/broken", vec![0x7f, b'E', b'L', b'F', 0, 0]).await;
    sandbox.guest.chmod("/workspace/broken", 0o755).await.unwrap();
    for program in ["./plain", "./broken", "/workspace"] {
        let error = sandbox.guest.exec(argv(&[program])).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::NotExecutable, "{program}: {error:?}");
    }
}

async fn an_empty_command_is_invalid(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let error = sandbox.guest.exec(argv(&[])).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Invalid);
}

async fn an_id_that_was_started_starts_nothing_again(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let spec = shell("echo run >> runs; echo said");
    for _ in 0..3 {
        let done = sandbox.run(spec.clone()).await;
        assert_eq!((done.exit, done.text()), (Exit::Code(0), "said".into()));
    }
    assert_eq!(sandbox.ok("wc -l < runs").await, "1");
}

async fn two_starts_of_one_id_at_once_run_it_once(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let spec = shell("echo run >> runs; echo said; sleep 0.1; echo more");
    let (one, two) = join!(sandbox.run(spec.clone()), sandbox.run(spec.clone()));
    assert_eq!((one.text(), two.text()), ("said\nmore".into(), "said\nmore".into()));
    assert_eq!(sandbox.ok("wc -l < runs").await, "1");
}

async fn an_unknown_exec_is_not_found(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let id = ExecId::parse("ex-0123456789abcdef0123").unwrap();
    let error = sandbox.guest.attach(&id, 0).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::NotFound);
}

async fn standard_input_arrives_whole_and_ends(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let spec = ExecSpec { stdin: Stdin::Pipe, ..shell("sha1sum | cut -d' ' -f1; echo end") };
    let exec = sandbox.guest.exec(spec).await.unwrap();
    let input = exec.input.clone();
    let send = async move {
        for piece in 0..100_u8 {
            input.send(ExecInput::Data(Bytes::from(vec![piece; 100_000]))).await.unwrap();
        }
        input.send(ExecInput::Eof).await.unwrap();
    };
    let (done, ()) = soon("10 MB of input", async { join!(collect_from(exec, 0), send) }).await;
    let pieces: Vec<u8> = (0..100_u8).flat_map(|piece| vec![piece; 100_000]).collect();
    sandbox.put("/workspace/same", pieces).await;
    let expected = sandbox.ok("sha1sum < same | cut -d' ' -f1; echo end").await;
    assert_eq!(done.text(), expected);
}

async fn without_standard_input_a_command_reads_its_end(scene: Scene) {
    let sandbox = scene.sandbox().await;
    assert_eq!(sandbox.ok("cat; echo end").await, "end");
}

async fn input_for_a_command_that_does_not_read_is_held_back(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let spec = ExecSpec { stdin: Stdin::Pipe, ..shell("sleep 1000") };
    let exec = sandbox.guest.exec(spec).await.unwrap();
    let mut sent = 0_u64;
    let piece = Bytes::from(vec![0; 64 << 10]);
    while time::timeout(Duration::from_millis(500), exec.input.send(ExecInput::Data(piece.clone())))
        .await
        .is_ok()
    {
        sent += piece.len() as u64;
        assert!(sent < 64 << 20, "{sent} bytes were taken for a command that reads nothing");
    }
    assert_eq!(sandbox.ok("echo lives").await, "lives");
}

async fn a_signal_reaches_the_commands_group(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let line = "exec 9>lock; flock 9; sleep 1000 & sleep 1000 & echo up; wait";
    let exec = sandbox.guest.exec(shell(line)).await.unwrap();
    let mut events = exec.events;
    let up = soon("the command starts", events.next()).await.unwrap().unwrap();
    assert!(matches!(up, ExecEvent::Output { .. }), "{up:?}");
    exec.input.send(ExecInput::Signal(15)).await.unwrap();
    let end = soon("the command ends", events.next()).await.unwrap().unwrap();
    assert_eq!(end, ExecEvent::Exit(Exit::Signal(15)));
    let free = || async { sandbox.sh("flock -n lock true").await.exit == Exit::Code(0) };
    eventually("the whole group ended", free).await;
}

async fn a_signal_passes_input_that_nobody_reads(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let spec = ExecSpec { stdin: Stdin::Pipe, ..shell("exec sleep 1000") };
    let exec = sandbox.guest.exec(spec).await.unwrap();
    exec.input.send(ExecInput::Data(Bytes::from(vec![0; 256 << 10]))).await.unwrap();
    exec.input.send(ExecInput::Signal(15)).await.unwrap();
    let done = soon("the signal ends it", collect_from(exec, 0)).await;
    assert_eq!(done.exit, Exit::Signal(15));
}

async fn many_commands_run_at_once(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let lines: Vec<String> = (0..24).map(|n| format!("sleep 0.1; echo {n}")).collect();
    let all = lines.iter().map(|line| sandbox.ok(line));
    let texts = futures_util::future::join_all(all).await;
    let expected: Vec<String> = (0..24).map(|n| n.to_string()).collect();
    assert_eq!(texts, expected);
}
