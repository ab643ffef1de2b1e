//! What a control plane makes of workers that cannot be reached, break off, or lie.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use stacyvm_fleet::{
    Worker,
    identity::{Audience, Shown},
    remote::{Connect, ControlPlane, RemoteWorker, Stream, Tcp},
};
use stacyvm_provider::{
    Error, ErrorKind, Outcome,
    suite::{collect_from, fresh_id, shell, soon},
};
use stacyvm_types::{Generation, WorkerId, time::SystemClock};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    raw::world,
    world::{TOKEN, id, ring},
};

/// The way to a worker at an address.
fn remote(at: SocketAddr, token: &str) -> RemoteWorker {
    let shown = Shown::to(Audience::Rpc, ring(token), Arc::new(SystemClock));
    RemoteWorker::new(id(), &format!("http://{at}"), Arc::new(Tcp), Arc::new(shown)).unwrap()
}

/// A worker that does as it is told with every connection.
async fn liar<F: Future<Output = ()> + Send + 'static>(
    tasks: &mut JoinSet<()>,
    act: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            act(stream).await;
        }
    });
    at
}

/// Reads a request as far as it has come.
async fn heard(stream: &mut TcpStream) -> String {
    let mut text = vec![0; 65536];
    let count = stream.read(&mut text).await.unwrap();
    String::from_utf8_lossy(&text[..count]).into_owned()
}

fn is(error: &Error, kind: ErrorKind, outcome: Outcome) {
    assert_eq!((error.kind, error.outcome), (kind, outcome), "{error:?}");
}

#[tokio::test]
async fn a_worker_that_is_not_there_did_nothing() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let error = remote(at, TOKEN).status("mock", &fresh_id()).await.unwrap_err();
    is(&error, ErrorKind::Unavailable, Outcome::NotDone);
}

/// A token never travels as plain text to an address that promises more.
#[test]
fn an_address_with_tls_is_not_called_without() {
    let shown = || Arc::new(Shown::to(Audience::Rpc, ring(TOKEN), Arc::new(SystemClock)));
    for url in ["https://10.0.0.7:7424", "https://[2001:db8::7]", "HTTPS://far.lan"] {
        let error = RemoteWorker::new(id(), url, Arc::new(Tcp), shown()).err().unwrap();
        is(&error, ErrorKind::Unavailable, Outcome::NotDone);
        let refused = ControlPlane::new(id(), url, Arc::new(Tcp), shown()).err().unwrap();
        assert!(refused.contains("TLS"), "{refused}");
    }
}

#[tokio::test]
async fn a_worker_that_breaks_off_may_have_done_it() {
    let mut tasks = JoinSet::new();
    let at = liar(&mut tasks, |mut stream| async move {
        heard(&mut stream).await;
    })
    .await;
    let worker = remote(at, TOKEN);
    let error = soon("destroy", worker.destroy("mock", &fresh_id(), Generation(1))).await;
    is(&error.unwrap_err(), ErrorKind::Unavailable, Outcome::Unknown);
    let (runtimes, _) = worker.runtimes().await;
    assert!(runtimes.is_empty());
    worker.set_offers(vec![(Arc::from("mock"), Default::default())]);
    assert_eq!(worker.runtimes().await.1, [Arc::from("mock")], "its silence is no absence");
    let reports = worker.providers().await;
    assert_eq!((reports.len(), reports[0].probe.usable), (1, false));
}

/// R4.4: whoever places looks at this; what a caller breaks off itself says nothing of the worker.
#[tokio::test]
async fn a_worker_has_failed_from_a_lost_call_to_its_next_answer() {
    let (_dir, world) = world().await;
    let worker = remote(world.at, TOKEN);
    let guest = worker.guest("mock", &fresh_id(), Generation(1)).await.unwrap();
    let cut = || Error::new(ErrorKind::Invalid, "the caller left");
    let pieces = [Ok(Bytes::from_static(b"a part")), Err(cut())];
    let body = futures_util::stream::iter(pieces).boxed();
    let error = soon("the end", guest.write("/workspace/f", Default::default(), body)).await;
    is(&error.unwrap_err(), ErrorKind::Invalid, Outcome::NotDone);
    assert_eq!(worker.failed_at(), None);

    let mut tasks = JoinSet::new();
    let at = liar(&mut tasks, |mut stream| async move {
        let refused: &[u8] = match heard(&mut stream).await.contains("worker.status") {
            true => b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
            false => b"",
        };
        let _ = stream.write_all(refused).await;
    })
    .await;
    let worker = remote(at, TOKEN);
    assert_eq!(worker.failed_at(), None);
    worker.destroy("mock", &fresh_id(), Generation(1)).await.unwrap_err();
    assert!(worker.failed_at().is_some());
    worker.status("mock", &fresh_id()).await.unwrap_err();
    assert_eq!(worker.failed_at(), None, "it was reached");
}

#[tokio::test]
async fn wrong_credentials_are_nobodys_fault_but_the_operators() {
    let (_dir, world) = world().await;
    let stranger = remote(world.at, "another-token-of-a-good-length");
    let error = stranger.status("mock", &fresh_id()).await.unwrap_err();
    is(&error, ErrorKind::Unavailable, Outcome::NotDone);
    assert!(error.message.contains("credentials"), "{error:?}");
    let guest = stranger.guest("mock", &fresh_id(), Generation(1)).await.unwrap();
    let error = guest.exec(shell("true")).await.err().unwrap();
    is(&error, ErrorKind::Unavailable, Outcome::NotDone);
}

/// Every answer that is not one is an error, and none makes the caller wait or hold much.
#[tokio::test]
async fn a_worker_that_lies_is_not_believed() {
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX / 2);
    let answers: [(&str, bool); 9] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{]}", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", true),
        ("HTTP/1.1 200 OK\r\n\r\n{\"id\":\"x\",\"worker_id\":\"w-1\",\"result\":null}", false),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false),
        ("HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n", false),
        ("SSH-2.0-OpenSSH_9\r\n", false),
        (&long, true),
    ];
    for (answer, endless) in answers {
        let mut tasks = JoinSet::new();
        let text = answer.to_owned();
        let at = liar(&mut tasks, move |mut stream| {
            let text = text.clone();
            async move {
                heard(&mut stream).await;
                let _ = stream.write_all(text.as_bytes()).await;
                let junk = vec![b' '; 1 << 20];
                while endless && stream.write_all(&junk).await.is_ok() {}
            }
        })
        .await;
        let worker = remote(at, TOKEN);
        let error = soon(answer, worker.status("mock", &fresh_id())).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{answer}: {error:?}");
        let guest = worker.guest("mock", &fresh_id(), Generation(1)).await.unwrap();
        let said = soon(answer, async {
            match guest.exec(shell("true")).await {
                Ok(exec) => exec.events.collect::<Vec<_>>().await.pop().unwrap().err().unwrap(),
                Err(error) => error,
            }
        });
        let error = said.await;
        assert_eq!(error.outcome, Outcome::Unknown, "{answer}: {error:?}");
        assert!(soon(answer, guest.dial(80)).await.is_err() || answer.contains("101"));
        assert!(soon(answer, guest.read("/f", None)).await.is_err());
    }
}

/// Another server in the worker's place, or a proxy before it, proves nothing about what is there and
/// may have handed the call on: a sandbox that one does not find is not gone.
#[tokio::test]
async fn a_refusal_that_no_worker_made_is_not_believed() {
    for (answer, body) in [
        ("404 Not Found", "<html>nginx</html>"),
        ("404 Not Found", r#"{"code":"NOT_FOUND","message":"no route"}"#),
        ("404 Not Found", r#"{"error":"gone","kind":"no_sandbox","outcome":"not_done"}"#),
        ("409 Conflict", ""),
        ("429 Too Many Requests", "slow down"),
        ("413 Payload Too Large", r#"{"error":"too large"}"#),
        ("501 Not Implemented", ""),
        ("503 Service Unavailable", "upstream connect error or disconnect/reset before headers"),
        ("400 Bad Request", "Bad Request"),
        ("401 Unauthorized", ""),
    ] {
        let mut tasks = JoinSet::new();
        let text = format!("HTTP/1.1 {answer}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let at = liar(&mut tasks, move |mut stream| {
            let text = text.clone();
            async move {
                heard(&mut stream).await;
                let _ = stream.write_all(text.as_bytes()).await;
            }
        })
        .await;
        let worker = remote(at, TOKEN);
        let error = soon(answer, worker.status("mock", &fresh_id())).await.unwrap_err();
        is(&error, ErrorKind::Unavailable, Outcome::Unknown);
        let guest = worker.guest("mock", &fresh_id(), Generation(1)).await.unwrap();
        is(
            &guest.exec(shell("true")).await.err().unwrap(),
            ErrorKind::Unavailable,
            Outcome::Unknown,
        );
        is(&guest.read("/f", None).await.err().unwrap(), ErrorKind::Unavailable, Outcome::Unknown);
    }
}

#[tokio::test]
async fn a_stream_that_skips_a_line_or_ends_early_is_broken() {
    let id_of = |request: &str| {
        let at = request.find("\"id\":\"").unwrap() + 6;
        request[at..at + 32].to_owned()
    };
    for (lines, events) in [
        (
            r#"{"id":"I","worker_id":"w-1","seq":0,"result":{"stream":"stdout","data":"a","offset":0}}"#,
            1,
        ),
        (r#"{"id":"I","worker_id":"w-1","seq":1,"result":{"ended":"exit","number":0}}"#, 0),
        (r#"{"id":"J","worker_id":"w-1","seq":0,"result":{"ended":"exit","number":0}}"#, 0),
        (
            r#"{"id":"I","worker_id":"w-1","seq":0,"result":{"ended":"signal","number":2147483647}}"#,
            0,
        ),
        (
            r#"{"id":"I","worker_id":"w-1","seq":0,"error":"gone","kind":"no_sandbox","outcome":"unknown"}"#,
            0,
        ),
    ] {
        let mut tasks = JoinSet::new();
        let at = liar(&mut tasks, move |mut stream| async move {
            let id = id_of(&heard(&mut stream).await);
            let body = lines.replace('I', &id) + "\n";
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(text.as_bytes()).await;
        })
        .await;
        let guest = remote(at, TOKEN).guest("mock", &fresh_id(), Generation(1)).await.unwrap();
        let exec = guest.exec(shell("true")).await.unwrap();
        let said: Vec<_> = soon(lines, exec.events.collect()).await;
        assert_eq!(said.len(), events + 1, "{lines}");
        assert!(said.last().unwrap().is_err(), "{lines}");
    }
}

/// A worker that says that it lives, and never that the command has ended, does not hold its caller
/// for longer than the command may take.
#[tokio::test]
async fn a_stream_of_nothing_ends_after_the_deadline_of_its_command() {
    let mut tasks = JoinSet::new();
    let at = liar(&mut tasks, |mut stream| async move {
        heard(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(b"\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let guest = remote(at, TOKEN).guest("mock", &fresh_id(), Generation(1)).await.unwrap();
    let mut spec = shell("true");
    spec.deadline = Some(std::time::Duration::from_secs(60));
    let mut exec = soon("the start", guest.exec(spec)).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(101)).await;
    tokio::time::resume();
    let said = soon("the end", exec.events.next()).await.unwrap();
    is(&said.unwrap_err(), ErrorKind::Unavailable, Outcome::Unknown);
}

/// Counts connections.
struct Counted(Arc<AtomicUsize>);

#[async_trait]
impl Connect for Counted {
    async fn connect(&self, id: &WorkerId, host: &str, port: u16) -> io::Result<Box<dyn Stream>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Tcp.connect(id, host, port).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_follow_each_other_share_a_connection() {
    let (_dir, world) = world().await;
    let count = Arc::new(AtomicUsize::new(0));
    let shown = Shown::to(Audience::Rpc, ring(TOKEN), Arc::new(SystemClock));
    let url = format!("http://{}", world.at);
    let worker =
        RemoteWorker::new(id(), &url, Arc::new(Counted(count.clone())), Arc::new(shown)).unwrap();
    let sandbox = fresh_id();
    let spec = stacyvm_provider::LaunchSpec {
        id: sandbox.clone(),
        generation: Generation(1),
        image: "host".to_owned(),
        limits: stacyvm_types::Limits::DEFAULT,
        ttl: None,
    };
    worker.spawn("mock", &spec).await.unwrap();
    let guest = worker.guest("mock", &sandbox, Generation(1)).await.unwrap();
    for _ in 0..50 {
        let exec = guest.exec(shell("true")).await.unwrap();
        soon("the end", collect_from(exec, 0)).await;
        guest
            .write("/workspace/f", Default::default(), stacyvm_provider::suite::body("x"))
            .await
            .unwrap();
        let read = guest.read("/workspace/f", None).await.unwrap();
        assert_eq!(read.body.collect::<Vec<_>>().await.len(), 1);
        assert_eq!(guest.stat("/none").await.unwrap_err().kind, ErrorKind::NotFound);
    }
    // A connection is given back a moment after its command's end, so a few more than one are made.
    let made = count.load(Ordering::SeqCst);
    assert!(made <= 10, "{made} connections for 200 calls");
}

/// R6.6: who is at the ends of a connection is found out when it is made, and certificates change:
/// none is used for good, also where calls never pause, on either side.
#[tokio::test]
async fn a_connection_that_is_never_idle_is_made_anew_after_a_while() {
    let (_dir, world) = world().await;
    let count = Arc::new(AtomicUsize::new(0));
    let shown = Shown::to(Audience::Rpc, ring(TOKEN), Arc::new(SystemClock));
    let url = format!("http://{}", world.at);
    let worker =
        RemoteWorker::new(id(), &url, Arc::new(Counted(count.clone())), Arc::new(shown)).unwrap();
    let mut stranger = TcpStream::connect(world.at).await.unwrap();
    let body = r#"{"id":"1","method":"worker.undrain","worker_id":"w-1"}"#;
    let call = format!(
        "POST /rpc HTTP/1.1\r\nHost: w\r\nX-Worker-ID: w-1\r\nX-Worker-Token: {TOKEN}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut made = Vec::new();
    let mut last_calls = 0;
    for _ in 0..14 {
        worker.undrain().await.unwrap();
        made.push(count.load(Ordering::SeqCst));
        if last_calls == 0 {
            stranger.write_all(call.as_bytes()).await.unwrap();
            let answer = heard(&mut stranger).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            last_calls += usize::from(answer.contains("connection: close"));
        }
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(10)).await;
        tokio::time::resume();
    }
    assert_eq!(made[..6], [1; 6], "calls that follow each other share a connection");
    assert_eq!((made[6], made[12]), (2, 3), "a minute is enough: {made:?}");
    assert_eq!(last_calls, 1, "a caller that keeps one for longer is told to make another");
}

#[tokio::test]
async fn a_worker_that_stops_says_so_and_its_commands_go_on() {
    let (_dir, world) = world().await;
    let sandbox = fresh_id();
    let spec = stacyvm_provider::LaunchSpec {
        id: sandbox.clone(),
        generation: Generation(1),
        image: "host".to_owned(),
        limits: stacyvm_types::Limits::DEFAULT,
        ttl: None,
    };
    world.remote.spawn("mock", &spec).await.unwrap();
    let guest = world.remote.guest("mock", &sandbox, Generation(1)).await.unwrap();
    let spec = shell("while [ ! -e go ]; do sleep 0.01; done; exit 4");
    let mut exec = guest.exec(spec.clone()).await.unwrap();
    world.stopping.cancel();
    let said = soon("the stream ends", exec.events.next()).await.unwrap();
    is(&said.unwrap_err(), ErrorKind::Unavailable, Outcome::Unknown);
    world.tasks.close();
    soon("nothing is left", world.tasks.wait()).await;
    let inside = world.local.guest("mock", &sandbox, Generation(1)).await.unwrap();
    inside
        .write("/workspace/go", Default::default(), stacyvm_provider::suite::body(""))
        .await
        .unwrap();
    let again = inside.attach(&spec.id, 0).await.unwrap();
    assert_eq!(soon("the end", collect_from(again, 0)).await.exit.code(), 4);
}
