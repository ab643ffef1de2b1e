//! R3.10: keys whose work was cut short, and those who wait for it.

use std::{sync::Arc, time::Duration};

use stacyvm_control::{Caller, Control, Error, ExecRequest, Key, Once, Turn, Verdict};
use stacyvm_provider::Program;
use stacyvm_store::{Answer, Durability, Sandbox, Store as _, TemplateFields, WorkerStore};
use stacyvm_types::{Cause, CauseKind, Phase, Transition, WorkerId, time::Clock};

use crate::{
    fake::Fault,
    gate::Gate,
    world::{World, end_of, image, ttl},
};

fn key(control: &Control, name: &str) -> Key {
    control.key("/sandboxes", b"", name.as_bytes(), &[b"asked"])
}

/// An answer that names what was made.
fn answer(body: &str) -> Verdict {
    let content_type = "application/json".to_owned();
    Verdict::Keep(Answer { status: 201, content_type, body: Some(body.to_owned()) })
}

/// Spawns under a key; the id of the sandbox, or why there is none.
async fn spawn(control: &Control, name: &str, of: &'static str) -> Result<String, Error> {
    let worker = control.clone();
    let work = move |turn: Turn| async move {
        let spawned = worker.spawn_once(Some(&turn), image(of)).await;
        match spawned {
            Ok(row) => (Ok(row.spec.id.to_string()), answer(row.spec.id.as_str())),
            Err(error) => (Err(error), Verdict::Release),
        }
    };
    match control.once(key(control, name).of_spawn(), work).await? {
        Once::First(result) | Once::Anew(result) => result,
        Once::Replay(answer) => Ok(answer.body.unwrap()),
    }
}

fn template() -> TemplateFields {
    TemplateFields {
        image: "host".to_owned(),
        description: String::new(),
        provider: String::new(),
        memory_mb: 512,
        vcpus: 1,
        ttl: Duration::from_secs(60),
        setup: Vec::new(),
        env: [].into(),
        metadata: [].into(),
        pool_size: 0,
        allowed_hosts: Vec::new(),
        secrets: [].into(),
    }
}

async fn live(world: &World) -> Vec<Sandbox> {
    world.rows().await.into_iter().filter(|row| row.phase.is_live()).collect()
}

/// R3.10: a sweep over every effect of a keyed spawn, not a sample.
#[tokio::test(start_paused = true)]
async fn a_server_that_dies_at_any_effect_leaves_a_key_that_makes_one_sandbox() {
    for moments in 0.. {
        let world = World::new();
        let gate = Gate::dying_after(moments);
        let server = world.server(&gate);
        let first = tokio::select! {
            biased;
            first = spawn(&server.control, "k", "host") => Some(first.unwrap()),
            () = gate.dead.cancelled() => None,
        };
        let next = world.start().await;
        let again = spawn(&next.control, "k", "host").await.unwrap();
        let third = spawn(&next.control, "k", "host").await.unwrap();
        assert_eq!(again, third);
        let live = live(&world).await;
        assert_eq!(live.len(), 1, "after {moments} moments: {live:?}");
        assert_eq!(live[0].spec.id.as_str(), again);
        world.assert_agrees().await;
        if let Some(first) = first {
            assert_eq!(first, again);
            assert!(8 < moments, "a keyed spawn has more effects than {moments}");
            return;
        }
    }
}

/// The same with the loss of the host, and with it of every runtime and of what only its kernel had.
#[tokio::test(start_paused = true)]
async fn a_host_that_dies_at_any_effect_leaves_at_most_one_sandbox_that_counted() {
    for moments in 0.. {
        let mut world = World::new();
        let gate = Gate::dying_after(moments);
        let server = world.server(&gate);
        let first = tokio::select! {
            biased;
            first = spawn(&server.control, "k", "host") => Some(first.unwrap()),
            () = gate.dead.cancelled() => None,
        };
        gate.kill();
        world.lose_power();
        let next = world.start().await;
        let again = spawn(&next.control, "k", "host").await.unwrap();
        world.assert_agrees().await;
        let rows = world.rows().await;
        let counted = rows.iter().filter(|row| match &row.phase {
            Phase::Ended(cause) => {
                !matches!(cause.kind, CauseKind::LaunchInterrupted | CauseKind::LaunchFailed)
            }
            _ => true,
        });
        assert_eq!(counted.map(|row| row.spec.id.as_str()).collect::<Vec<_>>(), [again.as_str()]);
        if let Some(first) = first {
            assert_eq!(first, again, "it was answered, so the disk had it");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_failed_is_tried_again_under_another_id() {
    let world = World::new();
    let server = world.start().await;
    world.fake.launches.lock().unwrap().extend([Fault::Clean, Fault::Lost]);
    for _ in 0..2 {
        let failed = spawn(&server.control, "k", "host").await.unwrap_err();
        assert!(matches!(failed, Error::Unavailable(_)), "{failed:?}");
    }
    let made = spawn(&server.control, "k", "host").await.unwrap();
    assert_eq!(spawn(&server.control, "k", "host").await.unwrap(), made);
    let rows = world.rows().await;
    assert_eq!((rows.len(), live(&world).await.len()), (3, 1));
    for row in rows.iter().filter(|row| !row.phase.is_live()) {
        assert_eq!(end_of(row), CauseKind::LaunchFailed);
    }
}

/// R3.10: a repeat waits for the first, for a bounded time.
#[tokio::test(start_paused = true)]
async fn a_repeat_waits_half_a_minute_for_the_first_and_gets_its_answer() {
    let world = World::new();
    let server = world.start().await;
    let control = server.control.clone();
    let first = tokio::join!(spawn(&control, "k", "slow"), async {
        world.fake.waiting.notified().await;
        let begun = tokio::time::Instant::now();
        let refused = spawn(&control, "k", "slow").await.unwrap_err();
        assert!(matches!(refused, Error::KeyInUse), "{refused:?}");
        assert_eq!(begun.elapsed().as_secs(), 30);
        let waiting = spawn(&control, "k", "slow");
        let (waited, ()) = tokio::join!(waiting, async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.fake.slow.notify_one();
        });
        waited.unwrap()
    });
    assert_eq!(first.0.unwrap(), first.1);
    assert_eq!(live(&world).await.len(), 1);
}

/// R3.10: another replica's work is waited for, and taken over when the replica is gone for good.
#[tokio::test(start_paused = true)]
async fn another_servers_turn_is_left_to_it_until_its_time_is_over() {
    let world = World::new();
    let server = world.start().await;
    let made = spawn(&server.control, "probe", "host").await.unwrap();
    let gate = Gate::open();
    let other = world.server_with(&gate, |settings| {
        settings.worker = WorkerId::parse("other").unwrap();
    });
    let seen = Arc::new(std::sync::Mutex::new(None));
    let note = seen.clone();
    let held = other.control.once(key(&other.control, "k").of_spawn(), move |turn| async move {
        *note.lock().unwrap() = Some(format!("{turn:?}"));
        std::future::pending::<((), Verdict)>().await
    });
    assert!(tokio::time::timeout(Duration::from_secs(1), held).await.is_err());
    assert!(seen.lock().unwrap().is_some());
    // Its work goes on for longer than any one hold lasts.
    for _ in 0..20 {
        world.clock.advance(Duration::from_secs(30));
        let refused = spawn(&server.control, "k", "host").await.unwrap_err();
        assert!(matches!(refused, Error::KeyInUse), "{refused:?}");
    }
    gate.kill();
    let refused = spawn(&server.control, "k", "host").await.unwrap_err();
    assert!(matches!(refused, Error::KeyInUse), "it may only be slow: {refused:?}");
    world.clock.advance(Duration::from_secs(45));
    let taken = spawn(&server.control, "k", "host").await.unwrap();
    assert_ne!(taken, made);
}

/// R3.10: work that takes longer than keys are kept is not done twice for that.
#[tokio::test(start_paused = true)]
async fn a_key_is_not_forgotten_while_its_work_goes_on() {
    let world = World::new();
    let minute = Duration::from_secs(60);
    let server = world.server_with(&Gate::open(), |settings| {
        settings.retention.idempotency_keys = Some(minute);
    });
    server.control.start_jobs();
    let control = &server.control;
    let done = Arc::new(tokio::sync::Notify::new());
    let wait = done.clone();
    let first = control.once(key(control, "k"), move |_| async move {
        wait.notified().await;
        ((), answer("first"))
    });
    let again = async {
        world.clock.advance(60 * minute);
        tokio::time::sleep(15 * minute).await;
        done.notify_one();
        control.once(key(control, "k"), |_| async { ((), answer("again")) }).await
    };
    let (first, again) = tokio::join!(first, again);
    assert!(matches!(first, Ok(Once::First(()))), "{first:?}");
    match again {
        Ok(Once::Replay(kept)) => assert_eq!(kept.body.as_deref(), Some("first")),
        other => panic!("the work was done again: {other:?}"),
    }
    tokio::time::sleep(15 * minute).await;
    let late = control.once(key(control, "k"), |_| async { ((), answer("late")) }).await;
    assert!(matches!(late, Ok(Once::First(()))), "it is done and old: {late:?}");
}

/// R3.10: the command that the server died over is followed, not started again, and its input is
/// not sent again.
#[tokio::test(start_paused = true)]
async fn a_command_that_was_started_is_followed_by_the_next_turn() {
    let world = World::new();
    let server = world.start().await;
    let id = server.control.spawn(ttl(600)).await.unwrap().spec.id;
    let request = || ExecRequest {
        stdin_data: Some("in".into()),
        ..ExecRequest::new(Program::Shell("break".to_owned()))
    };
    let run = async |control: &Control| {
        let (worker, id, request) = (control.clone(), id.clone(), request());
        let work = move |turn: Turn| async move {
            let done = worker.exec_collect(&id, turn.of_exec(request).unwrap()).await;
            (done, Verdict::Release)
        };
        match control.once(key(control, "k"), work).await.unwrap() {
            Once::First(done) => done,
            other => panic!("{other:?}"),
        }
    };
    // Half of the input may have arrived, so going on by itself is not honest.
    let first = run(&server.control).await.unwrap_err();
    assert!(matches!(first, Error::Unavailable(_)), "{first:?}");
    let again = run(&server.control).await.unwrap();
    assert_eq!(again.stdout, b"abcd");
    assert_eq!(world.fake.execs.lock().unwrap().len(), 1, "it is started once");
}

/// Another server settles the sandbox of a launch that is under way, because its worker's lease
/// lapsed meanwhile. The key stands for the sandbox that runs, or for another one: never for a
/// refusal. Real processes under faults found it.
#[tokio::test(start_paused = true)]
async fn a_sandbox_that_was_settled_during_its_launch_is_answered_or_made_anew() {
    for recovers in [true, false] {
        for keyed in [true, false] {
            let world = World::new();
            let server = world.start().await;
            let control = &server.control;
            let settles = async {
                world.fake.waiting.notified().await;
                let row = live(&world).await.remove(0);
                let lost = Cause::new(CauseKind::LaunchInterrupted, "its worker was lost");
                let step = async |generation, transition| {
                    let (id, now) = (&row.spec.id, world.clock.now());
                    let kernel = Durability::Kernel;
                    let stepped =
                        world.store.transition(id, generation, transition, vec![], kernel, now);
                    stepped.await.unwrap();
                };
                let hear = async |term| {
                    let known = WorkerStore::worker(&*world.store, &row.spec.worker).await;
                    let (beat, now) = (known.unwrap().unwrap().beat, world.clock.now());
                    world.store.beat(beat, term, now).await.unwrap();
                };
                hear(Some(Duration::ZERO)).await;
                step(row.generation, Transition::Lost(lost.detail.clone())).await;
                hear(None).await;
                if recovers {
                    let (id, worker) = (&row.spec.id, &row.spec.worker);
                    let now = world.clock.now();
                    let lease = world.store.acquire_lease(id, worker, Duration::ZERO, now);
                    step(lease.await.unwrap().generation, Transition::Recovered).await;
                    world.fake.slow.notify_one();
                } else {
                    step(row.generation, Transition::Stop(lost)).await;
                    world.fake.slow.notify_one();
                    if keyed {
                        world.fake.waiting.notified().await;
                        world.fake.slow.notify_one();
                    }
                }
                row.spec.id.to_string()
            };
            if keyed {
                let (spawned, first) = tokio::join!(spawn(control, "k", "slow"), settles);
                let live = live(&world).await;
                assert_eq!(live.len(), 1, "{live:?}");
                let spawned = spawned.unwrap();
                assert_eq!(spawned, live[0].spec.id.to_string());
                assert_eq!(spawned == first, recovers);
            } else {
                let (spawned, _) = tokio::join!(control.spawn(image("slow")), settles);
                assert!(matches!(spawned, Err(Error::Unavailable(_))), "{spawned:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_counts_from_the_first_request() {
    let world = World::new();
    let server = world.start().await;
    let control = &server.control;
    let row = control.spawn(ttl(600)).await.unwrap();
    let id = row.spec.id.clone();
    let extend = async |seconds: u64, name: &str| {
        let (worker, id) = (control.clone(), id.clone());
        let work = move |turn: Turn| async move {
            let ttl = Duration::from_secs(seconds);
            (worker.extend_once(Some(&turn), &id, ttl).await, Verdict::Release)
        };
        match control.once(key(control, name), work).await.unwrap() {
            Once::First(row) => row.unwrap().spec.expires_at,
            other => panic!("{other:?}"),
        }
    };
    let first = extend(1000, "k").await;
    world.clock.advance(Duration::from_secs(100));
    assert_eq!(extend(1000, "k").await, first);
    let brief = extend(50, "brief").await;
    let longer = extend(1000, "longer").await;
    assert!(brief < longer);
    world.clock.advance(Duration::from_secs(60));
    // What it asked for is over and the sandbox lives: it had not taken effect last.
    let anew = extend(50, "brief").await;
    assert_eq!(anew.saturating_since(brief), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_template_that_the_turn_before_made_is_the_answer() {
    let world = World::new();
    let server = world.start().await;
    let control = &server.control;
    let fields = template();
    let create = async |name: &str, image: &str| {
        let worker = control.clone();
        let fields = TemplateFields { image: image.to_owned(), ..fields.clone() };
        let work = move |turn: Turn| async move {
            (worker.create_template_once(Some(&turn), fields, "t").await, Verdict::Release)
        };
        match control.once(key(control, name), work).await.unwrap() {
            Once::First(row) => row,
            other => panic!("{other:?}"),
        }
    };
    let made = create("k", "host").await.unwrap();
    assert_eq!(create("k", "host").await.unwrap(), made);
    world.clock.advance(Duration::from_secs(1));
    for _ in 0..2 {
        let other = create("other", "host").await.unwrap_err();
        assert!(matches!(other, Error::Conflict(_)), "it was there before: {other:?}");
    }
}

/// Does work that answers with a body of this length, and repeats it: whether the answer was kept.
async fn is_kept(control: &Control, name: &str, status: u16, length: usize) -> bool {
    let work = move |_: Turn| async move {
        let content_type = "application/json".to_owned();
        let body = Some("x".repeat(length));
        ((), Verdict::Keep(Answer { status, content_type, body }))
    };
    let first = control.once(key(control, name), work).await.unwrap();
    assert!(matches!(first, Once::First(())), "{name}: {first:?}");
    match control.once(key(control, name), work).await.unwrap() {
        Once::Replay(answer) => answer.body.is_some_and(|body| body.len() == length),
        Once::Anew(()) => false,
        Once::First(()) => panic!("{name} was done again"),
    }
}

/// R3.10: what is kept for one caller is bounded; what is not kept is made anew.
#[tokio::test(start_paused = true)]
async fn long_answers_of_one_caller_are_kept_up_to_a_bound() {
    let world = World::new();
    let server = world.start().await;
    let of = |name: &str| {
        let actor = format!("key:{name}");
        server.control.on_behalf_of(Caller { actor, only: None })
    };
    let (ann, bob) = (of("ann"), of("bob"));
    for number in 0..64 {
        assert!(is_kept(&ann, &format!("l{number}"), 200, 256 << 10).await, "{number}");
    }
    assert!(!is_kept(&ann, "above", 200, 256 << 10).await, "16 MiB are kept");
    assert!(is_kept(&ann, "short", 200, 4 << 10).await, "short ones do not count");
    assert!(is_kept(&ann, "refusal", 404, 5 << 10).await, "refusals are never made anew");
    assert!(is_kept(&bob, "bob", 200, 256 << 10).await, "others have their own");
}
