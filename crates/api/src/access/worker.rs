//! Workers on their own routes, which no other credential opens.

use std::net::IpAddr;

use axum::{RequestExt as _, extract::Request};
use http::{HeaderValue, header};
use stacyvm_api_types::Code;
use stacyvm_fleet::identity::{Authenticate as _, Refusal, Scope as Right};
use stacyvm_types::WorkerId;
use tokio::time::Instant;

use super::{
    Identity, client,
    guard::too_many,
    limiter::{Hashed, Verdict},
};
use crate::{
    Api,
    extract::PathText,
    problem::{Problem, Result},
};

/// Who the request is from, if it is the worker that its path names and holds the right. Workers
/// are not held back: they come by the clock, and one that is not heard loses its sandboxes' leases.
pub(super) async fn admit(
    api: &Api,
    right: Right,
    client: Option<IpAddr>,
    request: &mut Request,
) -> (Identity, Result<Option<u32>>) {
    let (address, now) = (client::limited_as_any(client), Instant::now());
    let path = request.extract_parts_with_state::<PathText, Api>(api).await;
    let admitted =
        path.and_then(|path| authenticate(api, right, path.get("id"), &address, request, now));
    match admitted {
        Ok(worker) => (Identity::of_worker(worker), Ok(None)),
        Err(problem) => {
            let is_logged = api.config.access.logs_stranger(&address, now);
            let problem = if is_logged { problem } else { problem.unlogged() };
            (Identity::default(), Err(problem))
        }
    }
}

/// The answer to every way of not showing a valid credential.
fn unknown() -> Problem {
    let problem = Problem::new(Code::Unauthorized, "invalid or missing worker credentials");
    problem.with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// Finds out whether the credential is the worker's and opens this. A wrong one is a guess, and
/// where too many came from they are not told apart any more; a valid one still gets through.
fn authenticate(
    api: &Api,
    right: Right,
    id: &str,
    address: &str,
    request: &Request,
    now: Instant,
) -> Result<WorkerId> {
    let access = &api.config.access;
    let checked = match WorkerId::parse(id) {
        Ok(worker) => {
            let grant = api.workers.authenticate(&worker, request.headers());
            grant.and_then(|grant| grant.permit(right)).map(|()| worker)
        }
        // Nobody has a credential for what is no worker.
        Err(_) if api.config.worker_keys.now().is_empty() => Err(Refusal::NotConfigured),
        Err(_) => Err(Refusal::Unknown),
    };
    let refusal = match checked {
        Ok(worker) => return Ok(worker),
        Err(refusal) => refusal,
    };
    let (problem, is_guess) = match refusal {
        Refusal::NotConfigured => {
            return Err(Problem::new(Code::Unavailable, "worker token is not configured"));
        }
        Refusal::Missing => (unknown(), false),
        Refusal::Unknown | Refusal::Token(_) => (unknown(), true),
        Refusal::OtherWorker => {
            let message = "worker credential does not match requested worker";
            (Problem::new(Code::Forbidden, message), true)
        }
        Refusal::Scope(_) => {
            (Problem::new(Code::Forbidden, "required authorization scope missing"), false)
        }
    };
    if is_guess {
        let guesser = Hashed::of("guesses", address);
        if let Verdict::Limited { wait } = access.guesses.look(guesser, now) {
            return Err(too_many(wait).because(format!("{address} showed wrong credentials")));
        }
        access.guesses.take(guesser, now);
    }
    Err(problem.because(refusal))
}
