//! Commands over plain HTTP: to their end, or as a stream of lines.

use axum::{
    body::Body as Reply,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use stacyvm_api_types::{Code, ExecReply, ExecRequest, StreamFrame, TtySize};
use stacyvm_control as control;
use stacyvm_provider::{Exec, Program, Size, Stdin};
use stacyvm_types::{ExecId, SandboxId};

use super::{
    doc::doc,
    table::{Route, get, post},
};
use crate::{
    Api,
    extract::{Body, PathText, Query, Sandbox, duration, given},
    follow::{self, Follow, Step},
    idempotency::{Once, Work, accepts_lines},
    json::{self, ok},
    problem::{Problem, Result, echo},
    scope::Scope,
    views,
};

/// A stream of lines.
pub(crate) const NDJSON: &str = "application/x-ndjson";
const EXEC_ID: HeaderName = HeaderName::from_static("x-exec-id");
const MOST_CELLS: u16 = 4096;

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![
        post(
            "/sandboxes/{id}/exec",
            Scope::Api,
            run,
            doc("execCommand", "Runs a command, to its end or as a stream of lines.")
                .detail(
                    "A non-zero exit code is a 200. With `stream`, or with `Accept: \
                     application/x-ndjson`, the reply is a stream of one \
                     `StreamFrame` a line, whose last has `stream: exit`; blank \
                     lines are heartbeats. A client that goes away does not stop \
                     the command.",
                )
                .inside()
                .takes::<ExecRequest>()
                .refusing(&["tty"])
                .gives::<ExecReply>(StatusCode::OK, "What it wrote and how it ended.")
                .streams::<StreamFrame>(NDJSON)
                .with("X-Exec-ID", "On a stream: the id of the command.")
                .fails(&[Code::NotExecutable, Code::Timeout])
                .once(Work::Other),
        ),
        get(
            "/sandboxes/{id}/exec/{exec_id}",
            Scope::Read,
            resume,
            doc("followExec", "Follows a command from an offset of its output.")
                .inside()
                .exec()
                .gives_nothing(
                    StatusCode::OK,
                    "One frame a line, the last with `stream: exit`; blank lines \
                     are heartbeats.",
                )
                .streams::<StreamFrame>(NDJSON)
                .with("X-Exec-ID", "The id of the command."),
        ),
    ]
}

/// The command that a request asks for.
pub(super) fn wanted(request: ExecRequest) -> Result<control::ExecRequest> {
    let program = program(&request)?;
    Ok(control::ExecRequest {
        env: request.env.unwrap_or_default(),
        workdir: given(request.workdir),
        user: given(request.user),
        timeout: duration("timeout", request.timeout)?,
        stdin: if request.stdin.is_some() { Stdin::Pipe } else { Stdin::Null },
        terminal: request.tty.map(size).transpose()?,
        id: given(request.exec_id).map(|text| exec_id(&text)).transpose()?,
        stdin_data: request.stdin.map(Bytes::from),
        ..control::ExecRequest::new(program)
    })
}

fn program(request: &ExecRequest) -> Result<Program> {
    let args = request.args.as_deref().unwrap_or_default();
    match request.mode.as_deref() {
        None | Some("" | "shell") => {
            let mut line = request.command.clone();
            for arg in args {
                line.push(' ');
                line.push_str(&quoted(arg));
            }
            Ok(Program::Shell(line))
        }
        Some("argv") if request.command.is_empty() => {
            Err(Problem::bad_request("command is required in argv mode"))
        }
        Some("argv") => {
            Ok(Program::Argv([&request.command].into_iter().chain(args).cloned().collect()))
        }
        Some(other) => Err(Problem::bad_request(format!(
            "unsupported exec mode {:?}; it must be \"shell\" or \"argv\"",
            echo(other)
        ))),
    }
}

/// An argument that the shell takes as it is.
fn quoted(arg: &str) -> String {
    format!("'{}'", arg.replace('\'', r"'\''"))
}

/// A terminal's size.
pub(super) fn size(tty: TtySize) -> Result<Size> {
    let sane = 1..=MOST_CELLS;
    if sane.contains(&tty.rows) && sane.contains(&tty.cols) {
        Ok(Size { rows: tty.rows, cols: tty.cols })
    } else {
        let message = format!("rows and cols of a terminal must be from 1 to {MOST_CELLS}");
        Err(Problem::bad_request(message))
    }
}

fn exec_id(text: &str) -> Result<ExecId> {
    ExecId::parse(text)
        .map_err(|error| Problem::bad_request(format!("invalid exec_id {:?}: {error}", echo(text))))
}

/// Attaches to the command that the path names.
pub(super) async fn attach(
    api: &Api,
    id: &SandboxId,
    path: &PathText,
    query: &Query,
) -> Result<Follow> {
    let text = path.get("exec_id");
    let exec = ExecId::parse(text)
        .map_err(|_| control::Error::NotFound(format!("exec not found: {}", echo(text))))?;
    let offset = query.number("offset")?.unwrap_or(0);
    let exec = api.control.attach(id, &exec, offset).await?;
    Ok(Follow::new(id.clone(), exec, offset, api.config.stopping.clone()))
}

/// Follows a command that was just started.
pub(super) fn started(api: &Api, id: &SandboxId, exec: Exec) -> Follow {
    Follow::new(id.clone(), exec, 0, api.config.stopping.clone())
}

/// R1.2: runs a command.
pub(super) async fn run(
    api: Api,
    Sandbox(id): Sandbox,
    once: Once,
    headers: HeaderMap,
    Body(request): Body<ExecRequest>,
) -> Result<Response> {
    if request.tty.is_some() {
        let message = "tty needs the WebSocket: GET /api/v1/sandboxes/{id}/exec/ws";
        return Err(Problem::bad_request(message));
    }
    let streams = request.stream == Some(true) || accepts_lines(&headers);
    let mut wanted = once.exec(wanted(request)?)?;
    if api.config.stopping.is_cancelled() {
        return Err(Problem::new(Code::Unavailable, "the server is stopping; try again"));
    }
    if streams {
        let exec = api.control.exec(&id, wanted).await?;
        Ok(lines(&api, started(&api, &id, exec)))
    } else {
        let fresh = || ExecId::from_entropy(rand::random());
        let exec_id = wanted.id.get_or_insert_with(fresh).clone();
        let done = tokio::select! {
            biased;
            done = api.control.exec_collect(&id, wanted) => done?,
            () = stopped_waiting(&api) => return Err(Problem::new(
                Code::Unavailable,
                format!("the server is stopping; the command goes on as {exec_id}"),
            )),
        };
        Ok(ok(views::collected(&done)).into_response())
    }
}

/// Returns when the server has been stopping for so long that what is waited for is handed back.
async fn stopped_waiting(api: &Api) {
    api.config.stopping.cancelled().await;
    tokio::time::sleep(api.config.timing.hand_back).await;
}

/// R1.2: takes a stream up again at an offset.
pub(super) async fn resume(
    api: Api,
    Sandbox(id): Sandbox,
    path: PathText,
    query: Query,
) -> Result<Response> {
    let follow = attach(&api, &id, &path, &query).await?;
    Ok(lines(&api, follow))
}

/// The reply that follows a command line by line.
fn lines(api: &Api, follow: Follow) -> Response {
    let quiet = api.config.timing.stream_heartbeat;
    let exec_id = HeaderValue::from_str(&follow.id()).ok();
    let lines = stream::unfold(Some(follow), move |follow| async move {
        let mut follow = follow?;
        let (line, rest) = match follow.next(quiet).await {
            Step::Output(kind, data, seq) => {
                (json::line(&follow::frame(kind, &data, seq)), Some(follow))
            }
            Step::Notice(frame) => (json::line(&frame), Some(follow)),
            Step::End(frame) => (json::line(&frame), None),
            Step::Quiet => (Bytes::from_static(b"\n"), Some(follow)),
        };
        Some((Ok::<_, std::convert::Infallible>(line), rest))
    });
    let mut response = Response::new(Reply::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Some(exec_id) = exec_id {
        headers.insert(EXEC_ID, exec_id);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(json: &str) -> Result<control::ExecRequest, String> {
        let request = serde_json::from_str(json).unwrap();
        wanted(request).map_err(|problem| problem.message)
    }

    #[test]
    fn shell_arguments_are_quoted_and_argv_ones_are_literal() {
        let shell = ask(r#"{"command":"echo","args":["a b","it's","$HOME"]}"#).unwrap();
        assert_eq!(shell.program, Program::Shell(r"echo 'a b' 'it'\''s' '$HOME'".to_owned()));
        let argv = ask(r#"{"command":"echo","args":["it's"],"mode":"argv"}"#).unwrap();
        assert_eq!(argv.program, Program::Argv(vec!["echo".to_owned(), "it's".to_owned()]));
        assert!(ask(r#"{"mode":"argv"}"#).is_err());
        assert!(ask(r#"{"mode":"exec"}"#).unwrap_err().contains("unsupported exec mode \"exec\""));
    }

    #[test]
    fn standard_input_is_nothing_unless_it_is_given() {
        assert_eq!(ask("{}").unwrap().stdin, Stdin::Null);
        let fed = ask(r#"{"stdin":""}"#).unwrap();
        assert_eq!((fed.stdin, fed.stdin_data), (Stdin::Pipe, Some(Bytes::new())));
    }
}
