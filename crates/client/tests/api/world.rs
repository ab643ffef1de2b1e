//! A real server over loopback, and a network in front of it that breaks on demand.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use stacyvm_api::{ApiConfig, router, serve};
use stacyvm_client::{Client, Server, Settings};
use stacyvm_control::{Control, Parts, Settings as ControlSettings};
use stacyvm_fleet::{Fleet, Worker};
use stacyvm_provider::{Provider, mock::MockProvider};
use stacyvm_store::memory::MemoryStore;
use stacyvm_types::{SandboxId, WorkerId, time::SystemClock};
use stacyvm_worker::LocalWorker;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A server with the mock provider, its client, and one sandbox.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn start() -> Self {
        // A job in the background of a shell ignores SIGINT, and so would the mock's commands. A
        // handler, such as a server has, is not inherited.
        let _handled = signal(SignalKind::interrupt()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let provider: Arc<dyn Provider> =
            Arc::new(MockProvider::open(&dir.path().join("mock")).unwrap());
        let clock = Arc::new(SystemClock);
        let id = WorkerId::parse("w1").unwrap();
        let journal = dir.path().join("worker");
        let worker =
            LocalWorker::new(id.clone(), [provider], "mock", &journal, clock.clone()).unwrap();
        let stopping = CancellationToken::new();
        let control = Control::new(Parts {
            store: Arc::new(MemoryStore::new()),
            fleet: Fleet::new([Arc::new(worker) as Arc<dyn Worker>]),
            dial: None,
            clock,
            settings: ControlSettings::new(id, "mock"),
            tasks: TaskTracker::new(),
            stopping: stopping.clone(),
        });
        control.recover().await.unwrap();
        control.start_jobs();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = ApiConfig { stopping: stopping.clone(), ..ApiConfig::default() };
        let mut tasks = JoinSet::new();
        let limit = Duration::from_secs(5);
        tasks.spawn(serve(listener, router(control, config), stopping.clone(), limit));
        Self { address, client: client(address), stopping, tasks, _dir: dir }
    }

    pub(crate) async fn sandbox(&self) -> SandboxId {
        let made = self.client.spawn(&Default::default()).await.unwrap();
        SandboxId::parse(&made.id).unwrap()
    }

    /// A client whose first connections break after so many bytes of the server's answers each.
    pub(crate) async fn behind_breaking_network(&mut self, breaks: Vec<usize>) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.tasks.spawn(relay(listener, self.address, breaks));
        client(address)
    }
}

pub(crate) fn client(address: SocketAddr) -> Client {
    let server = Server::parse(&format!("http://{address}")).unwrap();
    let reconnect_timeout = Duration::from_secs(5);
    Client::new(Settings { reconnect_timeout, ..Settings::new(server) }).unwrap()
}

async fn relay(listener: TcpListener, server: SocketAddr, breaks: Vec<usize>) {
    let mut breaks = breaks.into_iter();
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let limit = breaks.next().unwrap_or(usize::MAX);
        connections.spawn(async move {
            let server = TcpStream::connect(server).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let down = async {
                let (mut left, mut buffer) = (limit, [0; 512]);
                while 0 < left {
                    let room = left.min(buffer.len());
                    match from_server.read(&mut buffer[..room]).await {
                        Ok(0) | Err(_) => return,
                        Ok(n) => {
                            left -= n;
                            if to_client.write_all(&buffer[..n]).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            };
            tokio::select! {
                () = down => {}
                _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
            }
        });
    }
}
