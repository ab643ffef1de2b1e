//! Ports inside of sandboxes: bytes both ways after an upgrade of the connection.

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use stacyvm_fleet::wire::{self, DialParams};
use stacyvm_provider::{Duplex, Error, ErrorKind, Result};
use tokio::io::copy_bidirectional;

use super::Call;

/// Connects to the port and hands bytes on until both sides have ended.
pub(super) async fn dial(call: Call, upgrade: Option<OnUpgrade>) -> Response {
    let Some(upgrade) = upgrade else {
        let message = "a port is dialled with an upgrade of the connection";
        return call.failure(&Error::new(ErrorKind::Invalid, message));
    };
    let mut port = match connect(&call).await {
        Ok(port) => port,
        Err(error) => return call.failure(&error),
    };
    let (tasks, stopping) = (call.rpc.0.tasks.clone(), call.rpc.0.stopping.clone());
    tasks.spawn(async move {
        let joined = async {
            let mut caller = TokioIo::new(upgrade.await.map_err(std::io::Error::other)?);
            copy_bidirectional(&mut caller, &mut port).await
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
