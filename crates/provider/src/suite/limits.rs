//! Limits hold, and the sandbox lives on at them; figures are plausible.

use std::time::Duration;

use stacyvm_types::Limits;

use super::{
    Scene, list,
    scene::{body, eventually, shell, soon},
};
use crate::{ErrorKind, ExecSpec, Exit, WriteOptions};

list! {
    a_command_above_the_memory_limit_dies_and_the_sandbox_lives if |c| c.memory_limit;
    processes_above_the_limit_are_refused_and_the_sandbox_lives if |c| c.pids_limit;
    a_full_disk_is_told_and_can_be_emptied if |c| c.disk_limit;
    all_writable_places_count_against_one_disk if |c| c.disk_limit && c.isolation;
    stats_are_plausible if |c| c.stats;
    stats_know_the_limits if |c| c.stats && c.memory_limit;
}

const LIMITS: Limits = Limits { memory_mb: 256, vcpus: 1, pids: 64, disk_mb: 64 };

async fn a_command_above_the_memory_limit_dies_and_the_sandbox_lives(scene: Scene) {
    let limits = Limits { memory_mb: 64, ..LIMITS };
    let (sandbox, neighbour) = (scene.limited(limits).await, scene.sandbox().await);
    for _ in 0..3 {
        let done = sandbox.run(super::scene::argv(&[
            "perl",
            "-e",
            "$x = 'x' x 300_000_000; print length $x",
        ]));
        let done = done.await;
        assert_ne!(done.exit, Exit::Code(0), "used more memory than allowed");
        assert_eq!(sandbox.ok("echo lives").await, "lives");
        assert_eq!(neighbour.ok("echo lives").await, "lives");
    }
}

async fn processes_above_the_limit_are_refused_and_the_sandbox_lives(scene: Scene) {
    let sandbox = scene.limited(LIMITS).await;
    let line = "i=0; while [ $i -lt 300 ]; do sleep 1000 & i=$((i+1)); done; echo all; wait";
    let spec = ExecSpec { deadline: Some(Duration::from_secs(2)), ..shell(line) };
    let done = sandbox.run(spec).await;
    assert!(!done.text().contains("all"), "300 processes with a limit of 64");
    // What could be started may live on; it is the sandbox's own.
    eventually("commands run again", || async {
        sandbox.guest.exec(shell("kill -9 -1")).await.is_ok()
            && sandbox.guest.exec(shell("true")).await.is_ok()
    })
    .await;
    assert_eq!(sandbox.ok("echo lives").await, "lives");
}

async fn a_full_disk_is_told_and_can_be_emptied(scene: Scene) {
    let sandbox = scene.limited(LIMITS).await;
    sandbox.put("/workspace/old", "kept").await;
    let line = "head -c 200000000 /dev/zero > big && echo fits";
    assert_ne!(sandbox.sh(line).await.exit, Exit::Code(0), "200 MB on a disk of 64");
    let more = vec![1; 30_000_000];
    let write = sandbox.guest.write("/workspace/old", WriteOptions::default(), body(more));
    let error = soon("write", write).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DiskFull, "{error:?}");
    assert_eq!(sandbox.get("/workspace/old").await.unwrap(), b"kept");
    sandbox.guest.remove("/workspace/big", false).await.unwrap();
    sandbox.put("/workspace/old", vec![1; 10_000_000]).await;
    assert_eq!(sandbox.ok("ls -A").await, "old");
}

async fn all_writable_places_count_against_one_disk(scene: Scene) {
    let sandbox = scene.limited(LIMITS).await;
    let line = "for d in /workspace /tmp /root /dev/shm /var/tmp /home /run /dev; do \
                head -c 30000000 /dev/zero > $d/fill 2> /dev/null; done; \
                cat /workspace/fill /tmp/fill /root/fill /dev/shm/fill /var/tmp/fill /home/fill \
                /run/fill /dev/fill 2> /dev/null | wc -c";
    let written: u64 = sandbox.ok(line).await.parse().unwrap();
    assert!(written <= 64 << 20, "{written} bytes on a disk of 64 MiB");
    assert!(20_000_000 < written, "only {written} bytes of 64 MiB");
}

async fn stats_are_plausible(scene: Scene) {
    let sandbox = scene.sandbox().await;
    sandbox.ok("head -c 5000000 /dev/zero > f; sleep 1000 > /dev/null 2>&1 &").await;
    let first = sandbox.guest.stats().await.unwrap();
    // A process that is just becoming another program has no memory for a moment, and nothing by
    // which it is known as the sandbox's.
    eventually("processes and memory are counted", || async {
        let now = sandbox.guest.stats().await.unwrap();
        assert!(now.pids.is_none_or(|pids| pids < 1000), "{now:?}");
        now.pids.is_none_or(|pids| 1 <= pids)
            && now.memory_bytes.is_none_or(|bytes| (10_000..1 << 33).contains(&bytes))
    })
    .await;
    assert!(
        first.disk_bytes.is_none_or(|bytes| (4_500_000..1 << 33).contains(&bytes)),
        "{first:?}"
    );
    let busy = "(i=0; while :; do i=$((i+1)); done) > /dev/null 2>&1 &";
    sandbox.ok(busy).await;
    eventually("processor time rises", || async {
        let now = sandbox.guest.stats().await.unwrap();
        first.cpu_us.is_none() || first.cpu_us.unwrap() + 50_000 < now.cpu_us.unwrap()
    })
    .await;
}

async fn stats_know_the_limits(scene: Scene) {
    let sandbox = scene.limited(LIMITS).await;
    let stats = sandbox.guest.stats().await.unwrap();
    assert_eq!(stats.memory_limit_bytes, Some(256 << 20));
    assert!(stats.disk_limit_bytes.is_none_or(|bytes| bytes == 64 << 20), "{stats:?}");
}
