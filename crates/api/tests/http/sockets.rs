//! R1.2: the exec WebSocket.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message},
};

use crate::world::World;

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(crate) async fn connect(world: &World, path: &str) -> Result<Socket, Error> {
    connect_async(format!("ws://{}/api/v1{path}", world.addr)).await.map(|(socket, _)| socket)
}

pub(crate) async fn say(socket: &mut Socket, value: Value) {
    socket.send(Message::text(value.to_string())).await.unwrap();
}

/// Everything up to the closing frame, and its code.
async fn rest(socket: &mut Socket) -> (Vec<Value>, u16) {
    let mut seen = Vec::new();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => seen.push(serde_json::from_str(&text).unwrap()),
            Message::Binary(data) => seen.push(json!({"binary": String::from_utf8_lossy(&data)})),
            Message::Close(frame) => return (seen, frame.unwrap().code.into()),
            _ => {}
        }
    }
}

/// Reads until a frame satisfies `wanted`.
pub(crate) async fn until(socket: &mut Socket, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
            let value = serde_json::from_str(&text).unwrap();
            if wanted(&value) {
                return value;
            }
        }
    }
}

#[tokio::test]
async fn input_goes_in_output_comes_out_and_the_end_is_said() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let mut socket = connect(&world, &format!("/sandboxes/{id}/exec/ws")).await.unwrap();
    say(&mut socket, json!({"command": "cat; exit 5"})).await;
    let started = until(&mut socket, |m| m["type"] == "started").await;
    assert_eq!(started["seq"], 0);
    say(&mut socket, json!({"type": "stdin", "data": "one\n"})).await;
    until(&mut socket, |m| m["data"] == "one\n").await;
    socket.send(Message::binary(b"two\n".to_vec())).await.unwrap();
    until(&mut socket, |m| m["data"] == "two\n").await;
    say(&mut socket, json!({"type": "weather"})).await;
    let error = until(&mut socket, |m| m["type"] == "error").await;
    assert_eq!(error["code"], "BAD_REQUEST");
    say(&mut socket, json!({"type": "stdin_eof"})).await;
    let (seen, code) = rest(&mut socket).await;
    let end = json!({"stream":"exit","data":"","seq":8,"exit_code":5,"reason":"exit","exec_id":started["exec_id"]});
    assert_eq!((seen, code), (vec![end, json!({"type":"done"})], 1000));

    let exec = started["exec_id"].as_str().unwrap();
    let path = format!("/sandboxes/{id}/exec/{exec}/ws?offset=4&binary=true");
    let (seen, code) = rest(&mut connect(&world, &path).await.unwrap()).await;
    assert_eq!((&seen[0]["seq"], &seen[1]), (&json!(4), &json!({"binary": "two\n"})));
    assert_eq!((&seen[2]["exit_code"], code), (&json!(5), 1000));
}

#[tokio::test]
async fn a_signal_reaches_the_command_by_name_or_number() {
    let world = World::new().await;
    let id = world.sandbox().await;
    for signal in [json!("TERM"), json!(15)] {
        let mut socket = connect(&world, &format!("/sandboxes/{id}/exec/ws")).await.unwrap();
        let command = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
        say(&mut socket, json!({"command": command})).await;
        until(&mut socket, |m| m["data"] == "ready\n").await;
        say(&mut socket, json!({"type": "resize", "rows": 40, "cols": 120})).await;
        say(&mut socket, json!({"type": "signal", "signal": signal})).await;
        let end = until(&mut socket, |m| m["stream"] == "exit").await;
        assert!(end["exit_code"] == 9 || end["signal"] == 15, "{end}");
    }
}

#[tokio::test]
async fn a_session_that_cannot_begin_says_why() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let path = format!("/sandboxes/{id}/exec/ws");
    for (first, code) in
        [("nope", 1007), (r#"{"command":1}"#, 1007), (r#"{"command":"/nope","mode":"argv"}"#, 1011)]
    {
        let mut socket = connect(&world, &path).await.unwrap();
        socket.send(Message::text(first)).await.unwrap();
        let (seen, closed) = rest(&mut socket).await;
        assert_eq!((&seen[0]["type"], closed), (&json!("error"), code), "{first} {seen:?}");
        assert_eq!(seen[0]["error"], seen[0]["message"]);
    }
    let gone = connect(&world, "/sandboxes/sb-00000000000000000000/exec/ws").await;
    assert!(matches!(gone, Err(Error::Http(reply)) if reply.status() == 404));
    let plain = world.get(&path).await;
    assert_eq!(plain.code(), "BAD_REQUEST");
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_the_command() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let mut socket = connect(&world, &format!("/sandboxes/{id}/exec/ws")).await.unwrap();
    say(&mut socket, json!({"command": "echo a; sleep 0.3; echo b"})).await;
    let started = until(&mut socket, |m| m["type"] == "started").await;
    drop(socket);
    let exec = started["exec_id"].as_str().unwrap();
    let reply = world.get(&format!("/sandboxes/{id}/exec/{exec}")).await;
    assert!(
        reply.text().contains("b\\n") && reply.text().contains("\"exit_code\":0"),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn a_stopping_server_says_goodbye() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let mut socket = connect(&world, &format!("/sandboxes/{id}/exec/ws")).await.unwrap();
    say(&mut socket, json!({"command": "sleep 20"})).await;
    until(&mut socket, |m| m["type"] == "started").await;
    world.stopping.cancel();
    let (seen, code) = rest(&mut socket).await;
    assert_eq!((&seen[0]["reason"], code), (&json!("interrupted"), 1001));
}
