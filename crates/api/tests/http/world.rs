//! A server in this process, and a client that hides nothing.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use stacyvm_api::{ApiConfig, Limits, router, serve_with};
use stacyvm_control::{Control, Parts, Settings};
use stacyvm_fleet::{Fleet, Worker};
use stacyvm_provider::{Provider, mock::MockProvider};
use stacyvm_store::memory::MemoryStore;
use stacyvm_types::{WorkerId, time::SystemClock};
use stacyvm_worker::LocalWorker;
use tempfile::TempDir;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) const BASE: &str = "/api/v1";

pub(crate) struct World {
    pub(crate) addr: SocketAddr,
    pub(crate) control: Control,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) stopping: CancellationToken,
    pub(crate) server: JoinSet<()>,
    _dir: TempDir,
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{} {:?}", self.status, self.body))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The code of an error, after checking its envelope.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json", "{:?}", self.body);
        let body = self.json();
        let code = body["code"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
        assert!(body["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
        assert_eq!(body["request_id"], self.header("x-request-id"));
        let known = stacyvm_api_types::Code::ALL.iter().find(|known| known.as_str() == code);
        assert_eq!(known.map(|known| known.status()), Some(self.status.as_u16()), "{body}");
        code
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(ApiConfig::default(), Limits::default()).await
    }

    pub(crate) async fn with(config: ApiConfig, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock);
        let stopping = config.stopping.clone();
        let mock: Arc<dyn Provider> =
            Arc::new(MockProvider::open(&dir.path().join("mock")).unwrap());
        let id = WorkerId::parse("local").unwrap();
        let journal = dir.path().join("worker");
        let worker = LocalWorker::new(id.clone(), [mock], "mock", &journal, clock.clone()).unwrap();
        let store = Arc::new(MemoryStore::new());
        let control = Control::new(Parts {
            store: store.clone(),
            fleet: Fleet::new([Arc::new(worker) as Arc<dyn Worker>]),
            dial: None,
            clock,
            settings: Settings::new(id, "mock"),
            tasks: TaskTracker::new(),
            stopping: stopping.clone(),
        });
        control.join().await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        let routes = router(control.clone(), config);
        let drain = Duration::from_secs(5);
        server.spawn(serve_with(listener, routes, stopping.clone(), drain, limits));
        Self { addr, control, store, stopping, server, _dir: dir }
    }

    /// Sends a request and returns once the reply's head is there.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> (http::response::Parts, Incoming, JoinSet<()>) {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut owner = JoinSet::new();
        owner.spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", self.addr.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        (parts, body, owner)
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let path = format!("{BASE}{path}");
        let (parts, body, _owner) = self.open(method, &path, headers, body).await;
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Reply {
        self.send(Method::POST, path, &[], body.to_owned()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &str) -> Reply {
        self.send(Method::PUT, path, &[], body.to_owned()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// A sandbox; its id.
    pub(crate) async fn sandbox(&self) -> String {
        let reply = self.post("/sandboxes", "{}").await;
        assert_eq!(reply.status, 201, "{:?}", reply.body);
        reply.json()["id"].as_str().unwrap().to_owned()
    }
}
