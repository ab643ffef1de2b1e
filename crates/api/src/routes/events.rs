//! The event stream. R2.5: it reads the durable log in batches, so a slow reader gets everything,
//! only later.

use std::{convert::Infallible, fmt::Write as _};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use stacyvm_api_types as wire;
use stacyvm_store::EventFilter;
use stacyvm_types::{Event, EventKind, SandboxId, Timestamp};
use tokio::{sync::watch, time::Instant};

use super::{
    doc::{any, doc, maybe},
    table::{Route, get},
};
use crate::{
    Api,
    extract::{Query, owner},
    json,
    problem::{Problem, Result, echo},
    scope::Scope,
    views,
};

const BATCH: u32 = 256;
const POSITION: &str = "(?:evt-)?[0-9]{1,19}";

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![get(
        "/events",
        Scope::Read,
        follow,
        doc("followEvents", "Follows the events of the server as a stream.")
            .detail(
                "Starts after `Last-Event-ID` or `after`, otherwise with the \
                 next event; after one that there is not yet, with a `reset` \
                 and the next event. Each message has `id`, `event` and `data`, an \
                 `Event`; comments are heartbeats.",
            )
            .query(
                "after",
                "Where to start: `evt-<n>` or its number; the header wins.",
                maybe(POSITION),
            )
            .header("Last-Event-ID", "Where to start: `evt-<n>` or its number.", maybe(POSITION))
            .query("sandbox", "Only what happened to this sandbox.", maybe(wire::pattern::SANDBOX))
            .query("owner", "Only what happened to sandboxes of this owner.", any())
            .query("type", "Only events of these types; separated by commas, or repeated.", any())
            .gives_nothing(StatusCode::OK, "Events as they happen.")
            .streams::<wire::Event>("text/event-stream"),
    )]
}

pub(super) async fn follow(api: Api, query: Query, headers: HeaderMap) -> Result<Response> {
    let filter = api.control.visible_events(filter(&query)?)?;
    let last_seen = match headers.get("last-event-id") {
        Some(value) => value.to_str().ok().filter(|text| !text.is_empty()),
        None => None,
    };
    let asked = last_seen.or_else(|| query.text("after")).map(position).transpose()?;
    let head = api.control.last_event().await?;
    let after = asked.unwrap_or(head).min(head);
    // Another log's id, or one that a loss of power took back: waiting for it would pass over all
    // that comes until then.
    let reset = asked.filter(|asked| head < *asked);
    let reset = reset.map(|asked| notice("reset", asked, head, api.control.time()));
    let signal = api.control.event_signal();
    let reader = Reader { heard: Instant::now(), api, filter, after, reset, signal };
    let frames = stream::unfold(reader, async |mut reader| {
        let frames = reader.next().await?;
        Some((Ok::<_, Infallible>(frames), reader))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn filter(query: &Query) -> Result<EventFilter> {
    let sandbox = query.text("sandbox").map(SandboxId::parse).transpose();
    let sandbox = sandbox.map_err(|error| Problem::bad_request(format!("sandbox: {error}")))?;
    let kinds = query.all("type").flat_map(|list| list.split(',')).filter(|kind| !kind.is_empty());
    let kinds = kinds.map(|kind| {
        EventKind::parse(kind).ok_or_else(|| {
            let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
            let (kind, known) = (echo(kind), known.join(", "));
            Problem::bad_request(format!("type {kind:?} is not an event type; there are {known}"))
        })
    });
    Ok(EventFilter {
        sandbox,
        owner: query.text("owner").map(owner).transpose()?,
        kinds: kinds.collect::<Result<_>>()?,
    })
}

fn position(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("evt-").unwrap_or(text);
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    // The databases count with signed numbers.
    match digits.parse::<u64>() {
        Ok(id) if plain && i64::try_from(id).is_ok() => Ok(id),
        _ => Err(Problem::bad_request(format!(
            "an event id is evt-<n> or a number, and not {:?}",
            echo(text)
        ))),
    }
}

struct Reader {
    api: Api,
    filter: EventFilter,
    after: u64,
    /// What is sent first, where the place that was asked for is none.
    reset: Option<wire::Event>,
    signal: watch::Receiver<u64>,
    /// When something was last sent.
    heard: Instant,
}

impl Reader {
    /// What to send next; nothing when the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        let timing = self.api.config.timing;
        if let Some(reset) = self.reset.take() {
            return Some(frames([reset].into_iter()));
        }
        loop {
            // Marked before reading: what is appended meanwhile wakes the wait below.
            self.signal.mark_unchanged();
            match self.batch().await {
                Ok((None, batch)) if batch.is_empty() => {}
                Ok((gap, batch)) => {
                    self.heard = Instant::now();
                    return Some(frames(
                        gap.into_iter().chain(batch.into_iter().map(views::event)),
                    ));
                }
                Err(error) => {
                    Problem::from(error).log();
                    return None;
                }
            }
            let silent = self.heard + timing.event_heartbeat;
            tokio::select! {
                biased;
                () = self.api.config.stopping.cancelled() => return None,
                Ok(()) = self.signal.changed() => {}
                () = tokio::time::sleep(timing.event_poll) => {}
                () = tokio::time::sleep_until(silent) => {
                    self.heard = Instant::now();
                    return Some(Bytes::from_static(b": still here\n\n"));
                }
            }
        }
    }

    /// The events after the last one sent, and the gap before them if some of these were forgotten
    /// already. With a filter most events do not match, so an empty batch moves on to where the
    /// log stood before it was read.
    async fn batch(&mut self) -> stacyvm_control::Result<(Option<wire::Event>, Vec<Event>)> {
        let control = &self.api.control;
        let head = control.last_event().await?;
        if head <= self.after {
            return Ok((None, Vec::new()));
        }
        let batch = control.events(self.after, BATCH, self.filter.clone()).await?;
        // Asked after the read: what is forgotten before a read is then never passed over.
        let forgotten = control.forgotten_events().await?;
        let through = batch.first().map_or(forgotten, |event| forgotten.min(event.id - 1));
        let gap =
            (self.after < through).then(|| notice("gap", self.after, through, control.time()));
        self.after = batch.last().map_or(head, |event| event.id);
        Ok((gap, batch))
    }
}

/// A message about the stream itself: a `gap` says that events were forgotten before they were
/// asked for, a `reset` that the log does not reach to where it was asked for. Its id is where the
/// stream goes on, so that whoever resumes after it is told once.
fn notice(kind: &str, after: u64, through: u64, now: Timestamp) -> wire::Event {
    let bound = |id| format!("evt-{id}");
    let bounds = [("after", bound(after)), ("through", bound(through))];
    wire::Event {
        id: bound(through),
        kind: kind.to_owned(),
        sandbox_id: String::new(),
        owner_id: String::new(),
        timestamp: now.to_string(),
        data: bounds.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

fn frames(events: impl Iterator<Item = wire::Event>) -> Bytes {
    let mut text = String::new();
    for event in events {
        let data = json::text(&event);
        // Writing to a string cannot fail.
        let _ = write!(text, "id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.kind);
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_an_event_id_or_its_number() {
        for (text, id) in
            [("evt-17", 17), ("17", 17), ("0", 0), ("9223372036854775807", i64::MAX as u64)]
        {
            assert_eq!(position(text).map_err(|p| p.message), Ok(id));
        }
        for bad in ["", "evt-", "-1", "+1", "evt-x", "9223372036854775808"] {
            assert!(position(bad).is_err(), "{bad:?}");
        }
    }
}
