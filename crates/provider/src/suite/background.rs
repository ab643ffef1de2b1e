//! What a command leaves behind.

use super::{
    Scene, list,
    scene::{eventually, shell},
};
use crate::Exit;

list! {
    a_child_in_the_background_does_not_hold_the_exec_open if |_| true;
    a_child_in_the_background_that_writes_lives_on if |_| true;
    what_a_command_wrote_just_before_its_end_arrives if |_| true;
    orphans_are_reaped if |c| c.pid_namespace;
}

async fn a_child_in_the_background_does_not_hold_the_exec_open(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let done = sandbox.sh("exec 9>lock; flock 9; sleep 1000 & echo started").await;
    assert_eq!((done.exit, done.text()), (Exit::Code(0), "started".into()));
    let held = sandbox.sh("flock -n lock true").await.exit;
    assert_eq!(held, Exit::Code(1), "the child in the background did not live on");
}

async fn a_child_in_the_background_that_writes_lives_on(scene: Scene) {
    let sandbox = scene.sandbox().await;
    let child = "while [ ! -e go ]; do sleep 0.01; done; i=0; \
                 while [ $i -lt 200 ]; do head -c 10000 /dev/zero || exit; i=$((i+1)); done; \
                 echo late || exit; echo > alive";
    let done = sandbox.sh(&format!("({child}) & echo started")).await;
    assert_eq!((done.exit, done.text()), (Exit::Code(0), "started".into()));
    sandbox.put("/workspace/go", "").await;
    sandbox.appears("/workspace/alive").await;
}

async fn what_a_command_wrote_just_before_its_end_arrives(scene: Scene) {
    let sandbox = scene.sandbox().await;
    for _ in 0..20 {
        let done = sandbox.sh("sleep 1000 & head -c 60000 /dev/zero; kill $!; exit 4").await;
        assert_eq!((done.exit, done.stdout.len()), (Exit::Code(4), 60_000));
    }
}

async fn orphans_are_reaped(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.run(shell("i=0; while [ $i -lt 50 ]; do (true & true) & i=$((i+1)); done")).await;
    eventually("no zombies", || async {
        sandbox.sh("grep -l '^State:.Z' /proc/[0-9]*/status").await.stdout.is_empty()
    })
    .await;
}
