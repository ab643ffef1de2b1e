//! What stands before the servers in an installation: workers say at one address that they live,
//! and whichever server takes the connection hears it.

use std::{
    io::copy,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;

const PATIENCE: Duration = Duration::from_millis(150);

/// Forwards connections to the servers in turn, until this process ends, and returns where.
pub(crate) fn start(at: IpAddr, servers: Vec<SocketAddr>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((at, 0))?;
    let address = listener.local_addr()?;
    let turn = AtomicUsize::new(0);
    thread::Builder::new().name("proxy".to_owned()).spawn(move || {
        for client in listener.incoming().flatten() {
            let first = turn.fetch_add(1, Ordering::Relaxed);
            let servers = servers.clone();
            thread::spawn(move || forward(client, &servers, first));
        }
    })?;
    Ok(address)
}

fn forward(client: TcpStream, servers: &[SocketAddr], first: usize) {
    let in_turn = servers.iter().cycle().skip(first % servers.len()).take(servers.len());
    let mut reached = in_turn.filter_map(|at| TcpStream::connect_timeout(at, PATIENCE).ok());
    let Some(server) = reached.next() else { return };
    let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let there = thread::spawn(move || pump(&from_client, &server));
    pump(&from_server, &client);
    let _ended = there.join();
}

/// One way of a connection. When it ends, so does the other.
fn pump(mut from: &TcpStream, mut to: &TcpStream) {
    let _broken = copy(&mut from, &mut to);
    let _closed = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
