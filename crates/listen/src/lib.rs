//! The accept loop: bounded heads, bounded connections, owned tasks, a stop that ends.

use std::{io, net::IpAddr, pin::pin, time::Duration};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::access::Peer;

/// What one listener allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the listen backlog.
    pub connections: usize,
    /// The time to send a request's head, which is also the longest idle time of a connection.
    pub head: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, head: Duration::from_secs(10) }
    }
}

/// The largest head that is parsed at all; the edge refuses large ones below this with an answer.
const MAX_HEAD: usize = 128 << 10;

/// Serves until `stopping`, then lets what is in flight finish for at most `drain`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stopping: CancellationToken,
    drain: Duration,
) {
    serve_with(listener, router, stopping, drain, Limits::default()).await;
}

/// [`serve()`] with other limits.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    stopping: CancellationToken,
    drain: Duration,
    limits: Limits,
) {
    let connections = TaskTracker::new();
    let killed = CancellationToken::new();
    let slots = std::sync::Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, peer, slot)) = accepted else { continue };
        let service = From { peer: Peer(peer), inner: TowerToHyperService::new(router.clone()) };
        let served = connection(stream, slot, service, stopping.clone(), limits.head);
        let killed = killed.clone();
        connections.spawn(async move {
            tokio::select! {
                () = served => {}
                () = killed.cancelled() => {}
            }
        });
    }
    // From here on the kernel refuses new connections.
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "cutting connections that did not finish");
        killed.cancel();
        connections.wait().await;
    }
}

/// The routes, for requests of one peer.
struct From {
    peer: Peer,
    inner: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for From {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.inner.call(request)
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &std::sync::Arc<Semaphore>,
) -> Option<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer.ip(), slot)),
        Err(error) => {
            if !matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
            ) {
                // Out of descriptors, most likely: give others the time to close some.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            None
        }
    }
}

async fn connection(
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
    service: From,
    stopping: CancellationToken,
    head: Duration,
) {
    // Both are improvements of a connection that works without them.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(MAX_HEAD);
    let served = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut served = pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = stopping.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}
