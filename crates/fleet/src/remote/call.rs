//! One call: its envelope on the way out, its reply on the way in.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::to_raw_value;
use stacyvm_provider::{Error, ErrorKind, Result};
use stacyvm_types::{Generation, SandboxId};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::link::{Answer, Body, Link, Outgoing, Turn};
use crate::wire::{self, Fault, Lease, Refusal, Reply, Request};

/// What identifies a reply as this call's.
#[derive(Debug, Clone)]
pub(crate) struct CallId(String);

/// An answer that is shorter takes no turn.
const SHORT: usize = 256 << 10;

/// An answer, and its turn if it is a long one, which it keeps until it is understood.
struct Whole {
    text: Bytes,
    _turn: Option<OwnedSemaphorePermit>,
}

/// A call that is ready to be sent.
pub(crate) struct Call {
    pub(crate) id: CallId,
    pub(crate) method: &'static str,
    pub(crate) envelope: Request,
}

impl Link {
    /// A call with its parameters, by the right of a generation where it needs one.
    pub(crate) fn call<P: Serialize>(
        &self,
        method: &'static str,
        right: Option<(&SandboxId, Generation)>,
        params: &P,
    ) -> Result<Call> {
        let id = format!("{:032x}", rand::random::<u128>());
        let lease = right.map(|(sandbox, generation)| Lease {
            resource_id: sandbox.to_string(),
            holder_id: self.worker().to_string(),
            generation: generation.0,
        });
        let params = to_raw_value(params).map_err(unwritable)?;
        let envelope = Request {
            id: id.clone(),
            method: method.to_owned(),
            worker_id: self.worker().to_string(),
            lease,
            params: Some(params),
        };
        Ok(Call { id: CallId(id), method, envelope })
    }

    /// Asks and waits for the whole answer, for as long as its method is worth it.
    pub(crate) async fn ask<R: DeserializeOwned>(self: &Arc<Self>, call: Call) -> Result<R> {
        let limit = wire::patience(call.method);
        let work = async {
            let body = call.body()?;
            let outgoing =
                Outgoing { method: call.method, turn: Turn::Call, headers: json(), body };
            let Answer { response, lent } = self.send(outgoing).await?;
            let (head, body) = response.into_parts();
            let Whole { text, _turn } = self.whole(body).await?;
            lent.give_back();
            self.read(&call.id, head.status, &text)
        };
        timeout(limit, work).await.unwrap_or_else(|_| Err(self.silent(limit)))
    }

    /// All of an answer's body, in bounded memory: one that is long takes a turn, and a worker that
    /// answers every call with all that is taken is read a few at a time.
    async fn whole(&self, mut body: Incoming) -> Result<Whole> {
        let (mut text, mut turn) = (BytesMut::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broke_off().because(error))?;
            let Ok(data) = frame.into_data() else { continue };
            let size = text.len() + data.len();
            if wire::MAX_REPLY < size {
                let message =
                    format!("the worker's answer is larger than {} MiB", wire::MAX_REPLY >> 20);
                return Err(Error::unknown(ErrorKind::TooLarge, message));
            }
            if SHORT < size && turn.is_none() {
                turn = Arc::clone(&self.long_answers).acquire_owned().await.ok();
            }
            text.extend_from_slice(&data);
        }
        Ok(Whole { text: text.freeze(), _turn: turn })
    }

    /// What a reply says.
    pub(crate) fn read<R: DeserializeOwned>(
        &self,
        id: &CallId,
        status: StatusCode,
        text: &[u8],
    ) -> Result<R> {
        match serde_json::from_slice::<Reply>(text) {
            Ok(reply) if status.is_success() || !reply.id.is_empty() => {
                self.result(id, status, reply)
            }
            Err(error) if status.is_success() => Err(self.nonsense().because(error)),
            Ok(_) | Err(_) => Err(self.refused(status, text)),
        }
    }

    /// A refusal of somebody who does not know which call it is. Only what a worker says in that
    /// place is believed: a 404 of another server is no proof that a sandbox is gone.
    fn refused(&self, status: StatusCode, text: &[u8]) -> Error {
        let refusal = serde_json::from_slice::<Refusal>(text).ok();
        let Some(error) = refusal.and_then(|refusal| refusal.error(status)) else {
            return self.nonsense().because(format!("status {}", status.as_u16()));
        };
        match status {
            StatusCode::UNAUTHORIZED => {
                let message = format!("worker {} refuses this server's credentials", self.worker());
                Error::new(ErrorKind::Unavailable, message).because(error)
            }
            _ => error,
        }
    }

    /// The same, of a reply that was parsed.
    pub(crate) fn result<R: DeserializeOwned>(
        &self,
        id: &CallId,
        status: StatusCode,
        reply: Reply,
    ) -> Result<R> {
        if reply.id != id.0 || reply.worker_id != self.worker().as_str() {
            return Err(self.nonsense());
        }
        if let Some(error) = Fault::error(&reply, status) {
            return Err(error);
        }
        let text = reply.result.as_deref().map_or("null", serde_json::value::RawValue::get);
        serde_json::from_str(text).map_err(|error| self.nonsense().because(error))
    }

    /// The failure that an answer carries which is not the expected stream.
    pub(crate) async fn failure(&self, call: &Call, status: StatusCode, body: Incoming) -> Error {
        let limit = wire::patience(call.method);
        let whole = match timeout(limit, self.whole(body)).await {
            Ok(Ok(whole)) => whole,
            Ok(Err(error)) => return error,
            Err(_) => return self.silent(limit),
        };
        let read: Result<()> = self.read(&call.id, status, &whole.text);
        read.err().unwrap_or_else(|| self.nonsense())
    }
}

impl Call {
    /// The envelope as a body of its own.
    pub(crate) fn body(&self) -> Result<Body> {
        let text = self.line()?;
        Ok(Full::new(text).map_err(|never| match never {}).boxed_unsync())
    }

    /// The envelope as a line.
    pub(crate) fn line(&self) -> Result<Bytes> {
        let mut text = serde_json::to_vec(&self.envelope).map_err(unwritable)?;
        if wire::MAX_ENVELOPE <= text.len() {
            let message = format!("the request is larger than {} MiB", wire::MAX_ENVELOPE >> 20);
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        text.push(b'\n');
        Ok(text.into())
    }

    /// The envelope as a header.
    pub(crate) fn header(&self) -> Result<(HeaderName, HeaderValue)> {
        let value = wire::to_header(&self.envelope).map_err(|error| {
            Error::new(ErrorKind::TooLarge, "the request is too large").because(error)
        })?;
        Ok((wire::ENVELOPE, value))
    }
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, "the request cannot be written").because(error)
}

/// The headers of a call that is nothing but its envelope.
pub(crate) fn json() -> Vec<(HeaderName, HeaderValue)> {
    vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]
}
