//! Deadlines: the whole tree ends.

use std::time::{Duration, Instant};

use super::{Sandbox, Scene, list, scene::shell};
use crate::{ExecSpec, Exit};

list! {
    a_deadline_ends_a_command_in_time if |_| true;
    a_command_within_its_deadline_is_left_alone if |_| true;
    a_deadline_ends_children if |_| true;
    a_deadline_ends_children_that_left_their_session if |_| true;
    a_deadline_ends_children_that_forked_twice if |_| true;
    a_deadline_ends_what_ignores_signals if |_| true;
    a_deadline_ends_what_stopped_itself if |_| true;
    a_deadline_ends_what_forks_without_end if |_| true;
    a_deadline_of_one_command_leaves_others_alone if |_| true;
    output_before_a_deadline_is_kept if |_| true;
}

/// Runs a line whose processes all hold a lock, with a deadline, and asserts that all of them are
/// gone when its end is told.
async fn all_end(sandbox: &Sandbox, line: &str) {
    let deadline = Some(Duration::from_millis(500));
    let line = format!("exec 9>lock; flock 9; echo up; {line}");
    let start = Instant::now();
    let done = sandbox.run(ExecSpec { deadline, ..shell(&line) }).await;
    assert_eq!(done.exit, Exit::Timeout, "{line}");
    assert!(start.elapsed() < Duration::from_secs(6), "took {:?}", start.elapsed());
    assert!(done.text().starts_with("up"), "{}", done.text());
    let free = sandbox.sh("flock -n lock true").await.exit;
    assert_eq!(free, Exit::Code(0), "something lives on after: {line}");
}

async fn a_deadline_ends_a_command_in_time(scene: Scene) {
    all_end(&scene.sandbox().await, "exec sleep 1000").await;
}

async fn a_command_within_its_deadline_is_left_alone(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let deadline = Some(Duration::from_secs(20));
    let done = sandbox.run(ExecSpec { deadline, ..shell("sleep 0.1; exit 6") }).await;
    assert_eq!(done.exit, Exit::Code(6));
}

async fn a_deadline_ends_children(scene: Scene) {
    all_end(&scene.sandbox().await, "sleep 1000 & sh -c 'sleep 1000 & sleep 1000' & wait").await;
}

async fn a_deadline_ends_children_that_left_their_session(scene: Scene) {
    let line = "setsid sh -c 'setsid sleep 1000 & sleep 1000' & setsid sleep 1000 & sleep 1000";
    all_end(&scene.sandbox().await, line).await;
}

async fn a_deadline_ends_children_that_forked_twice(scene: Scene) {
    let line = "(setsid sh -c '(sleep 1000 &) ; sleep 1000' &) ; (sleep 1000 &) ; sleep 1000";
    all_end(&scene.sandbox().await, line).await;
}

async fn a_deadline_ends_what_ignores_signals(scene: Scene) {
    let line = "trap '' TERM INT HUP QUIT; setsid sh -c 'while :; do sleep 0.1; done' & \
                while :; do sleep 0.1; done";
    all_end(&scene.sandbox().await, line).await;
}

async fn a_deadline_ends_what_stopped_itself(scene: Scene) {
    all_end(&scene.sandbox().await, "sh -c 'kill -STOP $$' & kill -STOP $$; sleep 1000").await;
}

async fn a_deadline_ends_what_forks_without_end(scene: Scene) {
    let line = "loop() { while :; do (sleep 0.01 & sleep 0.02 &) ; done; }; loop 2> /dev/null";
    all_end(&scene.sandbox().await, line).await;
}

async fn a_deadline_of_one_command_leaves_others_alone(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("exec 8>other; flock 8; sleep 1000 > /dev/null 2>&1 &").await;
    all_end(&sandbox, "sleep 1000").await;
    assert_eq!(sandbox.sh("flock -n other true").await.exit, Exit::Code(1));
}

async fn output_before_a_deadline_is_kept(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let deadline = Some(Duration::from_millis(500));
    let done = sandbox.run(ExecSpec { deadline, ..shell("echo said; sleep 1000") }).await;
    assert_eq!((done.exit, done.text()), (Exit::Timeout, "said".into()));
}
