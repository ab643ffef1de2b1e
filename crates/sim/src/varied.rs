//! What clients do in half of all runs besides: drain workers, bring idempotency keys, and start from
//! templates that take long to set up.

use std::{sync::PoisonError, time::Duration};

use futures_util::FutureExt;
use stacyvm_control::{Error, Once, SpawnRequest, TemplateSpawn, Turn, Verdict};
use stacyvm_store::{Answer, Store, Template, TemplateFields, WorkerStore};
use stacyvm_types::{CauseKind, OwnerId, SandboxId};

use crate::{
    clients::{Client, Reply},
    server::{Host, Server},
    world::World,
};

/// The templates, by how many seconds they take to set up: less and more than other servers wait
/// before they take a start for interrupted.
const TEMPLATES: [(&str, u64); 3] = [("quick", 2), ("slow", 60), ("slower", 150)];
/// How long sandboxes of templates live at least, so that they outlive being set up.
const LIFE: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(1200));

/// A spawn that a client made with a key, perhaps several times.
#[derive(Clone)]
pub(crate) struct Keyed {
    name: String,
    owner: Option<OwnerId>,
    ttl: Duration,
    /// What it was answered with first.
    answered: Option<SandboxId>,
}

/// Makes the templates of a run.
pub(crate) fn make_templates(world: &World) {
    for (name, seconds) in TEMPLATES {
        let now = world.now();
        let fields = TemplateFields {
            image: "host".to_owned(),
            description: String::new(),
            provider: String::new(),
            memory_mb: 256,
            vcpus: 1,
            ttl: LIFE.0,
            setup: vec![format!("take {seconds}")],
            env: [].into(),
            metadata: [].into(),
            pool_size: 0,
            allowed_hosts: Vec::new(),
            secrets: [].into(),
        };
        let name = name.to_owned();
        let template = Template { name, version: 1, fields, created_at: now, updated_at: now };
        let made = world.store().create_template(template).now_or_never();
        assert!(made.is_some_and(|made| made.is_ok()), "the store itself takes a template");
    }
}

/// Lets every worker take sandboxes again.
pub(crate) fn undrain_all(world: &World, hosts: &[Host]) {
    for host in hosts {
        // One that was not heard of yet is not drained.
        drop(world.store().cordon(host.id(), false, world.now()).now_or_never());
    }
}

impl Client {
    pub(crate) async fn vary(&self, server: &Server) {
        match self.world.roll(|rng| rng.below(100)) {
            0..55 => self.spawn_keyed(server).await,
            55..80 => self.spawn_template(server).await,
            _ => self.drain(server).await,
        }
    }

    async fn drain(&self, server: &Server) {
        let Some(worker) = self.world.roll(|rng| rng.pick(&self.hosts).cloned()) else { return };
        let drain = self.world.roll(|rng| rng.permille(400));
        let name = if drain { "drain" } else { "undrain" };
        let call = server.control.drain_worker(worker.id(), drain);
        if let Reply::Answered(Ok(row)) = self.call(server, name, call).await {
            self.world.count(if drain { "drains" } else { "undrains" });
            if row.cordoned != drain {
                let detail = format!("{} was to {name} and did not", worker.id());
                self.world.violate("a_drain_is_done", detail);
            }
        }
    }

    async fn spawn_template(&self, server: &Server) {
        let (name, _) = self.world.roll(|rng| rng.pick(&TEMPLATES).copied()).unwrap_or_default();
        let ttl = Some(self.world.roll(|rng| rng.time(LIFE.0, LIFE.1)));
        let request = TemplateSpawn { ttl, owner: self.owner.clone(), ..TemplateSpawn::default() };
        let call = server.control.spawn_template(name, request);
        let reply = self.call(server, "spawn from a template", call).await;
        self.spawned(&reply);
    }

    /// A spawn with a key that was used before, or with a new one.
    async fn spawn_keyed(&self, server: &Server) {
        let (index, keyed) = self.some_key();
        let control = &server.control;
        let name = keyed.name.as_bytes();
        let key = control.key("/sandboxes", b"", name, &[name]).of_spawn();
        let request = SpawnRequest {
            ttl: Some(keyed.ttl),
            owner: keyed.owner.clone(),
            ..SpawnRequest::default()
        };
        let of_work = control.clone();
        let work = move |turn: Turn| async move {
            let spawned = of_work.spawn_once(Some(&turn), request).await;
            let verdict = match &spawned {
                Ok(row) => Verdict::Keep(Answer {
                    status: 201,
                    content_type: "text/plain".to_owned(),
                    body: Some(row.spec.id.to_string()),
                }),
                Err(_) => Verdict::Release,
            };
            (spawned.map(|row| row.spec.id), verdict)
        };
        let call = async {
            match control.once(key, work).await? {
                Once::First(spawned) | Once::Anew(spawned) => spawned,
                Once::Replay(answer) => {
                    let id = answer.body.and_then(|body| SandboxId::parse(&body).ok());
                    id.ok_or_else(|| Error::NotFound("the kept answer names no sandbox".to_owned()))
                }
            }
        };
        match self.call(server, "spawn with a key", call).await {
            Reply::Answered(Ok(id)) => self.answered(index, &keyed.name, id),
            Reply::Answered(Err(error)) => self.not_spawned(&error),
            Reply::Lost => {}
        }
    }

    fn some_key(&self) -> (usize, Keyed) {
        let mut all = self.keyed.lock().unwrap_or_else(PoisonError::into_inner);
        let again = self.world.roll(|rng| rng.permille(600));
        let known = if again { self.world.roll(|rng| rng.pick(&all).cloned()) } else { None };
        if let Some(known) = known
            && let Some(index) = all.iter().position(|keyed| keyed.name == known.name)
        {
            return (index, known);
        }
        let ttl = self.world.roll(|rng| rng.time(Duration::from_secs(20), LIFE.1));
        let name = format!("key {}", all.len());
        let keyed = Keyed { name, owner: self.owner.clone(), ttl, answered: None };
        all.push(keyed.clone());
        (all.len() - 1, keyed)
    }

    /// The same key stands for the same sandbox, whichever server is asked.
    fn answered(&self, index: usize, name: &str, id: SandboxId) {
        self.world.count("spawns with a key");
        self.note_known(&id);
        let launched = self.world.state().truth.of(&id).is_some_and(|h| 0 < h.launches);
        // Somebody may have ended it while it was being started: a key makes no second one then.
        let over = self.world.row(&id).and_then(|row| row.phase.cause().cloned());
        let was_ended =
            over.is_some_and(|why| matches!(why.kind, CauseKind::Requested | CauseKind::Expired));
        if !launched && !was_ended {
            let detail = format!("{id} was handed out and never ran");
            self.world.violate("what_is_handed_out_ran", detail);
        }
        let mut all = self.keyed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(keyed) = all.get_mut(index) else { return };
        let first = keyed.answered.get_or_insert_with(|| id.clone());
        if *first == id {
            return;
        }
        let detail = format!("{name} was answered with {first} and with {id}");
        self.world.violate("one_sandbox_per_key", detail);
    }
}
