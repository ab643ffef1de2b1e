//! Work that is done once, however often it is asked for.
//!
//! A key is stored before the work, with a resource id that the work will be known by: the id of the
//! sandbox or of the command. A repeat gets the answer that was kept. Where none was kept, because
//! the server died or the end was unknown, the repeat takes the next turn and first finds out, from
//! the row or from the agent, what became of that resource. So every turn may be cut short anywhere.
//!
//! Inside one process a claim on the key keeps turns apart; between processes it is the holder of
//! the stored turn, who says again and again that its work goes on. A holder's successor has the holder's name and does not wait.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::Write as _,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sha2::{Digest, Sha256};
use stacyvm_provider::failpoint;
use stacyvm_store::{
    self as store, Allowance, Answer, Begun, Durability, NewKey, Sandbox, Template, TemplateFields,
};
use stacyvm_types::{CauseKind, ExecId, Phase, SandboxId, Timestamp};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{Control, Error, ExecRequest, Result, SpawnRequest, Started, failpoints};

/// How long a repeat waits for the turn before it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a repeat looks whether another server is done.
const POLL: Duration = Duration::from_millis(250);
/// How long other servers leave a turn to its holder after they heard of it last.
const HOLD: Duration = Duration::from_secs(45);
/// How often a holder says that its work goes on: some may fail before others take over.
const HOLD_AGAIN: Duration = Duration::from_secs(10);
/// How long a turn waits for a start that an earlier one began.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// The longest body of an answer that counts for nothing.
const SHORT: usize = 4 << 10;
/// What the longer ones of one caller may take together, until they are forgotten.
const ALLOWANCE: u64 = 16 << 20;

/// A key, bound to who brings it and to what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    id: String,
    fingerprint: String,
    /// Who brings it.
    caller: String,
    durability: Durability,
}

impl Key {
    /// What the answer's body counts against. A short one counts for nothing, because it takes no
    /// more than the key itself does; nor does a refusal, which cannot be made anew.
    fn allowance(&self, answer: &Answer) -> Option<Allowance> {
        let is_long = answer.body.as_ref().is_some_and(|body| SHORT < body.len());
        let counts = is_long && answer.status < 400;
        counts.then(|| Allowance { caller: self.caller.clone(), bytes: ALLOWANCE })
    }
}

/// The one who does the work of a key.
#[derive(Debug, Clone)]
pub struct Turn {
    key: String,
    stored: store::Turn,
    stage: Stage,
}

/// What earlier turns may have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing.
    First,
    /// Anything between nothing and all.
    Resumed,
    /// All; only the answer is to be made anew.
    Done,
}

/// What is to become of a key after its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This is the answer of every repeat.
    Keep(Answer),
    /// A repeat goes on from here.
    Release,
}

/// What a keyed request is answered with.
#[derive(Debug)]
pub enum Once<T> {
    /// The work was done now.
    First(T),
    /// The work was done before; its answer was made anew.
    Anew(T),
    /// The work was done before, and this was its answer.
    Replay(Answer),
}

/// The keys whose work goes on in this process.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<String, InHand>>>);

/// A key whose work goes on.
struct InHand {
    fingerprint: String,
    released: CancellationToken,
    /// When its first turn began, once that is known.
    begun_at: Option<Timestamp>,
}

enum Claimed {
    Mine(Claim),
    /// Somebody works on it until this is cancelled.
    Taken(CancellationToken),
    /// Somebody works on something else under this key.
    Mismatch,
}

/// The right to work on a key in this process, given back when dropped.
struct Claim {
    turns: Turns,
    id: String,
    released: CancellationToken,
}

impl Turns {
    fn claim(&self, key: &Key) -> Claimed {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match turns.get(&key.id) {
            Some(other) if other.fingerprint != key.fingerprint => Claimed::Mismatch,
            Some(same) => Claimed::Taken(same.released.clone()),
            None => {
                let released = CancellationToken::new();
                let in_hand = InHand {
                    fingerprint: key.fingerprint.clone(),
                    released: released.clone(),
                    begun_at: None,
                };
                turns.insert(key.id.clone(), in_hand);
                Claimed::Mine(Claim { turns: self.clone(), id: key.id.clone(), released })
            }
        }
    }

    /// When the oldest key whose work goes on was first used. Such a key is not forgotten, however
    /// old it is: its repeat would do the work again.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        let turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.values().filter_map(|in_hand| in_hand.begun_at).min()
    }
}

impl Claim {
    fn begun(&self, at: Timestamp) {
        let mut turns = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(in_hand) = turns.get_mut(&self.id) {
            in_hand.begun_at = Some(at);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.turns.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.released.cancel();
    }
}

/// The digest of parts, of which none can pass for two.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Turn {
    /// The id of the sandbox that the work makes.
    fn sandbox(&self) -> Result<SandboxId> {
        SandboxId::parse(&format!("sb-{}", self.stored.resource))
            .map_err(|error| Error::internal("a stored key has no resource", error))
    }

    /// Makes the command the one of this turn.
    pub fn of_exec(&self, mut request: ExecRequest) -> Result<ExecRequest> {
        if request.id.is_none() {
            let id = ExecId::parse(&format!("ex-{}", self.stored.resource))
                .map_err(|error| Error::internal("a stored key has no resource", error))?;
            request.id = Some(id);
        }
        request.started = match self.stage {
            Stage::First => Started::No,
            Stage::Resumed => Started::Perhaps,
            Stage::Done => Started::Yes,
        };
        Ok(request)
    }
}

/// What became of a sandbox that an earlier turn may have started.
enum Found {
    Nothing,
    /// It was handed out, or can be.
    Sandbox(Box<Sandbox>),
    /// It ended before it could be handed out.
    Failed,
}

impl Control {
    /// The key that this caller brings for a route, standing for what was asked for. `user` is
    /// whom the caller speaks for.
    pub fn key(&self, route: &str, user: &[u8], key: &[u8], asked: &[&[u8]]) -> Key {
        Key {
            id: digest(&[self.caller().actor.as_bytes(), route.as_bytes(), user, key]),
            fingerprint: digest(asked),
            caller: digest(&[self.caller().actor.as_bytes()]),
            durability: Durability::Disk,
        }
    }

    /// Does the work of a key, unless it was done. The work does not depend on the caller: once
    /// begun it goes on, and its answer is kept. A repeat waits for the one before it, up to half a
    /// minute, then it is [`Error::KeyInUse`]; a key that stands for something else is
    /// [`Error::KeyReused`].
    pub async fn once<T, W>(
        &self,
        key: Key,
        work: impl FnOnce(Turn) -> W + Send + 'static,
    ) -> Result<Once<T>>
    where
        T: Send + 'static,
        W: Future<Output = (T, Verdict)> + Send + 'static,
    {
        let (claim, begun) = self.turn(&key).await?;
        let (stored, stage) = match begun {
            Begun::Mismatch => return Err(Error::KeyReused),
            Begun::Held => return Err(Error::KeyInUse),
            Begun::Done(_, answer) if answer.body.is_some() => return Ok(Once::Replay(answer)),
            Begun::Done(stored, _) => {
                drop(claim);
                let turn = Turn { key: key.id, stored, stage: Stage::Done };
                let work = work(turn);
                return self.owned(async move { Ok(Once::Anew(work.await.0)) }).await;
            }
            Begun::Yours(stored) if stored.attempt == 1 => (stored, Stage::First),
            Begun::Yours(stored) => (stored, Stage::Resumed),
        };
        failpoint!(failpoints::ONCE_BEGUN);
        let attempt = stored.attempt;
        let work = work(Turn { key: key.id.clone(), stored, stage });
        let control = self.clone();
        self.owned(async move {
            let (said, verdict) = tokio::select! {
                biased;
                done = work => done,
                never = control.hold(&key, attempt) => match never {},
            };
            failpoint!(failpoints::ONCE_WORKED);
            control.settle_key(&key, attempt, verdict).await;
            failpoint!(failpoints::ONCE_KEPT);
            drop(claim);
            Ok(Once::First(said))
        })
        .await
    }

    /// Holds a turn for as long as its work goes on, which may wait for a place for longer than any
    /// one hold lasts.
    async fn hold(&self, key: &Key, attempt: u64) -> Infallible {
        loop {
            sleep(HOLD_AGAIN).await;
            let until = self.now().saturating_add(HOLD);
            match self.store().hold_key(&key.id, attempt, until).await {
                Ok(()) => {}
                // Another server believes that this one is gone. It finds out what the work made.
                Err(store::Error::LeaseLost) => return pending().await,
                Err(error) => {
                    tracing::debug!(%error, "a key is held no longer than before");
                }
            }
        }
    }

    /// Waits until nobody works on the key, and asks what it says.
    async fn turn(&self, key: &Key) -> Result<(Claim, Begun)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let claim = match self.0.turns.claim(key) {
                Claimed::Mine(claim) => claim,
                Claimed::Mismatch => return Err(Error::KeyReused),
                Claimed::Taken(released) => {
                    let waited = timeout_at(deadline, released.cancelled()).await;
                    waited.map_err(|_| Error::KeyInUse)?;
                    continue;
                }
            };
            let now = self.now();
            let new = NewKey {
                id: key.id.clone(),
                fingerprint: key.fingerprint.clone(),
                resource: self.fresh_resource(),
                holder: self.settings().worker.clone(),
                held_until: now.saturating_add(HOLD),
            };
            let begun = self.store().begin_key(new, key.durability, now).await;
            match begun.map_err(Error::from_store)? {
                Begun::Held if Instant::now() < deadline => {
                    drop(claim);
                    sleep(POLL).await;
                }
                begun => {
                    if let Begun::Yours(stored) = &begun {
                        claim.begun(stored.begun_at);
                    }
                    return Ok((claim, begun));
                }
            }
        }
    }

    /// What the ids of a sandbox or a command are made of.
    fn fresh_resource(&self) -> String {
        let id = SandboxId::from_entropy(self.0.entropy.id()).to_string();
        id.trim_start_matches("sb-").to_owned()
    }

    async fn settle_key(&self, key: &Key, attempt: u64, verdict: Verdict) {
        let settled = match verdict {
            Verdict::Keep(answer) => {
                let allowance = key.allowance(&answer);
                self.store().finish_key(&key.id, attempt, answer, allowance).await
            }
            Verdict::Release => self.store().release_key(&key.id, attempt).await,
        };
        match settled {
            // Somebody else's turn, or too old: what this one answers is right all the same.
            Ok(()) | Err(store::Error::LeaseLost) => {}
            Err(error) => {
                tracing::warn!(%error, "an answer is not kept; a repeat finds out what was done");
            }
        }
    }

    /// [`Control::spawn`], for a turn: the sandbox that the key stands for.
    pub async fn spawn_once(
        &self,
        turn: Option<&Turn>,
        mut request: SpawnRequest,
    ) -> Result<Sandbox> {
        let Some(turn) = turn else { return self.spawn(request).await };
        let mut id = turn.sandbox()?;
        if turn.stage != Stage::First {
            match self.find_begun(&id).await? {
                Found::Sandbox(row) => return Ok(*row),
                Found::Nothing | Found::Failed if turn.stage == Stage::Done => {
                    return Err(Error::NoSandbox(id));
                }
                Found::Nothing => {}
                Found::Failed => id = self.renewed(turn).await?,
            }
        }
        request.id = Some(id);
        let first = request.id.clone();
        match (self.try_spawn(request.clone()).await, first) {
            // Its worker was lost while it was being started, and somebody else settled it; or a
            // worker remembers the sandbox although its host lost the row that was admitted first.
            (Err(error), Some(id)) if error.is_lost_launch() => match self.find_begun(&id).await? {
                Found::Sandbox(row) => Ok(*row),
                Found::Nothing | Found::Failed => {
                    request.id = Some(self.renewed(turn).await?);
                    self.spawn(request).await
                }
            },
            (answer, _) => answer.map_err(Error::of_spawn),
        }
    }

    /// Lets the key stand for another sandbox from now on.
    async fn renewed(&self, turn: &Turn) -> Result<SandboxId> {
        let resource = self.fresh_resource();
        let renewed = self.store().renew_key(&turn.key, turn.stored.attempt, &resource).await;
        renewed.map_err(|error| match error {
            store::Error::LeaseLost => Error::KeyInUse,
            error => Error::from_store(error),
        })?;
        let stored = store::Turn { resource, ..turn.stored.clone() };
        Turn { stored, ..turn.clone() }.sandbox()
    }

    /// Looks for the sandbox of an earlier turn, and waits while it is being started.
    async fn find_begun(&self, id: &SandboxId) -> Result<Found> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let row = self.store().sandbox(id).await.map_err(Error::from_store)?;
            let Some(row) = row else { return Ok(Found::Nothing) };
            match &row.phase {
                phase if is_being_started(phase) && Instant::now() < deadline => {
                    self.wake_reconciler();
                    sleep(POLL).await;
                }
                phase if is_being_started(phase) => {
                    let message = format!("sandbox {id} is still being started; try again");
                    return Err(Error::unavailable(message));
                }
                Phase::Stopping(cause) | Phase::Ended(cause)
                    if matches!(
                        cause.kind,
                        CauseKind::LaunchFailed | CauseKind::LaunchInterrupted
                    ) =>
                {
                    return Ok(Found::Failed);
                }
                _ => return Ok(Found::Sandbox(Box::new(row))),
            }
        }
    }

    /// [`Control::extend`], for a turn: the deadline counts from the first one.
    pub async fn extend_once(
        &self,
        turn: Option<&Turn>,
        id: &SandboxId,
        ttl: Duration,
    ) -> Result<Sandbox> {
        match turn {
            None => self.extend(id, ttl).await,
            Some(Turn { stage: Stage::Done, .. }) => self.get_any(id).await,
            Some(turn) => self.extend_from(id, ttl, self.not_over(turn.stored.begun_at, ttl)).await,
        }
    }

    /// The instant to count from: the first turn's, unless what it asked for is over. Then it never
    /// took effect, or the sandbox would be gone.
    fn not_over(&self, begun_at: Timestamp, ttl: Duration) -> Timestamp {
        let now = self.now();
        if begun_at.saturating_add(ttl) <= now { now } else { begun_at }
    }

    /// [`Control::create_template`], for a turn: one that was made since the first one and is what
    /// was asked for is its own.
    pub async fn create_template_once(
        &self,
        turn: Option<&Turn>,
        fields: TemplateFields,
        name: &str,
    ) -> Result<Template> {
        if let Some(turn) = turn.filter(|turn| turn.stage != Stage::First) {
            let known = self.store().template(name).await.map_err(Error::from_store)?;
            let own = |row: &Template| turn.stored.begun_at <= row.created_at;
            match known.filter(own) {
                Some(row) if row.fields == fields || turn.stage == Stage::Done => return Ok(row),
                None if turn.stage == Stage::Done => {
                    return Err(Error::NoTemplate(name.to_owned()));
                }
                _ => {}
            }
        }
        self.create_template(fields, name).await
    }

    /// [`Control::move_file`], for a turn: one whose source is gone and whose target is there was
    /// done.
    pub async fn move_file_once(
        &self,
        turn: Option<&Turn>,
        id: &SandboxId,
        from: &str,
        to: &str,
    ) -> Result<()> {
        let resumed = turn.is_some_and(|turn| turn.stage != Stage::First);
        if resumed
            && matches!(self.stat_file(id, from).await, Err(Error::NotFound(_)))
            && self.stat_file(id, to).await.is_ok()
        {
            return Ok(());
        }
        self.move_file(id, from, to).await
    }
}

/// Whether somebody may still be starting it, or has to settle what was begun.
fn is_being_started(phase: &Phase) -> bool {
    match phase {
        Phase::Creating => true,
        Phase::Unhealthy(cause) => cause.kind == CauseKind::LaunchInterrupted,
        Phase::Running | Phase::Paused | Phase::Stopping(_) | Phase::Ended(_) => false,
    }
}

impl Key {
    /// The same key, for work that begins with [`Control::spawn`]: it need not wait for the disk,
    /// because a sandbox that reaches the disk takes along what was stored before it, and one that
    /// does not is lost with its runtime.
    #[must_use]
    pub fn of_spawn(self) -> Self {
        Self { durability: Durability::Kernel, ..self }
    }
}
