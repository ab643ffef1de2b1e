//! A worker behind a real listener, and the way to it.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use stacyvm_fleet::{
    Worker,
    identity::{Audience, Checked, KeyRing, Keys, Secret, Shown},
    remote::{Connect, RemoteWorker, Tcp},
};
use stacyvm_listen::{Accept, Plain};
use stacyvm_provider::{Capabilities, Provider};
use stacyvm_types::{WorkerId, time::SystemClock};
use stacyvm_worker::{
    LocalWorker,
    rpc::{LIMITS, Rpc},
};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// Ends with its listener.
pub(crate) struct World {
    pub(crate) local: Arc<LocalWorker>,
    pub(crate) remote: Arc<RemoteWorker>,
    pub(crate) at: SocketAddr,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
    _end: DropGuard,
}

pub(crate) fn id() -> WorkerId {
    WorkerId::parse("w-1").unwrap()
}

pub(crate) fn ring(token: &str) -> Arc<KeyRing> {
    let keys = Keys { shared: vec![Secret::new(token)], ..Keys::default() };
    Arc::new(KeyRing::of(keys))
}

pub(crate) const TOKEN: &str = "a-token-that-is-long-enough-for-a-test";

impl World {
    pub(crate) async fn of(dir: &Path, provider: Arc<dyn Provider>) -> Self {
        let name = provider.name();
        let offer = (Arc::from(name), provider.capabilities());
        let local = LocalWorker::new(id(), [provider], name, dir, Arc::new(SystemClock)).unwrap();
        Self::serve(Arc::new(local), offer).await
    }

    async fn serve(local: Arc<LocalWorker>, offer: (Arc<str>, Capabilities)) -> Self {
        Self::through(local, offer, Arc::new(Plain), Arc::new(Tcp)).await
    }

    /// A worker whose connections something protects.
    pub(crate) async fn through(
        local: Arc<LocalWorker>,
        offer: (Arc<str>, Capabilities),
        way_in: Arc<dyn Accept>,
        way_out: Arc<dyn Connect>,
    ) -> Self {
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let clock = Arc::new(SystemClock);
        let access = Checked::at(Audience::Rpc, ring(TOKEN), clock.clone());
        let worker: Arc<dyn Worker> = local.clone();
        let rpc = Rpc::new(worker, Arc::new(access), tasks.clone(), stopping.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let (router, until) = (rpc.router(), stopping.clone());
        tasks.spawn(async move {
            let drain = Duration::from_secs(1);
            stacyvm_listen::serve_through(way_in, listener, router, until, drain, LIMITS).await;
        });
        let shown = Shown::to(Audience::Rpc, ring(TOKEN), clock);
        let url = format!("http://{at}");
        let remote = Arc::new(RemoteWorker::new(id(), &url, way_out, Arc::new(shown)).unwrap());
        remote.set_offers(vec![offer]);
        Self { local, remote, at, tasks, _end: stopping.clone().drop_guard(), stopping }
    }
}
