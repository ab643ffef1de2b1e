//! Random histories on two stores: what one answers, the other must answer.

use std::{sync::Arc, time::Duration};

use stacyvm_admission::{Policy, Weight};
use stacyvm_types::{Beat, CauseKind, EventKind, Generation, Timestamp, Transition};

use super::{
    at,
    audit::operation,
    beat, cause, event, exec_id, id,
    keys::{key_id, new_key},
    map, new_sandbox, new_template, owner, worker,
};
use crate::{
    Allowance, Answer, Durability, EventFilter, ExecLog, Include, NewKey, QuotaFields, Store,
    TemplateChange, audit::OperationFilter, retention::Walk,
};

/// A small generator of numbers (SplitMix64): a seed says everything about a history.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u8) -> u8 {
        u8::try_from(self.next() % u64::from(bound)).expect("smaller than a u8")
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let index = self.next() % from.len() as u64;
        from[usize::try_from(index).expect("an index of a slice")].clone()
    }

    fn maybe<T>(&mut self, value: T) -> Option<T> {
        (self.below(2) == 0).then_some(value)
    }
}

/// One call, chosen so that calls meet: few ids, few holders, times close together.
#[derive(Debug, Clone)]
enum Call {
    Admit(u8, Timestamp, Durability),
    AdmitWithin(u8, Timestamp, Policy),
    PutQuota(&'static str, QuotaFields),
    DeleteQuota(&'static str),
    Sync,
    Transition(u8, Generation, Transition, Durability),
    Extend(u8, Timestamp),
    Acquire(u8, &'static str, Duration),
    Beat(Box<Beat>, Option<Duration>),
    Cordon(&'static str, bool),
    RemoveWorker(&'static str),
    Release(u8, &'static str, Generation),
    Renew(u8, &'static str, Duration),
    StillCreating(u8),
    Append(Vec<EventKind>, u8),
    Log(u8, u8),
    CreateTemplate(&'static str, u8),
    UpdateTemplate(&'static str, Box<TemplateChange>),
    DeleteTemplate(&'static str),
    Record(u8, Timestamp),
    PruneSandboxes(Timestamp, u32),
    PruneLogs(Timestamp, u32),
    PruneEvents(Timestamp, u32),
    CreateKey(u8, &'static str),
    RevokeKey(u8),
    NoteKeyUse(u8, Timestamp),
    Key(&'static str, KeyCall),
}

/// The body of an answer.
#[derive(Debug, Clone, Copy)]
enum Body {
    None,
    Kept,
    Counted,
}

/// One call about an idempotency key.
#[derive(Debug, Clone)]
enum KeyCall {
    Begin(&'static str, &'static str, u8),
    Renew(u64, u8),
    Finish(u64, Body),
    Release(u64),
    Prune(u64, u32),
}

const SANDBOXES: u8 = 6;
const WORKERS: [&str; 3] = ["w1", "w2", "w3"];
const OWNERS: [&str; 2] = ["ann", "bob"];
const TEMPLATES: [&str; 3] = ["a", "b", "c"];
const KEYS: [&str; 3] = ["k", "l", "m"];

fn call(dice: &mut Dice, now: u64) -> Call {
    let sandbox = dice.below(SANDBOXES);
    // Generations are mostly right: early in a history 1, later a little more.
    let generation = Generation(dice.pick(&[1, 1, 1, 2, 2, 3, 4, 5, 0]));
    let soon = at(now + u64::from(dice.below(20)));
    let later = at(now + u64::from(dice.below(60)));
    let durability = dice.pick(&[Durability::Disk, Durability::Kernel]);
    let past = at(now.saturating_sub(u64::from(dice.below(20))));
    match dice.below(33) {
        31 => Call::Renew(sandbox, dice.pick(&WORKERS), Duration::from_secs(dice.below(40).into())),
        32 => Call::StillCreating(sandbox),
        28 => Call::Cordon(dice.pick(&WORKERS), dice.below(2) == 0),
        29 => Call::RemoveWorker(dice.pick(&WORKERS)),
        30 => worker_call(dice),
        25 => Call::Record(dice.below(9), past),
        26 => Call::PruneSandboxes(past, 1 + u32::from(dice.below(4))),
        27 => match dice.below(2) {
            0 => Call::PruneLogs(past, u32::from(dice.below(3))),
            _ => Call::PruneEvents(past, u32::from(dice.below(9))),
        },
        0..=2 => Call::Admit(sandbox, soon, durability),
        3..=7 => {
            let kind = dice.pick(CauseKind::ALL);
            let transition = dice.pick(&[
                Transition::Started,
                Transition::Started,
                Transition::Paused,
                Transition::Resumed,
                Transition::Lost(cause(kind).detail),
                Transition::Recovered,
                Transition::Stop(cause(kind)),
                Transition::Gone,
            ]);
            Call::Transition(sandbox, generation, transition, durability)
        }
        8 | 9 => Call::Extend(sandbox, later),
        10 => {
            Call::Acquire(sandbox, dice.pick(&WORKERS), Duration::from_secs(dice.below(9).into()))
        }
        11 => Call::Release(sandbox, dice.pick(&WORKERS), generation),
        12 => {
            let kinds = (0..dice.below(4)).map(|_| dice.pick(EventKind::ALL)).collect();
            Call::Append(kinds, sandbox)
        }
        13 => Call::Log(dice.below(30), sandbox),
        14 => Call::Sync,
        15 => Call::CreateTemplate(dice.pick(&TEMPLATES), dice.below(9)),
        16 => {
            let policy = Policy {
                max_sandboxes: u64::from(dice.below(5)),
                max_per_owner: u64::from(dice.below(4)),
                max_ttl: dice.maybe(Duration::from_secs(10)),
            };
            Call::AdmitWithin(sandbox, soon, policy)
        }
        17 if dice.below(3) == 0 => Call::DeleteQuota(dice.pick(&OWNERS)),
        17 | 18 => {
            let most = u32::from(dice.below(4));
            let fields = QuotaFields {
                max_sandboxes: dice.maybe(most),
                max_ttl: dice.maybe(Duration::from_nanos(8_000_000_333)),
                max_exec_timeout: dice.maybe(Duration::from_nanos(333_333)),
                weight: Weight::new(dice.below(3)),
            };
            Call::PutQuota(dice.pick(&OWNERS), fields)
        }
        19 => Call::CreateKey(dice.below(9), dice.pick(&TEMPLATES)),
        20 => match dice.below(4) {
            0 => Call::RevokeKey(dice.below(9)),
            _ => Call::NoteKeyUse(dice.below(9), soon),
        },
        21..=23 => Call::Key(dice.pick(&KEYS), key_call(dice, now)),
        _ => {
            let name = dice.pick(&TEMPLATES);
            let number = dice.below(200);
            match dice.below(3) {
                0 => Call::DeleteTemplate(name),
                _ => Call::UpdateTemplate(
                    name,
                    Box::new(TemplateChange {
                        image: dice.maybe(format!("image-{number}")),
                        memory_mb: dice.maybe(u32::from(number)),
                        ttl: dice.maybe(Duration::from_nanos(u64::from(number) * 333)),
                        setup: dice.maybe(vec![format!("echo {number}")]),
                        secrets: dice.maybe(map(&[("number", &number.to_string())])),
                        ..TemplateChange::default()
                    }),
                ),
            }
        }
    }
}

fn worker_call(dice: &mut Dice) -> Call {
    let mut one = beat(dice.pick(&WORKERS));
    one.instance = dice.pick(&["a", "a", "a", "b"]).to_owned();
    one.draining = dice.below(4) == 0;
    one.capacity.sandboxes = u64::from(dice.below(4));
    one.capacity.memory_mb = u64::from(dice.below(4)) * 11;
    let term = Duration::from_secs(dice.below(30).into());
    Call::Beat(Box::new(one), dice.maybe(term))
}

fn key_call(dice: &mut Dice, now: u64) -> KeyCall {
    let attempt = dice.pick(&[1, 1, 1, 2, 2, 3]);
    match dice.below(10) {
        0..=4 => {
            KeyCall::Begin(dice.pick(&["f", "f", "f", "g"]), dice.pick(&WORKERS), dice.below(9))
        }
        5 => KeyCall::Renew(attempt, dice.below(9)),
        6 => KeyCall::Finish(attempt, dice.pick(&[Body::None, Body::Kept, Body::Counted])),
        7 => KeyCall::Release(attempt),
        _ => {
            KeyCall::Prune(now.saturating_sub(u64::from(dice.below(40))), u32::from(dice.below(3)))
        }
    }
}

async fn perform_key(store: &Arc<dyn Store>, id: &str, call: KeyCall, now: Timestamp) -> String {
    match call {
        KeyCall::Begin(fingerprint, holder, number) => {
            let key = NewKey {
                id: id.to_owned(),
                fingerprint: fingerprint.to_owned(),
                resource: format!("r{number}"),
                holder: worker(holder),
                held_until: now.saturating_add(Duration::from_secs(number.into())),
            };
            format!("{:?}", store.begin_key(key, Durability::Kernel, now).await)
        }
        KeyCall::Renew(attempt, number) => {
            format!("{:?}", store.renew_key(id, attempt, &format!("n{number}")).await)
        }
        KeyCall::Finish(attempt, body) => {
            let answer = super::idempotency::answer("{}");
            let kept = answer.body.filter(|_| !matches!(body, Body::None));
            let answer = Answer { body: kept, ..answer };
            let allowance = Allowance { caller: "ann".to_owned(), bytes: 3 };
            let allowance = matches!(body, Body::Counted).then_some(allowance);
            format!("{:?}", store.finish_key(id, attempt, answer, allowance).await)
        }
        KeyCall::Release(attempt) => format!("{:?}", store.release_key(id, attempt).await),
        KeyCall::Prune(before, limit) => {
            format!("{:?}", store.prune_keys(at(before), limit).await)
        }
    }
}

/// Makes the call and writes down its answer, row or error.
async fn perform(store: &Arc<dyn Store>, call: Call, now: Timestamp) -> String {
    match call {
        Call::Sync => format!("{:?}", store.sync().await),
        Call::Admit(number, expires_at, durability) => {
            let mut new = new_sandbox(number, expires_at);
            if number % 2 == 0 {
                new.owner = None;
            }
            format!("{:?}", store.admit(&Policy::default(), new, durability, now).await)
        }
        Call::AdmitWithin(number, expires_at, policy) => {
            let mut new = new_sandbox(number, expires_at);
            new.worker = worker(WORKERS[usize::from(number % 2)]);
            format!("{:?}", store.admit(&policy, new, Durability::Disk, now).await)
        }
        Call::PutQuota(name, fields) => {
            let events = vec![event(EventKind::QuotaSaved, 0)];
            format!("{:?}", store.put_quota(&owner(name), fields, events, now).await)
        }
        Call::DeleteQuota(name) => {
            let events = vec![event(EventKind::QuotaDeleted, 0)];
            format!("{:?}", store.delete_quota(&owner(name), events, now).await)
        }
        Call::Transition(number, generation, transition, durability) => {
            let events = vec![event(EventKind::ReconcileAction, number)];
            let answer = store
                .transition(&id(number), generation, transition, events, durability, now)
                .await;
            format!("{answer:?}")
        }
        Call::Extend(number, expires_at) => {
            let events = vec![event(EventKind::SandboxExtended, number)];
            let answer = store.extend(&id(number), expires_at, events, now).await;
            format!("{answer:?}")
        }
        Call::Acquire(number, holder, fence) => {
            format!("{:?}", store.acquire_lease(&id(number), &worker(holder), fence, now).await)
        }
        Call::Beat(beat, term) => format!("{:?}", store.beat(*beat, term, now).await),
        Call::Cordon(name, cordoned) => {
            format!("{:?}", store.cordon(&worker(name), cordoned, now).await)
        }
        Call::RemoveWorker(name) => format!("{:?}", store.remove_worker(&worker(name)).await),
        Call::Release(number, holder, generation) => {
            let answer = store.release_lease(&id(number), &worker(holder), generation).await;
            format!("{answer:?}")
        }
        Call::Renew(number, holder, term) => {
            format!("{:?}", store.renew_lease(&id(number), &worker(holder), term, now).await)
        }
        Call::StillCreating(number) => {
            format!("{:?}", store.still_creating(&id(number), now).await)
        }
        Call::Append(kinds, number) => {
            let events = kinds.into_iter().map(|kind| event(kind, number)).collect();
            format!("{:?}", store.append_events(events, now).await)
        }
        Call::Log(number, sandbox) => {
            let log = ExecLog {
                id: exec_id(number),
                sandbox: id(sandbox),
                command: "true".to_owned(),
                exit_code: i32::from(sandbox),
                reason: "exit".to_owned(),
                duration: Duration::from_nanos(1_999),
                at: now,
            };
            format!("{:?}", store.log_exec(log).await)
        }
        Call::CreateTemplate(name, number) => {
            let mut template = new_template(name);
            template.fields.pool_size = u32::from(number);
            format!("{:?}", store.create_template(template).await)
        }
        Call::UpdateTemplate(name, change) => {
            format!("{:?}", store.update_template(name, *change, now).await)
        }
        Call::Key(id, call) => perform_key(store, id, call, now).await,
        Call::DeleteTemplate(name) => format!("{:?}", store.delete_template(name).await),
        Call::Record(number, then) => {
            let mut record = operation(u32::from(number), 0);
            (record.at, record.sandbox) = (then, Some(id(number % SANDBOXES)));
            format!("{:?}", store.record_operations(vec![record]).await)
        }
        Call::PruneSandboxes(before, limit) => {
            format!("{:?}", store.prune_sandboxes(before, Walk::START, limit).await)
        }
        Call::PruneLogs(before, limit) => {
            let operations = store.prune_operation_records(before, limit).await;
            format!("{:?} {operations:?}", store.prune_exec_logs(before, limit).await)
        }
        Call::PruneEvents(before, limit) => {
            format!("{:?}", store.prune_events(before, limit).await)
        }
        Call::CreateKey(number, name) => {
            format!("{:?}", store.create_key(new_key(number, name)).await)
        }
        Call::RevokeKey(number) => format!("{:?}", store.revoke_key(&key_id(number), now).await),
        Call::NoteKeyUse(number, at) => {
            format!("{:?}", store.note_key_use(&key_id(number), at).await)
        }
    }
}

/// Everything that can be read, as text.
async fn everything(store: &Arc<dyn Store>, now: Timestamp, dice: &mut Dice) -> Vec<String> {
    let sandbox = dice.below(SANDBOXES);
    let filter = EventFilter {
        sandbox: dice.maybe(id(sandbox)),
        owner: dice.maybe(owner("ann")),
        kinds: (0..dice.below(3)).map(|_| dice.pick(EventKind::ALL)).collect(),
    };
    let after = u64::from(dice.below(40));
    let operations = OperationFilter {
        sandbox: dice.maybe(id(sandbox)),
        since: dice.maybe(at(10)),
        ..OperationFilter::default()
    };
    let mut all = vec![
        format!("{:?}", store.sandboxes(Include::Ended).await),
        format!("{:?}", store.sandboxes(Include::Live).await),
        format!("{:?}", store.expired(now, u32::from(dice.below(5))).await),
        format!("{:?}", store.next_expiry().await),
        format!("{:?}", store.census(now).await),
        format!("{:?}", store.events(after, 50, filter).await),
        format!("{:?}", store.last_event().await),
        format!("{:?}", store.templates().await),
        format!("{:?}", store.operation_records(operations, None, 4).await),
        format!("{:?}", store.pruned_events().await),
        format!("{:?} {:?}", store.keys().await, store.has_keys().await),
        format!("{:?}", store.quotas().await),
        format!("{:?}", store.quota_counts().await),
        format!("{:?}", store.standing(Some(&owner("ann")), &worker("w1")).await),
        format!("{:?}", store.standing(None, &worker("w2")).await),
        format!("{:?}", store.workers().await),
        format!("{:?}", store.worker(&worker("w1")).await),
        format!("{:?}", store.sandboxes_of(&worker("w1"), None, 3).await),
        format!("{:?}", store.sandboxes_of(&worker("w1"), Some((at(9), id(2))), 9).await),
    ];
    for number in 0..SANDBOXES {
        all.push(format!("{:?}", store.sandbox(&id(number)).await));
        all.push(format!("{:?}", store.lease(&id(number)).await));
        all.push(format!("{:?}", store.exec_logs(&id(number), 5).await));
    }
    all
}

/// Drives both stores, empty at first, through the history of `seed` and compares every answer,
/// and after each call everything that can be read.
pub async fn agree(oracle: Arc<dyn Store>, subject: Arc<dyn Store>, seed: u64, calls: u64) {
    let mut dice = Dice(seed);
    let mut now = 0;
    for store in [&oracle, &subject] {
        super::register(store).await;
    }
    for number in 0..calls {
        now += u64::from(dice.below(4));
        let call = call(&mut dice, now);
        let expected = perform(&oracle, call.clone(), at(now)).await;
        let answer = perform(&subject, call.clone(), at(now)).await;
        assert_eq!(answer, expected, "seed {seed}, call {number}: {call:?}");
        let mut same_dice = Dice(seed ^ number);
        let expected = everything(&oracle, at(now), &mut same_dice).await;
        let mut same_dice = Dice(seed ^ number);
        let rows = everything(&subject, at(now), &mut same_dice).await;
        assert_eq!(rows, expected, "seed {seed}, after call {number}: {call:?}");
    }
}
