//! Limits, the queue and quotas, over the real job and a provider that misbehaves on demand.

use std::time::Duration;

use stacyvm_admission::{Policy, Priority};
use stacyvm_control::{Error, Overflow, QueueCounts, Rules, Settings, SpawnRequest};
use stacyvm_provider::Program;
use stacyvm_store::{QuotaFields, Sandbox};
use stacyvm_types::{EventKind, OwnerId, Resources, SandboxId};
use tokio::{sync::oneshot::Sender, task::JoinHandle};

use crate::{
    fake::Fault,
    gate::Gate,
    world::{Server, World, image, request},
};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn rules(total: u64, per_owner: u64, places: usize) -> Rules {
    Rules {
        policy: Policy { max_sandboxes: total, max_per_owner: per_owner, ..Policy::default() },
        overflow: match places {
            0 => Overflow::Reject,
            places => Overflow::Queue { places, patience: PATIENCE },
        },
        ..Rules::default()
    }
}

fn owner(name: &str) -> OwnerId {
    OwnerId::parse(name).unwrap()
}

fn of(name: &str) -> SpawnRequest {
    SpawnRequest { owner: Some(owner(name)), ..request() }
}

async fn server(world: &World, rules: Rules) -> Server {
    let server = world.server_with(&Gate::open(), |settings: &mut Settings| settings.rules = rules);
    server.control.recover().await.unwrap();
    server.control.start_jobs();
    server
}

type Call = JoinHandle<Result<Sandbox, Error>>;

fn spawn(server: &Server, request: SpawnRequest) -> Call {
    let control = server.control.clone();
    server.tasks.spawn(async move { control.spawn(request).await })
}

/// Lets everything happen that needs no time of its own.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// R3.3: what no wait can cure does not stand in the way of those who wait for something.
#[tokio::test(start_paused = true)]
async fn what_no_worker_could_ever_hold_waits_for_nothing() {
    let world = World::new();
    let capacity = Resources { sandboxes: 0, memory_mb: 1000, vcpus: 0 };
    let server = server(&world, Rules { capacity, ..rules(0, 0, 5) }).await;
    let of_memory = |memory_mb| SpawnRequest { memory_mb: Some(memory_mb), ..request() };
    let huge = spawn(&server, of_memory(1001));
    settle().await;
    let small = spawn(&server, of_memory(600));
    settle().await;
    small.await.unwrap().unwrap();
    let Err(Error::Limit(why)) = huge.await.unwrap() else { panic!("it has a place") };
    assert_eq!(why, "no worker holds a sandbox of 1001 MiB and 1 processors");
    // What fits when something ends does wait.
    let large = spawn(&server, of_memory(1000));
    settle().await;
    assert!(!large.is_finished());
    server.control.destroy(&world.rows().await[0].spec.id).await.unwrap();
    settle().await;
    large.await.unwrap().unwrap();
}

/// Lets the events be written that nothing waits for.
async fn recorded() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn id_of(call: Call) -> SandboxId {
    call.await.unwrap().unwrap().spec.id
}

fn refusal(result: Result<Sandbox, Error>) -> String {
    match result {
        Err(error @ Error::Limit(_)) => error.to_string(),
        other => panic!("no refusal: {other:?}"),
    }
}

/// R2.9, R3.2
#[tokio::test(start_paused = true)]
async fn without_a_queue_a_spawn_above_a_limit_is_refused_and_leaves_nothing() {
    let world = World::new();
    let server = server(&world, rules(3, 2, 0)).await;
    for _ in 0..2 {
        server.control.spawn(of("ann")).await.unwrap();
    }
    let said = refusal(server.control.spawn(of("ann")).await);
    assert_eq!(said, "resource limit exceeded: max sandboxes per owner reached (2)");
    server.control.spawn(of("bob")).await.unwrap();
    let said = refusal(server.control.spawn(request()).await);
    assert_eq!(said, "resource limit exceeded: max sandboxes reached (3)");
    assert_eq!((world.rows().await.len(), world.fake.count()), (3, 3));
    recorded().await;
    let limits = world.kinds().await.into_iter().filter(|k| *k == EventKind::ResourceLimit).count();
    assert_eq!(limits, 2);
}

/// R3.5: an end admits the next waiter with no other help, and in turn.
#[tokio::test(start_paused = true)]
async fn a_freed_place_goes_to_the_next_waiter_at_once() {
    let world = World::new();
    let server = server(&world, rules(1, 0, 10)).await;
    let first = server.control.spawn(of("ann")).await.unwrap().spec.id;
    let mut waiting: Vec<_> = Vec::new();
    for _ in 0..3 {
        waiting.push(spawn(&server, of("ann")));
        settle().await;
    }
    assert!(waiting.iter().all(|call| !call.is_finished()));
    let begun = tokio::time::Instant::now();
    let mut holder = first;
    for call in waiting {
        server.control.destroy(&holder).await.unwrap();
        holder = id_of(call).await;
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "nothing waited for a look");
    let counts = QueueCounts { queued: 3, admitted: 3, ..QueueCounts::default() };
    assert_eq!(server.control.queue_counts(), counts);
    recorded().await;
    let kinds = world.kinds().await;
    let count = |kind| kinds.iter().filter(|known| **known == kind).count();
    assert_eq!((count(EventKind::SpawnQueued), count(EventKind::SpawnDequeued)), (3, 3));
}

/// R3.4
#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_a_long_wait_ends() {
    let world = World::new();
    let server = server(&world, rules(1, 0, 2)).await;
    server.control.spawn(request()).await.unwrap();
    let waiting = [spawn(&server, of("ann")), spawn(&server, of("bob"))];
    settle().await;
    let said = refusal(server.control.spawn(of("cid")).await);
    assert_eq!(said, "resource limit exceeded: spawn queue full (2)");
    for call in waiting {
        let said = refusal(call.await.unwrap());
        assert_eq!(said, "resource limit exceeded: spawn queue timeout after 30s");
    }
    let counts = server.control.queue_counts();
    assert_eq!((counts.queued, counts.timed_out, counts.admitted), (2, 2, 0));
    recorded().await;
    let kinds = world.kinds().await;
    let timeouts = kinds.iter().filter(|kind| **kind == EventKind::SpawnQueueTimeout).count();
    assert_eq!(timeouts, 2);
    assert_eq!(world.rows().await.len(), 1);
}

/// R3.3: the queue is left with the caller, and nobody is admitted for nobody.
#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_the_queue() {
    let world = World::new();
    let server = server(&world, rules(1, 0, 10)).await;
    let first = server.control.spawn(request()).await.unwrap().spec.id;
    let gone = spawn(&server, of("ann"));
    settle().await;
    let stays = spawn(&server, of("ann"));
    settle().await;
    gone.abort();
    settle().await;
    server.control.destroy(&first).await.unwrap();
    let row = stays.await.unwrap().unwrap();
    assert_eq!(world.rows().await.len(), 2);
    assert_eq!(server.control.queue_counts().cancelled, 1);
    server.control.destroy(&row.spec.id).await.unwrap();
    world.assert_agrees().await;
}

/// A waiter for whom the store has just made a place, and has not said so.
async fn asked_about(world: &World, gate: &Gate, server: &Server) -> (Call, Sender<()>) {
    let first = server.control.spawn(request()).await.unwrap().spec.id;
    let waiting = spawn(server, of("ann"));
    settle().await;
    let answer = gate.hold_admit();
    server.control.destroy(&first).await.unwrap();
    settle().await;
    assert_eq!(world.rows().await.len(), 2, "the place is made");
    assert!(!waiting.is_finished());
    (waiting, answer)
}

/// R3.3: a place that was made for a caller who is gone is given back.
#[tokio::test(start_paused = true)]
async fn a_place_made_for_a_caller_who_left_is_given_back() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server_with(&gate, |settings| settings.rules = rules(1, 0, 10));
    server.control.start_jobs();
    let (waiting, answer) = asked_about(&world, &gate, &server).await;
    waiting.abort();
    settle().await;
    drop(answer);
    server.control.spawn(of("bob")).await.unwrap();
    assert_eq!(world.fake.count(), 1);
    assert_eq!(server.control.queue_counts().cancelled, 1);
    world.assert_agrees().await;
}

/// R3.4: who has waited as long as it may and is being asked about gets what the store says.
#[tokio::test(start_paused = true)]
async fn a_place_made_at_the_last_moment_is_taken() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server_with(&gate, |settings| settings.rules = rules(1, 0, 10));
    server.control.start_jobs();
    let (waiting, answer) = asked_about(&world, &gate, &server).await;
    world.pass_time(PATIENCE).await;
    drop(answer);
    id_of(waiting).await;
    let counts = server.control.queue_counts();
    assert_eq!((counts.admitted, counts.timed_out), (1, 0));
    world.assert_agrees().await;
}

/// R3.1, R3.5: limits that rise admit at once.
#[tokio::test(start_paused = true)]
async fn quotas_and_rules_that_rise_admit_who_waits() {
    let world = World::new();
    let server = server(&world, rules(2, 1, 10)).await;
    server.control.spawn(of("ann")).await.unwrap();
    let second = spawn(&server, of("ann"));
    settle().await;
    let two = QuotaFields { max_sandboxes: Some(2), ..QuotaFields::default() };
    server.control.put_quota(&owner("ann"), two).await.unwrap();
    id_of(second).await;
    let third = spawn(&server, of("bob"));
    settle().await;
    assert!(!third.is_finished());
    server.control.set_rules(rules(3, 1, 10));
    id_of(third).await;
    let fourth = spawn(&server, of("bob"));
    settle().await;
    server.control.set_rules(rules(0, 0, 10));
    id_of(fourth).await;
    server.control.delete_quota(&owner("ann")).await.unwrap();
    let again = server.control.delete_quota(&owner("ann")).await.unwrap_err();
    assert_eq!(again.to_string(), "not found: quota \"ann\"");
    recorded().await;
    let kinds = world.kinds().await;
    assert!(kinds.contains(&EventKind::QuotaSaved) && kinds.contains(&EventKind::QuotaDeleted));
}

/// R3.3: what fails, and what is undone, gives its place to the next.
#[tokio::test(start_paused = true)]
async fn a_failed_launch_gives_its_place_to_the_next() {
    let world = World::new();
    let server = server(&world, rules(1, 0, 10)).await;
    world.fake.launches.lock().unwrap().extend([Fault::Clean, Fault::Lost]);
    let calls: Vec<_> = ["ann", "bob", "cid"].map(|name| spawn(&server, of(name))).into();
    let mut results = Vec::new();
    for call in calls {
        results.push(call.await.unwrap().is_ok());
    }
    assert_eq!(results.iter().filter(|ok| **ok).count(), 1, "{results:?}");
    world.assert_agrees().await;
}

/// R3.2: no lock, no order and no queue ties one owner's launch to another's.
#[tokio::test(start_paused = true)]
async fn a_slow_launch_delays_nobody_else() {
    let world = World::new();
    let server = server(&world, rules(10, 5, 10)).await;
    let slow = spawn(&server, SpawnRequest { owner: Some(owner("ann")), ..image("slow") });
    world.fake.waiting.notified().await;
    let begun = tokio::time::Instant::now();
    server.control.spawn(of("bob")).await.unwrap();
    server.control.spawn(of("ann")).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(!slow.is_finished());
    world.fake.slow.notify_waiters();
    id_of(slow).await;
}

/// Who waits for their own limit holds up nobody who does not share it.
#[tokio::test(start_paused = true)]
async fn an_owner_at_its_limit_does_not_block_others() {
    let world = World::new();
    let server = server(&world, rules(5, 1, 10)).await;
    let first = server.control.spawn(of("ann")).await.unwrap().spec.id;
    let waits: Vec<_> = (0..4).map(|_| spawn(&server, of("ann"))).collect();
    settle().await;
    let begun = tokio::time::Instant::now();
    server.control.spawn(of("bob")).await.unwrap();
    server.control.spawn(request()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(10));
    assert!(waits.iter().all(|call| !call.is_finished()));
    server.control.destroy(&first).await.unwrap();
    settle().await;
    assert_eq!(waits.iter().filter(|call| call.is_finished()).count(), 1);
}

/// R3.5: ten owners, one with a hundred times the load: it gets its turn like the others.
#[tokio::test(start_paused = true)]
async fn one_owners_burst_starves_nobody() {
    let world = World::new();
    let server = server(&world, rules(1, 0, 1000)).await;
    let mut holder = server.control.spawn(request()).await.unwrap().spec.id;
    let mut calls: Vec<_> = (0..100).map(|_| spawn(&server, of("burst"))).collect();
    settle().await;
    for number in 0..9 {
        for _ in 0..2 {
            calls.push(spawn(&server, of(&format!("calm-{number}"))));
        }
    }
    settle().await;
    let mut order = Vec::new();
    for _ in 0..20 {
        server.control.destroy(&holder).await.unwrap();
        settle().await;
        let at = calls.iter().position(JoinHandle::is_finished).unwrap();
        let row = calls.remove(at).await.unwrap().unwrap();
        order.push(row.spec.owner.unwrap().to_string());
        holder = row.spec.id;
    }
    let bursts = order.iter().filter(|name| *name == "burst").count();
    assert_eq!(bursts, 2, "two rounds of ten: {order:?}");
}

/// Weights share what becomes free; priorities reorder an owner's own.
#[tokio::test(start_paused = true)]
async fn weights_share_between_owners_and_priorities_within_one() {
    let world = World::new();
    let server = server(&world, rules(1, 0, 1000)).await;
    let weight = stacyvm_admission::Weight::new(3);
    let three = QuotaFields { weight, ..QuotaFields::default() };
    server.control.put_quota(&owner("heavy"), three).await.unwrap();
    let mut holder = server.control.spawn(request()).await.unwrap().spec.id;
    let mut calls = Vec::new();
    for _ in 0..12 {
        calls.push(spawn(&server, of("heavy")));
        calls.push(spawn(&server, of("light")));
        settle().await;
    }
    let metadata = [("urgent".to_owned(), "yes".to_owned())].into();
    let priority = Priority::new(9).unwrap();
    calls.push(spawn(&server, SpawnRequest { priority, metadata, ..of("light") }));
    settle().await;
    let mut heavy = 0;
    for turn in 0..12 {
        server.control.destroy(&holder).await.unwrap();
        settle().await;
        let at = calls.iter().position(JoinHandle::is_finished).unwrap();
        let row = calls.remove(at).await.unwrap().unwrap();
        heavy += usize::from(row.spec.owner == Some(owner("heavy")));
        if row.spec.owner == Some(owner("light")) && heavy <= 3 {
            assert_eq!(row.spec.metadata.len(), 1, "turn {turn}: the urgent one is first");
        }
        holder = row.spec.id;
    }
    assert_eq!(heavy, 9);
}

/// R3.6
#[tokio::test(start_paused = true)]
async fn the_admission_question_is_answered_with_reasons_and_creates_nothing() {
    let world = World::new();
    let server = server(&world, rules(2, 1, 3)).await;
    let free = server.control.admission(of("ann"), true).await.unwrap();
    assert!(free.allowed && !free.queueable && free.reason.is_none());
    assert_eq!(free.worker.as_ref().map(ToString::to_string), Some("local".to_owned()));
    assert_eq!((free.max_sandboxes, free.max_owner_sandboxes), (2, 1));
    server.control.spawn(of("ann")).await.unwrap();
    let own = server.control.admission(of("ann"), true).await.unwrap();
    assert_eq!(own.reason.as_deref(), Some("max_sandboxes_per_owner"));
    assert!(own.queueable);
    assert_eq!((own.active_sandboxes, own.active_owner_sandboxes), (1, 1));
    server.control.spawn(of("bob")).await.unwrap();
    let unexplained = server.control.admission(of("cid"), false).await.unwrap();
    assert!(unexplained.queueable && unexplained.outlook.is_none());
    let full = server.control.admission(of("cid"), true).await.unwrap();
    assert_eq!(full.reason.as_deref(), Some("max_sandboxes"));
    assert_eq!(full.outlook.map(|outlook| (outlook.position, outlook.wait)), Some((1, None)));
    let _waiting = ["dan", "eve", "fay"].map(|name| spawn(&server, of(name)));
    settle().await;
    let crowded = server.control.admission(of("cid"), true).await.unwrap();
    assert!(!crowded.queueable && crowded.outlook.is_none());
    let long = SpawnRequest { ttl: Some(Duration::from_secs(7)), ..of("cid") };
    server.control.set_rules(Rules {
        policy: Policy { max_ttl: Some(Duration::from_secs(5)), ..Policy::default() },
        ..rules(2, 1, 3)
    });
    let denied = server.control.admission(long, true).await.unwrap();
    assert_eq!((denied.reason.as_deref(), denied.queueable), (Some("max_ttl"), false));
    let unknown = SpawnRequest { provider: Some("x".to_owned()), ..of("cid") };
    let unknown = server.control.admission(unknown, true).await.unwrap();
    assert_eq!(unknown.reason.as_deref(), Some("worker_unavailable"));
    assert_eq!(unknown.rejected.len(), 1);
    assert_eq!(world.rows().await.len(), 2);
}

/// R2.9: in one place, with an owner's own maximum, and zero is no way around it.
#[tokio::test(start_paused = true)]
async fn no_command_runs_longer_than_its_owner_or_the_server_lets_it() {
    let world = World::new();
    let server = server(&world, rules(0, 0, 0)).await;
    let quota = QuotaFields {
        max_exec_timeout: Some(Duration::from_secs(20)),
        max_ttl: Some(Duration::from_secs(300)),
        ..QuotaFields::default()
    };
    server.control.put_quota(&owner("ann"), quota).await.unwrap();
    let anns = SpawnRequest { ttl: Some(Duration::from_secs(300)), ..of("ann") };
    let anns = server.control.spawn(anns).await.unwrap().spec.id;
    let bobs = server.control.spawn(of("bob")).await.unwrap().spec.id;
    let run = |id: SandboxId, timeout: Option<u64>| {
        let control = server.control.clone();
        let mut exec = stacyvm_control::ExecRequest::new(Program::Shell("echo x".to_owned()));
        exec.timeout = timeout.map(Duration::from_secs);
        async move { control.exec_collect(&id, exec).await.map(|_| ()) }
    };
    for (id, asked, got) in [
        (&anns, None, 20),
        (&anns, Some(0), 20),
        (&anns, Some(19), 19),
        (&bobs, None, 600),
        (&bobs, Some(0), 600),
    ] {
        run(id.clone(), asked).await.unwrap();
        let deadline = world.fake.execs.lock().unwrap().last().unwrap().deadline;
        assert_eq!(deadline, Some(Duration::from_secs(got)), "{asked:?}");
    }
    let said = run(anns.clone(), Some(21)).await.unwrap_err().to_string();
    assert_eq!(said, "resource limit exceeded: exec timeout 21s exceeds max exec timeout 20s");
    let said = server.control.extend(&anns, Duration::from_secs(301)).await.unwrap_err();
    assert_eq!(said.to_string(), "resource limit exceeded: ttl exceeds max ttl 5m0s");
}

/// A server that stops answers those that wait.
#[tokio::test(start_paused = true)]
async fn those_who_wait_are_told_when_the_server_stops() {
    let world = World::new();
    let server = server(&world, rules(1, 0, 10)).await;
    server.control.spawn(request()).await.unwrap();
    let waiting = spawn(&server, of("ann"));
    settle().await;
    server.stopping.cancel();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
}

/// Also when the store is being asked about them at that moment.
#[tokio::test(start_paused = true)]
async fn who_is_being_asked_about_is_told_when_the_server_stops() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server_with(&gate, |settings| settings.rules = rules(1, 0, 10));
    server.control.start_jobs();
    let (waiting, _never) = asked_about(&world, &gate, &server).await;
    server.stopping.cancel();
    let told = tokio::time::timeout(Duration::from_secs(1), waiting).await;
    let error = told.expect("an answer").unwrap().unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
}

/// R3.5: a place that becomes free after the store has looked, and before it is heard, is not idle.
#[tokio::test(start_paused = true)]
async fn a_place_freed_while_the_store_says_no_is_taken_at_once() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server_with(&gate, |settings| settings.rules = rules(1, 0, 10));
    server.control.start_jobs();
    let first = server.control.spawn(request()).await.unwrap().spec.id;
    let waiting = spawn(&server, of("ann"));
    settle().await;
    let no = gate.hold_refusal();
    server.control.set_rules(rules(1, 0, 10));
    settle().await;
    server.control.destroy(&first).await.unwrap();
    settle().await;
    assert!(!waiting.is_finished());
    let begun = tokio::time::Instant::now();
    drop(no);
    id_of(waiting).await;
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}

/// R3.5: who waits keeps its turn also when nobody else may wait any more.
#[tokio::test(start_paused = true)]
async fn nobody_overtakes_those_who_wait_when_the_queue_is_closed() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server_with(&gate, |settings| settings.rules = rules(1, 1, 10));
    server.control.start_jobs();
    let first = server.control.spawn(request()).await.unwrap().spec.id;
    let waiting = spawn(&server, of("ann"));
    settle().await;
    let no = gate.hold_refusal();
    server.control.set_rules(rules(1, 1, 0));
    settle().await;
    server.control.destroy(&first).await.unwrap();
    settle().await;
    for newcomer in [of("bob"), of("ann"), request()] {
        let said = refusal(server.control.spawn(newcomer).await);
        assert_eq!(said, "resource limit exceeded: earlier spawns still wait for a place");
    }
    drop(no);
    id_of(waiting).await;
    server.control.set_rules(rules(2, 1, 0));
    id_of(spawn(&server, of("bob"))).await;
}

/// R3.5: a closed queue keeps out only those whom somebody in it would have to let pass.
#[tokio::test(start_paused = true)]
async fn a_closed_queue_is_in_nobodys_way_who_would_not_stand_in_it() {
    let world = World::new();
    let server = server(&world, rules(0, 1, 10)).await;
    server.control.spawn(of("ann")).await.unwrap();
    let waiting = spawn(&server, of("ann"));
    settle().await;
    server.control.set_rules(rules(0, 1, 0));
    settle().await;
    id_of(spawn(&server, of("bob"))).await;
    refusal(server.control.spawn(of("ann")).await);
    assert!(!waiting.is_finished());
}

/// R3.5: an owner that fills the queue keeps out nobody: neither those who could run at once, nor
/// those who would wait for their share.
#[tokio::test(start_paused = true)]
async fn one_owners_full_queue_refuses_nobody_else() {
    let world = World::new();
    let server = server(&world, rules(2, 1, 4)).await;
    server.control.spawn(of("ann")).await.unwrap();
    let anns: Vec<_> = (0..4).map(|_| spawn(&server, of("ann"))).collect();
    settle().await;
    let begun = tokio::time::Instant::now();
    let bobs = server.control.spawn(of("bob")).await.unwrap().spec.id;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let asked = server.control.admission(of("cid"), true).await.unwrap();
    assert!(asked.queueable, "ann gives way");
    let cid = spawn(&server, of("cid"));
    settle().await;
    let said = refusal(server.control.spawn(of("ann")).await);
    assert_eq!(said, "resource limit exceeded: spawn queue full (4)");
    let (told, waits): (Vec<_>, Vec<_>) = anns.into_iter().partition(JoinHandle::is_finished);
    assert_eq!((told.len(), waits.len()), (1, 3));
    for call in told {
        let said = refusal(call.await.unwrap());
        assert_eq!(said, "resource limit exceeded: spawn queue full (4)");
    }
    server.control.destroy(&bobs).await.unwrap();
    id_of(cid).await;
    let counts = server.control.queue_counts();
    assert_eq!((counts.queued, counts.admitted, counts.timed_out), (5, 1, 1));
}

/// A store that does not answer fails one waiter; the others keep their places.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_for_a_while_empties_no_queue() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server_with(&gate, |settings| settings.rules = rules(1, 0, 10));
    server.control.start_jobs();
    let first = server.control.spawn(request()).await.unwrap().spec.id;
    let waiting: Vec<_> = (0..3).map(|_| spawn(&server, of("ann"))).collect();
    settle().await;
    gate.store_is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    world.pass_time(Duration::from_millis(1500)).await;
    gate.store_is_down.store(false, std::sync::atomic::Ordering::SeqCst);
    server.control.destroy(&first).await.unwrap();
    settle().await;
    world.pass_time(Duration::from_secs(3)).await;
    let mut admitted = 0;
    let mut left = 0;
    for call in waiting {
        if call.is_finished() {
            admitted += usize::from(call.await.unwrap().is_ok());
        } else {
            left += 1;
        }
    }
    assert_eq!(admitted, 1, "the freed place was taken");
    assert!(1 <= left, "the others wait on");
}

/// R3.4: a wait has an end, also while nothing can be written down.
#[tokio::test(start_paused = true)]
async fn who_waits_is_told_although_the_log_is_full() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server_with(&gate, |settings| settings.rules = rules(1, 0, 10));
    server.control.start_jobs();
    let first = server.control.spawn(request()).await.unwrap().spec.id;
    let _waits = spawn(&server, request());
    settle().await;
    gate.store_is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..2_000 {
        let (control, id) = (server.control.clone(), first.clone());
        server.tasks.spawn(async move { control.extend(&id, Duration::from_secs(60)).await });
    }
    settle().await;
    let waits = spawn(&server, request());
    let told = tokio::time::timeout(PATIENCE, waits).await;
    let error = told.expect("an answer").unwrap().unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
}

/// Lives that wait begin with their place, not with the wait.
#[tokio::test(start_paused = true)]
async fn the_time_to_live_begins_with_the_place() {
    let world = World::new();
    let server = server(&world, rules(1, 0, 10)).await;
    let first = server.control.spawn(request()).await.unwrap().spec.id;
    let waiting = spawn(&server, crate::world::ttl(60));
    world.pass_time(Duration::from_secs(10)).await;
    server.control.destroy(&first).await.unwrap();
    let row = waiting.await.unwrap().unwrap();
    assert_eq!(row.spec.expires_at, row.created_at.saturating_add(Duration::from_secs(60)));
}

/// The figures of an owner follow its sandboxes and its quota.
#[tokio::test(start_paused = true)]
async fn an_owners_usage_is_what_it_has_and_may_have() {
    let world = World::new();
    let server = server(&world, rules(0, 4, 0)).await;
    let usage = server.control.owner_usage(&owner("ann")).await.unwrap();
    assert_eq!((usage.active_sandboxes, usage.max_sandboxes), (0, 4));
    assert!(!usage.quota_configured);
    let id = server.control.spawn(of("ann")).await.unwrap().spec.id;
    let seven = QuotaFields { max_sandboxes: Some(7), ..QuotaFields::default() };
    server.control.put_quota(&owner("ann"), seven).await.unwrap();
    let usage = server.control.owner_usage(&owner("ann")).await.unwrap();
    assert_eq!((usage.active_sandboxes, usage.max_sandboxes), (1, 7));
    assert!(usage.quota_configured);
    server.control.destroy(&id).await.unwrap();
    assert_eq!(server.control.owner_usage(&owner("ann")).await.unwrap().active_sandboxes, 0);
    let odd = QuotaFields { max_ttl: Some(Duration::from_millis(1500)), ..QuotaFields::default() };
    let said = server.control.put_quota(&owner("ann"), odd).await.unwrap_err();
    assert!(said.to_string().contains("whole number of seconds"), "{said}");
}
