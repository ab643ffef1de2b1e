//! How a worker is reached: plainly or through TLS.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use stacyvm_types::WorkerId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::identity::tls::ClientTls;

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
