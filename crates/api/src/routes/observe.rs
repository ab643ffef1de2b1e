//! What operators see.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use stacyvm_api_types::{Diagnostics, Metrics, SystemStats};

use crate::{
    Api,
    json::{Json, ok},
    observe,
};

pub(super) async fn metrics(api: Api) -> Json<Metrics> {
    ok(observe::metrics(&api).await)
}

pub(super) async fn prometheus(api: Api) -> Response {
    let kind = HeaderValue::from_static(observe::CONTENT_TYPE);
    ([(header::CONTENT_TYPE, kind)], observe::scrape(&api).await).into_response()
}

pub(super) async fn diagnostics(api: Api) -> Json<Diagnostics> {
    ok(observe::diagnostics(&api).await)
}

pub(super) async fn system(api: Api) -> Json<SystemStats> {
    ok(observe::system(&api))
}
