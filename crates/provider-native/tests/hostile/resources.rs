//! Using up what there is: inside, and nowhere else.

use std::time::Duration;

use stacyvm_provider::{
    ExecSpec, Exit, RuntimeState,
    suite::{argv, body, eventually, shell, soon},
};
use stacyvm_types::Limits;

use crate::arena::{Arena, LIMITS, Probe, probes};

pub(crate) fn probes() -> Vec<Probe> {
    probes! {
        a_fork_bomb if |c| c.pids_limit;
        a_fork_bomb_in_new_sessions if |c| c.pids_limit;
        threads_without_end if |c| c.pids_limit;
        a_memory_bomb if |c| c.memory_limit;
        a_memory_bomb_of_many_processes if |c| c.memory_limit;
        a_memory_bomb_in_shared_memory if |c| c.memory_limit && c.disk_limit;
        a_disk_filler if |c| c.disk_limit;
        a_disk_filler_on_a_disk_larger_than_memory if |c| c.disk_limit && c.memory_limit;
        an_inode_filler if |c| c.disk_limit;
        a_filler_of_small_writable_places if |c| c.disk_limit;
        descriptors_are_used_up if |_| true;
        sockets_and_pipes_are_used_up if |c| c.memory_limit;
        terminals_are_used_up if |c| c.pty && c.isolation;
        the_processor_is_used_up if |_| true;
        file_locks_and_watches_are_used_up if |c| c.memory_limit;
        the_logs_are_flooded if |_| true;
    }
}

/// Runs a line that will not end well, for a while.
async fn rage(arena: &Arena, line: &str) {
    let deadline = Some(Duration::from_secs(3));
    let spec = ExecSpec { deadline, ..shell(&format!("({line}) > /dev/null 2>&1")) };
    arena.sandbox.run(spec).await;
}

/// Commands run again once what was left over is gone.
async fn recovers(arena: &Arena) {
    let sandbox = &arena.sandbox;
    eventually("commands run again", || async {
        // To its end, or it would kill what comes after it too.
        if let Ok(exec) = soon("exec", sandbox.guest.exec(shell("kill -9 -1"))).await {
            soon("the end", stacyvm_provider::suite::collect_from(exec, 0)).await;
        }
        match soon("exec", sandbox.guest.exec(shell("true"))).await {
            Ok(exec) => {
                let done = stacyvm_provider::suite::collect_from(exec, 0);
                soon("the end", done).await.exit == Exit::Code(0)
            }
            Err(_) => false,
        }
    })
    .await;
    arena.lives().await;
}

async fn a_fork_bomb(arena: Arena) {
    rage(&arena, "b() { b | b & }; b; sleep 1000").await;
    recovers(&arena).await;
}

async fn a_fork_bomb_in_new_sessions(arena: Arena) {
    rage(&arena, "perl -MPOSIX -e 'while (1) { if (!fork) { setsid } }'").await;
    recovers(&arena).await;
}

async fn threads_without_end(arena: Arena) {
    rage(&arena, "python3 -c 'import threading, time\nwhile True:\n try: \
                  threading.Thread(target=time.sleep, args=(1000,)).start()\n except RuntimeError: pass'").await;
    recovers(&arena).await;
}

async fn a_memory_bomb(arena: Arena) {
    for _ in 0..3 {
        let done =
            arena.sandbox.run(argv(&["perl", "-e", "push @x, 'x' x 10_000_000 while 1"])).await;
        assert_ne!(done.exit, Exit::Code(0));
    }
    arena.lives().await;
}

async fn a_memory_bomb_of_many_processes(arena: Arena) {
    rage(&arena, "for i in $(seq 20); do perl -e 'push @x, q(x) x 1_000_000 while 1' & done; wait")
        .await;
    recovers(&arena).await;
}

async fn a_memory_bomb_in_shared_memory(arena: Arena) {
    rage(
        &arena,
        "head -c 1000000000 /dev/zero > /dev/shm/x; head -c 1000000000 /dev/zero > /tmp/x; \
                  python3 -c 'import mmap\na = [mmap.mmap(-1, 1 << 26) for i in range(40)]\n\
                  [m.write(b\"x\" * (1 << 26)) for m in a]'",
    )
    .await;
    recovers(&arena).await;
    arena.sandbox.sh("rm -f /dev/shm/x /tmp/x").await;
    arena.sandbox.put("/workspace/f", "fits again").await;
}

async fn a_disk_filler(arena: Arena) {
    rage(
        &arena,
        "for d in . /tmp /root /dev/shm /run /var/tmp /home; do cat /dev/zero > $d/f; done",
    )
    .await;
    arena.lives().await;
    let write =
        arena.sandbox.guest.write("/workspace/x", Default::default(), body(vec![1; 5_000_000]));
    drop(soon("write on a full disk", write).await);
    drop(soon("exec on a full disk", arena.sandbox.sh("echo x > y")).await);
    arena.sandbox.sh("rm -f f /tmp/f /root/f /dev/shm/f /run/f /var/tmp/f /home/f").await;
    arena.sandbox.put("/workspace/x", vec![1; 5_000_000]).await;
}

async fn a_disk_filler_on_a_disk_larger_than_memory(arena: Arena) {
    let arena = arena.limited(Limits { memory_mb: 64, disk_mb: 512, ..LIMITS }).await;
    rage(&arena, "cat /dev/zero > f").await;
    // Files are memory here: the sandbox lives at its limit, or has died of it and says so.
    let status = soon("status", arena.provider.status(&arena.sandbox.id)).await.unwrap();
    if status.state == RuntimeState::Running {
        drop(soon("remove", arena.sandbox.guest.remove("/workspace/f", false)).await);
    }
    soon("destroy", arena.provider.destroy(&arena.sandbox.id)).await.unwrap();
}

async fn an_inode_filler(arena: Arena) {
    // Each file costs the kernel some memory of the sandbox's, too.
    let arena = arena.limited(Limits { memory_mb: 512, ..LIMITS }).await;
    let line = "perl -e 'mkdir q(i); for (1..2_000_000) { open(F, q(>), qq(i/$_)) or exit }'";
    arena.sandbox.sh(line).await;
    arena.lives().await;
    drop(soon("list", arena.sandbox.guest.list("/workspace/i")).await);
    soon("remove", arena.sandbox.guest.remove("/workspace/i", true)).await.unwrap();
    arena.sandbox.put("/workspace/f", "fits again").await;
    soon("destroy", arena.provider.destroy(&arena.sandbox.id)).await.unwrap();
}

async fn a_filler_of_small_writable_places(arena: Arena) {
    let line = "for d in $(awk '{print $2}' /proc/mounts); do head -c 500000000 /dev/zero > $d/fill; done; \
                find / -xdev -type d -writable -not -path '/proc/*' | head -50 | while read d; do \
                head -c 100000000 /dev/zero > $d/fill2; done";
    rage(&arena, line).await;
    let used = "find / \\( -path /proc -o -path /sys \\) -prune -o -name 'fill*' -type f -printf '%b\\n' \
                2>/dev/null | awk '{s += $1 * 512} END {print s + 0}'";
    let used: u64 = arena.sandbox.ok(used).await.parse().unwrap();
    assert!(used <= 70 << 20, "{used} bytes on a disk of 64 MiB");
}

async fn descriptors_are_used_up(arena: Arena) {
    let line = "for i in 1 2 3 4 5; do perl -e 'while (open(my $f, q(<), q(/dev/null))) { push @x, $f } \
                sleep 1000' & done; wait";
    let exec = arena.sandbox.guest.exec(shell(line)).await.unwrap();
    for _ in 0..10 {
        arena.lives().await;
    }
    drop(exec);
}

async fn sockets_and_pipes_are_used_up(arena: Arena) {
    rage(&arena, "for i in 1 2 3 4; do python3 -c 'import os, socket, time\nx = []\nwhile True:\n try:\n  \
                  r, w = os.pipe(); os.set_blocking(w, False); x += [r, w]\n  \
                  a, b = socket.socketpair(); a.setblocking(False); x += [a, b]\n  \
                  os.write(w, b\"x\" * 65536); a.send(b\"x\" * 100000)\n except OSError: time.sleep(0.01)' & done; wait").await;
    recovers(&arena).await;
}

async fn terminals_are_used_up(arena: Arena) {
    let line = "python3 -c 'import os, time\nx = []\ntry:\n while True: x.append(os.openpty())\n\
                except OSError: pass\nprint(len(x), flush=True)\ntime.sleep(1000)'";
    let exec = arena.sandbox.guest.exec(shell(line)).await.unwrap();
    arena.lives().await;
    let neighbour = arena.another().await;
    let terminal = Some(stacyvm_provider::Size { rows: 2, cols: 2 });
    let spec = ExecSpec { terminal, stdin: stacyvm_provider::Stdin::Pipe, ..shell("tty") };
    let done = neighbour.run(spec).await;
    arena.provider.destroy(&neighbour.id).await.unwrap();
    assert_eq!(done.exit, Exit::Code(0), "the neighbour has no terminals left");
    drop(exec);
}

async fn the_processor_is_used_up(arena: Arena) {
    let line = "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait";
    let deadline = Some(Duration::from_secs(2));
    let spec = ExecSpec { deadline, ..shell(line) };
    let (done, ()) = tokio::join!(arena.sandbox.run(spec), async {
        for _ in 0..5 {
            arena.lives().await;
        }
    });
    assert_eq!(done.exit, Exit::Timeout);
}

async fn file_locks_and_watches_are_used_up(arena: Arena) {
    rage(
        &arena,
        "python3 -c 'import ctypes, fcntl, os, signal\nlibc = ctypes.CDLL(None)\n\
                  f = os.open(\"l\", os.O_RDWR | os.O_CREAT)\nn = 0\nwhile True:\n try:\n  \
                  fcntl.lockf(f, fcntl.LOCK_EX, 1, n * 2); n += 1\n  \
                  libc.inotify_init(); libc.eventfd(0, 0); libc.timerfd_create(0, 0); \
                  libc.memfd_create(b\"x\", 0)\n except OSError: pass'",
    )
    .await;
    recovers(&arena).await;
}

async fn the_logs_are_flooded(arena: Arena) {
    arena.sandbox.sh("head -c 3000000 /dev/urandom; echo; echo last").await;
    let logs = soon("logs", arena.sandbox.guest.logs(1_000_000)).await.unwrap();
    assert_eq!(logs.last().map(String::as_str), Some("last"));
    assert!(logs.iter().map(String::len).sum::<usize>() <= (3 * 64) << 10);
}
