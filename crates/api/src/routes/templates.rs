//! Templates, in both vocabularies.

use std::{collections::BTreeMap, time::Duration};

use http::StatusCode;
use stacyvm_api_types::{
    Code, Sandbox, StatusReply, Template, TemplateRequest, TemplateSecret, TemplateSpawnRequest,
};
use stacyvm_control::TemplateSpawn;
use stacyvm_store::{TemplateChange, TemplateFields};

use super::{
    doc::{SPAWN, doc, text},
    sandboxes::{self, status},
    table::{Route, delete, get, post, put},
};
use crate::{
    Api,
    extract::{Body, OptionalBody, PathText, User, count, duration, given},
    idempotency::{Once, Work},
    json::{Json, created, ok},
    problem::{Problem, Result},
    scope::Scope,
    views,
};

const DEFAULT_MEMORY_MB: u32 = 512;
const DEFAULT_VCPUS: u32 = 1;
const DEFAULT_TTL: Duration = Duration::from_secs(300);

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get(
            "/templates",
            Scope::Read,
            list,
            doc("listTemplates", "Lists the templates by name.")
                .gives::<Vec<Template>>(StatusCode::OK, "The templates."),
        )
        .slashed(),
        post(
            "/templates",
            Scope::Api,
            create,
            doc("createTemplate", "Creates a template.")
                .detail(
                    "Both vocabularies are taken: `vcpus` or `cpu_cores`, `ttl` or \
                     `ttl_seconds`; where both are given they must agree.",
                )
                .takes::<TemplateRequest>()
                .needing(&["name", "image"])
                .gives::<Template>(StatusCode::CREATED, "The template.")
                .fails(&[Code::Conflict, Code::NotFound, Code::ResourceLimit])
                .once(Work::Other),
        )
        .slashed(),
        get(
            "/templates/{name}",
            Scope::Read,
            show,
            doc("getTemplate", "Shows a template.")
                .path("name", "The template.", text())
                .gives::<Template>(StatusCode::OK, "The template.")
                .fails(&[Code::NotFound]),
        )
        .slashed(),
        put(
            "/templates/{name}",
            Scope::Api,
            update,
            doc("updateTemplate", "Changes the fields of a template that the body names.")
                .path("name", "The template.", text())
                .takes::<TemplateRequest>()
                .gives::<Template>(StatusCode::OK, "The template as it is now.")
                .fails(&[Code::NotFound, Code::ResourceLimit]),
        )
        .slashed(),
        delete(
            "/templates/{name}",
            Scope::Api,
            remove,
            doc("deleteTemplate", "Deletes a template.")
                .path("name", "The template.", text())
                .gives::<StatusReply>(StatusCode::OK, "It is gone; sandboxes made from it stay.")
                .fails(&[Code::NotFound]),
        )
        .slashed(),
        post(
            "/templates/{name}/spawn",
            Scope::Api,
            spawn,
            doc("spawnTemplate", "Spawns a sandbox from a template.")
                .path("name", "The template.", text())
                .for_owner()
                .may_take::<TemplateSpawnRequest>()
                .shows_sandbox(StatusCode::CREATED, "It runs.")
                .fails(SPAWN)
                .once(Work::Spawn),
        ),
    ]
}

/// Two names for one value.
fn agreed<T: PartialEq>(
    names: [&str; 2],
    first: Option<T>,
    second: Option<T>,
) -> Result<Option<T>> {
    match (first, second) {
        (Some(first), Some(second)) if first != second => {
            let [a, b] = names;
            let message = format!("{a} and {b} are two names for one value and must agree");
            Err(Problem::bad_request(message))
        }
        (first, second) => Ok(first.or(second)),
    }
}

fn secrets(list: Vec<TemplateSecret>) -> BTreeMap<String, String> {
    list.into_iter().map(|secret| (secret.name, secret.inject_at)).collect()
}

/// What the request names.
fn change(request: TemplateRequest) -> Result<TemplateChange> {
    let seconds = count(request.ttl_seconds).map(|s| Duration::from_secs(s.into()));
    let ttl = duration("ttl", request.ttl)?;
    Ok(TemplateChange {
        image: given(request.image),
        description: request.description,
        provider: request.provider,
        memory_mb: count(request.memory_mb),
        vcpus: agreed(["vcpus", "cpu_cores"], count(request.vcpus), count(request.cpu_cores))?,
        ttl: agreed(["ttl", "ttl_seconds"], ttl, seconds)?,
        setup: request.setup,
        env: request.env,
        metadata: request.metadata,
        pool_size: request.pool_size,
        allowed_hosts: request.allowed_hosts,
        secrets: request.secrets.map(secrets),
    })
}

pub(super) async fn list(api: Api) -> Result<Json<Vec<Template>>> {
    Ok(ok(api.control.templates().await?.into_iter().map(views::template).collect()))
}

pub(super) async fn create(
    api: Api,
    once: Once,
    Body(mut request): Body<TemplateRequest>,
) -> Result<Json<Template>> {
    let name = given(request.name.take())
        .ok_or_else(|| Problem::bad_request("template name is required"))?;
    let change = change(request)?;
    let image = change.image.ok_or_else(|| Problem::bad_request("template image is required"))?;
    let fields = TemplateFields {
        image,
        description: change.description.unwrap_or_default(),
        provider: change.provider.unwrap_or_default(),
        memory_mb: change.memory_mb.unwrap_or(DEFAULT_MEMORY_MB),
        vcpus: change.vcpus.unwrap_or(DEFAULT_VCPUS),
        ttl: change.ttl.unwrap_or(DEFAULT_TTL),
        setup: change.setup.unwrap_or_default(),
        env: change.env.unwrap_or_default(),
        metadata: change.metadata.unwrap_or_default(),
        pool_size: change.pool_size.unwrap_or_default(),
        allowed_hosts: change.allowed_hosts.unwrap_or_default(),
        secrets: change.secrets.unwrap_or_default(),
    };
    let row = api.control.create_template_once(once.turn(), fields, &name).await?;
    Ok(created(views::template(row)))
}

pub(super) async fn show(api: Api, path: PathText) -> Result<Json<Template>> {
    Ok(ok(views::template(api.control.template(path.get("name")).await?)))
}

pub(super) async fn update(
    api: Api,
    path: PathText,
    Body(mut request): Body<TemplateRequest>,
) -> Result<Json<Template>> {
    let name = path.get("name");
    if given(request.name.take()).is_some_and(|other| other != name) {
        return Err(Problem::bad_request("name must be absent or that of the path"));
    }
    Ok(ok(views::template(api.control.update_template(name, change(request)?).await?)))
}

pub(super) async fn remove(api: Api, path: PathText) -> Result<Json<StatusReply>> {
    api.control.delete_template(path.get("name")).await?;
    Ok(status("deleted"))
}

/// R1.4: spawns from a template; no body at all is fine.
pub(super) async fn spawn(
    api: Api,
    user: User,
    once: Once,
    path: PathText,
    OptionalBody(request): OptionalBody<TemplateSpawnRequest>,
) -> Result<Json<Sandbox>> {
    let wanted = TemplateSpawn {
        provider: given(request.provider),
        ttl: duration("ttl", request.ttl)?,
        owner: user.or(request.owner_id)?,
        metadata: request.metadata.unwrap_or_default(),
        env: BTreeMap::new(),
    };
    let row = api.control.spawn_template_once(once.turn(), path.get("name"), wanted).await?;
    Ok(created(sandboxes::view(&api, row)))
}
