//! What is recorded of what happened: every kind of event and every path of the audit log.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use stacyvm_admission::Policy;
use stacyvm_control::{AdminRequest, Caller, Control, Error, ExecRequest, Overflow, Rules};
use stacyvm_provider::{Program, WriteOptions};
use stacyvm_store::{
    AuditStore, Durability, EventFilter, IdempotencyStore, NewEvent, NewKey, QuotaFields, Store,
    TemplateFields,
    audit::{AdminFilter, OperationFilter, OperationRecord},
};
use stacyvm_types::{Event, EventKind, ExecId, Operation, OwnerId, SandboxId};

use crate::{
    fake::Fault,
    gate::Gate,
    spawn::template,
    world::{Server, World, image, request, ttl},
};

const SECOND: Duration = Duration::from_secs(1);

fn shell(line: &str) -> ExecRequest {
    ExecRequest::new(Program::Shell(line.to_owned()))
}

fn within(line: &str, seconds: u64) -> ExecRequest {
    ExecRequest { timeout: Some(Duration::from_secs(seconds)), ..shell(line) }
}

fn ann() -> OwnerId {
    OwnerId::parse("ann").unwrap()
}

/// The control plane as a key of somebody's calls it, in a request.
fn called(server: &Server) -> Control {
    let caller = Caller { actor: "key:ci".to_owned(), only: None };
    server.control.on_behalf_of(caller).in_request("req-1".into())
}

async fn sandbox(control: &Control) -> SandboxId {
    control.spawn(request()).await.unwrap().spec.id
}

impl World {
    /// Everything that was recorded, oldest first, once the queue is empty.
    async fn operations(&self) -> Vec<OperationRecord> {
        self.pass_time(SECOND).await;
        let all = OperationFilter::default();
        let page = self.store.operation_records(all, None, 1000).await.unwrap();
        page.rows.into_iter().rev().collect()
    }

    /// As action, outcome and resource.
    async fn deeds(&self) -> Vec<(String, &'static str, String)> {
        let told =
            |record: OperationRecord| (record.action, record.outcome.as_str(), record.resource);
        let mut deeds: Vec<_> = self.operations().await.into_iter().map(told).collect();
        // Records of one instant have no order.
        deeds.sort();
        deeds
    }

    async fn events(&self) -> Vec<Event> {
        self.pass_time(SECOND).await;
        self.store.events(0, 10_000, EventFilter::default()).await.unwrap()
    }

    async fn only(&self, kind: EventKind) -> Event {
        let mut events = self.events().await;
        events.retain(|event| event.kind == kind);
        assert_eq!(events.len(), 1, "{kind:?}: {events:?}");
        events.remove(0)
    }
}

fn deed(action: &str, outcome: &'static str, resource: &str) -> (String, &'static str, String) {
    (action.to_owned(), outcome, resource.to_owned())
}

/// R2.6: who, what, whose, with what and in which request.
#[tokio::test(start_paused = true)]
async fn a_change_is_recorded_with_who_asked_for_it() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    let spawn = stacyvm_control::SpawnRequest { owner: Some(ann()), ..request() };
    let id = control.spawn(spawn).await.unwrap().spec.id;
    control.exec_collect(&id, shell("exit 3")).await.unwrap();
    let mut records = world.operations().await;
    records.sort_by(|a, b| b.action.cmp(&a.action));
    for record in &records {
        assert_eq!(record.actor, "key:ci", "the caller, not the owner");
        assert_eq!((record.sandbox.as_ref(), record.owner.as_ref()), (Some(&id), Some(&ann())));
        assert_eq!(
            (record.provider.as_str(), record.request_id.as_deref()),
            ("fake", Some("req-1"))
        );
    }
    let [spawn, exec] = &records[..] else { panic!("two records: {records:?}") };
    assert_eq!((spawn.action.as_str(), spawn.detail.as_str()), ("sandbox.spawn", "state=running"));
    assert_eq!((exec.action.as_str(), exec.resource.as_str()), ("exec", "exit 3"));
    assert!(exec.detail.starts_with("exit=3 duration="), "{}", exec.detail);
    assert!(!exec.detail.contains("why"), "no output of the command: {}", exec.detail);
}

/// R2.6: however long what a caller wrote is, a record of it is short.
#[tokio::test(start_paused = true)]
async fn a_record_of_a_long_request_is_short() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    let long = || "é".repeat(100_000);
    let base = request;
    for wanted in [
        stacyvm_control::SpawnRequest { provider: Some(long()), ..base() },
        stacyvm_control::SpawnRequest { image: Some(long()), ..base() },
        stacyvm_control::SpawnRequest { template: Some(long()), ..base() },
    ] {
        control.spawn(wanted).await.unwrap_err();
    }
    for event in world.events().await {
        let bytes: usize = event.data.values().map(String::len).sum();
        assert!(bytes < 4096, "{:?} has {bytes} bytes", event.kind);
    }
    let records = world.operations().await;
    assert_eq!(records.len(), 3);
    for record in records {
        let bytes = record.provider.len() + record.resource.len() + record.detail.len();
        assert!(bytes < 4096, "{bytes}");
    }
}

/// R2.6: callers may choose the id of a command; one that was used in another sandbox hides nothing.
#[tokio::test(start_paused = true)]
async fn commands_of_one_id_in_two_sandboxes_are_both_recorded() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    let id = ExecId::from_entropy([9; 10]);
    let named = |line| ExecRequest { id: Some(id.clone()), ..shell(line) };
    let (first, second) = (sandbox(&control).await, sandbox(&control).await);
    control.exec_collect(&first, named("exit 1")).await.unwrap();
    control.exec_collect(&second, named("exit 2")).await.unwrap();
    let third = sandbox(&control).await;
    // Nobody waits for these two.
    drop(control.exec(&third, named("exit 3")).await.unwrap());
    drop(control.exec(&sandbox(&control).await, named("exit 4")).await.unwrap());
    let mut deeds = world.deeds().await;
    deeds.retain(|(action, ..)| action.starts_with("exec"));
    assert_eq!(
        deeds,
        [
            deed("exec", "success", "exit 1"),
            deed("exec", "success", "exit 2"),
            deed("exec.stream", "success", "exit 3"),
            deed("exec.stream", "success", "exit 4"),
        ]
    );
    let events = world.events().await;
    let ended = events.iter().filter(|event| event.kind == EventKind::ExecCompleted);
    assert_eq!(ended.count(), 4);
}

/// R2.6: changes are recorded when they succeed, looking is not, and every failure is.
#[tokio::test(start_paused = true)]
async fn every_operation_on_files_is_recorded_as_its_outcome_demands() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    let id = sandbox(&control).await;
    let body = || futures_util::stream::iter([Ok(Bytes::from_static(b"four"))]).boxed();
    let options = WriteOptions::default;
    control.write_file(&id, "/a", options(), body()).await.unwrap();
    control.move_file(&id, "/a", "/b").await.unwrap();
    control.chmod_file(&id, "/b", 0o600).await.unwrap();
    control.remove_file(&id, "/b", false).await.unwrap();
    control.read_file(&id, "/a", None).await.unwrap();
    control.list_files(&id, "/").await.unwrap();
    control.stat_file(&id, "/a").await.unwrap();
    control.glob_files(&id, "*").await.unwrap();
    assert_eq!(
        world.deeds().await,
        [
            deed("file.chmod", "success", "/b"),
            deed("file.delete", "success", "/b"),
            deed("file.move", "success", "/a -> /b"),
            deed("file.write", "success", "/a"),
            deed("sandbox.spawn", "success", "host"),
        ]
    );
    let unknown = SandboxId::from_entropy([7; 10]);
    let no = "sandbox not found";
    let said = [
        control.write_file(&unknown, "/1", options(), body()).await.err().unwrap(),
        control.move_file(&unknown, "/2", "/3").await.unwrap_err(),
        control.chmod_file(&unknown, "/4", 0).await.unwrap_err(),
        control.remove_file(&unknown, "/5", true).await.unwrap_err(),
        control.read_file(&unknown, "/6", None).await.err().unwrap(),
        control.list_files(&unknown, "/7").await.unwrap_err(),
        control.stat_file(&unknown, "/8").await.unwrap_err(),
        control.glob_files(&unknown, "/9").await.unwrap_err(),
    ];
    assert!(said.iter().all(|error| error.to_string().starts_with(no)), "{said:?}");
    let records = world.operations().await;
    let failed: BTreeSet<_> = records
        .iter()
        .filter(|record| record.sandbox.as_ref() == Some(&unknown))
        .map(|record| (record.action.as_str(), record.outcome.as_str(), record.provider.as_str()))
        .collect();
    let actions = Operation::ALL.iter().map(|operation| operation.action());
    let expected = actions.filter(|action| action.starts_with("file."));
    let expected: BTreeSet<_> = expected.map(|action| (action, "failure", "unknown")).collect();
    assert_eq!(failed, expected);
    let kinds = world.events().await.into_iter().map(|event| event.kind).collect::<Vec<_>>();
    assert!(!kinds.contains(&EventKind::OperationFailed), "nobody's sandbox tells nobody");
}

/// R2.6, R3.9: whatever goes wrong with a command is recorded alike, streamed or not.
#[tokio::test(start_paused = true)]
async fn a_failed_command_is_recorded_whether_it_is_streamed_or_not() {
    for streams in [false, true] {
        let world = World::new();
        let server = world.start().await;
        let control = called(&server);
        let id = sandbox(&control).await;
        let action = if streams { "exec.stream" } else { "exec" };
        let run = async |id: &SandboxId, request: ExecRequest| {
            if streams {
                let exec = control.exec(id, request).await?;
                exec.events.collect::<Vec<_>>().await;
                Ok(())
            } else {
                control.exec_collect(id, request).await.map(drop)
            }
        };
        run(&id, shell("nonsense")).await.unwrap_err();
        let failed = world.only(EventKind::ExecFailed).await;
        assert_eq!(
            (failed.data["operation"].as_str(), failed.data["provider"].as_str()),
            (action, "fake")
        );
        assert_eq!(failed.data["error"], "no such program");
        drop(run(&id, within("late", 5)).await);
        let late = world.only(EventKind::ExecTimeout).await;
        assert_eq!(
            (late.data["operation"].as_str(), late.data["provider"].as_str()),
            (action, "fake")
        );
        assert_eq!(late.data["error"], format!("exec timeout: {id}"));
        let unknown = SandboxId::from_entropy([7; 10]);
        run(&unknown, shell("echo x")).await.unwrap_err();
        run(&id, ExecRequest { workdir: Some("w".to_owned()), ..shell("echo y") })
            .await
            .unwrap_err();
        assert_eq!(
            world.deeds().await,
            [
                deed(action, "failure", "echo x"),
                deed(action, "failure", "echo y"),
                deed(action, "failure", "late"),
                deed(action, "failure", "nonsense"),
                deed("sandbox.spawn", "success", "host"),
            ]
        );
        let tally = control.operations().tallies();
        let operation = if streams { Operation::ExecStream } else { Operation::Exec };
        let failed = |provider: &str| {
            let mut of =
                tally.iter().filter(|t| t.operation == operation && t.provider == provider);
            of.next().map_or(0, |tally| tally.failed.count())
        };
        assert_eq!((failed("fake"), failed("unknown")), (3, 1));
    }
}

/// R3.9: a caller that leaves is no failure, and how the command ends is recorded all the same.
#[tokio::test(start_paused = true)]
async fn a_command_whose_caller_left_is_recorded_as_it_ends() {
    for streams in [false, true] {
        let world = World::new();
        let server = world.start().await;
        let control = called(&server);
        let id = sandbox(&control).await;
        if streams {
            drop(control.exec(&id, within("late", 5)).await.unwrap());
        } else {
            let waited = control.exec_collect(&id, within("late", 5));
            tokio::time::timeout(SECOND, waited).await.unwrap_err();
        }
        let kinds = || async {
            let events = world.events().await;
            events.into_iter().map(|event| event.kind).skip(2).collect::<Vec<_>>()
        };
        assert_eq!(kinds().await, [EventKind::ExecStarted], "leaving is nothing that happened");
        world.pass_time(5 * SECOND).await;
        assert_eq!(kinds().await, [EventKind::ExecStarted, EventKind::ExecTimeout]);
        let action = if streams { "exec.stream" } else { "exec" };
        let spawned = deed("sandbox.spawn", "success", "host");
        assert_eq!(world.deeds().await, [deed(action, "failure", "late"), spawned]);
        assert_eq!(world.store.exec_logs(&id, 9).await.unwrap()[0].reason, "timeout");
    }
}

/// R2.6: the id of a command is its client's choice, so one that another sandbox had before hides
/// nothing.
#[tokio::test(start_paused = true)]
async fn commands_of_two_sandboxes_with_one_id_are_both_recorded() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    let chosen = ExecId::from_entropy([7; 10]);
    let sandboxes = [sandbox(&control).await, sandbox(&control).await];
    for id in &sandboxes {
        let request = ExecRequest { id: Some(chosen.clone()), ..shell("echo x") };
        control.exec_collect(id, request).await.unwrap();
    }
    world.pass_time(2 * SECOND).await;
    let deeds = world.deeds().await;
    let ran = deed("exec", "success", "echo x");
    assert_eq!(deeds.iter().filter(|found| **found == ran).count(), 2, "{deeds:?}");
    for id in &sandboxes {
        let logs = world.store.exec_logs(id, 9).await.unwrap();
        assert_eq!(logs.iter().map(|log| &log.id).collect::<Vec<_>>(), [&chosen]);
    }
}

/// R3.9: a caller that leaves while a broken channel is taken up again loses nothing either.
#[tokio::test(start_paused = true)]
async fn a_command_whose_channel_broke_is_seen_to_its_end_without_its_caller() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    let id = sandbox(&control).await;
    let waited = control.exec_collect(&id, shell("break"));
    tokio::time::timeout(Duration::from_millis(10), waited).await.unwrap_err();
    let spawned = deed("sandbox.spawn", "success", "host");
    assert_eq!(world.deeds().await, [deed("exec", "success", "break"), spawned]);
    assert_eq!(world.fake.execs.lock().unwrap().len(), 1, "it was started once");
}

/// The end of a command that an earlier server recorded is not recorded again by one that sees it.
#[tokio::test(start_paused = true)]
async fn a_recorded_end_is_recorded_once_whoever_sees_it() {
    let world = World::new();
    let server = world.start().await;
    let id = sandbox(&server.control).await;
    let collected = server.control.exec_collect(&id, shell("echo x")).await.unwrap();
    let before = world.events().await.len();
    server.stopping.cancel();
    let next = world.start().await;
    let again = next.control.attach(&id, &collected.id, 0).await.unwrap();
    again.events.collect::<Vec<_>>().await;
    assert_eq!(world.events().await.len(), before);
}

/// R2.6: whoever attaches and sees the end first, the record names who started the command, and it.
#[tokio::test(start_paused = true)]
async fn a_command_is_recorded_as_its_starters_whoever_sees_its_end_first() {
    let world = World::new();
    let server = world.start().await;
    let starter = called(&server);
    let id = sandbox(&starter).await;
    let unread = starter.exec(&id, shell("echo x")).await.unwrap();
    let looker = Caller { actor: "looker".to_owned(), only: None };
    let looker = server.control.on_behalf_of(looker);
    tokio::time::sleep(SECOND).await;
    let seen = looker.attach(&id, &unread.id, 0).await.unwrap();
    seen.events.collect::<Vec<_>>().await;
    unread.events.collect::<Vec<_>>().await;
    let spawned = deed("sandbox.spawn", "success", "host");
    assert_eq!(world.deeds().await, [deed("exec.stream", "success", "echo x"), spawned]);
    let actors: BTreeSet<_> =
        world.operations().await.into_iter().map(|record| record.actor).collect();
    assert_eq!(actors, BTreeSet::from([starter.caller().actor.clone()]));
    let log = &world.store.exec_logs(&id, 9).await.unwrap()[0];
    assert_eq!((log.command.as_str(), log.duration), ("echo x", SECOND));
}

/// R2.6: failed spawns, with the event that tells why.
#[tokio::test(start_paused = true)]
async fn a_failed_spawn_is_recorded_with_its_reason() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    world.fake.launches.lock().unwrap().push_back(Fault::Clean);
    control.spawn(request()).await.unwrap_err();
    let failed = world.only(EventKind::ProviderFailed).await;
    let expected =
        [("error", "the fake refuses"), ("operation", "sandbox.spawn"), ("provider", "fake")];
    assert!(failed.data.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected), "{failed:?}");
    assert!(failed.sandbox.is_some());
    control.spawn(image("missing")).await.unwrap_err();
    assert_eq!(world.only(EventKind::OperationFailed).await.data["operation"], "sandbox.spawn");
    control.spawn(ttl(48 * 3600)).await.unwrap_err();
    let limit = world.only(EventKind::ResourceLimit).await;
    assert_eq!(limit.data["error"], "resource limit exceeded: ttl exceeds max ttl 24h0m0s");
    let failed = |resource: &str| deed("sandbox.spawn", "failure", resource);
    assert_eq!(world.deeds().await, [failed("host"), failed("host"), failed("missing")]);
}

/// R2.6: a launch that fails is a failure, also when its caller did not wait for it.
#[tokio::test(start_paused = true)]
async fn a_launch_that_fails_after_its_caller_left_is_recorded() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    world.fake.launches.lock().unwrap().push_back(Fault::Lost);
    let left = server.tasks.spawn(async move { control.spawn(image("slow")).await });
    world.fake.waiting.notified().await;
    left.abort();
    world.pass_time(SECOND).await;
    world.fake.slow.notify_waiters();
    assert_eq!(world.deeds().await, [deed("sandbox.spawn", "failure", "slow")]);
}

/// R2.6: a setup line's output is its owner's, and is in no record.
#[tokio::test(start_paused = true)]
async fn a_record_holds_no_output_of_a_template() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    control.create_template(template(&["exit 3"]), "t").await.unwrap();
    let request = stacyvm_control::TemplateSpawn::default();
    let error = control.spawn_template("t", request).await.unwrap_err();
    assert!(error.to_string().ends_with("ended with exit 3: why"), "{error}");
    let records = world.operations().await;
    let spawn = records.iter().find(|record| record.action == "sandbox.spawn").unwrap();
    assert_eq!(spawn.detail, "template \"t\": setup line 1 of 1 ended with exit 3");
    assert_eq!(records.iter().filter(|record| record.action == "exec").count(), 0);
}

/// R2.6: a destroy that fails, asked for or not; the retry is the reconciler's.
#[tokio::test(start_paused = true)]
async fn a_failed_destroy_is_recorded_whoever_wanted_it() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    let (asked, expiring) =
        (sandbox(&control).await, control.spawn(ttl(10)).await.unwrap().spec.id);
    world.fake.destructions.lock().unwrap().push_back(Fault::Clean);
    control.destroy(&asked).await.unwrap_err();
    let told = world.only(EventKind::ProviderFailed).await;
    assert_eq!(told.data["operation"], "sandbox.destroy");
    world.pass_time(5 * SECOND).await;
    world.fake.destructions.lock().unwrap().push_back(Fault::Clean);
    world.pass_time(30 * SECOND).await;
    let records = world.operations().await;
    let failed: Vec<_> = records
        .iter()
        .filter(|record| record.action == "sandbox.destroy" && record.outcome.as_str() == "failure")
        .map(|record| (record.actor.as_str(), record.sandbox.clone().unwrap()))
        .collect();
    assert_eq!(failed, [("key:ci", asked.clone()), ("system", expiring)]);
    control.destroy(&asked).await.unwrap();
    control.destroy(&SandboxId::from_entropy([7; 10])).await.unwrap();
    let records = world.operations().await;
    let destroyed =
        |r: &&OperationRecord| r.action == "sandbox.destroy" && r.outcome.as_str() == "success";
    assert_eq!(records.iter().filter(destroyed).count(), 1, "what never was was not destroyed");
}

/// R2.6: what the reconciler does, with its reason.
#[tokio::test(start_paused = true)]
async fn what_the_reconciler_does_is_recorded() {
    let world = World::new();
    let server = world.start().await;
    let id = sandbox(&server.control).await;
    world.fake.kill(&id, true);
    world.pass_time(15 * SECOND).await;
    assert_eq!(world.only(EventKind::ReconcileAction).await.data["action"], "marked_destroyed");
    let records = world.operations().await;
    let record = records.iter().find(|record| record.action == "reconcile.action").unwrap();
    assert_eq!((record.actor.as_str(), record.resource.as_str()), ("system", "marked_destroyed"));
    assert_eq!((record.sandbox.as_ref(), record.request_id.as_deref()), (Some(&id), None));
    assert!(!record.detail.is_empty());
}

/// R2.6: quotas, templates, extensions and prunes.
#[tokio::test(start_paused = true)]
async fn other_changes_are_recorded_too() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    let fields = QuotaFields { max_sandboxes: Some(3), ..QuotaFields::default() };
    control.put_quota(&ann(), fields).await.unwrap();
    control.delete_quota(&ann()).await.unwrap();
    control.delete_quota(&ann()).await.unwrap_err();
    let bad = TemplateFields { image: "/".to_owned(), ..template(&[]) };
    control.create_template(bad, "t").await.unwrap_err();
    control.delete_template("t").await.unwrap_err();
    let id = sandbox(&control).await;
    control.extend(&id, 90 * SECOND).await.unwrap();
    control.extend(&id, 48 * 3600 * SECOND).await.unwrap_err();
    control.prune().await.unwrap();
    assert_eq!(world.only(EventKind::ResourceLimit).await.sandbox, Some(id));
    assert_eq!(
        world.deeds().await,
        [
            deed("quota.delete", "failure", "ann"),
            deed("quota.delete", "success", "ann"),
            deed("quota.save", "success", "ann"),
            deed("sandbox.extend", "failure", "48h0m0s"),
            deed("sandbox.extend", "success", "1m30s"),
            deed("sandbox.prune", "success", ""),
            deed("sandbox.spawn", "success", "host"),
            deed("template.create", "failure", "t"),
            deed("template.delete", "failure", "t"),
        ]
    );
    let records = world.operations().await;
    let saved = records.iter().find(|record| record.action == "quota.save").unwrap();
    assert_eq!(
        (saved.owner.as_ref(), saved.detail.as_str()),
        (Some(&ann()), "max_sandboxes=3 max_ttl=0s max_exec_timeout=0s")
    );
}

/// R2.6: a record waits for the store and never for its caller.
#[tokio::test(start_paused = true)]
async fn records_are_kept_when_the_store_is_back() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server(&gate);
    let id = sandbox(&server.control).await;
    world.pass_time(SECOND).await;
    gate.store_is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = server.control.stat_file(&id, "/a").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)));
    let request = AdminRequest {
        actor: "key:ops".to_owned(),
        method: "GET".to_owned(),
        path: "/api/v1/admin/audit".to_owned(),
        status: 200,
        duration: Duration::ZERO,
        request_id: "r".to_owned(),
        remote_addr: String::new(),
        user_agent: "x".repeat(2000),
    };
    server.control.record_admin(request);
    world.pass_time(3 * SECOND).await;
    gate.store_is_down.store(false, std::sync::atomic::Ordering::SeqCst);
    world.pass_time(6 * SECOND).await;
    let spawned = deed("sandbox.spawn", "success", "host");
    assert_eq!(world.deeds().await, [deed("file.stat", "failure", "/a"), spawned]);
    let kept = world.store.admin_records(AdminFilter::default(), None, 9).await.unwrap().rows;
    assert_eq!((kept.len(), kept[0].user_agent.len()), (1, 512));
}

/// R2.5: no kind of event is only a name.
#[tokio::test(start_paused = true)]
async fn every_kind_of_event_happens() {
    let world = World::new();
    let server = world.start().await;
    let control = called(&server);
    let id = sandbox(&control).await;
    control.extend(&id, 90 * SECOND).await.unwrap();
    control.exec_collect(&id, shell("echo x")).await.unwrap();
    control.exec_collect(&id, shell("nonsense")).await.unwrap_err();
    control.exec_collect(&id, within("late", 5)).await.unwrap_err();
    let body = futures_util::stream::iter([Ok(Bytes::from_static(b"four"))]).boxed();
    control.write_file(&id, "/a", WriteOptions::default(), body).await.unwrap();
    control.read_file(&id, "/a", None).await.unwrap();
    control.stat_file(&id, "/missing").await.unwrap_err();
    control.spawn(ttl(48 * 3600)).await.unwrap_err();
    world.fake.launches.lock().unwrap().push_back(Fault::Clean);
    control.spawn(request()).await.unwrap_err();
    control.put_quota(&ann(), QuotaFields::default()).await.unwrap();
    control.delete_quota(&ann()).await.unwrap();
    let dying = sandbox(&control).await;
    world.fake.kill(&dying, true);
    control.spawn(ttl(5)).await.unwrap();
    world.pass_time(15 * SECOND).await;
    let places = 1;
    control.set_rules(Rules {
        policy: Policy { max_sandboxes: 1, ..Policy::default() },
        overflow: Overflow::Queue { places, patience: 5 * SECOND },
        ..Rules::default()
    });
    control.spawn(request()).await.unwrap_err();
    let waiting = control.clone();
    let waiting = server.tasks.spawn(async move { waiting.spawn(request()).await });
    world.pass_time(SECOND).await;
    control.destroy(&id).await.unwrap();
    waiting.await.unwrap().unwrap();
    let happened: BTreeSet<_> = world.events().await.into_iter().map(|event| event.kind).collect();
    let all: BTreeSet<_> = EventKind::ALL.iter().copied().collect();
    assert_eq!(all.difference(&happened).collect::<Vec<_>>(), [] as [&EventKind; 0]);
}

/// R2.6, R2.5: kept as long as the operator wants, on the clock of the server.
#[tokio::test(start_paused = true)]
async fn what_is_older_than_its_retention_is_forgotten_and_nothing_else() {
    let world = World::new();
    let hour = 3600 * SECOND;
    let server = world.server_with(&Gate::open(), |settings| {
        settings.retention.ended_sandboxes = Some(2 * hour);
        settings.retention.exec_logs = Some(hour);
        settings.retention.events = Some(hour);
        settings.retention.audit = Some(3 * hour);
        settings.retention.admin_audit = None;
        settings.rules.policy.max_ttl = None;
    });
    server.control.start_jobs();
    let control = called(&server);
    let lives = control.spawn(ttl(1_000_000)).await.unwrap().spec.id;
    let ends = sandbox(&control).await;
    for id in [&lives, &ends] {
        control.exec_collect(id, shell("echo x")).await.unwrap();
    }
    control.destroy(&ends).await.unwrap();
    let many = vec![
        NewEvent {
            kind: EventKind::FileRead,
            sandbox: None,
            owner: None,
            data: std::collections::BTreeMap::new(),
        };
        2_000
    ];
    world.store.append_events(many, server.control.time()).await.unwrap();
    let state = async || {
        let logs = world.store.exec_logs(&lives, 9).await.unwrap().len();
        let rows = world.rows().await.len();
        let events = world.events().await.len();
        (rows, logs, events, world.operations().await.len())
    };
    world.pass_time(2 * SECOND).await;
    let (rows, logs, events, records) = state().await;
    assert_eq!((rows, logs, records), (2, 1, 5));
    assert!(2_000 < events);
    // The clock of the world and the time of the jobs: the latter only runs them.
    let runs = 15 * 60 * SECOND;
    world.clock.advance(hour);
    tokio::time::sleep(runs).await;
    assert_eq!(state().await, (2, 0, 0, 5), "the ended one is kept for two hours");
    let last = world.store.last_event().await.unwrap();
    assert_eq!(control.forgotten_events().await.unwrap(), last);
    world.clock.advance(hour);
    tokio::time::sleep(runs).await;
    assert_eq!(state().await, (1, 0, 0, 5));
    assert_eq!(world.rows().await[0].spec.id, lives);
    world.clock.advance(hour);
    tokio::time::sleep(runs).await;
    assert_eq!(state().await, (1, 0, 0, 0));
    assert!(control.exec_collect(&lives, shell("echo x")).await.is_ok());
}

/// A server that adds thousands of rows a second does not outgrow what is forgotten.
#[tokio::test(start_paused = true)]
async fn forgetting_keeps_up_with_thousands_of_rows_a_second_of_each_kind() {
    let world = World::new();
    let server = world.server(&Gate::open());
    let at = server.control.time();
    const EACH: usize = 30_000;
    let event = NewEvent {
        kind: EventKind::FileRead,
        sandbox: None,
        owner: None,
        data: std::collections::BTreeMap::new(),
    };
    world.store.append_events(vec![event; EACH], at).await.unwrap();
    for begun in 0..EACH {
        let key = NewKey {
            id: begun.to_string(),
            fingerprint: String::new(),
            resource: String::new(),
            holder: server.control.settings().worker.clone(),
            held_until: at,
        };
        world.store.begin_key(key, Durability::Kernel, at).await.unwrap();
    }
    world.clock.advance(400 * 24 * 3600 * SECOND);
    server.control.start_jobs();
    // A minute belongs to the start.
    tokio::time::sleep(66 * SECOND).await;
    assert!(world.events().await.is_empty());
    let before = server.control.time();
    assert_eq!(world.store.prune_keys(before, 1).await.unwrap(), 0, "keys are left");
}

/// One kind that the store refuses does not keep the others, and the next run goes on.
#[tokio::test(start_paused = true)]
async fn nothing_is_forgotten_while_the_store_is_down_and_it_goes_on_after() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server(&gate);
    server.control.start_jobs();
    let id = sandbox(&server.control).await;
    server.control.destroy(&id).await.unwrap();
    world.pass_time(2 * SECOND).await;
    gate.store_is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    world.clock.advance(400 * 24 * 3600 * SECOND);
    tokio::time::sleep(20 * 60 * SECOND).await;
    assert_eq!(world.rows().await.len(), 1);
    let status = server.control.jobs().into_iter().find(|job| job.name == "retention").unwrap();
    assert!(0 < status.failures_in_row && status.last_error.is_some());
    gate.store_is_down.store(false, std::sync::atomic::Ordering::SeqCst);
    tokio::time::sleep(20 * 60 * SECOND).await;
    assert_eq!(world.rows().await.len(), 0);
}
