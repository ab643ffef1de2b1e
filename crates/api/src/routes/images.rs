//! Imported images.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode};
use stacyvm_api_types::{Code, Image, StatusReply};
use stacyvm_control::Error;
use stacyvm_types::WorkerId;

use super::{
    doc::{doc, image, text},
    sandboxes::status,
    table::{Route, delete, get, put},
};
use crate::{
    Api,
    body::Upload,
    extract::{PathText, Query},
    json::{Json, created, ok},
    origin,
    problem::{Problem, Result, echo},
    scope::Scope,
    views,
};

const WORKER: &str =
    "The worker; without it the server's own, or the only one that imports images.";

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get(
            "/images",
            Scope::Read,
            list,
            doc("listImages", "Lists the imported images of all workers.")
                .query("worker", "One worker, if not all.", text())
                .gives::<Vec<Image>>(StatusCode::OK, "The images, each with its workers.")
                .with(
                    "X-Silent-Workers",
                    "The workers that did not answer, so that their images may be missing.",
                )
                .fails(&[Code::NotFound, Code::Unsupported]),
        )
        .slashed(),
        put(
            "/images/{*name}",
            Scope::Operator,
            import,
            doc("importImage", "Imports an image from a tar archive, plain or gzip.")
                .path(
                    "name",
                    "The image, such as `alpine:latest`; slashes may stand as they \
                     are.",
                    image(),
                )
                .query("worker", WORKER, text())
                .takes_bytes(&["application/octet-stream", "application/x-tar", "application/gzip"])
                .gives::<Image>(StatusCode::CREATED, "The image.")
                .fails(&[
                    Code::NotFound,
                    Code::Conflict,
                    Code::Unsupported,
                    Code::DiskFull,
                    Code::ResourceLimit,
                ]),
        ),
        delete(
            "/images/{*name}",
            Scope::Operator,
            remove,
            doc("removeImage", "Removes an image.")
                .path(
                    "name",
                    "The image, such as `alpine:latest`; slashes may stand as they \
                     are.",
                    image(),
                )
                .query("worker", WORKER, text())
                .gives::<StatusReply>(StatusCode::OK, "It is gone; sandboxes made from it stay.")
                .fails(&[Code::NotFound, Code::Conflict, Code::Unsupported]),
        ),
    ]
}

fn worker(query: &Query) -> Result<Option<WorkerId>> {
    let known = |text: &str| {
        WorkerId::parse(text)
            .map_err(|_| Error::NotFound(format!("not found: worker {:?}", echo(text))).into())
    };
    query.text("worker").map(known).transpose()
}

pub(super) async fn list(api: Api, query: Query) -> Result<Response> {
    let list = api.control.images(worker(&query)?.as_ref()).await?;
    let images: Vec<_> = list.images.into_iter().map(views::image).collect();
    let mut response = ok(images).into_response();
    let silent = list.silent.iter().map(WorkerId::as_str).collect::<Vec<_>>().join(",");
    if let Some(silent) = HeaderValue::from_str(&silent).ok().filter(|silent| !silent.is_empty()) {
        response.headers_mut().insert("x-silent-workers", silent);
    }
    Ok(response)
}

pub(super) async fn import(
    api: Api,
    path: PathText,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Image>> {
    let kind = origin::content_type(&headers).unwrap_or_default();
    if kind == "application/json" || kind.starts_with("multipart/") {
        let message = "the body must be the archive itself, as application/octet-stream or \
                       application/x-tar";
        return Err(Problem::new(Code::UnsupportedMediaType, message));
    }
    let worker = worker(&query)?;
    let (upload, archive) = Upload::new(&headers, body, api.config.max_upload).await?;
    let imported = api.control.import_image(path.get("name"), worker.as_ref(), archive).await;
    Ok(created(views::image(upload.settle(imported).await?)))
}

pub(super) async fn remove(api: Api, path: PathText, query: Query) -> Result<Json<StatusReply>> {
    api.control.remove_image(path.get("name"), worker(&query)?.as_ref()).await?;
    Ok(status("deleted"))
}
