//! NDJSON and SSE.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use stacyvm_api::{ApiConfig, Limits, Timing};
use stacyvm_store::RetentionStore as _;

use crate::world::{Reply, World};

fn lines(reply: &Reply) -> Vec<Value> {
    let lines = reply.text().lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// R1.2: a stream ends with exactly one terminal frame, and offsets add up.
#[tokio::test]
async fn a_stream_ends_with_its_exit_frame() {
    let world = World::new().await;
    let path = format!("/sandboxes/{}/exec", world.sandbox().await);
    let reply = world.post(&path, r#"{"command":"echo hi; exit 4","stream":true}"#).await;
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    assert_eq!(reply.header("cache-control"), "no-cache");
    let exec = reply.header("x-exec-id").to_owned();
    assert_eq!(
        lines(&reply),
        [
            json!({"stream":"stdout","data":"hi\n","seq":3}),
            json!({"stream":"exit","data":"","seq":3,"exit_code":4,"reason":"exit","exec_id":exec}),
        ]
    );
    let again = world.get(&format!("{path}/{exec}?offset=1")).await;
    assert_eq!(lines(&again)[0], json!({"stream":"stdout","data":"i\n","seq":3}));
    assert_eq!(lines(&again)[1], lines(&reply)[1]);
    let unknown = world.get(&format!("{path}/ex-00000000000000000000")).await;
    assert_eq!(unknown.code(), "NOT_FOUND");
    let accept = [("accept", "application/x-ndjson")];
    let asked = world.send(Method::POST, &path, &accept, r#"{"command":"true"}"#).await;
    assert_eq!(lines(&asked)[0]["exit_code"], 0);
}

#[tokio::test]
async fn a_stream_that_meets_its_deadline_says_so_twice() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let body = r#"{"command":"sleep 20","stream":true,"timeout":"100ms"}"#;
    let frames = lines(&world.post(&format!("/sandboxes/{id}/exec"), body).await);
    assert_eq!(frames[0]["data"], format!("exec timeout: {id}"));
    assert_eq!((&frames[1]["reason"], &frames[1]["exit_code"]), (&json!("timeout"), &json!(124)));
}

#[tokio::test]
async fn large_output_comes_in_bounded_frames_that_split_no_character() {
    let world = World::new().await;
    let path = format!("/sandboxes/{}/exec", world.sandbox().await);
    let command = r"i=0; while [ $i -lt 2000 ]; do printf '\303\251\342\202\254\302\205%0100d' $i; i=$((i+1)); done";
    let body = json!({"command": command, "stream": true}).to_string();
    let reply = world.post(&path, &body).await;
    let frames = lines(&reply);
    let text: String = frames.iter().map(|frame| frame["data"].as_str().unwrap()).collect();
    assert!(!text.contains('\u{fffd}') && text.starts_with("é€\u{85}"));
    assert_eq!(frames.last().unwrap()["seq"], 2000 * 107);
    assert!(frames.iter().all(|frame| frame["data"].as_str().unwrap().len() <= 32 << 10));
    assert!(!reply.text().contains('\u{85}'), "raw U+0085 would cut a line");
}

/// R1.2: output that is no text arrives byte by byte, streamed or not; text is not given twice.
#[tokio::test]
async fn output_that_is_no_text_comes_with_its_exact_bytes() {
    let world = World::new().await;
    let path = format!("/sandboxes/{}/exec", world.sandbox().await);
    let command = r"printf 'a\377'; echo fine >&2";
    let streamed = json!({ "command": command, "stream": true }).to_string();
    let frames = lines(&world.post(&path, &streamed).await);
    let of = |kind: &str| frames.iter().find(|frame| frame["stream"] == kind).unwrap().clone();
    assert_eq!(of("stdout")["data"], "a\u{fffd}");
    assert_eq!(of("stdout")["base64"], "Yf8=");
    assert_eq!(of("stderr").get("base64"), None);
    let reply = world.post(&path, &json!({ "command": command }).to_string()).await;
    let reply: Value = serde_json::from_str(reply.text()).unwrap();
    assert_eq!((&reply["stdout"], &reply["stdout_base64"]), (&json!("a\u{fffd}"), &json!("Yf8=")));
    assert_eq!((&reply["stderr"], reply.get("stderr_base64")), (&json!("fine\n"), None));
}

#[tokio::test]
async fn a_quiet_stream_beats_with_blank_lines() {
    let timing = Timing { stream_heartbeat: Duration::from_millis(50), ..Timing::default() };
    let world = World::with(ApiConfig { timing, ..ApiConfig::default() }, Limits::default()).await;
    let path = format!("/sandboxes/{}/exec", world.sandbox().await);
    let reply = world.post(&path, r#"{"command":"sleep 0.4; echo x","stream":true}"#).await;
    assert!(reply.text().starts_with("\n"), "{:?}", reply.text());
    assert_eq!(lines(&reply).len(), 2);
}

/// Reads until `count` frames are there.
async fn frames(body: &mut Incoming, count: usize) -> Vec<String> {
    let mut text = String::new();
    while text.matches("\n\n").count() < count {
        let piece: Bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    text.split_terminator("\n\n").map(str::to_owned).collect()
}

async fn events(world: &World, query: &str, headers: &[(&str, &str)], count: usize) -> Vec<String> {
    let path = format!("/api/v1/events{query}");
    let (parts, mut body, _owner) = world.open(Method::GET, &path, headers, "").await;
    assert_eq!(
        (parts.status.as_u16(), &parts.headers["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    frames(&mut body, count).await
}

/// R2.5: ids, replay after an id, filters.
#[tokio::test]
async fn events_are_replayed_after_the_last_one_that_was_seen() {
    let world = World::new().await;
    let (first, second) = (world.sandbox().await, world.sandbox().await);
    let all = events(&world, "?after=0", &[], 4).await;
    assert!(
        all[0].starts_with("id: evt-1\nevent: sandbox.created\ndata: {\"id\":\"evt-1\","),
        "{}",
        all[0]
    );
    let resumed = events(&world, "?after=0", &[("last-event-id", "evt-1")], 3).await;
    assert_eq!(resumed[..3], all[1..4]);
    let filtered = events(&world, &format!("?after=evt-0&sandbox={second}"), &[], 2).await;
    assert!(filtered.iter().all(|frame| frame.contains(&second) && !frame.contains(&first)));
    let kinds =
        events(&world, "?after=0&type=sandbox.running,exec.failed&type=exec.timeout", &[], 2).await;
    assert!(kinds.iter().all(|frame| frame.contains("event: sandbox.running")), "{kinds:?}");
}

/// R2.5: nothing is passed over in silence, forgotten events neither.
#[tokio::test]
async fn a_follower_hears_of_a_gap_where_events_were_forgotten() {
    let world = World::new().await;
    world.sandbox().await;
    let far = world.control.time().saturating_add(Duration::from_secs(3600));
    assert_eq!(world.store.prune_events(far, 500).await.unwrap(), 2);
    let second = world.sandbox().await;
    for (query, headers) in [
        ("?after=0", &[][..]),
        ("?after=1&type=sandbox.running", &[]),
        ("", &[("last-event-id", "evt-1")]),
    ] {
        let frames = events(&world, query, headers, 2).await;
        assert!(
            frames[0].starts_with("id: evt-2\nevent: gap\ndata: {\"id\":\"evt-2\","),
            "{frames:?}"
        );
        let after = if query == "?after=0" { "evt-0" } else { "evt-1" };
        let bounds = format!("\"data\":{{\"after\":\"{after}\",\"through\":\"evt-2\"}}");
        assert!(frames[0].contains(&bounds), "{frames:?}");
        assert!(frames[1].contains(&second), "{frames:?}");
    }
    let whole = events(&world, "?after=2", &[], 2).await;
    assert!(whole[0].starts_with("id: evt-3\nevent: sandbox.created"), "{whole:?}");
}

/// R2.5: an id that the log does not have yet passes over nothing.
#[tokio::test]
async fn a_follower_who_is_ahead_of_the_log_hears_so_and_gets_what_comes() {
    let world = World::new().await;
    world.sandbox().await;
    for (query, headers) in [
        ("?after=900", &[][..]),
        ("?after=900&type=sandbox.running,sandbox.created", &[]),
        ("", &[("last-event-id", "evt-900")]),
    ] {
        let head = world.control.last_event().await.unwrap();
        let path = format!("/api/v1/events{query}");
        let (_, mut body, _owner) = world.open(Method::GET, &path, headers, "").await;
        let reset = frames(&mut body, 1).await;
        let starts = format!("id: evt-{head}\nevent: reset\ndata: {{\"id\":\"evt-{head}\",");
        assert!(reset[0].starts_with(&starts), "{reset:?}");
        let bounds = format!("\"data\":{{\"after\":\"evt-900\",\"through\":\"evt-{head}\"}}");
        assert!(reset[0].contains(&bounds), "{reset:?}");
        let next = world.sandbox().await;
        let frames = frames(&mut body, 1).await;
        let created = format!("id: evt-{}\nevent: sandbox.created", head + 1);
        assert!(frames[0].starts_with(&created) && frames[0].contains(&next), "{frames:?}");
    }
    let newest = world.control.last_event().await.unwrap();
    let (_, mut body, _owner) =
        world.open(Method::GET, &format!("/api/v1/events?after={newest}"), &[], "").await;
    let next = world.sandbox().await;
    assert!(frames(&mut body, 1).await[0].contains(&next), "the newest event is no reset");
}

#[tokio::test]
async fn an_event_that_happens_now_comes_at_once_and_silence_has_a_heartbeat() {
    let timing = Timing { event_heartbeat: Duration::from_millis(100), ..Timing::default() };
    let world = World::with(ApiConfig { timing, ..ApiConfig::default() }, Limits::default()).await;
    let (_, mut body, _owner) = world.open(Method::GET, "/api/v1/events", &[], "").await;
    assert_eq!(frames(&mut body, 1).await[0], ": still here");
    let id = world.sandbox().await;
    let mut seen = Vec::new();
    while !seen
        .iter()
        .any(|frame: &String| frame.contains("sandbox.running") && frame.contains(&id))
    {
        seen.extend(frames(&mut body, 1).await);
    }
    assert!(world.control.last_event().await.unwrap() >= 2);
}
