//! The one place that every routed request passes: who it is from, whether that one may, and
//! whether it may now.

use std::{net::IpAddr, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use stacyvm_api_types::Code;
use tokio::time::Instant;

use super::{
    Identity, KeyBy, client,
    identity::Credential,
    limiter::{Hashed, Verdict},
    shown, worker,
};
use crate::{
    Api, Scope,
    audit::Asked,
    demanded,
    problem::{Problem, Result},
};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");

/// Lets a request in, or says why not.
pub(crate) async fn enter(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let scope = demanded(&request);
    let client = address(&api, &request);
    let (identity, admitted) = match scope {
        Some(Scope::Worker(right)) => worker::admit(&api, right, client, &mut request).await,
        _ => admit(&api, scope, client, request.headers(), request.uri().path()).await,
    };
    if let Some(asked) = request.extensions().get::<Asked>() {
        asked.by(&identity.caller());
    }
    let remaining = match admitted {
        Ok(remaining) => remaining,
        Err(problem) => return problem.into_response(),
    };
    request.extensions_mut().insert(identity.caller());
    request.extensions_mut().insert(identity);
    let mut response = next.run(request).await;
    if let Some(remaining) = remaining {
        let burst = api.config.access.settings.rate_limit.burst();
        response.headers_mut().insert(LIMIT, burst.into());
        response.headers_mut().insert(REMAINING, remaining.into());
    }
    response
}

/// Where a request comes from, if anybody saw it.
pub(crate) fn address(api: &Api, request: &Request) -> Option<IpAddr> {
    let peer = request.extensions().get::<stacyvm_listen::Peer>()?.0;
    let trusted = &api.config.access.settings.trusted_proxies;
    Some(client::address(peer, request.headers(), trusted))
}

/// Who the request is from, as far as that is known, and whether it is let in: then with how many
/// more it may send at once, where that is limited.
async fn admit(
    api: &Api,
    scope: Option<Scope>,
    client: Option<IpAddr>,
    headers: &HeaderMap,
    path: &str,
) -> (Identity, Result<Option<u32>>) {
    let now = Instant::now();
    let address = client::limited_as_any(client);
    let credential = authenticate(api, headers, &address, now).await;
    if scope == Some(Scope::Probe) {
        // A probe is answered whatever else is wrong; who it is decides how much it is told.
        return (credential.map(Identity::of).unwrap_or_default(), Ok(None));
    }
    let identity = match credential {
        Ok(credential) => Identity::of(credential),
        Err(problem) => {
            let is_ours = 500 <= problem.code.status();
            let is_logged = is_ours || api.config.access.logs_stranger(&address, now);
            let problem = if is_logged { problem } else { problem.unlogged() };
            return (Identity::default(), Err(problem));
        }
    };
    let (identity, named) = identity.naming(headers);
    // What is refused for the name that it gives counts too, as the credential's own.
    let admitted = limit(api, &identity, &address, now).and_then(|remaining| {
        named?;
        permit(&identity, scope, path)?;
        Ok(remaining)
    });
    (identity, admitted)
}

/// The answer to every way of not showing a valid credential.
fn unknown() -> Problem {
    let problem = Problem::new(Code::Unauthorized, "invalid or missing API key");
    problem.with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// Whether who asks holds what the route demands. What has no row in the table has no handler
/// either; to be told so takes any credential.
fn permit(identity: &Identity, scope: Option<Scope>, path: &str) -> Result<()> {
    if identity.may(scope.unwrap_or(Scope::Read)) {
        return Ok(());
    }
    let is_admin = scope == Some(Scope::Admin) && path.contains("/admin");
    let message = match is_admin {
        true => "admin API key required",
        false => "required authorization scope missing",
    };
    Err(Problem::new(Code::Forbidden, message))
}

/// The valid credential that a request shows, or the answer to one that shows none. One that is wrong is a guess. Where
/// too many came from, guesses are not judged one by one any more: only a valid credential still
/// gets through, and finding out that one is wrong asks the store nothing.
async fn authenticate(
    api: &Api,
    headers: &HeaderMap,
    address: &str,
    now: Instant,
) -> Result<Credential> {
    let access = &api.config.access;
    if access.is_open() {
        return Ok(Credential::local());
    }
    let shown = shown(headers);
    if shown.is_empty() {
        return Err(unknown().because(format!("{address} shows no credential")));
    }
    let guesser = Hashed::of("guesses", address);
    if let Verdict::Limited { wait } = access.guesses.look(guesser, now) {
        for text in shown {
            if let Ok(credential) = access.recognise_listed(&api.control, &text).await? {
                return Ok(credential);
            }
        }
        return Err(too_many(wait).because(format!("{address} showed wrong credentials")));
    }
    let mut why = None;
    for text in shown {
        match access.recognise(&api.control, &text).await? {
            Ok(credential) => return Ok(credential),
            Err(not_valid) => why = Some(not_valid),
        }
        access.guesses.take(guesser, now);
    }
    let why = why.map(|why| why.to_string()).unwrap_or_default();
    Err(unknown().because(format!("{address} shows a credential that is not valid: {why}")))
}

/// Takes a token of the caller's bucket.
fn limit(api: &Api, identity: &Identity, address: &str, now: Instant) -> Result<Option<u32>> {
    let access = &api.config.access;
    let limit = &access.settings.rate_limit;
    if !limit.is_on() {
        return Ok(None);
    }
    match access.callers.take(caller_key(limit.key_by, identity, address), now) {
        Verdict::Allowed { remaining } => Ok(Some(remaining)),
        Verdict::Limited { wait } => Err(too_many(wait)
            .with_header(LIMIT, limit.burst().into())
            .with_header(REMAINING, 0.into())),
    }
}

fn caller_key(key_by: KeyBy, identity: &Identity, address: &str) -> Hashed {
    let of_address = || Hashed::of("ip", address);
    let of_credential = || match identity.credential() {
        // Whoever is not asked for a credential has none to be told apart by.
        Some(credential) if *credential == Credential::local() => of_address(),
        Some(Credential { key: Some(id), .. }) => Hashed::of("key", id.as_str()),
        Some(credential) => Hashed::of("credential", &credential.name),
        None => of_address(),
    };
    match (key_by, identity.limited_owner()) {
        (KeyBy::Owner, Some(owner)) => Hashed::of("owner", owner.as_str()),
        (KeyBy::Owner, None) | (KeyBy::ApiKey, _) => of_credential(),
        (KeyBy::Ip, _) => of_address(),
    }
}

/// The wait in whole seconds, and never too short.
pub(super) fn too_many(wait: Duration) -> Problem {
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    let message = format!("rate limit exceeded; retry after {seconds}s");
    let after = HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX));
    Problem::new(Code::ResourceLimit, message).with_header(header::RETRY_AFTER, after)
}
