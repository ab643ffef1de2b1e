//! Who uses the servers: random calls, each followed to its answer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use stacyvm_control::{Error, ExecRequest, Result, SpawnRequest};
use stacyvm_provider::Program;
use stacyvm_store::{Include, QuotaFields, Sandbox};
use stacyvm_types::{OwnerId, Phase, SandboxId};
use tokio::time::sleep;

use crate::{
    invariants,
    server::{Host, Server},
    varied::Keyed,
    world::World,
};

/// How long a call may take when its server lives: longer than everything that bounds one in turn.
const ANSWERED: Duration = Duration::from_secs(400);
/// How long a client that gives up has waited.
const GIVES_UP: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(3));

/// A client of one owner, or of none.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) world: World,
    pub(crate) name: String,
    pub(crate) hosts: Vec<Host>,
    pub(crate) owner: Option<OwnerId>,
    /// The sandboxes that clients have heard of.
    pub(crate) known: Arc<Mutex<Vec<SandboxId>>>,
    /// The spawns that clients made with a key.
    pub(crate) keyed: Arc<Mutex<Vec<Keyed>>>,
}

/// What becomes of a call.
pub(crate) enum Reply<T> {
    Answered(Result<T>),
    /// The client went, or the server died: whether it was done nobody knows.
    Lost,
}

impl Client {
    /// Calls, one after the other, for as long as the run is busy.
    pub(crate) async fn work(self) {
        while self.world.elapsed() < self.world.profile().busy {
            self.world.delay(Duration::from_secs(4)).await;
            let Some(server) = self.server() else { continue };
            if self.world.profile().varied && self.world.roll(|rng| rng.permille(300)) {
                self.vary(&server).await;
                continue;
            }
            let act = self.world.roll(|rng| rng.below(100));
            match act {
                0..40 => self.spawn(&server).await,
                40..58 => self.exec(&server).await,
                58..68 => self.extend(&server).await,
                68..84 => self.destroy(&server).await,
                84..90 => self.list(&server).await,
                90..93 => self.prune(&server).await,
                _ => self.quota(&server).await,
            }
        }
    }

    fn server(&self) -> Option<Server> {
        let hosts: Vec<_> = self.hosts.iter().filter_map(Host::server).collect();
        self.world.roll(|rng| rng.pick(&hosts).cloned())
    }

    fn some_sandbox(&self) -> Option<SandboxId> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.world.roll(|rng| rng.pick(&known).cloned())
    }

    pub(crate) fn note_known(&self, id: &SandboxId) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(id) {
            known.push(id.clone());
        }
    }

    pub(crate) async fn call<T>(
        &self,
        server: &Server,
        name: &str,
        call: impl Future<Output = Result<T>>,
    ) -> Reply<T> {
        let impatience = self.world.profile().impatience;
        let patience = if self.world.strikes("a client gives up", impatience) {
            self.world.roll(|rng| rng.time(GIVES_UP.0, GIVES_UP.1))
        } else {
            ANSWERED
        };
        self.world.note(&self.name, format_args!("asks {} for {name}", server.life.name()));
        tokio::select! {
            biased;
            answer = Box::pin(call) => {
                self.world.count("calls answered");
                match &answer {
                    Ok(_) => self.world.note(&self.name, format_args!("{name}: done")),
                    Err(error) => self.world.note(&self.name, format_args!("{name}: {error}")),
                }
                if let Err(Error::Internal(failure)) = &answer {
                    let detail = format!("{name} was answered with an internal error: {failure}");
                    self.world.violate("nothing_is_internal", detail);
                }
                Reply::Answered(answer)
            }
            () = server.life.death() => {
                self.world.note(&self.name, format_args!("{name}: the server is gone"));
                Reply::Lost
            }
            () = sleep(patience) => {
                self.world.note(&self.name, format_args!("{name}: gives up"));
                if patience == ANSWERED && server.life.is_up() {
                    let detail = format!("{name} had no answer within {ANSWERED:?}");
                    self.world.violate("every_call_is_answered", detail);
                }
                Reply::Lost
            }
        }
    }

    async fn spawn(&self, server: &Server) {
        let ttl = self.world.roll(|rng| {
            let longest = if rng.permille(300) { 1200 } else { 40 };
            rng.time(Duration::from_secs(1), Duration::from_secs(longest))
        });
        let request =
            SpawnRequest { ttl: Some(ttl), owner: self.owner.clone(), ..SpawnRequest::default() };
        let reply = self.call(server, "spawn", server.control.spawn(request)).await;
        self.spawned(&reply);
    }

    /// Looks at the answer to a spawn.
    pub(crate) fn spawned(&self, reply: &Reply<Sandbox>) {
        match reply {
            Reply::Answered(Ok(row)) => {
                self.world.count("spawns");
                self.note_known(&row.spec.id);
                let launched =
                    self.world.state().truth.of(&row.spec.id).is_some_and(|h| 0 < h.launches);
                if !launched || row.phase != Phase::Running {
                    let detail = format!("{} was handed out and never ran", row.spec.id);
                    self.world.violate("what_is_handed_out_ran", detail);
                }
            }
            Reply::Answered(Err(error)) => self.not_spawned(error),
            Reply::Lost => {}
        }
    }

    /// Looks at why a spawn was refused.
    pub(crate) fn not_spawned(&self, error: &Error) {
        let profile = self.world.profile();
        let is_fine = match error {
            // Another client may have ended it, or its time was short.
            Error::Limit(_) | Error::Ended { .. } => true,
            // A worker may be drained while it is asked, or the first with a key still waits.
            Error::Unavailable(_) | Error::KeyInUse => profile.varied,
            _ => false,
        };
        if profile.is_calm() && !is_fine {
            let detail = format!("a spawn failed though nothing went wrong: {error}");
            self.world.violate("calm_runs_succeed", detail);
        }
    }

    async fn exec(&self, server: &Server) {
        let Some(id) = self.some_sandbox() else { return };
        let request = ExecRequest::new(Program::Shell("say a word".to_owned()));
        let call = server.control.exec_collect(&id, request);
        if let Reply::Answered(Ok(said)) = self.call(server, "exec", call).await {
            self.world.count("commands");
            let ran = self.world.state().truth.of(&id).is_some_and(|h| h.execs.contains(&said.id));
            if !ran {
                let detail = format!("{} was answered and never ran in {id}", said.id);
                self.world.violate("what_is_answered_ran", detail);
            }
        }
    }

    async fn extend(&self, server: &Server) {
        let Some(id) = self.some_sandbox() else { return };
        let ttl = self.world.roll(|rng| rng.time(Duration::from_secs(1), Duration::from_secs(60)));
        let _ = self.call(server, "extend", server.control.extend(&id, ttl)).await;
    }

    async fn destroy(&self, server: &Server) {
        let Some(id) = self.some_sandbox() else { return };
        self.end(server, &id).await;
    }

    /// Ends a sandbox; whether that was answered as done.
    pub(crate) async fn end(&self, server: &Server, id: &SandboxId) -> bool {
        self.world.state().truth.history(id).end_asked = true;
        let reply = self.call(server, "destroy", server.control.destroy(id)).await;
        let done = matches!(reply, Reply::Answered(Ok(())));
        if done {
            self.world.count("ends");
            invariants::after_told_gone(&self.world, id);
        }
        done
    }

    async fn list(&self, server: &Server) {
        let call = server.control.list(Include::Live);
        if let Reply::Answered(Ok(rows)) = self.call(server, "list", call).await {
            for row in rows {
                self.note_known(&row.spec.id);
            }
        }
    }

    async fn prune(&self, server: &Server) {
        let _ = self.call(server, "prune", server.control.prune()).await;
    }

    async fn quota(&self, server: &Server) {
        let Some(owner) = &self.owner else { return };
        let fields = self.world.roll(|rng| QuotaFields {
            max_sandboxes: rng.permille(700).then(|| u32::try_from(rng.below(6)).unwrap_or(0)),
            ..QuotaFields::default()
        });
        if self.world.roll(|rng| rng.permille(250)) {
            let _ = self.call(server, "delete quota", server.control.delete_quota(owner)).await;
        } else {
            let _ = self.call(server, "put quota", server.control.put_quota(owner, fields)).await;
        }
    }
}
