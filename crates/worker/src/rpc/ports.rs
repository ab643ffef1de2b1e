//! Ports inside of sandboxes: bytes both ways after an upgrade of the connection.

use std::{
    io,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use stacyvm_fleet::wire::{self, DialParams};
use stacyvm_provider::{Duplex, Error, ErrorKind, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::sleep,
};

use super::Call;

/// How long one way goes on in silence after the other was closed. A caller that is gone looks like
/// one that has said all, and what listens inside may keep its own end for as long as it lives.
const LAST_WORDS: Duration = Duration::from_secs(5 * 60);
const PIECE: usize = 16 << 10;

/// Connects to the port and hands bytes on until both sides have ended.
pub(super) async fn dial(call: Call, upgrade: Option<OnUpgrade>) -> Response {
    let Some(upgrade) = upgrade else {
        let message = "a port is dialled with an upgrade of the connection";
        return call.failure(&Error::new(ErrorKind::Invalid, message));
    };
    let mut port = match call.in_time(connect(&call)).await {
        Ok(port) => port,
        Err(error) => return call.failure(&error),
    };
    let (tasks, stopping) = (call.rpc.0.tasks.clone(), call.rpc.0.stopping.clone());
    tasks.spawn(async move {
        let joined = async {
            let mut caller = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
            join(&mut caller, &mut port).await
        };
        if let Some(Err(error)) = stopping.run_until_cancelled(joined).await {
            tracing::debug!(%error, "a dialled port ended early");
        }
        drop(call);
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(wire::UPGRADE));
    response
}

async fn connect(call: &Call) -> Result<Box<dyn Duplex>> {
    let params: DialParams = call.envelope.params()?;
    call.guest().await?.dial(params.port).await
}

/// Hands bytes on, both ways, until both were closed, one broke, or what is left is silent.
async fn join<C, P>(caller: &mut C, port: &mut P) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    P: AsyncRead + AsyncWrite + Unpin,
{
    let moved = AtomicU64::new(0);
    let (from_caller, to_caller) = tokio::io::split(caller);
    let (from_port, to_port) = tokio::io::split(port);
    let mut there = pin!(pass(from_caller, to_port, &moved));
    let mut back = pin!(pass(from_port, to_caller, &moved));
    tokio::select! {
        ended = &mut there => {
            ended?;
            unless_silent(back, &moved).await
        }
        ended = &mut back => {
            ended?;
            unless_silent(there, &moved).await
        }
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = from.read(&mut piece).await?;
        let Some(read) = piece.get(..count).filter(|read| !read.is_empty()) else {
            return to.shutdown().await;
        };
        to.write_all(read).await?;
        to.flush().await?;
        moved.fetch_add(1, Ordering::Relaxed);
    }
}

async fn unless_silent(
    mut way: impl Future<Output = io::Result<()>> + Unpin,
    moved: &AtomicU64,
) -> io::Result<()> {
    loop {
        let before = moved.load(Ordering::Relaxed);
        tokio::select! {
            biased;
            ended = &mut way => return ended,
            () = sleep(LAST_WORDS) => if moved.load(Ordering::Relaxed) == before {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::duplex, task::JoinSet, time::Instant};

    use super::*;

    /// What listens inside never closes its own end; the connection does not outlive its caller by
    /// more than a while, and no answer that still comes is lost.
    #[tokio::test(start_paused = true)]
    async fn a_port_that_says_nothing_is_left_when_its_caller_has_gone() {
        let (mut outside, mut caller) = duplex(1024);
        let (mut port, mut inside) = duplex(1024);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { join(&mut caller, &mut port).await });
        outside.write_all(b"ask").await.unwrap();
        let mut heard = [0; 3];
        inside.read_exact(&mut heard).await.unwrap();
        // Nothing has an end while both ways are open.
        sleep(100 * LAST_WORDS).await;
        outside.shutdown().await.unwrap();
        let begun = Instant::now();
        for _ in 0..3 {
            sleep(LAST_WORDS * 9 / 10).await;
            inside.write_all(b"yes").await.unwrap();
            outside.read_exact(&mut heard).await.unwrap();
        }
        let ended = tasks.join_next().await.unwrap().unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() <= 6 * LAST_WORDS, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn each_way_is_closed_by_itself() {
        let (mut outside, mut caller) = duplex(64);
        let (mut port, mut inside) = duplex(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { join(&mut caller, &mut port).await });
        let sent = vec![7; 100_000];
        tasks.spawn(async move {
            let mut all = Vec::new();
            inside.read_to_end(&mut all).await?;
            inside.write_all(&all).await?;
            inside.shutdown().await
        });
        let (mut read, mut write) = tokio::io::split(&mut outside);
        let mut back = Vec::new();
        let (told, heard) = tokio::join!(
            async {
                write.write_all(&sent).await?;
                write.shutdown().await
            },
            read.read_to_end(&mut back)
        );
        assert!(told.is_ok() && heard.is_ok() && back == sent);
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap().unwrap();
        }
    }
}
