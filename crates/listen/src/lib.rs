//! The accept loop: bounded heads, bounded connections, owned tasks, a stop that ends.

use std::{io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The address at the other end of a connection, as the listener saw it: an extension of every
/// request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// When the connection of a request was made: an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct Since(pub Instant);

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

/// [`serve`] with other limits.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    stopping: CancellationToken,
    drain: Duration,
    limits: Limits,
) {
    serve_through(Arc::new(Plain), listener, router, stopping, drain, limits).await;
}

/// A connection as bytes, whatever protects them.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What a fresh connection goes through before its first request, for at most as long as the head
/// of a request may take.
#[async_trait]
pub trait Accept: Send + Sync {
    /// The connection as bytes; an error ends it.
    async fn accept(&self, stream: TcpStream) -> io::Result<Box<dyn Stream>>;
}

/// Connections as they are.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

#[async_trait]
impl Accept for Plain {
    async fn accept(&self, stream: TcpStream) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(stream))
    }
}

/// [`serve_with`] for connections that something protects.
pub async fn serve_through(
    way_in: Arc<dyn Accept>,
    listener: TcpListener,
    router: Router,
    stopping: CancellationToken,
    drain: Duration,
    limits: Limits,
) {
    let connections = TaskTracker::new();
    let killed = CancellationToken::new();
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, peer, slot)) = accepted else { continue };
        let since = Since(Instant::now());
        let service =
            From { peer: Peer(peer), since, inner: TowerToHyperService::new(router.clone()) };
        let way_in = Arc::clone(&way_in);
        let served = connection(way_in, stream, slot, service, stopping.clone(), limits.head);
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
    if timeout(drain, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "cutting connections that did not finish");
        killed.cancel();
        connections.wait().await;
    }
}

/// The routes, for requests of one peer.
struct From {
    peer: Peer,
    since: Since,
    inner: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for From {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(self.since);
        self.inner.call(request)
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
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

/// Notices a client's host that is gone while neither side has anything to say. An improvement too.
fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt;
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(30));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10));
    let _ = sockopt::set_tcp_keepcnt(stream, 3);
}

async fn connection(
    way_in: Arc<dyn Accept>,
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
    service: From,
    stopping: CancellationToken,
    head: Duration,
) {
    // Both are improvements of a connection that works without them.
    let _ = stream.set_nodelay(true);
    keep_alive(&stream);
    let stream = match timeout(head, way_in.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a connection was not let in"),
        Err(_) => return,
    };
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
