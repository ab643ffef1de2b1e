//! R5.6: the same requests to a server whose sandboxes are at hand and to one whose sandboxes are at
//! a distance. Everything but ids and times is compared, and every refusal to its last word.

use http::Method;
use serde_json::{Value, json};
use stacyvm_api::{ApiConfig, Limits};
use stacyvm_types::SandboxId;

use crate::world::{Reply, World};

/// What is of one run only.
const OWN: &[&str] = &[
    "created_at",
    "expires_at",
    "mod_time",
    "duration",
    "exec_id",
    "request_id",
    "worker_id",
    "cpu_pct",
    "cpu_us",
    "mem_bytes",
];
const HEADERS: &[&str] = &[
    "content-type",
    "content-range",
    "accept-ranges",
    "cache-control",
    "allow",
    "retry-after",
    "idempotency-replayed",
];

/// A body without ids and times.
fn plain(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !OWN.contains(&key.as_str()));
            map.values_mut().for_each(plain);
        }
        Value::Array(list) => list.iter_mut().for_each(plain),
        Value::String(text) => {
            while let Some(at) = text.find("sb-").filter(|at| at + 23 <= text.len()) {
                text.replace_range(at..at + 23, "{sandbox}");
            }
        }
        _ => {}
    }
}

fn body(reply: &Reply) -> Vec<Value> {
    let Ok(text) = std::str::from_utf8(&reply.body) else {
        return vec![json!(reply.body.to_vec())];
    };
    let lines = text.lines().filter(|line| !line.is_empty());
    let read = |line: &str| {
        let mut value = serde_json::from_str(line).unwrap_or_else(|_| line.into());
        plain(&mut value);
        value
    };
    lines.map(read).collect()
}

/// Two servers that are asked the same.
struct Pair {
    near: (World, String),
    far: (World, String),
    asked: usize,
    differences: Vec<String>,
}

impl Pair {
    async fn new() -> Self {
        let make = async |is_remote| {
            let config = ApiConfig { max_upload: 12 << 20, ..ApiConfig::default() };
            let world = World::placed(is_remote, config, Limits::default()).await;
            let id = world.sandbox().await;
            (world, id)
        };
        Self { near: make(false).await, far: make(true).await, asked: 0, differences: Vec::new() }
    }

    /// Asks both; the status that both answer with.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        sent: &[u8],
    ) -> u16 {
        let mut replies = Vec::new();
        for (world, id) in [&self.near, &self.far] {
            let path = path.replace("{id}", id);
            let reply = world.send(method.clone(), &path, headers, sent.to_vec()).await;
            let told = HEADERS.iter().map(|name| (*name, reply.header(name).to_owned()));
            replies.push((reply.status.as_u16(), told.collect::<Vec<_>>(), body(&reply)));
        }
        let [near, far] = &replies[..] else { unreachable!("two were asked") };
        let shown = String::from_utf8_lossy(&sent[..sent.len().min(100)]);
        if near != far {
            let case = format!("{method} {path} {headers:?} {shown}");
            self.differences.push(format!("{case}\n  near {near:?}\n  far  {far:?}"));
        }
        self.asked += 1;
        near.0
    }

    async fn get(&mut self, path: &str) -> u16 {
        self.ask(Method::GET, path, &[], b"").await
    }

    async fn post(&mut self, path: &str, body: Value) -> u16 {
        self.ask(Method::POST, path, &[], body.to_string().as_bytes()).await
    }

    async fn delete(&mut self, path: &str) -> u16 {
        self.ask(Method::DELETE, path, &[], b"").await
    }

    fn end(self, least: usize) {
        assert!(least <= self.asked, "only {} were asked", self.asked);
        assert!(self.differences.is_empty(), "{}", self.differences.join("\n"));
    }
}

const FILES: &str = "/sandboxes/{id}/files";
const EXEC: &str = "/sandboxes/{id}/exec";

#[tokio::test]
async fn files_are_answered_alike() {
    let mut both = Pair::new().await;
    let large = vec![0xff_u8; 10 << 20];
    for (path, sent) in [
        ("/workspace/a.txt", &b"0123456789"[..]),
        ("/workspace/empty", b""),
        ("/workspace/d/\u{e9} b", b"x"),
        ("/workspace/large", &large),
    ] {
        let path = format!("{FILES}?path={}", path.replace(' ', "%20").replace('\u{e9}', "%C3%A9"));
        assert_eq!(both.ask(Method::PUT, &path, &[], sent).await, 200);
        assert_eq!(both.get(&path).await, 200);
        assert_eq!(both.ask(Method::HEAD, &path, &[], b"").await, 200);
        for range in ["bytes=0-0", "bytes=4-", "bytes=-3", "bytes=99999999-"] {
            both.ask(Method::GET, &path, &[("range", range)], b"").await;
        }
    }
    let too_large = vec![0_u8; (12 << 20) + 1];
    let path = format!("{FILES}?path=/workspace/larger");
    assert_eq!(both.ask(Method::PUT, &path, &[], &too_large).await, 413);
    assert_eq!(both.get(&path).await, 404);
    for (path, status) in [
        ("?path=/workspace", 409),
        ("?path=/workspace/none", 404),
        ("?path=/workspace/a.txt/b", 0),
        ("?path=/workspace/../../../etc/passwd", 0),
        ("?path=/workspace/%00", 400),
        ("?path=relative", 0),
        ("/list?path=/workspace", 200),
        ("/list?path=/workspace/a.txt", 0),
        ("/list?path=/workspace/none", 404),
        ("/stat?path=/workspace", 200),
        ("/stat?path=/workspace/none", 404),
        ("/glob?pattern=/workspace/**", 200),
        ("/glob?pattern=/workspace/[", 0),
        ("/glob?pattern=/none/*", 200),
    ] {
        let answered = both.get(&format!("{FILES}{path}")).await;
        assert!(status == 0 || status == answered, "{path}: {answered}");
    }
    for target in ["/workspace", "/workspace/a.txt/b", "/workspace/none/", "/../x"] {
        both.ask(Method::PUT, &format!("{FILES}?path={target}"), &[], b"x").await;
    }
    for (from, to) in [
        ("/workspace/none", "/workspace/x"),
        ("/workspace/a.txt", "/workspace/d"),
        ("/workspace/d", "/workspace/d/e"),
        ("/workspace/a.txt", "/workspace/n/b.txt"),
        ("/workspace/empty", "/workspace/n/b.txt"),
    ] {
        both.post(&format!("{FILES}/move"), json!({"old_path": from, "new_path": to})).await;
    }
    for (path, mode) in [("/workspace/n", "0700"), ("/workspace/none", "0700"), ("/", "9")] {
        both.post(&format!("{FILES}/chmod"), json!({"path": path, "mode": mode})).await;
    }
    for path in ["/workspace/none", "/workspace/n", "/workspace/n&recursive=true", "/workspace"] {
        both.delete(&format!("{FILES}?path={path}")).await;
    }
    assert_eq!(both.get(&format!("{FILES}/glob?pattern=/workspace/**")).await, 200);
    both.end(55);
}

#[tokio::test]
async fn commands_are_answered_alike() {
    let mut both = Pair::new().await;
    let ask = |more: Value| {
        let mut body = json!({"command": "true"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for stream in [false, true] {
        for body in [
            json!({"command": "echo out; echo err >&2; exit 7"}),
            json!({"command": "printf 'a\\377\\000b'"}),
            json!({"command": "kill -KILL $$"}),
            json!({"command": "cat; echo $A", "stdin": "in\u{e9}", "env": {"A": "b c"}}),
            json!({"command": "pwd | sed 's/.*workspace/./'", "workdir": "/workspace"}),
            json!({"command": "head -c 9000000 /dev/zero | tr '\\0' x"}),
            json!({"command": "head -c 3000000 | wc -c", "stdin": "y".repeat(400_000)}),
            ask(json!({"command": "sleep 9", "timeout": "50ms"})),
            ask(json!({"timeout": "11m"})),
            ask(json!({"command": "x".repeat(1_100_000)})),
            ask(json!({"workdir": "/no/such"})),
            ask(json!({"workdir": "rel"})),
            ask(json!({"user": "nobody-here"})),
            ask(json!({"mode": "argv", "command": "/no/such/program"})),
            ask(json!({"mode": "argv", "command": "/etc/passwd"})),
            ask(json!({"mode": "argv", "command": "/tmp"})),
            ask(json!({"env": {"A=B": ""}})),
            ask(json!({"command": "a\0b"})),
            ask(json!({"tty": {"rows": 24, "cols": 80}})),
        ] {
            let mut body = body;
            if stream && body["command"].as_str().is_some_and(|line| line.contains("echo out")) {
                // Which of two streams comes first is nobody's promise.
                body["command"] = "echo out; exit 7".into();
            }
            if stream && body["command"].as_str().is_some_and(|line| line.contains("9000000")) {
                // Neither is where a long output is cut into frames.
                continue;
            }
            body["stream"] = stream.into();
            both.post(EXEC, body).await;
        }
    }
    let known = "ex-00000000000000000001";
    let twice = json!({"command": "echo once", "exec_id": known});
    assert_eq!(both.post(EXEC, twice.clone()).await, 200);
    both.post(EXEC, twice).await;
    for path in [
        format!("{EXEC}/{known}"),
        format!("{EXEC}/{known}?offset=2"),
        format!("{EXEC}/{known}?offset=99"),
        format!("{EXEC}/ex-00000000000000000002"),
        format!("{EXEC}/nonsense"),
        "/sandboxes/{id}/logs".to_owned(),
        "/sandboxes/{id}/logs?lines=2".to_owned(),
        "/sandboxes/{id}/logs?lines=0".to_owned(),
        "/sandboxes/{id}/logs?lines=4000000000".to_owned(),
    ] {
        both.get(&path).await;
    }
    both.end(45);
}

/// The whole life of a sandbox, its runtime's death included.
#[tokio::test]
async fn a_life_is_answered_alike() {
    let mut both = Pair::new().await;
    for body in [
        json!({}),
        json!({"image": "alpine:latest", "memory_mb": 64, "vcpus": 2, "metadata": {"a": "b"}}),
        json!({"image": "../x"}),
        json!({"provider": "none"}),
        json!({"memory_mb": 99_999_999}),
        json!({"ttl": "25h"}),
        json!({"template": "none"}),
    ] {
        both.post("/sandboxes", body).await;
    }
    let failing = |both: &Pair, count: u32| {
        for (world, _) in [&both.near, &both.far] {
            world.mock.faults().fail_launches(count);
        }
    };
    failing(&both, 1);
    assert_eq!(both.post("/sandboxes", json!({})).await, 503);
    failing(&both, 0);
    for ttl in ["1h", "25h", "0s", "x"] {
        both.post("/sandboxes/{id}/extend", json!({ "ttl": ttl })).await;
    }
    let every = async |both: &mut Pair| {
        let mut statuses = vec![
            both.get("/sandboxes/{id}").await,
            both.get("/sandboxes/{id}?include=ended").await,
            both.get("/sandboxes/{id}/stats").await,
            both.get("/sandboxes/{id}/logs").await,
            both.get(&format!("{FILES}?path=/workspace/x")).await,
            both.get(&format!("{FILES}/list?path=/workspace")).await,
            both.get(&format!("{EXEC}/ex-00000000000000000001")).await,
            both.ask(Method::PUT, &format!("{FILES}?path=/workspace/x"), &[], b"x").await,
            both.post("/sandboxes/{id}/extend", json!({"ttl": "1h"})).await,
        ];
        for stream in [false, true] {
            statuses.push(both.post(EXEC, json!({"command": "true", "stream": stream})).await);
        }
        statuses
    };
    assert!(every(&mut both).await.contains(&200));
    for (world, id) in [&both.near, &both.far] {
        world.mock.crash(&SandboxId::parse(id).unwrap()).unwrap();
    }
    every(&mut both).await;
    assert_eq!(both.delete("/sandboxes/{id}").await, 200);
    assert!(every(&mut both).await.iter().skip(2).all(|status| *status == 404));
    assert_eq!(both.delete("/sandboxes/{id}").await, 200);
    both.get("/sandboxes").await;
    both.end(45);
}
