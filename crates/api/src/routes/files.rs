//! Files inside a sandbox.

use std::ops::Range;

use axum::{
    body::Body as Raw,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use stacyvm_api_types::{
    ChmodRequest, Code, FileInfo, MoveRequest, StatusReply, WriteReply, WriteRequest,
    pattern as form,
};
use stacyvm_control as control;
use stacyvm_provider::{FileRead, WriteOptions};

use super::{
    doc::{any, doc, file, flag, matching, maybe},
    sandboxes::status,
    table::{Route, delete, get, post, put},
};
use crate::{
    Api,
    body::Upload,
    extract::{Body, Query, Sandbox, given, mode},
    idempotency::{Once, Work},
    json::{Json, ok},
    origin,
    problem::{Problem, Result},
    scope::Scope,
    views,
};

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get(
            "/sandboxes/{id}/files",
            Scope::Read,
            read,
            doc("readFile", "Reads a file, or a range of it.")
                .inside()
                .needs("path", "An absolute path inside the sandbox.", file())
                .header(
                    "Range",
                    "One range: `bytes=a-b`, `bytes=a-` or `bytes=-n`; anything \
                     else is the whole file.",
                    any(),
                )
                .header("If-Range", "Its presence means the whole file.", any())
                .gives_bytes(StatusCode::OK, "The file.")
                .with("Accept-Ranges", "`bytes`.")
                .gives_bytes(StatusCode::PARTIAL_CONTENT, "The range.")
                .with("Accept-Ranges", "`bytes`.")
                .with("Content-Range", "Which bytes of how many.")
                .fails(&[Code::RangeNotSatisfiable]),
        ),
        post(
            "/sandboxes/{id}/files",
            Scope::Api,
            write,
            doc("writeFile", "Writes text to a file.")
                .detail(
                    "All or nothing. Missing directories are made; a new file has \
                     the mode `0644` unless another is given.",
                )
                .inside()
                .takes::<WriteRequest>()
                .gives::<WriteReply>(StatusCode::OK, "The file as it is now.")
                .once(Work::Other),
        ),
        put(
            "/sandboxes/{id}/files",
            Scope::Api,
            upload,
            doc("uploadFile", "Writes the bytes of the body to a file.")
                .detail(
                    "All or nothing, at most 4 GiB unless the server is set up \
                     otherwise.",
                )
                .inside()
                .needs("path", "An absolute path inside the sandbox.", file())
                .query("mode", "Permission bits as octal text.", maybe(form::MODE))
                .takes_bytes(&["application/octet-stream"])
                .gives::<WriteReply>(StatusCode::OK, "The file as it is now."),
        ),
        delete(
            "/sandboxes/{id}/files",
            Scope::Api,
            remove,
            doc("removeFile", "Removes a file or a directory.")
                .inside()
                .needs("path", "An absolute path inside the sandbox.", file())
                .query("recursive", "Whether a directory goes with everything in it.", flag())
                .gives::<StatusReply>(StatusCode::OK, "It is gone."),
        ),
        get(
            "/sandboxes/{id}/files/list",
            Scope::Read,
            list,
            doc("listFiles", "Lists a directory.")
                .inside()
                .query(
                    "path",
                    "An absolute path inside the sandbox; `/` when missing.",
                    maybe(form::PATH),
                )
                .gives::<Vec<FileInfo>>(StatusCode::OK, "Its entries."),
        ),
        get(
            "/sandboxes/{id}/files/stat",
            Scope::Read,
            stat,
            doc("statFile", "Describes a file.")
                .inside()
                .needs("path", "An absolute path inside the sandbox.", file())
                .gives::<FileInfo>(StatusCode::OK, "The file."),
        ),
        get(
            "/sandboxes/{id}/files/glob",
            Scope::Read,
            glob,
            doc("globFiles", "Lists the paths that match a pattern.")
                .inside()
                .needs(
                    "pattern",
                    "`*`, `?` and `[…]` stay within a name, `**` crosses directories.",
                    matching(r"[^\u0000]+"),
                )
                .gives::<Vec<String>>(StatusCode::OK, "Absolute paths."),
        ),
        post(
            "/sandboxes/{id}/files/move",
            Scope::Api,
            rename,
            doc("moveFile", "Moves a file or a directory.")
                .inside()
                .takes::<MoveRequest>()
                .gives::<StatusReply>(StatusCode::OK, "It was moved.")
                .once(Work::Other),
        ),
        post(
            "/sandboxes/{id}/files/chmod",
            Scope::Api,
            chmod,
            doc("chmodFile", "Changes the permission bits of a file.")
                .inside()
                .takes::<ChmodRequest>()
                .gives::<StatusReply>(StatusCode::OK, "They were changed.")
                .once(Work::Other),
        ),
    ]
}

/// One range of a file, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// From an offset to before another.
    Part(u64, u64),
    /// The last bytes.
    Tail(u64),
}

/// The one range of a request. Anything else means the whole file, as RFC 9110 wants.
fn asked(headers: &HeaderMap) -> Option<Asked> {
    if headers.contains_key(header::IF_RANGE) {
        return None;
    }
    let text = headers.get(header::RANGE)?.to_str().ok()?;
    let (from, to) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number that is too large for a file is as good as the largest one.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (from, to) {
        ("", tail) => number(tail).map(Asked::Tail),
        (from, "") => number(from).map(|from| Asked::Part(from, u64::MAX)),
        (from, to) => {
            let (from, to) = (number(from)?, number(to)?);
            (from <= to).then(|| Asked::Part(from, to.saturating_add(1)))
        }
    }
}

/// R1.3: reads a file, or a range of it.
pub(super) async fn read(
    api: Api,
    Sandbox(id): Sandbox,
    query: Query,
    headers: HeaderMap,
) -> Result<Response> {
    let path = query.required("path")?;
    let asked = asked(&headers);
    let range = match asked {
        None => None,
        Some(Asked::Part(from, to)) => Some(from..to),
        Some(Asked::Tail(count)) => {
            let size = api.control.stat_file(&id, path).await?.size;
            if count == 0 || size == 0 {
                return Err(control::Error::RangePastEnd { size }.into());
            }
            Some(size.saturating_sub(count)..size)
        }
    };
    let file = api.control.read_file(&id, path, range.clone()).await?;
    if range.is_some() && file.range.is_empty() {
        return Err(control::Error::RangePastEnd { size: file.info.size }.into());
    }
    Ok(bytes(file, asked.is_some()))
}

fn bytes(file: FileRead, partial: bool) -> Response {
    let Range { start, end } = file.range;
    let length = end.saturating_sub(start);
    let content_range = format!("bytes {start}-{}/{}", end.saturating_sub(1), file.info.size);
    let body = file.body.map(|piece| {
        piece.inspect_err(|error| tracing::warn!(?error, "a file could not be read to its end"))
    });
    let mut response = Response::new(Raw::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    if partial && let Ok(value) = HeaderValue::try_from(content_range) {
        headers.insert(header::CONTENT_RANGE, value);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

fn required(field: &str, text: String) -> Result<String> {
    given(Some(text))
        .ok_or_else(|| Problem::bad_request(format!("invalid input: {field} is required")))
}

fn written(info: stacyvm_provider::FileInfo) -> Json<WriteReply> {
    ok(WriteReply { status: "written".to_owned(), file: Some(views::file(info)) })
}

/// R1.3: writes text.
pub(super) async fn write(
    api: Api,
    Sandbox(id): Sandbox,
    Body(request): Body<WriteRequest>,
) -> Result<Json<WriteReply>> {
    let path = required("path", request.path)?;
    let mode = given(request.mode).map(|text| mode(&text)).transpose()?;
    let content = Bytes::from(request.content);
    let body = stream::iter([Ok(content)]).boxed();
    Ok(written(api.control.write_file(&id, &path, WriteOptions { mode }, body).await?))
}

/// R1.3: writes bytes as they arrive.
pub(super) async fn upload(
    api: Api,
    Sandbox(id): Sandbox,
    query: Query,
    headers: HeaderMap,
    body: Raw,
) -> Result<Response> {
    let path = query.required("path")?;
    let mode = query.text("mode").map(mode).transpose()?;
    if origin::content_type(&headers).is_some_and(|kind| kind.starts_with("multipart/")) {
        let message = "forms are not taken; send the file's bytes as the body";
        return Err(Problem::new(Code::UnsupportedMediaType, message));
    }
    let (upload, body) = Upload::new(&headers, body, api.config.max_upload).await?;
    let result = api.control.write_file(&id, path, WriteOptions { mode }, body).await;
    Ok(written(upload.settle(result).await?).into_response())
}

pub(super) async fn remove(
    api: Api,
    Sandbox(id): Sandbox,
    query: Query,
) -> Result<Json<StatusReply>> {
    let path = query.required("path")?;
    api.control.remove_file(&id, path, query.flag("recursive")?).await?;
    Ok(status("deleted"))
}

pub(super) async fn list(
    api: Api,
    Sandbox(id): Sandbox,
    query: Query,
) -> Result<Json<Vec<FileInfo>>> {
    let path = query.text("path").unwrap_or("/");
    let entries = api.control.list_files(&id, path).await?;
    Ok(ok(entries.into_iter().map(views::file).collect()))
}

pub(super) async fn stat(api: Api, Sandbox(id): Sandbox, query: Query) -> Result<Json<FileInfo>> {
    let path = query.required("path")?;
    Ok(ok(views::file(api.control.stat_file(&id, path).await?)))
}

pub(super) async fn glob(
    api: Api,
    Sandbox(id): Sandbox,
    query: Query,
) -> Result<Json<Vec<String>>> {
    let pattern = query.required("pattern")?;
    Ok(ok(api.control.glob_files(&id, pattern).await?))
}

pub(super) async fn rename(
    api: Api,
    Sandbox(id): Sandbox,
    once: Once,
    Body(request): Body<MoveRequest>,
) -> Result<Json<StatusReply>> {
    let from = required("old_path", request.old_path)?;
    let to = required("new_path", request.new_path)?;
    api.control.move_file_once(once.turn(), &id, &from, &to).await?;
    Ok(status("moved"))
}

pub(super) async fn chmod(
    api: Api,
    Sandbox(id): Sandbox,
    Body(request): Body<ChmodRequest>,
) -> Result<Json<StatusReply>> {
    let path = required("path", request.path)?;
    api.control.chmod_file(&id, &path, mode(&request.mode)?).await?;
    Ok(status("chmod applied"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_everything_else_is_the_whole_file() {
        let ask = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_str(text).unwrap());
            asked(&headers)
        };
        assert_eq!(ask("bytes=0-0"), Some(Asked::Part(0, 1)));
        assert_eq!(ask("bytes=5-"), Some(Asked::Part(5, u64::MAX)));
        assert_eq!(ask("bytes=-7"), Some(Asked::Tail(7)));
        assert_eq!(ask("bytes=0-99999999999999999999999"), Some(Asked::Part(0, u64::MAX)));
        for other in ["bytes=", "bytes=-", "bytes=2-1", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-2"]
        {
            assert_eq!(ask(other), None, "{other}");
        }
    }
}
