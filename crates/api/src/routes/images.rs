//! Imported images.

use axum::body::Body;
use http::HeaderMap;
use stacyvm_api_types::{Code, Image, StatusReply};

use super::sandboxes::status;
use crate::{
    Api,
    body::Upload,
    extract::PathText,
    json::{Json, created, ok},
    origin,
    problem::{Problem, Result},
    views,
};

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
