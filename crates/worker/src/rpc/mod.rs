//! A worker for control planes in other processes: `docs/rpc.md`.
//!
//! Promises:
//! - Nobody without a credential makes it read a body, and nobody makes it hold more than its
//!   limits: calls and streams at once, an envelope, a line.
//! - A call that reaches into a sandbox or changes one shows the right to it: this worker as its
//!   holder and a generation, which the worker's journal judges.
//! - A call that its caller gives up is given up here too, as a call within one process is. A
//!   command that was started runs on.

mod calls;
mod exec;
mod files;
mod here;
mod ports;
mod reply;
mod request;
mod tls;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    response::Response,
    routing::{any, get},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;
use stacyvm_fleet::{
    Worker,
    identity::Authenticate,
    wire::{self, Health, Request, method},
};
use stacyvm_listen::{Limits, Since};
use stacyvm_provider::{Error, ErrorKind, Guest, Result};
use stacyvm_types::{Generation, SandboxId};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use here::{answer_here, listen_here};
pub use tls::Tls;

use request::Asked;

/// Calls at once, and streams at once: commands that are followed, bodies, dialled ports. More are
/// refused, because each holds a connection.
const CALLS: usize = 1024;
const STREAMS: usize = 8192;

/// What a listener for calls allows. Connections are kept without a call for longer than a control
/// plane keeps them, so that none is closed at the moment that it is used again.
pub const LIMITS: Limits =
    Limits { connections: CALLS + STREAMS + 64, head: Duration::from_secs(30) };

/// A connection that was made longer ago takes no other call: who is at its ends was found out then,
/// and certificates change. Longer than callers of this version use one.
const OLDEST: Duration = Duration::from_secs(120);

/// The calls of one worker.
#[derive(Clone)]
pub struct Rpc(Arc<Parts>);

struct Parts {
    worker: Arc<dyn Worker>,
    access: Arc<dyn Authenticate>,
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// One call that may be worked on.
struct Call {
    rpc: Rpc,
    envelope: Request,
    /// Taken until the last byte of the answer.
    turn: OwnedSemaphorePermit,
}

impl Rpc {
    /// Calls of this worker for whoever `access` lets in. Streams end when `stopping` is cancelled;
    /// what they leave to be done is one of `tasks`.
    pub fn new(
        worker: Arc<dyn Worker>,
        access: Arc<dyn Authenticate>,
        tasks: TaskTracker,
        stopping: CancellationToken,
    ) -> Self {
        Self(Arc::new(Parts {
            worker,
            access,
            calls: Arc::new(Semaphore::new(CALLS)),
            streams: Arc::new(Semaphore::new(STREAMS)),
            tasks,
            stopping,
        }))
    }

    /// The routes, to be served with [`LIMITS`].
    pub fn router(&self) -> Router {
        Router::new()
            .route(wire::PATH, any(answer))
            .route(wire::HEALTH, get(health))
            .with_state(self.clone())
    }

    fn worker(&self) -> &dyn Worker {
        &*self.0.worker
    }

    fn name(&self) -> &str {
        self.0.worker.id().as_str()
    }
}

async fn health(State(rpc): State<Rpc>) -> axum::Json<Health> {
    axum::Json(Health { status: "ok".to_owned(), worker_id: rpc.name().to_owned() })
}

async fn answer(State(rpc): State<Rpc>, request: axum::extract::Request) -> Response {
    let made = request.extensions().get::<Since>();
    let is_old = made.is_some_and(|made| OLDEST <= made.0.elapsed());
    let mut response = answered(rpc, request).await;
    if is_old && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn answered(rpc: Rpc, request: axum::extract::Request) -> Response {
    let asked = match request::read(&rpc, request).await {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let Asked { envelope, turn, form, upgrade, takes_trailers } = asked;
    let call = Call { rpc, envelope, turn };
    match (&*call.envelope.method, form) {
        (method::EXEC_STREAM | method::EXEC_ATTACH, request::Form::Lines(rest)) => {
            exec::follow(call, rest).await
        }
        (method::EXEC | method::EXEC_STREAM, _) => exec::buffered(call).await,
        (method::FILE_WRITE, request::Form::Raw(body)) => files::write(call, body).await,
        (method::IMAGE_IMPORT, request::Form::Raw(body)) => files::import(call, body).await,
        (method::FILE_READ, request::Form::Answer) => files::read(call, takes_trailers).await,
        (method::DIAL, _) => ports::dial(call, upgrade).await,
        _ => {
            let result = call.in_time(calls::call(&call)).await;
            call.reply(result)
        }
    }
}

impl Call {
    /// The right to a sandbox that the call shows.
    fn right(&self, sandbox: &SandboxId) -> Result<Generation> {
        let refused = |sentence: &str| Err(Error::new(ErrorKind::Fenced, sentence));
        let Some(lease) = &self.envelope.lease else { return refused("lease token is required") };
        if lease.holder_id != self.rpc.name() {
            return refused("lease holder does not match worker");
        }
        if lease.resource_id.is_empty() {
            return refused("lease resource is required");
        }
        if lease.resource_id != sandbox.as_str() {
            return refused("lease resource does not match the request");
        }
        Ok(Generation(lease.generation))
    }

    /// The inside of the sandbox that the parameters name.
    async fn guest(&self) -> Result<Arc<dyn Guest>> {
        let target: wire::Target = self.envelope.params()?;
        let id = target.id()?;
        let generation = self.right(&id)?;
        self.rpc.worker().guest(&target.provider, &id, generation).await
    }

    /// What a provider or a sandbox makes hang ends before the caller gives this worker up.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = wire::time_to_answer(&self.envelope.method);
        timeout(limit, work).await.unwrap_or_else(|_| {
            let message = format!("the worker did not finish it within {} s", limit.as_secs());
            Err(Error::unknown(ErrorKind::Timeout, message))
        })
    }

    fn reply(&self, result: Result<Option<Box<RawValue>>>) -> Response {
        match result {
            Ok(result) => self.json(StatusCode::OK, &self.line(result)),
            Err(error) => self.failure(&error),
        }
    }
}

/// A result on the wire.
fn raw<T: Serialize>(value: &T) -> Result<Option<Box<RawValue>>> {
    let written = serde_json::value::to_raw_value(value);
    written.map(Some).map_err(|error| {
        Error::unknown(ErrorKind::Internal, "the answer cannot be written").because(error)
    })
}
