//! Connections of control planes through TLS.

use std::io;

use async_trait::async_trait;
use stacyvm_fleet::identity::tls::ServerTls;
use stacyvm_listen::{Accept, Stream};
use tokio::net::TcpStream;

/// The certificates of now, for each connection.
pub struct Tls(pub ServerTls);

#[async_trait]
impl Accept for Tls {
    async fn accept(&self, stream: TcpStream) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.0.acceptor().accept(stream).await?))
    }
}
