//! What happened, as server-sent events.

use std::{pin::Pin, task};

use bytes::Bytes;
use futures_util::{
    Stream,
    stream::{self, BoxStream, StreamExt},
};
use http::{HeaderName, HeaderValue, header};
use stacyvm_api_types::Event;

use crate::{
    Answer, Client, Error, Result,
    frames::Position,
    lines::Lines,
    server::Target,
    transport::{Call, flowing},
};

/// Which events to follow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventsFrom {
    /// Begin after this event (`evt-17` or `17`; `0` is the oldest that is kept). Without it, with
    /// the next one.
    pub after: Option<String>,
    /// Only those of this sandbox.
    pub sandbox: Option<String>,
    /// Only those of this owner.
    pub owner: Option<String>,
    /// Only those of these types; empty is all.
    pub types: Vec<String>,
}

/// Events as they happen, each with the JSON that the server wrote. A broken connection is taken
/// up again after the last event that was given, so that none is lost or doubled; it ends only
/// with an error, after `reconnect_timeout` without a server.
pub struct EventStream(BoxStream<'static, Result<Answer<Event>>>);

impl Stream for EventStream {
    type Item = Result<Answer<Event>>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl Client {
    /// Follows events.
    pub async fn events(&self, from: EventsFrom) -> Result<EventStream> {
        let mut state = Following {
            client: self.clone(),
            last: from.after.clone(),
            from,
            lines: None,
            position: Position::at(0, self.settings.reconnect_timeout),
        };
        state.lines = Some(state.open().await?);
        let events =
            stream::try_unfold(
                state,
                |mut state| async move { Ok(Some((state.next().await?, state))) },
            );
        Ok(EventStream(events.boxed()))
    }
}

struct Following {
    client: Client,
    from: EventsFrom,
    last: Option<String>,
    lines: Option<Lines>,
    position: Position,
}

impl Following {
    async fn open(&mut self) -> Result<Lines> {
        let mut target = Target::new("/events");
        for (key, value) in [("sandbox", &self.from.sandbox), ("owner", &self.from.owner)] {
            if let Some(value) = value {
                target = target.query(key, value);
            }
        }
        for kind in &self.from.types {
            target = target.query("type", kind);
        }
        let event_stream = HeaderValue::from_static("text/event-stream");
        let mut call = Call::get(target).header(header::ACCEPT, event_stream);
        if let Some(last) = &self.last {
            let last = HeaderValue::from_str(last)
                .map_err(|_| Error::Invalid("an event id looks like evt-17".to_owned()))?;
            call = call.header(HeaderName::from_static("last-event-id"), last);
        }
        Ok(Lines::new(flowing(self.client.send(call).await?.into_body())))
    }

    async fn next(&mut self) -> Result<Answer<Event>> {
        loop {
            let trouble = match &mut self.lines {
                Some(lines) => match next_message(lines).await {
                    Ok(Some(data)) => {
                        let event = Answer::<Event>::parse(data)?;
                        self.last = Some(event.id.clone());
                        self.position = Position::at(0, self.client.settings.reconnect_timeout);
                        return Ok(event);
                    }
                    Ok(None) => Error::Broken("the event stream ended".into()),
                    Err(error) => error,
                },
                None => match self.open().await {
                    Ok(lines) => {
                        self.lines = Some(lines);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            self.lines = None;
            self.position.after(trouble).await?;
        }
    }
}

/// The data of the next message. Only what a blank line ended counts: the rest was cut.
async fn next_message(lines: &mut Lines) -> Result<Option<Bytes>> {
    let mut data: Vec<u8> = Vec::new();
    while let Some(line) = lines.next().await? {
        if line.is_empty() {
            if !data.is_empty() {
                return Ok(Some(data.into()));
            }
        } else if let Some(value) = line.strip_prefix(b"data:") {
            if !data.is_empty() {
                data.push(b'\n');
            }
            data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_is_what_a_blank_line_ended() {
        let text = ": hello\n\nid: evt-1\nevent: x\ndata: {\"a\":\ndata: 1}\n\ndata: {\"cut\":";
        let body = stream::iter([Ok(Bytes::from_static(text.as_bytes()))]);
        let mut lines = Lines::new(body);
        let first = next_message(&mut lines).await.unwrap();
        assert_eq!(first.as_deref(), Some(&b"{\"a\":\n1}"[..]));
        assert_eq!(next_message(&mut lines).await.unwrap(), None);
    }
}
