//! Commands and events that are followed, also over a network that breaks.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use stacyvm_client::{Error, EventsFrom, Frame, OutputStream, SessionInput};
use tokio::time::timeout;

use crate::{shell, world::World};

const LIMIT: Duration = Duration::from_secs(60);
/// Writes 200 lines, slowly enough for several connections to break in between.
const LINES: &str = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; exit 4";

fn lines() -> String {
    (0..200).map(|n| format!("line {n}\n")).collect()
}

async fn all(frames: impl Stream<Item = stacyvm_client::Result<Frame>> + Unpin) -> (String, i32) {
    let mut text = Vec::new();
    let ended = timeout(LIMIT, collected(frames, &mut text)).await;
    let Ok(code) = ended else {
        panic!("no exit, after {:?}", String::from_utf8_lossy(&text));
    };
    (String::from_utf8(text).unwrap(), code)
}

async fn collected(
    mut frames: impl Stream<Item = stacyvm_client::Result<Frame>> + Unpin,
    text: &mut Vec<u8>,
) -> i32 {
    while let Some(frame) = frames.next().await {
        match frame.unwrap() {
            Frame::Output(chunk) => text.extend_from_slice(&chunk.data),
            Frame::Truncated { .. } => text.extend_from_slice(b"<truncated>"),
            Frame::Exit { code, .. } => {
                assert!(frames.next().await.is_none(), "something follows the exit");
                return code;
            }
        }
    }
    panic!("the stream ended without an exit");
}

/// R1.2: a stream ends with the exit code, and its two sides are told apart.
#[tokio::test]
async fn a_stream_gives_both_outputs_and_the_exit_code() {
    let world = World::start().await;
    let id = world.sandbox().await;
    let mut stream =
        world.client.exec_stream(&id, &shell("echo out; echo err >&2; exit 7")).await.unwrap();
    let mut seen = Vec::new();
    while let Some(frame) = stream.next().await {
        match frame.unwrap() {
            Frame::Output(chunk) => seen.push((chunk.stream, chunk.data)),
            Frame::Exit { code, reason, .. } => assert_eq!((code, reason.as_str()), (7, "exit")),
            Frame::Truncated { .. } => panic!("nothing was lost"),
        }
    }
    assert!(seen.contains(&(OutputStream::Stdout, Bytes::from_static(b"out\n"))));
    assert!(seen.contains(&(OutputStream::Stderr, Bytes::from_static(b"err\n"))));
}

/// R1.2: no byte is lost or doubled, wherever the connection breaks.
#[tokio::test]
async fn a_stream_goes_on_at_its_offset_when_the_network_breaks() {
    let mut world = World::start().await;
    let id = world.sandbox().await;
    for breaks in [vec![700, 300, 1_000, 450], vec![333; 5], vec![1_200]] {
        let client = world.behind_breaking_network(breaks.clone()).await;
        let stream = client.exec_stream(&id, &shell(LINES)).await.unwrap();
        assert_eq!(all(stream).await, (lines(), 4), "{breaks:?}");
    }
}

#[tokio::test]
async fn a_session_goes_on_at_its_offset_when_the_network_breaks() {
    let mut world = World::start().await;
    let id = world.sandbox().await;
    let client = world.behind_breaking_network(vec![600, 500, 900]).await;
    let session = client.session(&id, &shell(LINES)).await.unwrap();
    assert_eq!(all(session).await, (lines(), 4));
}

#[tokio::test]
async fn a_command_can_be_followed_again_from_any_offset() {
    let world = World::start().await;
    let id = world.sandbox().await;
    let stream = world.client.exec_stream(&id, &shell(LINES)).await.unwrap();
    let exec = stream.id().clone();
    assert_eq!(all(stream).await.0, lines());
    let rest = world.client.attach(&id, &exec, 1_000).await.unwrap();
    assert_eq!(all(rest).await, (lines()[1_000..].to_owned(), 4));
    let unknown = stacyvm_types::ExecId::from_entropy([7; 10]);
    assert!(world.client.attach(&id, &unknown, 0).await.is_err());
}

/// R1.2: standard input, its end, and signals.
#[tokio::test]
async fn a_session_passes_input_and_signals_on() {
    let world = World::start().await;
    let id = world.sandbox().await;
    let session = world.client.session(&id, &shell("cat; exit 6")).await.unwrap();
    let input = session.input();
    for piece in ["one ", "two"] {
        input.send(SessionInput::Data(Bytes::from_static(piece.as_bytes()))).await.unwrap();
    }
    input.send(SessionInput::Eof).await.unwrap();
    assert_eq!(all(session).await, ("one two".to_owned(), 6));

    let line = "trap 'echo got; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    let mut session = world.client.session(&id, &shell(line)).await.unwrap();
    let first = timeout(LIMIT, session.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(first, Frame::Output(chunk) if &*chunk.data == b"ready\n"));
    session.input().send(SessionInput::Signal(2)).await.unwrap();
    assert_eq!(all(session).await, ("got\n".to_owned(), 5));
}

/// More input than all buffers between here and a command that answers each byte of it.
#[tokio::test]
async fn input_and_output_flow_at_once() {
    let world = World::start().await;
    let id = world.sandbox().await;
    let session = world.client.session(&id, &shell("cat")).await.unwrap();
    let input = session.input();
    let send = async {
        for _ in 0..200 {
            input.send(SessionInput::Data(Bytes::from(vec![b'x'; 32 << 10]))).await.unwrap();
        }
        input.send(SessionInput::Eof).await.unwrap();
    };
    let (text, ()) = tokio::join!(all(session), send);
    assert_eq!((text.0.len(), text.1), (200 * (32 << 10), 0));
}

#[tokio::test]
async fn a_session_that_may_have_lost_input_fails_instead_of_leaving_a_hole() {
    let mut world = World::start().await;
    let id = world.sandbox().await;
    let client = world.behind_breaking_network(vec![600]).await;
    let mut session = client.session(&id, &shell("cat")).await.unwrap();
    let input = session.input();
    let end = timeout(LIMIT, async {
        loop {
            let piece = SessionInput::Data(Bytes::from_static(b"some input of a pipe\n"));
            let _ = input.try_send(piece);
            match session.next().await {
                Some(Ok(Frame::Output(_))) => {}
                end => return end,
            }
        }
    });
    let end = end.await.unwrap();
    assert!(matches!(end, Some(Err(Error::Broken(_)))), "{end:?}");
}

#[tokio::test]
async fn a_command_that_cannot_start_is_an_error_and_not_a_stream() {
    let world = World::start().await;
    let id = world.sandbox().await;
    let mut request = shell("/nonexistent");
    request.mode = Some("argv".to_owned());
    let code = Some(stacyvm_api_types::Code::NotExecutable);
    assert_eq!(world.client.exec_stream(&id, &request).await.err().unwrap().code(), code);
    assert_eq!(world.client.session(&id, &request).await.err().unwrap().code(), code);
}

/// R2.5: every event once and in order, also over a network that breaks.
#[tokio::test]
async fn events_are_followed_without_a_gap() {
    let mut world = World::start().await;
    let id = world.sandbox().await;
    for _ in 0..20 {
        world.client.exec(&id, &shell("true")).await.unwrap();
    }
    world.client.destroy(&id).await.unwrap();
    let client = world.behind_breaking_network(vec![900, 700, 1_500]).await;
    let from = EventsFrom { after: Some("0".to_owned()), ..EventsFrom::default() };
    let mut events = client.events(from).await.unwrap();
    let mut ids = Vec::new();
    loop {
        let event = timeout(LIMIT, events.next()).await.unwrap().unwrap().unwrap();
        ids.push(event.id.strip_prefix("evt-").unwrap().parse::<usize>().unwrap());
        if event.kind == "sandbox.destroyed" {
            break;
        }
    }
    assert_eq!(ids, (1..=ids.len()).collect::<Vec<_>>());
    assert!(20 < ids.len());
}

/// A server that stops says so; what was followed is told to be taken up again.
#[tokio::test]
async fn a_stopping_server_leaves_the_client_with_an_error_and_not_a_wrong_end() {
    let mut world = World::start().await;
    let id = world.sandbox().await;
    let mut stream = world.client.exec_stream(&id, &shell("echo begun; sleep 600")).await.unwrap();
    assert!(matches!(stream.next().await, Some(Ok(Frame::Output(_)))));
    world.stopping.cancel();
    while world.tasks.join_next().await.is_some() {}
    let end = timeout(LIMIT, stream.next()).await.unwrap();
    assert!(matches!(end, Some(Err(Error::Connect { .. } | Error::Broken(_)))), "{end:?}");
}
