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
use stacyvm_fleet::{
    Dial, Fleet, Worker,
    identity::{Audience, Checked, KeyRing, Keys, Secret, Shown},
    remote::{HttpDial, Tcp},
};
use stacyvm_provider::{Provider, mock::MockProvider};
use stacyvm_store::memory::MemoryStore;
use stacyvm_types::{Beat, Resources, WorkerId, time::SystemClock};
use stacyvm_worker::{
    LocalWorker,
    rpc::{LIMITS, Rpc},
};
use tempfile::TempDir;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::IS_REMOTE;

pub(crate) const BASE: &str = "/api/v1";
/// The server's own worker, and the one that has the sandboxes.
pub(crate) const OWN: &str = "local";
pub(crate) const WORKER: &str = if IS_REMOTE { FAR } else { OWN };
const FAR: &str = "far";

pub(crate) struct World {
    pub(crate) addr: SocketAddr,
    pub(crate) control: Control,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) mock: Arc<MockProvider>,
    pub(crate) stopping: CancellationToken,
    pub(crate) server: JoinSet<()>,
    /// The worker at a distance, which outlives the server.
    _far: Option<DropGuard>,
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

/// Takes calls for a worker over loopback, and tells the server of it. Ends with what is returned.
async fn join(control: &Control, worker: Arc<LocalWorker>, keys: Arc<KeyRing>) -> DropGuard {
    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let access = Arc::new(Checked::at(Audience::Rpc, keys, Arc::new(SystemClock)));
    let rpc = Rpc::new(worker.clone(), access, tasks.clone(), stopping.clone());
    let (router, until) = (rpc.router(), stopping.clone());
    let drain = Duration::from_secs(5);
    tasks.spawn(stacyvm_listen::serve_with(listener, router, until, drain, LIMITS));
    let beat = Beat {
        id: worker.id().clone(),
        instance: "far".to_owned(),
        hostname: "far".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        url: Some(url),
        draining: false,
        offers: stacyvm_fleet::offers(&*worker).await,
        capacity: Resources::default(),
    };
    control.heard_of(beat).await.unwrap();
    // The jobs that look at the registry do not run here.
    control.join().await.unwrap();
    stopping.drop_guard()
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(ApiConfig::default(), Limits::default()).await
    }

    pub(crate) async fn with(config: ApiConfig, limits: Limits) -> Self {
        Self::placed(IS_REMOTE, config, limits).await
    }

    /// A server whose sandboxes are on its own worker, or on one at a distance.
    pub(crate) async fn placed(is_remote: bool, config: ApiConfig, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock);
        let stopping = config.stopping.clone();
        let mock = Arc::new(MockProvider::open(&dir.path().join("mock")).unwrap());
        let provider: Arc<dyn Provider> = mock.clone();
        let local = |name: &str, providers: Vec<Arc<dyn Provider>>| {
            let (id, journal) = (WorkerId::parse(name).unwrap(), dir.path().join(name));
            Arc::new(LocalWorker::new(id, providers, "mock", &journal, clock.clone()).unwrap())
        };
        let (own, far) = match is_remote {
            true => (local(OWN, Vec::new()), Some(local(FAR, vec![provider]))),
            false => (local(OWN, vec![provider]), None),
        };
        let keys = Keys { shared: vec![Secret::new("between-both")], ..Keys::default() };
        let keys = Arc::new(KeyRing::of(keys));
        let dial: Arc<dyn Dial> = Arc::new(HttpDial {
            connect: Arc::new(Tcp),
            credentials: Arc::new(Shown::to(Audience::Rpc, keys.clone(), clock.clone())),
        });
        let store = Arc::new(MemoryStore::new());
        let mut settings = Settings::new(own.id().clone(), "mock");
        if is_remote {
            settings.runs_sandboxes = false;
            // The worker does not beat again, however long a test takes.
            settings.membership.lease_term = Duration::from_secs(3600);
        }
        let control = Control::new(Parts {
            store: store.clone(),
            fleet: Fleet::new([own as Arc<dyn Worker>]),
            dial: is_remote.then_some(dial),
            clock,
            settings,
            tasks: TaskTracker::new(),
            stopping: stopping.clone(),
        });
        control.join().await.unwrap();
        let far = match far {
            Some(far) => Some(join(&control, far, keys).await),
            None => None,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        let routes = router(control.clone(), config);
        let drain = Duration::from_secs(5);
        server.spawn(serve_with(listener, routes, stopping.clone(), drain, limits));
        Self { addr, control, store, mock, stopping, server, _far: far, _dir: dir }
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
