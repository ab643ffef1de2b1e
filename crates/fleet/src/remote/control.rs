//! The way from a worker to its control plane.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use stacyvm_types::WorkerId;
use tokio::time::timeout;

use super::{Connect, address::Address};
use crate::{
    identity::{Credentials, Scope},
    wire::{Heartbeat, HeartbeatReply},
};

/// How long a heartbeat may take, with its connection.
const LONGEST: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Why a heartbeat was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotHeard {
    /// The control plane says no, for this reason: it stays so until somebody changes something.
    #[error("the control plane refuses it: {0}")]
    Refused(String),
    /// It was not reached, or is not well: it may be back any time.
    #[error("the control plane does not answer: {0}")]
    Away(String),
}

/// A control plane, as one of its workers reaches it.
pub struct ControlPlane {
    worker: WorkerId,
    address: Address,
    connect: Arc<dyn Connect>,
    credentials: Arc<dyn Credentials>,
}

impl ControlPlane {
    /// The control plane at `url`, which is `http://host[:port]` or `https://host[:port]`; the
    /// error is a sentence. `connect` speaks TLS where the address demands it.
    pub fn new(
        worker: WorkerId,
        url: &str,
        connect: Arc<dyn Connect>,
        credentials: Arc<dyn Credentials>,
    ) -> Result<Self, String> {
        let address = Address::parse(url);
        let address = address.ok_or_else(|| format!("{url} is no address of a control plane"))?;
        if address.is_protected && !connect.is_protected() {
            return Err(format!("{url} is reached through TLS, which is not set up here"));
        }
        Ok(Self { worker, address, connect, credentials })
    }

    /// Says that the worker lives.
    pub async fn beat(&self, heartbeat: &Heartbeat) -> Result<HeartbeatReply, NotHeard> {
        match timeout(LONGEST, self.post(heartbeat)).await {
            Ok(answer) => answer,
            Err(_) => Err(NotHeard::Away("it took too long".to_owned())),
        }
    }

    async fn post(&self, heartbeat: &Heartbeat) -> Result<HeartbeatReply, NotHeard> {
        let away = |error: &dyn std::fmt::Display| NotHeard::Away(error.to_string());
        let body = serde_json::to_vec(heartbeat).map_err(|error| away(&error))?;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        let path = format!("/api/v1/worker/{}/heartbeat", self.worker);
        *request.uri_mut() = path.parse().map_err(|error| away(&error))?;
        let credential = self.credentials.headers(&self.worker, Scope::Heartbeat);
        *request.headers_mut() = credential.map_err(|none| NotHeard::Refused(none.to_string()))?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        request.headers_mut().insert(header::HOST, self.address.authority.clone());

        let stream =
            self.connect.connect(&self.worker, &self.address.host, self.address.port).await;
        let stream = stream.map_err(|error| away(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| away(&error))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| away(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok((status, body.map_err(|error| away(&error))?.to_bytes()))
        };
        // The connection is driven here and ends with the call: a heartbeat is seldom.
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        let (status, body) = tokio::select! {
            biased;
            answer = &mut exchange => answer?,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await?,
                Err(error) => return Err(away(&error)),
            },
        };
        read(status, &body)
    }
}

fn read(status: StatusCode, body: &[u8]) -> Result<HeartbeatReply, NotHeard> {
    if status.is_success() {
        return serde_json::from_slice(body)
            .map_err(|_| NotHeard::Away("its answer is not understood".to_owned()));
    }
    let said: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let said = said.as_ref().and_then(|said| said.get("message")).and_then(|said| said.as_str());
    let said: String = said.unwrap_or("no reason given").chars().take(300).collect();
    let sentence = format!("{}: {said}", status.as_u16());
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Err(NotHeard::Away(sentence))
        }
        status if status.is_client_error() => Err(NotHeard::Refused(sentence)),
        _ => Err(NotHeard::Away(sentence)),
    }
}
