//! `events`

use std::time::Duration;

use futures_util::StreamExt;
use stacyvm_api_types::Event;
use stacyvm_client::{Answer, EventsFrom};

use crate::{Context, Failure, args::EventsArgs, escape::escape, output::short_time};

/// How long a pause means that everything that is kept was shown.
const QUIET: Duration = Duration::from_millis(500);

pub(super) async fn events(context: &Context, args: EventsArgs) -> Result<(), Failure> {
    let from = EventsFrom {
        after: Some(args.after.unwrap_or_else(|| "0".to_owned())),
        sandbox: args.sandbox.map(|id| id.to_string()),
        owner: None,
        types: args.types,
    };
    let mut events = context.client.events(from).await?;
    loop {
        let event = match args.follow {
            true => events.next().await,
            false => match tokio::time::timeout(QUIET, events.next()).await {
                Ok(event) => event,
                Err(_) => return Ok(()),
            },
        };
        let Some(event) = event else { return Ok(()) };
        show(context, &event?)?;
    }
}

fn show(context: &Context, event: &Answer<Event>) -> Result<(), Failure> {
    let mut line = format!("{}  {}  {}", short_time(&event.timestamp), event.id, event.kind);
    if !event.sandbox_id.is_empty() {
        line.push_str("  ");
        line.push_str(&event.sandbox_id);
    }
    for (key, value) in &event.data {
        line.push_str(&format!("  {}={}", escape(key), escape(value)));
    }
    context.out.line(event.json(), &line)
}
