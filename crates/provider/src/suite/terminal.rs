//! Terminals.

use bytes::Bytes;
use futures_util::StreamExt;

use super::{
    Scene, list,
    scene::{collect_from, shell, soon},
};
use crate::{Exec, ExecEvent, ExecInput, ExecSpec, Exit, Output, Size, Stdin};

list! {
    a_terminal_has_the_asked_size if |c| c.pty;
    a_terminal_can_be_resized if |c| c.pty;
    a_terminal_says_everything_on_one_stream if |c| c.pty;
    keys_typed_into_a_terminal_arrive if |c| c.pty;
    an_interrupt_key_ends_the_command if |c| c.pty;
    a_terminal_whose_child_lives_on_ends_with_its_command if |c| c.pty;
}

fn on_terminal(line: &str) -> ExecSpec {
    let terminal = Some(Size { rows: 33, cols: 101 });
    ExecSpec { terminal, stdin: Stdin::Pipe, ..shell(line) }
}

async fn said(exec: &mut Exec, wanted: &str) {
    let mut text = String::new();
    soon(wanted, async {
        while !text.contains(wanted) {
            match exec.events.next().await.unwrap().unwrap() {
                ExecEvent::Output { data, .. } => text.push_str(&String::from_utf8_lossy(&data)),
                other => panic!("{other:?} after {text:?}, before {wanted:?}"),
            }
        }
    })
    .await;
}

async fn a_terminal_has_the_asked_size(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let line = "test -t 0 && test -t 1 && test -t 2 && test -n \"$TERM\" && stty size";
    assert_eq!(sandbox.run(on_terminal(line)).await.text(), "33 101");
}

async fn a_terminal_can_be_resized(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let line = "trap 'stty size' WINCH; echo up; while :; do sleep 0.02; done";
    let mut exec = sandbox.guest.exec(on_terminal(line)).await.unwrap();
    said(&mut exec, "up").await;
    exec.input.send(ExecInput::Resize(Size { rows: 50, cols: 132 })).await.unwrap();
    said(&mut exec, "50 132").await;
    exec.input.send(ExecInput::Signal(9)).await.unwrap();
}

async fn a_terminal_says_everything_on_one_stream(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let done = sandbox.run(on_terminal("echo out; echo err >&2")).await;
    assert!(done.combined.iter().all(|(stream, _)| *stream == Output::Stdout));
    assert_eq!(done.stdout, b"out\r\nerr\r\n");
    assert_eq!(done.exit, Exit::Code(0));
}

async fn keys_typed_into_a_terminal_arrive(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let exec = sandbox.guest.exec(on_terminal("read line; echo got $line; cat")).await.unwrap();
    exec.input.send(ExecInput::Data(Bytes::from_static(b"hello\n"))).await.unwrap();
    exec.input.send(ExecInput::Data(Bytes::from_static(b"\x04"))).await.unwrap();
    let done = soon("the end", collect_from(exec, 0)).await;
    assert!(done.text().ends_with("got hello"), "{:?}", done.text());
}

async fn an_interrupt_key_ends_the_command(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let mut exec = sandbox.guest.exec(on_terminal("echo up; exec sleep 1000")).await.unwrap();
    said(&mut exec, "up").await;
    exec.input.send(ExecInput::Data(Bytes::from_static(b"\x03"))).await.unwrap();
    let end = soon("the end", async {
        loop {
            if let ExecEvent::Exit(exit) = exec.events.next().await.unwrap().unwrap() {
                break exit;
            }
        }
    });
    assert_eq!(end.await, Exit::Signal(2));
}

async fn a_terminal_whose_child_lives_on_ends_with_its_command(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let line = "(trap '' HUP; exec sleep 1000) & sleep 0.1; echo done";
    let done = sandbox.run(on_terminal(line)).await;
    assert_eq!((done.exit, done.text()), (Exit::Code(0), "done".into()));
}
