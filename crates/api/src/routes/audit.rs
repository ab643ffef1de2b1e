//! R2.6: the audit log, a page at a time, as JSON or CSV.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use stacyvm_api_types as wire;
use stacyvm_store::audit::{
    AdminFilter, AdminRecord, OperationFilter, OperationRecord, Outcome, Page, Position,
};
use stacyvm_types::{SandboxId, Timestamp};

use super::{
    doc::{Doc, any, choice, doc, maybe},
    table::{Route, get},
};
use crate::{
    Api, csv,
    extract::{Query, owner},
    json::ok,
    problem::{Problem, Result, echo},
    scope::Scope,
};

const DEFAULT_LIMIT: u64 = 100;
const MOST: u64 = 500;
const NEXT: HeaderName = HeaderName::from_static("x-next-cursor");
const CURSOR: &str = "[0-9]{1,19}\\.au-[0-9a-f]{20}";

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    let requests = doc("listAdminRequests", "Lists requests to the admin routes, newest first.")
        .query("actor", "Only of this actor.", any())
        .query("method", "Only with this method, in any case.", any())
        .query("status", "Only with this HTTP status.", number(100, 999))
        .query("path", "Only with this in the path.", any());
    let operations = doc("listOperationRecords", "Lists operations, newest first.")
        .query("actor", "Only of this actor.", any())
        .query("action", "Only this action, such as `file.write`.", any())
        .query("sandbox", "Only with this sandbox.", maybe(wire::pattern::SANDBOX))
        .query("owner", "Only of this owner.", any())
        .query("status", "Only with this outcome.", choice(&["success", "failure"]));
    vec![
        get(
            "/admin/audit",
            Scope::Admin,
            requested,
            paged(requests)
                .gives::<Vec<wire::AdminRecord>>(StatusCode::OK, "The requests.")
                .or_csv()
                .with("X-Next-Cursor", NEXT_TEXT),
        ),
        get(
            "/admin/audit/operations",
            Scope::Admin,
            operated,
            paged(operations)
                .gives::<Vec<wire::OperationRecord>>(StatusCode::OK, "The operations.")
                .or_csv()
                .with("X-Next-Cursor", NEXT_TEXT),
        ),
    ]
}

const NEXT_TEXT: &str = "The `before` of the next page; left out on the last one.";

fn number(least: u64, most: u64) -> serde_json::Value {
    serde_json::json!({"type": "integer", "minimum": least, "maximum": most})
}

fn paged(doc: Doc) -> Doc {
    // Empty is as good as missing, here as everywhere.
    let instant = || serde_json::json!({"type": "string", "anyOf": [{"format": "date-time"}, {"maxLength": 0}]});
    doc.detail("A page looks at 10,000 records at most, so with a filter it may be short and have a next one.")
        .query("since", "Only at or after this instant, RFC 3339.", instant())
        .query("until", "Only before this instant, RFC 3339.", instant())
        .query("limit", "How many at most; 100 without it, never more than 500.", number(1, u64::MAX))
        .query("before", "The `X-Next-Cursor` of the page before.", maybe(CURSOR))
        .query("format", "The reply's form.", choice(&["json", "csv"]))
}

/// How a page was asked for.
struct Asked {
    limit: u32,
    before: Option<Position>,
    is_csv: bool,
}

impl Asked {
    fn of(query: &Query) -> Result<Self> {
        let limit = query.number("limit")?.unwrap_or(DEFAULT_LIMIT);
        if limit == 0 {
            return Err(Problem::bad_request("limit must be at least 1"));
        }
        let before = query.text("before").map(|text| {
            Position::parse(text).ok_or_else(|| {
                let message = "before must be the X-Next-Cursor of an earlier page, and is";
                Problem::bad_request(format!("{message} {:?}", echo(text)))
            })
        });
        let is_csv = match query.text("format") {
            None | Some("json") => false,
            Some("csv") => true,
            Some(other) => {
                let message = format!("format must be json or csv, and is {:?}", echo(other));
                return Err(Problem::bad_request(message));
            }
        };
        let limit = u32::try_from(limit.min(MOST)).unwrap_or(u32::MAX);
        Ok(Self { limit, before: before.transpose()?, is_csv })
    }
}

fn instant(query: &Query, name: &str) -> Result<Option<Timestamp>> {
    let parsed = query.text(name).map(|text| {
        Timestamp::parse(text).ok_or_else(|| {
            let right = "must be an RFC 3339 instant such as 2026-01-31T00:00:00Z";
            Problem::bad_request(format!("{name} {right}, and is {:?}", echo(text)))
        })
    });
    parsed.transpose()
}

fn owned(query: &Query, name: &str) -> Option<String> {
    query.text(name).map(str::to_owned)
}

/// The requests to the admin routes.
pub(super) async fn requested(api: Api, query: Query) -> Result<Response> {
    let asked = Asked::of(&query)?;
    let status = query.number("status")?.map(|status| {
        let status = u16::try_from(status).ok().filter(|status| (100..=999).contains(status));
        status.ok_or_else(|| Problem::bad_request("status must be an HTTP status, 100 to 999"))
    });
    let filter = AdminFilter {
        actor: owned(&query, "actor"),
        method: query.text("method").map(str::to_ascii_uppercase),
        status: status.transpose()?,
        path: owned(&query, "path"),
        since: instant(&query, "since")?,
        until: instant(&query, "until")?,
    };
    let page = api.control.admin_records(filter, asked.before, asked.limit).await?;
    let Page { rows, next } = page;
    let rows = rows.into_iter().map(admin_view);
    Ok(if asked.is_csv {
        let header = [
            "id",
            "actor",
            "method",
            "path",
            "status",
            "duration_ms",
            "request_id",
            "remote_addr",
            "user_agent",
            "created_at",
        ];
        let cells = rows.map(|row: wire::AdminRecord| {
            let (status, took) = (row.status.to_string(), row.duration_ms.to_string());
            let wire::AdminRecord { id, actor, method, path, request_id, .. } = row;
            let (from, agent, at) = (row.remote_addr, row.user_agent, row.created_at);
            [id, actor, method, path, status, took, request_id, from, agent, at]
        });
        attached("stacyvm-admin-audit.csv", csv::table(header, cells), next)
    } else {
        listed(ok(rows.collect::<Vec<_>>()).into_response(), next)
    })
}

/// The operations.
pub(super) async fn operated(api: Api, query: Query) -> Result<Response> {
    let asked = Asked::of(&query)?;
    let sandbox = query.text("sandbox").map(SandboxId::parse).transpose();
    let outcome = query.text("status").map(|text| {
        Outcome::parse(text).ok_or_else(|| {
            let message = format!("status must be success or failure, and is {:?}", echo(text));
            Problem::bad_request(message)
        })
    });
    let filter = OperationFilter {
        actor: owned(&query, "actor"),
        action: owned(&query, "action"),
        sandbox: sandbox.map_err(|error| Problem::bad_request(format!("sandbox: {error}")))?,
        owner: query.text("owner").map(owner).transpose()?,
        outcome: outcome.transpose()?,
        since: instant(&query, "since")?,
        until: instant(&query, "until")?,
    };
    let page = api.control.operation_records(filter, asked.before, asked.limit).await?;
    let Page { rows, next } = page;
    let rows = rows.into_iter().map(operation_view);
    Ok(if asked.is_csv {
        let header = [
            "id",
            "actor",
            "action",
            "sandbox_id",
            "owner_id",
            "provider",
            "resource",
            "status",
            "detail",
            "request_id",
            "created_at",
        ];
        let cells = rows.map(|row: wire::OperationRecord| {
            let wire::OperationRecord { id, actor, action, sandbox_id, owner_id, .. } = row;
            let (provider, resource, status) = (row.provider, row.resource, row.status);
            let (detail, request, at) = (row.detail, row.request_id, row.created_at);
            [
                id, actor, action, sandbox_id, owner_id, provider, resource, status, detail,
                request, at,
            ]
        });
        attached("stacyvm-operation-audit.csv", csv::table(header, cells), next)
    } else {
        listed(ok(rows.collect::<Vec<_>>()).into_response(), next)
    })
}

fn listed(mut response: Response, next: Option<Position>) -> Response {
    if let Some(value) = next.and_then(|next| HeaderValue::try_from(next.to_string()).ok()) {
        response.headers_mut().insert(NEXT, value);
    }
    response
}

fn attached(name: &str, text: String, next: Option<Position>) -> Response {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/csv; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, kind);
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    listed(response, next)
}

fn text_of<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn admin_view(record: AdminRecord) -> wire::AdminRecord {
    wire::AdminRecord {
        id: record.id.to_string(),
        actor: record.actor,
        method: record.method,
        path: record.path,
        status: record.status,
        duration_ms: u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
        request_id: record.request_id,
        remote_addr: record.remote_addr,
        user_agent: record.user_agent,
        tenant_id: record.tenant.unwrap_or_default(),
        created_at: record.at.to_string(),
    }
}

fn operation_view(record: OperationRecord) -> wire::OperationRecord {
    wire::OperationRecord {
        id: record.id.to_string(),
        actor: record.actor,
        action: record.action,
        sandbox_id: text_of(record.sandbox),
        owner_id: text_of(record.owner),
        tenant_id: record.tenant.unwrap_or_default(),
        provider: record.provider,
        resource: record.resource,
        status: record.outcome.as_str().to_owned(),
        detail: record.detail,
        request_id: record.request_id.unwrap_or_default(),
        created_at: record.at.to_string(),
    }
}
