//! Commands through a real agent.

#![expect(dead_code, reason = "each test program uses a part of what they share")]
#![expect(clippy::unwrap_used, reason = "what the tests share fails by panic, as they do")]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{LIMIT, Sandbox, argv, finish, next, run, shell, until};
use futures_util::StreamExt;
use stacyvm_provider::{ErrorKind, ExecEvent, ExecInput, Exit, Guest, Size, Stdin};

#[tokio::test]
async fn a_command_says_what_it_has_to_say_and_how_it_ended() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let ran = sandbox.sh("echo out; echo err >&2; exit 3").await;
    assert_eq!(
        (ran.out(), &ran.stderr[..], ran.exit),
        ("out\n", &b"err\n"[..], Some(Exit::Code(3)))
    );
    assert_eq!(sandbox.sh("kill -9 $$").await.exit, Some(Exit::Signal(9)));
    let ran = run(&sandbox.guest, argv(&["printf", "%s|", "a b", "$HOME", ""])).await;
    assert_eq!(ran.out(), "a b|$HOME||");
}

#[tokio::test]
async fn the_environment_is_the_documented_one_and_the_request_wins() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let mut spec = shell("echo $PATH $HOME $LANG $USER $TERM $X; pwd");
    spec.env.insert("X".into(), "y=z".into());
    spec.env.insert("LANG".into(), "C".into());
    spec.workdir = Some("/usr".into());
    let ran = run(&sandbox.guest, spec).await;
    assert_eq!(
        ran.out(),
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /root C root y=z\n/usr\n"
    );
}

#[tokio::test]
async fn a_command_can_run_as_another_user_who_owns_its_streams() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let mut spec = shell("id -u; id -g; echo to-stdout > /dev/stdout; kill -9 1; kill -0 1");
    spec.user = Some("nobody".into());
    let ran = run(&sandbox.guest, spec).await;
    assert!(ran.out().starts_with("65534\n65534\nto-stdout\n"), "{ran:?}");
    let mut spec = shell("id -u; id -G");
    spec.user = Some("1234:77".into());
    assert_eq!(run(&sandbox.guest, spec).await.out(), "1234\n77\n");
    let mut spec = shell("true");
    spec.user = Some("no-such-user".into());
    assert_eq!(sandbox.guest.exec(spec).await.err().unwrap().kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn what_cannot_run_is_a_sentence() {
    let Some(sandbox) = Sandbox::start().await else { return };
    for program in ["no-such-program", "/etc/passwd", "/usr", "/no/such/path"] {
        let error = sandbox.guest.exec(argv(&[program])).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::NotExecutable, "{error:?}");
        assert!(error.message.contains(program), "{error:?}");
    }
    let mut spec = shell("true");
    spec.workdir = Some("/no/such/dir".into());
    assert_eq!(sandbox.guest.exec(spec).await.err().unwrap().kind, ErrorKind::NotFound);
    assert_eq!(sandbox.guest.exec(argv(&[])).await.err().unwrap().kind, ErrorKind::Invalid);
    let unknown = sandbox.guest.attach(&common::id(), 0).await;
    assert_eq!(unknown.err().unwrap().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn the_same_id_starts_nothing_twice() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let file = sandbox.path("count");
    let spec = shell(&format!("echo x >> {file}; echo done"));
    assert_eq!(run(&sandbox.guest, spec.clone()).await.out(), "done\n");
    let again = run(&sandbox.guest, spec).await;
    assert_eq!((again.out(), again.exit), ("done\n", Some(Exit::Code(0))));
    assert_eq!(sandbox.get(&file).await, b"x\n");
}

#[tokio::test]
async fn the_deadline_kills_what_left_its_session_and_its_parent() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let marker = sandbox.path("alive");
    let mut spec = shell(&format!(
        "setsid sh -c 'while :; do echo x >> {marker}; sleep 0.02; done' & \
         (setsid sh -c '(while :; do sleep 0.01; done) & while :; do sleep 0.5; done' &) ; \
         sh -c 'sleep 1000 & sleep 1000 & exit 0'; echo started; sleep 1000"
    ));
    spec.deadline = Some(Duration::from_millis(300));
    let started = Instant::now();
    let ran = run(&sandbox.guest, spec).await;
    assert_eq!((ran.out(), ran.exit), ("started\n", Some(Exit::Timeout)));
    assert!(started.elapsed() < Duration::from_secs(5));
    let left = sandbox.sh("ps -A -o stat=,comm= | grep -v -e '^Z' -e ' ps$' -e ' grep$'").await;
    let left: Vec<&str> = left.out().lines().collect();
    assert_eq!(left.len(), 2, "only the agent and this shell: {left:?}");
}

#[tokio::test]
async fn what_a_command_leaves_behind_lives_on_and_does_not_hold_its_end_up() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let started = Instant::now();
    let file = sandbox.path("late");
    let line = format!("(sleep 0.3; echo late; echo survived > {file}) & echo now");
    let ran = sandbox.sh(&line).await;
    assert_eq!((ran.out(), ran.exit), ("now\n", Some(Exit::Code(0))));
    assert!(started.elapsed() < Duration::from_millis(250));
    while sandbox.guest.stat(&file).await.is_err() {
        assert!(started.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(sandbox.guest.logs(1).await.unwrap(), ["late"]);
}

#[tokio::test]
async fn a_slow_reader_slows_the_command_and_loses_nothing() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let mut exec = sandbox.guest.exec(shell("seq 1 2000000")).await.unwrap();
    let first = next(&mut exec).await.unwrap();
    let ExecEvent::Output { data, .. } = first else { panic!("{first:?}") };
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The agent still answers while it holds the command back.
    assert_eq!(sandbox.sh("echo quick").await.out(), "quick\n");
    let rest = finish(exec, data.len() as u64).await;
    let expected: String = (1..=2_000_000).map(|n| format!("{n}\n")).collect();
    assert!([&data[..], &rest.stdout].concat() == expected.as_bytes());
    assert_eq!(rest.exit, Some(Exit::Code(0)));
}

#[tokio::test]
async fn a_reader_comes_back_by_offset_and_no_byte_is_lost_or_doubled() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let spec = shell("for n in $(seq 1 300); do echo line $n; sleep 0.001; done; echo é");
    let id = spec.id.clone();
    let mut text = Vec::new();
    let mut exec = Some(sandbox.guest.exec(spec).await.unwrap());
    let mut offset = 0;
    let mut turns = 0;
    let exit = loop {
        let mut current = match exec.take() {
            Some(exec) => exec,
            None => sandbox.other_guest().attach(&id, offset).await.unwrap(),
        };
        turns += 1;
        let wanted = if turns < 20 { 3 } else { usize::MAX };
        let mut exit = None;
        for _ in 0..wanted {
            match next(&mut current).await {
                Some(ExecEvent::Output { offset: at, data, .. }) => {
                    assert_eq!(at, offset);
                    offset += data.len() as u64;
                    text.extend_from_slice(&data);
                }
                Some(ExecEvent::Exit(end)) => {
                    exit = Some(end);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        if let Some(exit) = exit {
            break exit;
        }
    };
    let expected: String = (1..=300).map(|n| format!("line {n}\n")).collect::<String>() + "é\n";
    assert_eq!((String::from_utf8(text).unwrap(), exit), (expected, Exit::Code(0)));
    let over = sandbox.guest.attach(&id, offset).await.unwrap();
    let last = finish(over, offset).await;
    assert_eq!((last.out(), last.exit), ("", Some(Exit::Code(0))));
    let beyond = sandbox.guest.attach(&id, offset + 1).await;
    assert_eq!(beyond.err().unwrap().kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn without_a_reader_a_command_waits_at_a_full_journal() {
    // However slow this machine is.
    let Some(sandbox) = Sandbox::start_with(&["--reader-grace", "3600"]).await else { return };
    let done = sandbox.path("done");
    let spec = shell(&format!("head -c 1500000 /dev/zero; touch {done}"));
    let id = spec.id.clone();
    drop(sandbox.guest.exec(spec).await.unwrap());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(sandbox.guest.stat(&done).await.err().unwrap().kind, ErrorKind::NotFound);
    let ran = finish(sandbox.guest.attach(&id, 0).await.unwrap(), 0).await;
    assert_eq!((ran.stdout.len(), ran.truncated), (1_500_000, false));
}

#[tokio::test]
async fn after_the_grace_the_oldest_output_gives_way_and_the_reader_is_told() {
    let Some(sandbox) = Sandbox::start_with(&["--reader-grace", "1"]).await else { return };
    let done = sandbox.path("done");
    let spec = shell(&format!("head -c 3000000 /dev/zero; printf end; touch {done}"));
    let id = spec.id.clone();
    drop(sandbox.guest.exec(spec).await.unwrap());
    let begun = Instant::now();
    while sandbox.guest.stat(&done).await.is_err() {
        assert!(begun.elapsed() < LIMIT, "the command waits for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ran = finish(sandbox.guest.attach(&id, 0).await.unwrap(), 0).await;
    assert!(ran.truncated && ran.stdout.ends_with(b"end"));
    assert_eq!((ran.next, ran.stdout.len()), (3_000_003, 1 << 20));
}

#[tokio::test]
async fn input_flows_to_its_end() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let mut spec = shell("sleep 0.1; wc -c");
    spec.stdin = Stdin::Pipe;
    let mut exec = sandbox.guest.exec(spec).await.unwrap();
    let piece = Bytes::from(vec![b'x'; 100_000]);
    for _ in 0..30 {
        exec.input.send(ExecInput::Data(piece.clone())).await.unwrap();
    }
    exec.input.send(ExecInput::Eof).await.unwrap();
    assert_eq!(until(&mut exec, "\n").await, "3000000\n");
    assert_eq!(finish(exec, 8).await.exit, Some(Exit::Code(0)));
    // A command without input sees its end at once.
    assert_eq!(sandbox.sh("cat; echo end").await.out(), "end\n");
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let line = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    let mut exec = sandbox.guest.exec(shell(line)).await.unwrap();
    until(&mut exec, "ready\n").await;
    exec.input.send(ExecInput::Signal(15)).await.unwrap();
    until(&mut exec, "caught\n").await;
    assert_eq!(finish(exec, 13).await.exit, Some(Exit::Code(5)));
}

#[tokio::test]
async fn a_terminal_has_a_size_that_can_change_and_an_end_of_input() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let mut spec = shell(
        "tty >/dev/null && echo $TERM; stty size; trap 'stty size' WINCH; \
         echo ready; while ! read -r line; do :; done; echo got $line; cat; echo bye",
    );
    spec.stdin = Stdin::Pipe;
    spec.terminal = Some(Size { rows: 24, cols: 80 });
    let mut exec = sandbox.guest.exec(spec).await.unwrap();
    let text = until(&mut exec, "ready\r\n").await;
    assert_eq!(text, "xterm-256color\r\n24 80\r\nready\r\n");
    exec.input.send(ExecInput::Resize(Size { rows: 50, cols: 132 })).await.unwrap();
    exec.input.send(ExecInput::Data(Bytes::from_static(b"hello\n"))).await.unwrap();
    let text = until(&mut exec, "got hello\r\n").await;
    assert!(text.contains("50 132"), "{text:?}");
    exec.input.send(ExecInput::Eof).await.unwrap();
    let text = until(&mut exec, "bye\r\n").await;
    assert!(!text.contains("got"), "{text:?}");
    while let Some(event) = exec.events.next().await {
        if let ExecEvent::Exit(exit) = event.unwrap() {
            assert_eq!(exit, Exit::Code(0));
        }
    }
}

#[tokio::test]
async fn a_piece_never_ends_within_a_character() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let line = r"printf '\303'; sleep 0.05; printf '\251'; sleep 0.05; printf '\303'";
    let mut exec = sandbox.guest.exec(shell(line)).await.unwrap();
    let mut pieces = Vec::new();
    while let Some(event) = next(&mut exec).await {
        if let ExecEvent::Output { data, .. } = event {
            pieces.push(data.to_vec());
        }
    }
    assert_eq!(pieces, ["é".as_bytes().to_vec(), b"\xc3".to_vec()]);
}

#[tokio::test]
async fn commands_cannot_look_into_the_agent() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let ran = sandbox.sh("ls /proc/$$/fd | wc -l; ls -l /proc/self/fd | grep -c socket").await;
    assert!(ran.out().ends_with("\n0\n"), "{ran:?}");
    let mut spec = shell("cat /proc/1/maps; cat /proc/1/environ; ls /proc/1/fd");
    spec.user = Some("nobody".into());
    assert_eq!(run(&sandbox.guest, spec).await.out(), "");
}

#[tokio::test]
async fn many_commands_at_once_all_end() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let runs = (0..100).map(|n| {
        let guest = &sandbox.guest;
        async move { (n, run(guest, shell(&format!("echo {n}; exit {}", n % 7))).await) }
    });
    for (n, ran) in futures_util::future::join_all(runs).await {
        assert_eq!((ran.out(), ran.exit), (&*format!("{n}\n"), Some(Exit::Code(n % 7))));
    }
}

#[tokio::test]
async fn an_idle_session_closes_its_connection_and_the_next_call_opens_another() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let sockets = "ls -l /proc/1/fd | grep -c socket";
    assert_eq!(sandbox.sh(sockets).await.out(), "2\n");
    let (other, begun) = (sandbox.other_guest(), Instant::now());
    while run(&other, shell(sockets)).await.out() != "2\n" {
        assert!(begun.elapsed() < 10 * LIMIT, "the idle session stays");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(sandbox.sh(sockets).await.out(), "3\n");
}
