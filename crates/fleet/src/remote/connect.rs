//! How a worker is reached: plainly now, through TLS behind the same trait.

use std::{io, time::Duration};

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::wire;

/// A connection to a worker.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections. The caller bounds the time.
#[async_trait]
pub trait Connect: Send + Sync {
    /// Connects to a host, a name or an address, and a port.
    async fn connect(&self, host: &str, port: u16) -> io::Result<Box<dyn Stream>>;
}

/// Connections without encryption.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

#[async_trait]
impl Connect for Tcp {
    async fn connect(&self, host: &str, port: u16) -> io::Result<Box<dyn Stream>> {
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

/// Says who calls.
pub trait Credentials: Send + Sync {
    /// The headers that prove it for one call of a method. Called for each, so that what expires
    /// can be made anew.
    fn headers(&self, method: &str) -> Vec<(HeaderName, HeaderValue)>;
}

/// One token that never changes.
#[derive(Clone)]
pub struct StaticToken(HeaderValue);

impl StaticToken {
    /// A token; `None` where it is no text that a header can hold.
    pub fn new(token: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(token).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

impl Credentials for StaticToken {
    fn headers(&self, _: &str) -> Vec<(HeaderName, HeaderValue)> {
        vec![(wire::WORKER_TOKEN, self.0.clone())]
    }
}
