//! API keys: making, listing and revoking them.

use http::StatusCode;
use stacyvm_api_types::{Code, Key, KeyRequest, StatusReply, pattern as form};
use stacyvm_control::{self as control, NewKey};
use stacyvm_types::{KeyId, Role};

use super::{
    doc::{doc, matching},
    sandboxes::status,
    table::{Route, delete, get, post},
};
use crate::{
    Api,
    extract::{Body, PathText, duration, given, owner},
    json::{Json, created, ok},
    problem::{Problem, Result, echo},
    scope::Scope,
    views,
};

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get(
            "/admin/keys",
            Scope::Admin,
            list,
            doc("listKeys", "Lists every key that was ever made, without its secret.")
                .gives::<Vec<Key>>(StatusCode::OK, "The keys, by name."),
        ),
        post(
            "/admin/keys",
            Scope::Admin,
            create,
            doc("createKey", "Makes a key and shows it, this once.")
                .detail(
                    "A name is given once. The first key of a server without credentials must have \
                     the role `admin`; from then on every request needs a key.",
                )
                .takes::<KeyRequest>()
                .needing(&["name", "role"])
                .gives::<Key>(StatusCode::CREATED, "The key; `key` holds its text.")
                .fails(&[Code::Conflict]),
        ),
        delete(
            "/admin/keys/{id}",
            Scope::Admin,
            revoke,
            doc("revokeKey", "Revokes a key from the next request on.")
                .path("id", "The key.", matching(form::KEY))
                .gives::<StatusReply>(StatusCode::OK, "It opens nothing any more.")
                .fails(&[Code::NotFound]),
        ),
    ]
}

async fn list(api: Api) -> Result<Json<Vec<Key>>> {
    let now = api.control.time();
    Ok(ok(api.control.keys().await?.into_iter().map(|key| views::key(key, now)).collect()))
}

fn wanted(request: KeyRequest) -> Result<NewKey> {
    let name =
        given(request.name).ok_or_else(|| Problem::bad_request("a key's name is required"))?;
    let role = given(request.role).ok_or_else(|| {
        Problem::bad_request("a key's role is required: viewer, api, operator or admin")
    })?;
    let role = Role::parse(&role).ok_or_else(|| {
        let message = format!("role must be viewer, api, operator or admin, not {:?}", echo(&role));
        Problem::bad_request(message)
    })?;
    Ok(NewKey {
        name,
        role,
        owner: given(request.owner_id).map(|text| owner(&text)).transpose()?,
        speaks_for_others: request.speak_for.unwrap_or(false),
        ttl: duration("ttl", request.ttl)?,
    })
}

/// R9.2: makes a key. The first one of a server without credentials must be able to make others:
/// from then on credentials are asked for.
async fn create(api: Api, Body(request): Body<KeyRequest>) -> Result<Json<Key>> {
    let wanted = wanted(request)?;
    let access = &api.config.access;
    if access.is_open() && wanted.role != Role::Admin && !access.has_operator_admin() {
        let message = "conflict: the first key must have the role admin: once there is a key, \
                       every request needs one, and nobody could make another";
        return Err(Problem::new(Code::Conflict, message));
    }
    let issued = api.control.create_key(wanted).await?;
    access.credential_exists();
    let key = views::key(issued.key, api.control.time());
    Ok(created(Key { key: Some(issued.text), ..key }))
}

async fn revoke(api: Api, path: PathText) -> Result<Json<StatusReply>> {
    let text = path.get("id");
    let id = KeyId::parse(text).map_err(|_| control::no_key(&echo(text)))?;
    api.control.revoke_key(&id).await?;
    Ok(status("revoked"))
}
