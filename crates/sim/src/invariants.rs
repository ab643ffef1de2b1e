//! What must hold, each a function over the truth and the rows.
//!
//! Those named `after_*` run at every step that changes something; they look at what changed. Those
//! of [`at_rest`] run when faults have stopped and everything had time to settle.

use std::time::Duration;

use futures_util::FutureExt;
use stacyvm_admission::Policy;
use stacyvm_control::QueueCounts;
use stacyvm_provider::RuntimeState;
use stacyvm_store::{EventFilter, Include, Sandbox, Store, WorkerRow, WorkerStore};
use stacyvm_types::{CauseKind, EventKind, ExecId, Generation, Phase, SandboxId};

use crate::world::World;

/// How much later than its deadline a sandbox may be found to have begun a command: the row was read
/// before it, and the call was on its way.
const ON_THE_WAY: Duration = Duration::from_secs(30);
/// How far a clock that follows the store's may be from it: half of the longest way on which it is
/// asked, and what a clock gains while the store is away.
const CLOCKS: Duration = Duration::from_millis(300);

type Held = Result<(), String>;

fn check(world: &World, name: &'static str, held: Held) {
    if let Err(detail) = held {
        world.violate(name, detail);
    }
}

/// A runtime was changed by a call of this generation.
pub(crate) fn after_effect(world: &World, id: &SandboxId, generation: Generation) {
    check(world, "one_runtime_per_sandbox", one_runtime_per_sandbox(world, id));
    check(world, "no_runtime_without_a_place", no_runtime_without_a_place(world, id));
    check(world, "a_fenced_effect_is_never_seen", never_older(world, id, generation));
}

/// A command began.
pub(crate) fn after_exec(world: &World, id: &SandboxId, exec: &ExecId) {
    check(world, "an_ended_sandbox_takes_no_work", takes_work(world, id));
    world.state().truth.history(id).execs.insert(exec.clone());
}

/// A row was inserted.
pub(crate) fn after_admission(world: &World, policy: &Policy, row: &Sandbox) {
    check(world, "no_limit_is_passed", no_limit_is_passed(world, policy, row));
    check(world, "a_drained_worker_takes_nothing", takes_new(world, row));
}

/// A row has changed, or was to change and is as it was.
pub(crate) fn after_change(world: &World, row: &Sandbox) {
    check(world, "no_runtime_without_a_place", no_runtime_without_a_place(world, &row.spec.id));
    check(world, "every_end_has_a_true_cause", every_end_has_a_true_cause(world, row));
}

/// A row became unhealthy.
pub(crate) fn after_loss(world: &World, row: &Sandbox) {
    check(world, "a_loss_is_true", lease_has_lapsed(world, row));
}

/// A worker took a call under this generation; `row` is what the row was when it arrived there.
pub(crate) fn after_call(world: &World, row: &Sandbox, generation: Generation) {
    let id = &row.spec.id;
    let held = if row.phase == Phase::Running && generation < row.generation {
        let (call, newest) = (generation.0, row.generation.0);
        Err(format!("a call of generation {call} reached {id}, which runs under {newest}"))
    } else {
        Ok(())
    };
    check(world, "a_fenced_call_is_refused", held);
}

/// Something was committed.
pub(crate) fn after_commit(world: &World) {
    check(world, "events_are_of_their_time", events_are_of_their_time(world));
    check(world, "events_are_gap_free", events_are_gap_free(world));
}

/// A caller was told that a sandbox is gone.
pub(crate) fn after_told_gone(world: &World, id: &SandboxId) {
    world.state().truth.history(id).end_told = true;
    let running = world.state().truth.acting(id).len();
    let held = if running == 0 {
        Ok(())
    } else {
        Err(format!("{id} was answered as destroyed and has {running} runtimes"))
    };
    check(world, "an_answered_end_is_true", held);
}

fn one_runtime_per_sandbox(world: &World, id: &SandboxId) -> Held {
    let state = world.state();
    match state.truth.acting(id).as_slice() {
        [] | [_] => Ok(()),
        hosts => Err(format!("{id} runs on {hosts:?}")),
    }
}

/// A runtime is only ever there while a row holds a place for it.
fn no_runtime_without_a_place(world: &World, id: &SandboxId) -> Held {
    if world.state().truth.acting(id).is_empty() {
        return Ok(());
    }
    match world.row(id) {
        Some(row) if row.phase.is_live() => Ok(()),
        Some(row) => Err(format!("{id} runs and its row is {}", row.phase.as_str())),
        None => Err(format!("{id} runs and has no row")),
    }
}

/// Who takes a sandbox for lost may have looked at the registry long ago.
fn lease_has_lapsed(world: &World, row: &Sandbox) -> Held {
    let lease = world.store().lease(&row.spec.id).now_or_never().and_then(Result::ok).flatten();
    match lease {
        Some(lease) if lease.holds(Duration::ZERO, world.now()) => {
            Err(format!("{} is taken for lost, and {} holds it", row.spec.id, lease.holder))
        }
        _ => Ok(()),
    }
}

fn never_older(world: &World, id: &SandboxId, generation: Generation) -> Held {
    let mut state = world.state();
    let newest = &mut state.truth.history(id).newest;
    let before = newest.replace(generation.max(newest.unwrap_or(generation)));
    match before {
        Some(before) if generation < before => {
            Err(format!("generation {} changed {id} after {}", generation.0, before.0))
        }
        _ => Ok(()),
    }
}

fn takes_work(world: &World, id: &SandboxId) -> Held {
    let Some(row) = world.row(id) else { return Err(format!("{id} has no row")) };
    if matches!(row.phase, Phase::Ended(_)) {
        return Err(format!("a command began in {id}, which has ended"));
    }
    let late = world.now().saturating_since(row.spec.expires_at);
    if ON_THE_WAY < late {
        return Err(format!("a command began in {id} {late:?} after its deadline"));
    }
    Ok(())
}

fn worker_of(world: &World, row: &Sandbox) -> Option<WorkerRow> {
    let worker = WorkerStore::worker(&**world.store(), &row.spec.worker);
    worker.now_or_never().and_then(Result::ok).flatten()
}

fn takes_new(world: &World, row: &Sandbox) -> Held {
    match worker_of(world, row) {
        Some(worker) if worker.cordoned => {
            Err(format!("{} is drained and got {}", row.spec.worker, row.spec.id))
        }
        _ => Ok(()),
    }
}

fn live_rows(world: &World) -> Vec<Sandbox> {
    let rows = world.store().sandboxes(Include::Live).now_or_never();
    rows.and_then(Result::ok).unwrap_or_default()
}

/// What was just admitted passes no limit, counted on the rows.
fn no_limit_is_passed(world: &World, policy: &Policy, row: &Sandbox) -> Held {
    let live = live_rows(world);
    let within = |what: &str, max: u64, is: &dyn Fn(&Sandbox) -> bool| {
        let taken = live.iter().filter(|row| is(row)).count() as u64;
        if max == 0 || taken <= max {
            Ok(())
        } else {
            Err(format!("{taken} sandboxes {what}, and {max} are allowed"))
        }
    };
    within("live", policy.max_sandboxes, &|_| true)?;
    let capacity = worker_of(world, row).map(|worker| worker.beat.capacity).unwrap_or_default();
    within("are on one worker", capacity.sandboxes, &|other| other.spec.worker == row.spec.worker)?;
    let Some(owner) = &row.spec.owner else { return Ok(()) };
    let quota = stacyvm_store::QuotaStore::quota(&**world.store(), owner).now_or_never();
    let quota = quota.and_then(Result::ok).flatten();
    let max = quota.and_then(|quota| quota.fields.max_sandboxes).map(u64::from);
    within("are of one owner", max.unwrap_or(policy.max_per_owner), &|other| {
        other.spec.owner.as_ref() == Some(owner)
    })
}

/// What a row says about its end is what happened.
fn every_end_has_a_true_cause(world: &World, row: &Sandbox) -> Held {
    let Phase::Stopping(cause) = &row.phase else { return Ok(()) };
    let id = &row.spec.id;
    let calm = world.profile().is_calm();
    let mut state = world.state();
    let lives = !state.truth.acting(id).is_empty();
    let history = state.truth.history(id);
    let is_true = match cause.kind {
        CauseKind::Requested => history.end_asked,
        CauseKind::Expired => row.spec.expires_at <= world.now().saturating_add(CLOCKS),
        CauseKind::LaunchFailed | CauseKind::LaunchInterrupted => !calm,
        CauseKind::RuntimeDied => history.told_dead || !lives,
        CauseKind::WorkerLost => !calm,
    };
    if is_true {
        history.told_dead |= cause.kind == CauseKind::RuntimeDied;
        return Ok(());
    }
    Err(format!("{id} ends with the cause {}: {cause}", cause.kind.as_str()))
}

/// Servers that share a store write by its clock, however wrong their own is.
fn events_are_of_their_time(world: &World) -> Held {
    if world.profile().servers == 0 {
        return Ok(());
    }
    let seen = world.state().truth.events;
    let news = world.store().events(seen, u32::MAX, EventFilter::default()).now_or_never();
    let latest = world.now().saturating_add(CLOCKS);
    let early = news.and_then(Result::ok).into_iter().flatten().find(|event| latest < event.at);
    match early {
        Some(event) => {
            let ahead = event.at.saturating_since(world.now());
            Err(format!("event {} is {ahead:?} from the future", event.id))
        }
        None => Ok(()),
    }
}

fn events_are_gap_free(world: &World) -> Held {
    let seen = world.state().truth.events;
    let news = world.store().events(seen, u32::MAX, EventFilter::default()).now_or_never();
    let Some(Ok(news)) = news else { return Err("the events cannot be read".to_owned()) };
    for (id, event) in (seen + 1..).zip(&news) {
        if event.id != id {
            return Err(format!("event {id} is missing: {} follows", event.id));
        }
    }
    world.state().truth.events = seen + news.len() as u64;
    Ok(())
}

/// Everything that must hold when faults have stopped and time has passed.
pub(crate) fn at_rest(world: &World) {
    check(world, "every_row_is_settled", every_row_is_settled(world));
    check(world, "runtimes_are_what_rows_say", runtimes_are_what_rows_say(world));
    check(world, "every_end_is_told_once", every_end_is_told_once(world));
}

/// Everything that must hold when every sandbox was asked to end.
pub(crate) fn at_the_end(world: &World) {
    at_rest(world);
    let left = live_rows(world).len();
    let held = if left == 0 { Ok(()) } else { Err(format!("{left} places are still taken")) };
    check(world, "every_place_is_given_back", held);
}

/// How long after its deadline a sandbox may still be there, when nothing fails.
pub(crate) const TO_END: Duration = Duration::from_secs(5);

/// Whether the time of a sandbox was over so lately that its end may be under way. Each is so once:
/// nobody asks for new ones any more.
pub(crate) fn an_end_is_due(world: &World) -> bool {
    let now = world.now();
    let is_due = |row: &Sandbox| {
        row.spec.expires_at <= now && now <= row.spec.expires_at.saturating_add(TO_END)
    };
    live_rows(world).iter().any(is_due)
}

fn every_row_is_settled(world: &World) -> Held {
    for row in live_rows(world) {
        if !matches!(row.phase, Phase::Running | Phase::Paused) {
            return Err(format!("{} is still {:?}", row.spec.id, row.phase));
        }
        if row.spec.expires_at.saturating_add(TO_END) < world.now() {
            return Err(format!("{} has outlived its deadline", row.spec.id));
        }
    }
    Ok(())
}

fn runtimes_are_what_rows_say(world: &World) -> Held {
    let live = live_rows(world);
    let state = world.state();
    for (host, runtime) in state.truth.runtimes() {
        if !live.iter().any(|row| row.spec.id == runtime.id && row.spec.worker == *host) {
            return Err(format!("{} is left on {host} and no row names it", runtime.id));
        }
        if runtime.state == RuntimeState::Dead {
            return Err(format!("{} is dead on {host} and its row lives", runtime.id));
        }
    }
    for row in &live {
        if state.truth.acting(&row.spec.id).is_empty() {
            return Err(format!("{} is {} and runs nowhere", row.spec.id, row.phase.as_str()));
        }
    }
    Ok(())
}

fn every_end_is_told_once(world: &World) -> Held {
    let rows = world.store().sandboxes(Include::Ended).now_or_never();
    let events = world.store().events(0, u32::MAX, EventFilter::default()).now_or_never();
    let (Some(Ok(rows)), Some(Ok(events))) = (rows, events) else {
        return Err("the rows cannot be read".to_owned());
    };
    for row in rows.iter().filter(|row| !row.phase.is_live()) {
        let of_row = |kind| {
            events
                .iter()
                .filter(move |e| e.sandbox.as_ref() == Some(&row.spec.id) && e.kind == kind)
        };
        let (made, gone) = (
            of_row(EventKind::SandboxCreated).count(),
            of_row(EventKind::SandboxDestroyed).count(),
        );
        if (made, gone) != (1, 1) {
            let id = &row.spec.id;
            return Err(format!("{id} was made {made} times and ended {gone} times, as told"));
        }
    }
    Ok(())
}

/// Whether somebody waits while there is a place for everybody: then nobody may wait for long.
pub(crate) fn waits_for_nothing(world: &World, counts: QueueCounts) -> bool {
    let QueueCounts { queued, admitted, timed_out, cancelled } = counts;
    if queued <= admitted + timed_out + cancelled {
        return false;
    }
    let limits = &world.profile().limits;
    let only_all = limits.per_owner == 0 && limits.per_worker == 0;
    let quotas = stacyvm_store::QuotaStore::quotas(&**world.store()).now_or_never();
    let no_quotas = quotas.and_then(Result::ok).is_some_and(|quotas| quotas.is_empty());
    let is_free = (live_rows(world).len() as u64) < limits.total;
    let workers = WorkerStore::workers(&**world.store()).now_or_never().and_then(Result::ok);
    let is_open = workers.is_some_and(|all| all.iter().all(|(worker, _)| !worker.cordoned));
    only_all && no_quotas && is_free && is_open
}

/// The sandboxes that have a place.
pub(crate) fn live(world: &World) -> Vec<SandboxId> {
    live_rows(world).into_iter().map(|row| row.spec.id).collect()
}
