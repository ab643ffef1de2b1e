//! Random histories of spawns, ends, failures, cancels, expiries, limits that change, and crashes.
//!
//! Checked: no admission passes a limit, at the instant of the admission and on the rows
//! themselves; whenever nothing is under way no place is idle that somebody who waits could have;
//! everybody who waits gets an answer; the places that are taken are those of the rows that live.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::prelude::*;
use stacyvm_admission::{Policy, Priority};
use stacyvm_control::{Error, Rules, SpawnRequest};
use stacyvm_store::{Include, QuotaFields, QuotaStore as _, Sandbox, Store as _};
use stacyvm_types::{OwnerId, SandboxId, WorkerId};
use tokio::task::JoinHandle;

use crate::{
    admission::{rules, settle},
    fake::Fault,
    gate::Gate,
    world::{Server, World, in_paused_time, request},
};

const OWNERS: [&str; 3] = ["ann", "bob", "cid"];

#[derive(Debug, Clone)]
enum Op {
    Spawn { owner: usize, priority: u8, ttl: u64, fault: Fault, slow: bool },
    LetGo,
    Destroy { which: usize, fault: Fault },
    Cancel { which: usize },
    Wait { seconds: u64 },
    Die { which: usize },
    Quota { owner: usize, max: Option<u32> },
    Rules { total: u64, per_owner: u64, places: usize },
    Crash,
    DoomedIn { moments: i64 },
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![5 => Just(Fault::None), 1 => Just(Fault::Clean), 1 => Just(Fault::Lost)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (0_usize..4, 0_u8..=9, 5_u64..200, fault(), prop::bool::weighted(0.1)).prop_map(
            |(owner, priority, ttl, fault, slow)| Op::Spawn { owner, priority, ttl, fault, slow }
        ),
        1 => Just(Op::LetGo),
        5 => (any::<usize>(), fault()).prop_map(|(which, fault)| Op::Destroy { which, fault }),
        2 => any::<usize>().prop_map(|which| Op::Cancel { which }),
        2 => (0_u64..20).prop_map(|seconds| Op::Wait { seconds }),
        1 => any::<usize>().prop_map(|which| Op::Die { which }),
        1 => (0_usize..3, prop::option::of(1_u32..4))
            .prop_map(|(owner, max)| Op::Quota { owner, max }),
        1 => (0_u64..5, 0_u64..3, prop_oneof![Just(2_usize), Just(100)]).prop_map(
            |(total, per_owner, places)| Op::Rules { total, per_owner, places }
        ),
        1 => Just(Op::Crash),
        1 => (0_i64..60).prop_map(|moments| Op::DoomedIn { moments }),
    ]
}

struct Call {
    owner: Option<OwnerId>,
    number: usize,
    handle: JoinHandle<Result<Sandbox, Error>>,
}

struct Run {
    world: World,
    gate: Arc<Gate>,
    server: Server,
    rules: Rules,
    calls: Vec<Call>,
    asked: usize,
    /// Whether the server was told to die at some moment: then it may be dead by now.
    doomed: bool,
}

fn owner(number: usize) -> Option<OwnerId> {
    OWNERS.get(number).map(|name| OwnerId::parse(name).unwrap())
}

impl Run {
    async fn boot(world: World, gate: Arc<Gate>, rules: Rules, asked: usize, doomed: bool) -> Self {
        let server = world.server_with(&gate, |settings| settings.rules = rules.clone());
        tokio::select! {
            biased;
            recovered = server.control.recover() => recovered.unwrap(),
            () = gate.dead.cancelled() => {}
        }
        server.control.start_jobs();
        Self { world, gate, server, rules, calls: Vec::new(), asked, doomed }
    }

    async fn crash(self, next: Arc<Gate>, doomed: bool) -> Self {
        self.gate.kill();
        for call in &self.calls {
            call.handle.abort();
        }
        Self::boot(self.world, next, self.rules, self.asked, doomed).await
    }

    async fn pick(&self, which: usize) -> Option<SandboxId> {
        let rows = self.world.store.sandboxes(Include::Live).await.unwrap();
        (!rows.is_empty()).then(|| rows[which % rows.len()].spec.id.clone())
    }

    async fn step(mut self, op: Op) -> Self {
        let control = self.server.control.clone();
        let fake = self.world.fake.clone();
        match op {
            Op::Spawn { owner: number, priority, ttl, fault, slow } => {
                fake.launches.lock().unwrap().push_back(fault);
                self.asked += 1;
                let spawn = SpawnRequest {
                    owner: owner(number),
                    priority: Priority::new(priority).unwrap(),
                    ttl: Some(Duration::from_secs(ttl)),
                    image: slow.then(|| "slow".to_owned()),
                    metadata: BTreeMap::from([("call".to_owned(), self.asked.to_string())]),
                    ..request()
                };
                let owner = spawn.owner.clone();
                let handle = self.server.tasks.spawn(async move { control.spawn(spawn).await });
                self.calls.push(Call { owner, number: self.asked, handle });
            }
            Op::LetGo => fake.slow.notify_waiters(),
            Op::Destroy { which, fault } => {
                if let Some(id) = self.pick(which).await {
                    fake.destructions.lock().unwrap().push_back(fault);
                    self.server.tasks.spawn(async move { control.destroy(&id).await });
                }
            }
            Op::Cancel { which } => {
                if !self.calls.is_empty() {
                    let call = self.calls.remove(which % self.calls.len());
                    call.handle.abort();
                }
            }
            Op::Wait { seconds } => self.world.pass_time(Duration::from_secs(seconds)).await,
            Op::Die { which } => {
                if let Some(id) = self.pick(which).await {
                    fake.kill(&id, true);
                }
            }
            Op::Quota { owner: number, max } => {
                let owner = owner(number).unwrap();
                let fields = QuotaFields { max_sandboxes: max, ..QuotaFields::default() };
                self.server.tasks.spawn(async move { control.put_quota(&owner, fields).await });
            }
            Op::Rules { total, per_owner, places } => {
                self.rules = rules(total, per_owner, places);
                control.set_rules(self.rules.clone());
            }
            Op::Crash => return self.crash(Gate::open(), false).await,
            Op::DoomedIn { moments } => {
                return self.crash(Gate::dying_after(moments), true).await;
            }
        }
        settle().await;
        self
    }

    /// Nobody waits who could be admitted. The limits are applied here in the plainest way.
    async fn assert_nothing_is_idle(&mut self) {
        let rows = self.world.store.sandboxes(Include::Ended).await.unwrap();
        let live: Vec<_> = rows.iter().filter(|row| row.phase.is_live()).collect();
        let admitted = |call: &Call| {
            rows.iter().any(|row| row.spec.metadata["call"] == call.number.to_string())
        };
        self.calls.retain(|call| !call.handle.is_finished());
        for call in self.calls.iter().filter(|call| !admitted(call)) {
            let total = live.len() as u64;
            let policy: &Policy = &self.rules.policy;
            if policy.max_sandboxes != 0 && policy.max_sandboxes <= total {
                continue;
            }
            let own = live.iter().filter(|row| row.spec.owner == call.owner).count() as u64;
            let max = match &call.owner {
                None => 0,
                Some(owner) => {
                    let quota = self.world.store.quota(owner).await.unwrap();
                    let max = quota.and_then(|quota| quota.fields.max_sandboxes);
                    max.map_or(policy.max_per_owner, u64::from)
                }
            };
            assert!(max != 0 && max <= own, "call {} waits beside an idle place", call.number);
        }
    }

    async fn assert_places_are_counted(&self) {
        let live = self.world.store.sandboxes(Include::Live).await.unwrap();
        let worker = WorkerId::parse("local").unwrap();
        let standing = self.world.store.standing(None, &worker).await.unwrap();
        assert_eq!(standing.usage.total, live.len() as u64);
    }
}

async fn history(ops: Vec<Op>) {
    let mut run = Run::boot(World::new(), Gate::open(), rules(3, 2, 100), 0, false).await;
    for op in ops {
        run = run.step(op).await;
        if !run.doomed {
            run.assert_nothing_is_idle().await;
        }
        run.assert_places_are_counted().await;
    }
    // A healthy end: everybody who still waits hears something.
    let mut run = if run.doomed { run.crash(Gate::open(), false).await } else { run };
    run.world.fake.launches.lock().unwrap().clear();
    run.world.fake.destructions.lock().unwrap().clear();
    for _ in 0..6 {
        run = run.step(Op::LetGo).await;
        run.world.pass_time(Duration::from_secs(50)).await;
    }
    for call in &run.calls {
        assert!(call.handle.is_finished(), "call {} has no answer", call.number);
    }
    run.world.assert_agrees().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// R3.2, R3.3, R3.5
    #[test]
    fn limits_hold_and_nothing_admissible_waits(ops in prop::collection::vec(op(), 1..60)) {
        in_paused_time(history(ops));
    }
}
