//! R3.1: quotas of owners.

use std::time::Duration;

use http::StatusCode;
use stacyvm_admission::Weight;
use stacyvm_api_types::{
    Code, OwnerQuota, OwnerUsage, QuotaRequest, QuotaSummary, StatusReply, pattern,
};
use stacyvm_control as control;
use stacyvm_store::{Quota, QuotaFields};
use stacyvm_types::{OwnerId, format_duration};

use super::{
    doc::{Doc, doc, matching},
    sandboxes::status,
    table::{Route, delete, get, put},
};
use crate::{
    Api,
    extract::{Body, PathText, count, duration, owner},
    json::{Json, ok},
    problem::{Problem, Result},
    scope::Scope,
};

/// The routes of this file. Older clients know them below `/admin` too.
pub(super) fn routes() -> Vec<Route> {
    let of_owner = |doc: Doc| doc.path("owner_id", "The owner.", matching(pattern::SPACED_OWNER));
    let list_doc = |id| {
        doc(id, "Lists the quotas of owners.")
            .gives::<Vec<OwnerQuota>>(StatusCode::OK, "The quotas, by owner.")
    };
    let summary_doc = |id| {
        doc(id, "Counts the quotas of owners.").gives::<QuotaSummary>(StatusCode::OK, "The counts.")
    };
    let show_doc = |id| {
        of_owner(doc(id, "Shows the quota of an owner."))
            .gives::<OwnerQuota>(StatusCode::OK, "The quota.")
            .fails(&[Code::NotFound])
    };
    let save_doc = |id| {
        of_owner(doc(id, "Decides the quota of an owner.").detail(
            "It replaces what was decided before, and is in force for the next spawn and command.",
        ))
        .takes::<QuotaRequest>()
        .gives::<OwnerQuota>(StatusCode::OK, "The quota.")
        .fails(&[Code::NotFound])
    };
    let remove_doc = |id| {
        of_owner(doc(id, "Removes the quota of an owner."))
            .gives::<StatusReply>(StatusCode::OK, "The owner may do what everybody may.")
            .fails(&[Code::NotFound])
    };
    let usage_doc = |id| {
        of_owner(
            doc(id, "Shows what an owner has and may have.")
                .detail("An owner that nobody has heard of has nothing."),
        )
        .gives::<OwnerUsage>(StatusCode::OK, "The figures.")
        .fails(&[Code::NotFound])
    };
    vec![
        get("/quotas", Scope::Read, list, list_doc("listQuotas")),
        get("/quotas/summary", Scope::Read, summary, summary_doc("getQuotaSummary")),
        get("/quotas/{owner_id}", Scope::Read, show, show_doc("getQuota")),
        put("/quotas/{owner_id}", Scope::Operator, save, save_doc("saveQuota")),
        delete("/quotas/{owner_id}", Scope::Operator, remove, remove_doc("deleteQuota")),
        get("/quotas/{owner_id}/usage", Scope::Read, usage, usage_doc("getOwnerUsage")),
        get("/admin/quotas", Scope::Admin, list, list_doc("adminListQuotas")),
        get("/admin/quotas/summary", Scope::Admin, summary, summary_doc("adminGetQuotaSummary")),
        get("/admin/quotas/{owner_id}", Scope::Admin, show, show_doc("adminGetQuota")),
        put("/admin/quotas/{owner_id}", Scope::Admin, save, save_doc("adminSaveQuota")),
        delete("/admin/quotas/{owner_id}", Scope::Admin, remove, remove_doc("adminDeleteQuota")),
        get("/admin/quotas/{owner_id}/usage", Scope::Admin, usage, usage_doc("adminGetOwnerUsage")),
    ]
}

fn named(path: &PathText) -> Result<OwnerId> {
    owner(path.get("owner_id"))
}

fn time(value: Option<Duration>) -> String {
    format_duration(value.unwrap_or_default())
}

fn view(Quota { owner, fields, created_at, updated_at }: Quota) -> OwnerQuota {
    OwnerQuota {
        owner_id: owner.to_string(),
        max_sandboxes: fields.max_sandboxes.unwrap_or(0),
        max_ttl: time(fields.max_ttl),
        max_exec_timeout: time(fields.max_exec_timeout),
        weight: fields.weight.unwrap_or_default().get().into(),
        created_at: created_at.to_string(),
        updated_at: updated_at.to_string(),
    }
}

async fn list(api: Api) -> Result<Json<Vec<OwnerQuota>>> {
    Ok(ok(api.control.quotas().await?.into_iter().map(view).collect()))
}

async fn summary(api: Api) -> Result<Json<QuotaSummary>> {
    let counts = api.control.quota_counts().await?;
    Ok(ok(QuotaSummary {
        total: counts.total,
        with_max_sandboxes: counts.with_max_sandboxes,
        with_max_ttl: counts.with_max_ttl,
        with_max_exec_timeout: counts.with_max_exec_timeout,
    }))
}

async fn show(api: Api, path: PathText) -> Result<Json<OwnerQuota>> {
    Ok(ok(view(api.control.quota(&named(&path)?).await?)))
}

async fn save(
    api: Api,
    path: PathText,
    Body(request): Body<QuotaRequest>,
) -> Result<Json<OwnerQuota>> {
    let owner = named(&path)?;
    let given = |name, text| Ok::<_, Problem>(duration(name, text)?.filter(|d| !d.is_zero()));
    let weight = |asked: u32| {
        let weight = u8::try_from(asked).ok().and_then(Weight::new);
        weight.ok_or_else(|| {
            Problem::bad_request(format!("weight must be between 1 and {}", Weight::MAX))
        })
    };
    let fields = QuotaFields {
        max_sandboxes: count(request.max_sandboxes),
        max_ttl: given("max_ttl", request.max_ttl)?,
        max_exec_timeout: given("max_exec_timeout", request.max_exec_timeout)?,
        weight: count(request.weight).map(weight).transpose()?,
    };
    Ok(ok(view(api.control.put_quota(&owner, fields).await?)))
}

async fn remove(api: Api, path: PathText) -> Result<Json<StatusReply>> {
    api.control.delete_quota(&named(&path)?).await?;
    Ok(status("deleted"))
}

async fn usage(api: Api, path: PathText) -> Result<Json<OwnerUsage>> {
    let control::OwnerUsage {
        owner,
        active_sandboxes,
        max_sandboxes,
        max_ttl,
        max_exec_timeout,
        quota_configured,
    } = api.control.owner_usage(&named(&path)?).await?;
    Ok(ok(OwnerUsage {
        owner_id: owner.to_string(),
        active_sandboxes,
        max_sandboxes,
        max_ttl: time(max_ttl),
        max_exec_timeout: time(max_exec_timeout),
        quota_configured,
    }))
}
