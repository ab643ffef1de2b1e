//! Imported images.

use axum::body::Body;
use http::{HeaderMap, StatusCode};
use stacyvm_api_types::{Code, Image, StatusReply};

use super::{
    doc::{doc, image},
    sandboxes::status,
    table::{Route, delete, get, put},
};
use crate::{
    Api,
    body::Upload,
    extract::PathText,
    json::{Json, created, ok},
    origin,
    problem::{Problem, Result},
    scope::Scope,
    views,
};

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get(
            "/images",
            Scope::Read,
            list,
            doc("listImages", "Lists the imported images.")
                .gives::<Vec<Image>>(StatusCode::OK, "The images.")
                .fails(&[Code::Unsupported]),
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
                .takes_bytes(&["application/octet-stream", "application/x-tar", "application/gzip"])
                .gives::<Image>(StatusCode::CREATED, "The image.")
                .fails(&[Code::Conflict, Code::Unsupported, Code::DiskFull, Code::ResourceLimit]),
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
                .gives::<StatusReply>(StatusCode::OK, "It is gone; sandboxes made from it stay.")
                .fails(&[Code::NotFound, Code::Conflict, Code::Unsupported]),
        ),
    ]
}

pub(super) async fn list(api: Api) -> Result<Json<Vec<Image>>> {
    Ok(ok(api.control.images().await?.into_iter().map(views::image).collect()))
}

pub(super) async fn import(
    api: Api,
    path: PathText,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Image>> {
    let kind = origin::content_type(&headers).unwrap_or_default();
    if kind == "application/json" || kind.starts_with("multipart/") {
        let message = "the body must be the archive itself, as application/octet-stream or \
                       application/x-tar";
        return Err(Problem::new(Code::UnsupportedMediaType, message));
    }
    let (upload, archive) = Upload::new(&headers, body, api.config.max_upload)?;
    let record = upload.settle(api.control.import_image(path.get("name"), archive).await)?;
    Ok(created(views::image(record)))
}

pub(super) async fn remove(api: Api, path: PathText) -> Result<Json<StatusReply>> {
    api.control.remove_image(path.get("name")).await?;
    Ok(status("deleted"))
}
