//! How a worker is reached: plainly or through TLS.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use stacyvm_types::WorkerId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{
    identity::tls::ClientTls,
    wire::{self, Health},
};

/// A connection to a worker.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections. The caller bounds the time.
#[async_trait]
pub trait Connect: Send + Sync {
    /// Connects to a worker at a host, which is a name or an address, and a port.
    async fn connect(
        &self,
        worker: &WorkerId,
        host: &str,
        port: u16,
    ) -> io::Result<Box<dyn Stream>>;

    /// Whether nobody on the way reads what is sent. An `https` address is for those only.
    fn is_protected(&self) -> bool {
        false
    }
}

/// Connections without encryption.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

#[async_trait]
impl Connect for Tcp {
    async fn connect(&self, _: &WorkerId, host: &str, port: u16) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(tcp(host, port).await?))
    }
}

/// A TCP connection that waits for nothing and notices a host that is gone, also while neither
/// side has anything to say.
pub async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    use rustix::net::sockopt;
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(&stream, 4)?;
    // What was sent and is not acknowledged for this long ends the connection too.
    sockopt::set_tcp_user_timeout(&stream, 30_000)?;
    Ok(stream)
}

/// Connections that rustls protects, with the name that a worker's certificate must have.
pub struct Tls(pub Arc<ClientTls>);

#[async_trait]
impl Connect for Tls {
    async fn connect(
        &self,
        worker: &WorkerId,
        host: &str,
        port: u16,
    ) -> io::Result<Box<dyn Stream>> {
        let (connector, name) = self.0.connector_for(worker).map_err(io::Error::other)?;
        let stream = tcp(host, port).await?;
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    fn is_protected(&self) -> bool {
        true
    }
}

/// The longest answer of a worker that is asked how it is.
const MAX_HEALTH: usize = 4 << 10;

/// The worker that takes calls at the other end of a connection. The caller bounds the time.
pub async fn who_is_there(stream: Box<dyn Stream>) -> io::Result<WorkerId> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let asked = async {
        let mut request = http::Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = http::Uri::from_static(wire::HEALTH);
        let host = http::HeaderValue::from_static("worker");
        request.headers_mut().insert(http::header::HOST, host);
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let body = Limited::new(response.into_body(), MAX_HEALTH).collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        let health: Health = serde_json::from_slice(&body)?;
        WorkerId::parse(&health.worker_id).map_err(io::Error::other)
    };
    tokio::select! {
        biased;
        worker = asked => worker,
        ended = connection => Err(match ended {
            Ok(()) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => io::Error::other(error),
        }),
    }
}
