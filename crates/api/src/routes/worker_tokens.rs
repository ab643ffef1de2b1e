//! Signed tokens for workers.

use http::StatusCode;
use stacyvm_api_types::{Code, WorkerToken, WorkerTokenRequest};
use stacyvm_fleet::identity::{
    Audience, Scope as Right, Scopes,
    token::{self, Order, Unsigned},
};
use stacyvm_types::WorkerId;

use super::{
    doc::doc,
    table::{Route, post},
};
use crate::{
    Api,
    extract::{Body, duration, given},
    json::{Json, ok},
    problem::{Problem, Result, echo},
    scope::Scope,
};

/// The route of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![post(
        "/admin/worker-tokens",
        Scope::Admin,
        issue,
        doc("createWorkerToken", "Signs a short-lived token for a worker and shows it.")
            .detail(
                "The token is kept nowhere. It opens what its scopes name, for its worker, at its \
                 audience, until it ends or its id is put on the list of revoked ones.",
            )
            .takes::<WorkerTokenRequest>()
            .needing(&["worker_id"])
            .gives::<WorkerToken>(StatusCode::OK, "The token.")
            .fails(&[Code::Unavailable]),
    )]
}

fn order(request: WorkerTokenRequest) -> Result<Order> {
    let id = given(request.worker_id)
        .ok_or_else(|| Problem::bad_request("a token's worker_id is required"))?;
    let worker = WorkerId::parse(&id)
        .map_err(|error| Problem::bad_request(format!("worker_id is not valid: {error}")))?;
    let audience = match given(request.audience) {
        None => Audience::ControlPlane,
        Some(name) => Audience::parse(&name).ok_or_else(|| {
            let message = "audience must be worker:control-plane or worker:rpc";
            Problem::bad_request(format!("{message}, not {:?}", echo(&name)))
        })?,
    };
    let named = request.scopes.unwrap_or_default();
    let right = |name: &String| {
        Right::parse(name).ok_or_else(|| {
            let known: Vec<_> = Right::ALL.iter().map(|right| right.as_str()).collect();
            let (known, name) = (known.join(", "), echo(name));
            Problem::bad_request(format!("scopes must be of {known}, not {name:?}"))
        })
    };
    let scopes = match named.is_empty() {
        true => audience.usual_scopes(),
        false => named.iter().map(right).collect::<Result<_>>()?,
    };
    if scopes == Scopes::NONE {
        return Err(Problem::bad_request("scopes are required for the audience worker:rpc"));
    }
    let ttl = duration("ttl", request.ttl)?.unwrap_or(token::USUAL);
    Ok(Order { worker, audience, scopes, ttl, id: None })
}

/// R6.5: signs a token with the key of the settings.
async fn issue(api: Api, Body(request): Body<WorkerTokenRequest>) -> Result<Json<WorkerToken>> {
    let order = order(request)?;
    let keys = api.config.worker_keys.now();
    let signed = token::sign(&keys, &order, api.control.time()).map_err(|why| match why {
        Unsigned::NoKey => Problem::new(Code::Unavailable, "no worker signing key is configured"),
        Unsigned::Ttl => Problem::bad_request("ttl must be from 1s to 15m"),
    })?;
    let claims = &signed.claims;
    Ok(ok(WorkerToken {
        token: signed.token.expose().to_owned(),
        token_id: claims.jti.clone().unwrap_or_default(),
        worker_id: claims.worker_id.clone(),
        audience: claims.aud.clone().unwrap_or_default(),
        scopes: claims.scopes.clone(),
        expires_at: claims.expires_at().to_string(),
    }))
}
