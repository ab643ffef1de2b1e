//! Random histories with crashes, faults and deaths: at quiescence everything agrees.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use stacyvm_types::SandboxId;

use crate::{
    fake::Fault,
    gate::Gate,
    world::{Server, World, image, in_paused_time, ttl},
};

#[derive(Debug, Clone)]
enum Op {
    Spawn { ttl: u64, fault: Fault },
    SlowSpawn,
    LetGo,
    Destroy { which: usize, fault: Fault },
    Extend { which: usize, ttl: u64 },
    Wait { seconds: u64 },
    Die { which: usize, leaves: bool },
    Crash,
    PowerLoss,
    DoomedIn { moments: i64 },
    StoreDown { seconds: u64 },
    Prune,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::Clean),
        1 => Just(Fault::Lost),
        1 => Just(Fault::Hangs)
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1_u64..300, fault()).prop_map(|(ttl, fault)| Op::Spawn { ttl, fault }),
        1 => Just(Op::SlowSpawn),
        1 => Just(Op::LetGo),
        4 => (any::<usize>(), fault()).prop_map(|(which, fault)| Op::Destroy { which, fault }),
        2 => (any::<usize>(), 1_u64..300).prop_map(|(which, ttl)| Op::Extend { which, ttl }),
        4 => (0_u64..40).prop_map(|seconds| Op::Wait { seconds }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, leaves)| Op::Die { which, leaves }),
        1 => Just(Op::Crash),
        1 => Just(Op::PowerLoss),
        2 => (0_i64..40).prop_map(|moments| Op::DoomedIn { moments }),
        1 => (1_u64..20).prop_map(|seconds| Op::StoreDown { seconds }),
        1 => Just(Op::Prune),
    ]
}

struct Run {
    world: World,
    gate: Arc<Gate>,
    server: Server,
}

impl Run {
    async fn boot(world: World, gate: Arc<Gate>) -> Self {
        let server = world.server(&gate);
        tokio::select! {
            biased;
            recovered = server.control.recover() => recovered.unwrap(),
            () = gate.dead.cancelled() => {}
        }
        server.control.start_jobs();
        Self { world, gate, server }
    }

    /// The old process stays as a corpse: nothing of it moves any more, except what it had already
    /// handed to the kernel.
    async fn crash(self, next: Arc<Gate>) -> Self {
        self.gate.kill();
        Self::boot(self.world, next).await
    }

    async fn lose_power(mut self) -> Self {
        self.gate.kill();
        self.world.lose_power();
        Self::boot(self.world, Gate::open()).await
    }

    async fn pick(&self, which: usize) -> Option<SandboxId> {
        let rows = self.world.rows().await;
        (!rows.is_empty()).then(|| rows[which % rows.len()].spec.id.clone())
    }

    /// A client that does not wait for the answer.
    fn client<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) {
        self.server.tasks.spawn(call);
    }

    async fn step(self, op: Op) -> Self {
        let control = self.server.control.clone();
        let fake = self.world.fake.clone();
        match op {
            Op::Spawn { ttl: seconds, fault } => {
                fake.launches.lock().unwrap().push_back(fault);
                self.client(async move { control.spawn(ttl(seconds)).await });
            }
            Op::SlowSpawn => self.client(async move { control.spawn(image("slow")).await }),
            Op::LetGo => fake.slow.notify_waiters(),
            Op::Destroy { which, fault } => {
                if let Some(id) = self.pick(which).await {
                    fake.destructions.lock().unwrap().push_back(fault);
                    self.client(async move { control.destroy(&id).await });
                }
            }
            Op::Extend { which, ttl } => {
                if let Some(id) = self.pick(which).await {
                    self.client(async move { control.extend(&id, Duration::from_secs(ttl)).await });
                }
            }
            Op::Wait { seconds } => self.world.pass_time(Duration::from_secs(seconds)).await,
            Op::Die { which, leaves } => {
                if let Some(id) = self.pick(which).await {
                    fake.kill(&id, leaves);
                }
            }
            Op::Crash => return self.crash(Gate::open()).await,
            Op::PowerLoss => return self.lose_power().await,
            Op::DoomedIn { moments } => return self.crash(Gate::dying_after(moments)).await,
            Op::StoreDown { seconds } => {
                use std::sync::atomic::Ordering::SeqCst;
                self.gate.store_is_down.store(true, SeqCst);
                self.world.pass_time(Duration::from_secs(seconds)).await;
                self.gate.store_is_down.store(false, SeqCst);
            }
            Op::Prune => self.client(async move { control.prune().await }),
        }
        tokio::task::yield_now().await;
        self
    }
}

async fn history(ops: Vec<Op>) {
    let mut run = Run::boot(World::new(), Gate::open()).await;
    let mut has_crashed = false;
    for op in ops {
        has_crashed |= matches!(op, Op::Crash | Op::DoomedIn { .. });
        run = run.step(op).await;
        // What a dead server had already asked for may still happen. Before any death there is no
        // such excuse: a row that has ended has no runtime, at any instant.
        if !has_crashed {
            run.world.assert_no_ended_row_has_a_runtime().await;
        }
    }
    let mut run = run.crash(Gate::open()).await;
    run.world.fake.launches.lock().unwrap().clear();
    run.world.fake.destructions.lock().unwrap().clear();
    // Longer than the longest launch, the longest back-off, and an interrupted creation's grace.
    for _ in 0..5 {
        run = run.step(Op::LetGo).await;
        run.world.pass_time(Duration::from_secs(50)).await;
    }
    run.world.assert_agrees().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// R1.8, R1.7: no history leaks a runtime, loses a row, or ends one without a cause.
    #[test]
    fn at_quiescence_rows_and_runtimes_agree(ops in prop::collection::vec(op(), 1..40)) {
        in_paused_time(history(ops));
    }
}
