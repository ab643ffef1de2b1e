//! A stretch of the network that a test can cut.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Result;

/// Passes connections on, until it is cut.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub at: SocketAddr,
    wire: Arc<Mutex<Wire>>,
}

#[derive(Debug, Default)]
struct Wire {
    /// Where it leads; to nowhere while it is cut.
    to: Option<SocketAddr>,
    open: Vec<TcpStream>,
}

impl Relay {
    /// One that leads to nowhere yet.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let at = listener.local_addr()?;
        let wire = Arc::<Mutex<Wire>>::default();
        let theirs = wire.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Whoever is not let through sees its connection end.
                drop(pass_on(&near, &theirs));
            }
        });
        Ok(Self { at, wire })
    }

    /// Leads to this address from now on.
    pub fn mend(&self, to: SocketAddr) {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner).to = Some(to);
    }

    /// Lets nothing through and breaks off what is open.
    pub fn cut(&self) {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        wire.to = None;
        for stream in wire.open.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn pass_on(near: &TcpStream, wire: &Mutex<Wire>) -> io::Result<()> {
    let mut wire = wire.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(to) = wire.to else { return near.shutdown(Shutdown::Both) };
    let far = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
    for (from, into) in [(near, &far), (&far, near)] {
        let (mut from, mut into) = (from.try_clone()?, into.try_clone()?);
        thread::spawn(move || {
            drop(io::copy(&mut from, &mut into));
            drop(into.shutdown(Shutdown::Write));
        });
    }
    wire.open.extend([near.try_clone()?, far]);
    Ok(())
}
