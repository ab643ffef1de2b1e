//! Who may call a worker, over real connections.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use stacyvm_fleet::{
    Worker,
    identity::{
        Audience, Checked, KeyRing, Keys, Load, Scope, Secret, Shown,
        tls::{ClientFiles, ClientTls, ID, Pair, ServerFiles, ServerTls, Trust},
        token::{self, Order},
    },
    remote::{self, Connect, RemoteWorker, Tcp},
};
use stacyvm_listen::{Accept, Plain};
use stacyvm_provider::mock::MockProvider;
use stacyvm_types::{
    Timestamp, WorkerId,
    time::{Clock, ManualClock},
};
use stacyvm_worker::{
    LocalWorker,
    rpc::{self, LIMITS, Rpc},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

fn id(text: &str) -> WorkerId {
    WorkerId::parse(text).unwrap()
}

fn signing(key: &str) -> Keys {
    Keys { signing: Some(Secret::new(key)), ..Keys::default() }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(NOW))
}

/// The worker `w1` behind its listener, until it is dropped.
struct Listening {
    at: SocketAddr,
    _dir: TempDir,
    _end: DropGuard,
}

impl Listening {
    async fn start(keys: Arc<KeyRing>, way_in: Arc<dyn Accept>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mock = Arc::new(MockProvider::open(&dir.path().join("mock")).unwrap());
        let worker =
            LocalWorker::new(id("w1"), [mock as _], "mock", &dir.path().join("w"), clock());
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let access = Checked::at(Audience::Rpc, keys, clock());
        let worker = Arc::new(worker.unwrap());
        let rpc = Rpc::new(worker, Arc::new(access), tasks.clone(), stopping.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let (router, until, drain) = (rpc.router(), stopping.clone(), Duration::ZERO);
        tasks.spawn(async move {
            stacyvm_listen::serve_through(way_in, listener, router, until, drain, LIMITS).await;
        });
        Self { at, _dir: dir, _end: stopping.drop_guard() }
    }

    async fn plain(keys: Keys) -> Self {
        Self::start(Arc::new(KeyRing::of(keys)), Arc::new(Plain)).await
    }

    /// The status of the answer to a call with these headers.
    async fn status(&self, headers: &str, method: &str) -> u16 {
        let body = format!(r#"{{"id":"1","method":"{method}","worker_id":"w1"}}"#);
        let request = format!(
            "POST /rpc HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}Content-Length: \
             {}\r\n\r\n{body}",
            self.at,
            body.len()
        );
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn remote(&self, name: &str, connect: Arc<dyn Connect>, keys: Arc<KeyRing>) -> RemoteWorker {
        let shown = Shown::to(Audience::Rpc, keys, clock());
        let url = format!("http://{}", self.at);
        RemoteWorker::new(id(name), &url, connect, Arc::new(shown)).unwrap()
    }
}

fn headers(worker: &str, token: &str) -> String {
    format!("X-Worker-ID: {worker}\r\nX-Worker-Token: {token}\r\n")
}

/// R6.5: a worker lets in who shows what is good there, then, for that.
#[tokio::test]
async fn a_worker_refuses_every_credential_that_is_not_good_for_the_call() {
    let keys = Keys { revoked: ["gone".to_owned()].into(), ..signing("k") };
    let listening = Listening::plain(keys).await;
    let order = |worker: &str, audience, token_id: &str| Order {
        worker: id(worker),
        audience,
        scopes: [Scope::Status].into_iter().collect(),
        ttl: token::USUAL,
        id: Some(token_id.to_owned()),
    };
    let signed = |key: &str, order: &Order, seconds: i64| {
        let at = Timestamp::from_micros(NOW.as_micros() + seconds * 1_000_000);
        token::sign(&signing(key), order, at).unwrap().token.expose().to_owned()
    };
    let own = order("w1", Audience::Rpc, "t1");
    let good = signed("k", &own, 0);
    assert_eq!(listening.status(&headers("w1", &good), "worker.providers").await, 200);
    let bearer = format!("X-Worker-ID: w1\r\nAuthorization: Bearer {good}\r\n");
    assert_eq!(listening.status(&bearer, "worker.providers").await, 200);

    let (head, code) = good.rsplit_once('.').unwrap();
    let longer = format!("{head}A.{code}");
    for (what, headers) in [
        ("nothing", String::new()),
        ("no worker", format!("X-Worker-Token: {good}\r\n")),
        ("another worker's name", headers("w2", &good)),
        (
            "another worker's token",
            headers("w1", &signed("k", &order("w2", Audience::Rpc, "t"), 0)),
        ),
        (
            "another audience",
            headers("w1", &signed("k", &order("w1", Audience::ControlPlane, "t"), 0)),
        ),
        ("one that has expired", headers("w1", &signed("k", &own, -300))),
        ("one that has not begun", headers("w1", &signed("k", &own, 31))),
        ("another key", headers("w1", &signed("other", &own, 0))),
        ("a revoked one", headers("w1", &signed("k", &order("w1", Audience::Rpc, "gone"), 0))),
        ("changed claims", headers("w1", &longer)),
        ("a static one where there is none", headers("w1", "k")),
    ] {
        assert_eq!(listening.status(&headers, "worker.providers").await, 401, "{what}");
    }
    for method in ["worker.exec", "worker.spawn", "worker.shutdown", "worker.file_read"] {
        let status = listening.status(&headers("w1", &good), method).await;
        assert_eq!(status, 403, "{method}");
    }
}

/// R6.5: a key is changed on both sides, one after the other, while calls go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_refused_while_keys_are_rotated() {
    let (old, new) = (Secret::new("old"), Secret::new("new"));
    let keys = |signing: &Secret, also: &[&Secret]| Keys {
        signing: Some(signing.clone()),
        also: also.iter().map(|key| (*key).clone()).collect(),
        ..Keys::default()
    };
    let ring = || Arc::new(KeyRing::of(keys(&old, &[])));
    let (control, worker) = (ring(), ring());
    let listening = Listening::start(worker.clone(), Arc::new(Plain)).await;
    let remote = Arc::new(listening.remote("w1", Arc::new(Tcp), control.clone()));
    let (is_over, mut callers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for _ in 0..4 {
        let (remote, is_over) = (remote.clone(), is_over.clone());
        callers.spawn(async move {
            let mut calls = 0;
            while calls < 50 || !is_over.load(Ordering::Acquire) {
                remote.undrain().await.unwrap();
                calls += 1;
            }
        });
    }
    for step in [keys(&old, &[&new]), keys(&new, &[&old])] {
        for side in [&worker, &control] {
            let step = step.clone();
            let read = Box::new(move || Ok(step.clone()));
            side.replace(Load { files: Vec::new(), read }).unwrap();
            remote.undrain().await.unwrap();
        }
    }
    is_over.store(true, Ordering::Release);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let only_new = keys(&new, &[]);
    let read = Box::new(move || Ok(only_new.clone()));
    worker.replace(Load { files: Vec::new(), read }).unwrap();
    remote.undrain().await.unwrap();
}

/// An authority with the certificates that it issued.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        Path::join(self.dir.path(), name)
    }

    fn issue(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair { cert: self.at(&format!("{name}.pem")), key: self.at(name) };
        fs::write(&pair.cert, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    fn way_in(&self, name: &str) -> Arc<dyn Accept> {
        let client_ca = Some(self.at("ca.pem"));
        let files = ServerFiles { own: self.issue(name), client_ca, client_names: Vec::new() };
        Arc::new(rpc::Tls(ServerTls::new(files).unwrap()))
    }

    fn way_out(&self, own: Option<Pair>) -> Arc<dyn Connect> {
        let trust = Trust::Authorities(self.at("ca.pem"));
        let files = ClientFiles { trust, own, server_name: ID.to_owned() };
        Arc::new(remote::Tls(Arc::new(ClientTls::new(files).unwrap())))
    }
}

/// R6.6: a connection is for who shows a certificate that the other side vouches for.
#[tokio::test]
async fn a_call_through_tls_needs_both_certificates_and_the_workers_name() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let ring = Arc::new(KeyRing::of(signing("k")));
    let listening = Listening::start(ring.clone(), authority.way_in("w1")).await;
    let call = async |name: &str, connect: Arc<dyn Connect>| {
        listening.remote(name, connect, ring.clone()).undrain().await
    };
    let own = || Some(authority.issue("control"));
    call("w1", authority.way_out(own())).await.unwrap();
    for (what, name, connect) in [
        ("no certificate", "w1", authority.way_out(None)),
        ("another authority's", "w1", authority.way_out(Some(stranger.issue("control")))),
        ("a worker of another authority", "w1", stranger.way_out(own())),
        ("another worker", "w2", authority.way_out(own())),
        ("no TLS", "w1", Arc::new(Tcp)),
    ] {
        assert!(call(name, connect).await.is_err(), "{what}");
    }
    // TLS opens the connection, and the token the call.
    let other = Arc::new(KeyRing::of(signing("other")));
    let remote = listening.remote("w1", authority.way_out(own()), other);
    assert!(remote.undrain().await.is_err());
}
