//! Commands and files.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use stacyvm_control::{Control, Error, ExecRequest};
use stacyvm_provider::{ExecEvent, Exit, Program, WriteOptions};
use stacyvm_store::Store;
use stacyvm_types::{CauseKind, EventKind, Phase, SandboxId};
use tokio::time::Instant;

use crate::{
    gate::Gate,
    world::{World, end_of, ended, request},
};

fn shell(line: &str) -> ExecRequest {
    ExecRequest::new(Program::Shell(line.to_owned()))
}

async fn sandbox(control: &Control) -> SandboxId {
    control.spawn(request()).await.unwrap().spec.id
}

/// The queue of events is drained when the server has been idle for a moment.
async fn kinds_of_commands(world: &World) -> Vec<EventKind> {
    world.pass_time(Duration::from_secs(1)).await;
    world.kinds().await.split_off(2)
}

#[tokio::test(start_paused = true)]
async fn a_command_is_collected_and_recorded() {
    let world = World::new();
    let server = world.start().await;
    let id = sandbox(&server.control).await;
    let collected = server.control.exec_collect(&id, shell("echo hello")).await.unwrap();
    assert_eq!((collected.exit, collected.stdout.as_slice()), (Exit::Code(0), b"hello".as_slice()));
    assert!(!collected.truncated);
    let kinds = kinds_of_commands(&world).await;
    assert_eq!(kinds, [EventKind::ExecStarted, EventKind::ExecCompleted]);
    let logs = world.store.exec_logs(&id, 10).await.unwrap();
    assert_eq!((logs[0].command.as_str(), logs[0].reason.as_str()), ("echo hello", "exit"));
    assert_eq!(logs[0].id, collected.id);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_cannot_run_says_so_and_is_recorded() {
    let world = World::new();
    let server = world.start().await;
    let id = sandbox(&server.control).await;
    let error = server.control.exec_collect(&id, shell("nonsense")).await.unwrap_err();
    assert!(matches!(error, Error::NotExecutable(_)));
    let kinds = kinds_of_commands(&world).await;
    assert_eq!(kinds, [EventKind::ExecStarted, EventKind::ExecFailed]);
    for bad in [
        ExecRequest::new(Program::Argv(Vec::new())),
        shell("a\0b"),
        ExecRequest { workdir: Some("relative".to_owned()), ..shell("echo x") },
        ExecRequest { env: [("A=B".to_owned(), String::new())].into(), ..shell("echo x") },
    ] {
        let error = server.control.exec_collect(&id, bad).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_channel_is_taken_up_again_where_it_broke() {
    let world = World::new();
    let server = world.start().await;
    let id = sandbox(&server.control).await;
    let collected = server.control.exec_collect(&id, shell("break")).await.unwrap();
    assert_eq!(collected.stdout, b"abcd");
    assert_eq!(collected.exit, Exit::Code(0));
    assert_eq!(world.fake.execs.lock().unwrap().len(), 1, "it is started once");
    let kinds = kinds_of_commands(&world).await;
    assert_eq!(kinds, [EventKind::ExecStarted, EventKind::ExecCompleted]);
}

/// The agent kills the tree; this is the second enforcement, for an agent that does not answer.
#[tokio::test(start_paused = true)]
async fn a_deadline_is_enforced_here_too_a_little_later() {
    let world = World::new();
    let server = world.start().await;
    let id = sandbox(&server.control).await;
    let begun = Instant::now();
    let timeout = Some(Duration::from_secs(5));
    let request = ExecRequest { timeout, ..shell("hang") };
    let error = server.control.exec_collect(&id, request).await.unwrap_err();
    assert_eq!(error.to_string(), format!("exec timeout: {id}"));
    assert_eq!(begun.elapsed(), Duration::from_secs(7));
    let request = ExecRequest { timeout, ..shell("late") };
    let error = server.control.exec_collect(&id, request).await.unwrap_err();
    assert!(matches!(error, Error::ExecTimeout(_)));
    let kinds = kinds_of_commands(&world).await;
    let expected = [EventKind::ExecTimeout, EventKind::ExecStarted, EventKind::ExecTimeout];
    assert_eq!(kinds[1..], expected);
}

#[tokio::test(start_paused = true)]
async fn output_above_the_cap_is_drained_and_marked() {
    let world = World::new();
    let server = world.server_with(&Gate::open(), |settings| settings.exec_output_cap = 1500);
    let id = sandbox(&server.control).await;
    let collected = server.control.exec_collect(&id, shell("flood")).await.unwrap();
    assert_eq!((collected.stdout.len(), collected.truncated), (1500, true));
    assert_eq!(collected.exit, Exit::Code(0));
}

#[tokio::test(start_paused = true)]
async fn all_of_standard_input_is_sent_however_much_it_is() {
    let world = World::new();
    let server = world.start().await;
    let id = sandbox(&server.control).await;
    let data = Bytes::from(vec![b'x'; 1_000_000]);
    let request = ExecRequest { stdin_data: Some(data), ..shell("cat") };
    let collected = server.control.exec_collect(&id, request).await.unwrap();
    assert_eq!(collected.stdout, b"1000000");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_detaches_and_may_attach_again() {
    let world = World::new();
    let server = world.start().await;
    let id = sandbox(&server.control).await;
    let exec = server.control.exec(&id, shell("hang")).await.unwrap();
    let exec_id = exec.id.clone();
    drop(exec);
    let mut again = server.control.attach(&id, &exec_id, 2).await.unwrap();
    let Some(Ok(ExecEvent::Output { offset: 2, data, .. })) = again.events.next().await else {
        panic!("no output");
    };
    assert_eq!(data, "cd");
    assert_eq!(again.events.next().await.unwrap().unwrap(), ExecEvent::Exit(Exit::Code(0)));
    assert!(again.events.next().await.is_none());
    let unknown = stacyvm_types::ExecId::from_entropy([9; 10]);
    let error = server.control.attach(&id, &unknown, 0).await.err().unwrap();
    assert!(matches!(error, Error::NotFound(_)));
    let kinds = kinds_of_commands(&world).await;
    assert_eq!(kinds, [EventKind::ExecStarted, EventKind::ExecCompleted]);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_died_is_noticed_by_the_next_call_and_soon_has_ended() {
    for leaves in [true, false] {
        let world = World::new();
        let server = world.start().await;
        let id = sandbox(&server.control).await;
        world.fake.kill(&id, leaves);
        let result = server.control.exec_collect(&id, shell("echo x")).await;
        assert_eq!(ended(result), CauseKind::RuntimeDied);
        world.pass_time(Duration::from_secs(2)).await;
        assert_eq!(end_of(&world.rows().await[0]), CauseKind::RuntimeDied);
        world.assert_agrees().await;
    }
}

#[tokio::test(start_paused = true)]
async fn files_are_recorded_and_their_errors_are_the_guests() {
    let world = World::new();
    let server = world.start().await;
    let id = sandbox(&server.control).await;
    let control = &server.control;
    let body = futures_util::stream::iter([Ok(Bytes::from_static(b"four"))]).boxed();
    control.write_file(&id, "/a", WriteOptions::default(), body).await.unwrap();
    control.read_file(&id, "/a", None).await.unwrap();
    let error = control.read_file(&id, "/a", Some(4..9)).await.err().unwrap();
    assert!(matches!(error, Error::RangePastEnd { size: 4 }));
    let error = control.stat_file(&id, "/missing").await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)));
    assert!(matches!(control.chmod_file(&id, "/a", 0o10000).await, Err(Error::Invalid(_))));
    let kinds = kinds_of_commands(&world).await;
    let failed = EventKind::OperationFailed;
    assert_eq!(kinds, [EventKind::FileWritten, EventKind::FileRead, failed, failed, failed]);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_is_being_created_takes_no_commands() {
    let world = World::new();
    let server = world.start().await;
    let control = server.control.clone();
    let spawn = server.tasks.spawn(async move { control.spawn(crate::world::image("slow")).await });
    world.fake.waiting.notified().await;
    let id = world.rows().await[0].spec.id.clone();
    let error = server.control.exec_collect(&id, shell("echo x")).await.unwrap_err();
    assert!(matches!(error, Error::WrongState { phase: Phase::Creating, .. }));
    world.fake.slow.notify_one();
    spawn.await.unwrap().unwrap();
}

/// What is in the queue when the server stops is written before its tasks end.
#[tokio::test(start_paused = true)]
async fn a_stopping_server_writes_down_what_it_has_seen() {
    let world = World::new();
    let server = world.start().await;
    let id = sandbox(&server.control).await;
    server.control.exec_collect(&id, shell("echo x")).await.unwrap();
    server.stopping.cancel();
    server.control.exec_collect(&id, shell("echo y")).await.unwrap();
    server.tasks.close();
    server.tasks.wait().await;
    server.control.exec_collect(&id, shell("echo z")).await.unwrap();
    let ends = world.kinds().await;
    let ends = ends.iter().filter(|kind| **kind == EventKind::ExecCompleted).count();
    assert_eq!(ends, 3);
}
