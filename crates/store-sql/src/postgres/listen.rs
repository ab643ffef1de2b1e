//! Hearing from the other servers on the same database.
//!
//! A connection of its own listens; what it hears is told to whoever waits here. What was missed
//! while there was no connection is not known, so everybody is woken once when there is one again.

use std::{future::poll_fn, io, sync::Arc, task::Poll, thread, time::Duration};

use stacyvm_store::Hints;
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use tokio_postgres::AsyncMessage;

use super::{
    session::{Failure, drive},
    settings::Settings,
};

const LISTEN: &str = "LISTEN stacyvm_events; LISTEN stacyvm_places";
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// How often a connection on which nothing is heard is asked whether it is still one.
const QUIET: Duration = Duration::from_secs(15);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The thread that listens. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Listener {
    heard: Arc<Heard>,
    /// `None` only while dropping.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// How often each was heard of.
#[derive(Debug, Default)]
struct Heard {
    events: watch::Sender<u64>,
    places: watch::Sender<u64>,
}

impl Heard {
    fn hear(&self, channel: &str) {
        match channel {
            "stacyvm_events" => self.events.send_modify(|count| *count += 1),
            "stacyvm_places" => self.places.send_modify(|count| *count += 1),
            _ => {}
        }
    }

    fn wake_all(&self) {
        self.events.send_modify(|count| *count += 1);
        self.places.send_modify(|count| *count += 1);
    }
}

impl Listener {
    pub(super) fn start(settings: Arc<Settings>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let heard = Arc::<Heard>::default();
        let hearing = heard.clone();
        let thread = thread::Builder::new().name("store-listener".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = listen(&settings, &hearing) => {}
                }
            });
        })?;
        Ok(Self { heard, stop: Some(stop), thread: Some(thread) })
    }

    pub(super) fn hints(&self) -> Hints {
        Hints { events: self.heard.events.subscribe(), places: self.heard.places.subscribe() }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's listening thread panicked");
        }
    }
}

/// Listens until it is dropped.
async fn listen(settings: &Settings, heard: &Heard) {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut was_there = false;
        let Err(failure) = listen_once(settings, heard, &mut was_there).await;
        if was_there {
            pause = FIRST_PAUSE;
            tracing::warn!(%failure, "hints of other servers are lost until the database is back");
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Listens until the connection is lost.
async fn listen_once(
    settings: &Settings,
    heard: &Heard,
    was_there: &mut bool,
) -> Result<std::convert::Infallible, Failure> {
    let (client, mut connection) =
        timeout(ANSWER, settings.connect()).await.unwrap_or(Err(Failure::Late))?;
    let ask = async |connection: &mut _, words: &str| {
        let answer = drive(connection, client.batch_execute(words), |message| {
            if let AsyncMessage::Notification(said) = message {
                heard.hear(said.channel());
            }
        });
        timeout(ANSWER, answer).await.unwrap_or(Err(Failure::Late))
    };
    ask(&mut connection, LISTEN).await?;
    *was_there = true;
    heard.wake_all();
    loop {
        let next = poll_fn(|context| match connection.poll_message(context) {
            Poll::Ready(Some(message)) => Poll::Ready(message.map_err(Failure::from)),
            Poll::Ready(None) => Poll::Ready(Err(Failure::Closed)),
            Poll::Pending => Poll::Pending,
        });
        match timeout(QUIET, next).await {
            Ok(Ok(AsyncMessage::Notification(said))) => heard.hear(said.channel()),
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => return Err(failure),
            Err(_) => ask(&mut connection, "SELECT 1").await?,
        }
    }
}
