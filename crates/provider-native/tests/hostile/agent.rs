//! The sandbox's first process as a target: signals, its socket, its output, its patience.

use std::time::Duration;

use bytes::Bytes;
use stacyvm_provider::{
    ErrorKind, ExecInput, ExecSpec, Exit, Size, Stdin, WriteOptions,
    suite::{body, collect_from, eventually, shell, soon},
};
use tokio::time;

use crate::arena::{Arena, Probe, probes};

pub(crate) fn probes() -> Vec<Probe> {
    probes! {
        every_signal_is_sent_to_the_agent if |_| true;
        everything_is_killed_at_once if |c| c.pid_namespace;
        the_socket_of_the_agent_is_looked_for if |c| c.isolation;
        descriptors_are_inherited if |c| c.isolation;
        keys_are_pushed_into_the_terminal if |c| c.pty && c.isolation;
        output_floods_while_nobody_reads if |_| true;
        a_terminal_floods_while_nobody_reads if |c| c.pty;
        standard_input_is_never_read if |_| true;
        a_child_survives_the_deadline_by_a_double_fork if |_| true;
        a_child_survives_the_deadline_by_ignoring_everything if |_| true;
        a_child_survives_the_deadline_by_stopping if |_| true;
        a_child_survives_the_deadline_by_vfork if |_| true;
        a_child_survives_the_deadline_by_taking_orphans_in if |c| c.isolation;
        // Without control groups the watchdog may end the sandbox first.
        children_are_born_faster_than_they_are_killed if |c| c.memory_limit;
        an_environment_of_ten_megabytes_is_asked_for if |_| true;
        arguments_of_ten_megabytes_are_asked_for if |_| true;
        hundreds_of_commands_are_left_running if |_| true;
        zombies_are_left_behind if |c| c.pid_namespace;
        the_accounts_become_a_pipe if |c| c.many_uids;
        the_accounts_become_ten_megabytes_of_one_line if |c| c.many_uids;
        the_accounts_become_endless if |c| c.many_uids;
        the_accounts_become_a_directory if |c| c.many_uids;
        the_workspace_becomes_a_link if |_| true;
        the_shell_is_replaced if |c| c.writable_root;
        a_setuid_program_is_made if |c| c.many_uids;
        the_working_directory_is_a_link_into_proc if |c| c.isolation;
    }
}

async fn every_signal_is_sent_to_the_agent(arena: Arena) {
    for signal in (1..=31).chain(34..=64) {
        arena.sandbox.sh(&format!("kill -{signal} 1")).await;
    }
    arena
        .sandbox
        .sh("(while :; do kill -9 1; kill -STOP 1; kill -QUIT 1; done) 2>&- >&- & sleep 1")
        .await;
    arena.lives().await;
}

async fn everything_is_killed_at_once(arena: Arena) {
    for _ in 0..5 {
        arena.sandbox.sh("kill -9 -1; kill -STOP -1").await;
    }
    arena.lives().await;
}

async fn the_socket_of_the_agent_is_looked_for(arena: Arena) {
    let found = arena.sandbox.sh("find / -type s -not -path '/proc/*' 2>/dev/null").await;
    assert_eq!(found.text(), "");
    let table = arena.sandbox.sh("cat /proc/net/unix").await.text();
    assert!(!table.contains("agent") && !table.contains("stacyvm"), "{table}");
}

async fn descriptors_are_inherited(arena: Arena) {
    // The fourth is the directory that is being listed.
    let open = arena.sandbox.ok("ls /proc/self/fd").await;
    assert_eq!(open, "0\n1\n2\n3");
    let pipes = arena.sandbox.ok("readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2").await;
    assert!(!pipes.contains("socket:"), "{pipes}");
}

async fn keys_are_pushed_into_the_terminal(arena: Arena) {
    let line = "python3 -c 'import fcntl\nfor request in (0x5412, 0x541C):\n try:\n  \
                fcntl.ioctl(0, request, b\"x\")\n  print(\"BREACH\")\n except OSError as e: print(e)'; \
                echo tried";
    let terminal = Some(Size { rows: 24, cols: 80 });
    let done = arena.sandbox.run(ExecSpec { terminal, stdin: Stdin::Pipe, ..shell(line) }).await;
    assert!(done.text().contains("tried") && !done.text().contains("BREACH"), "{}", done.text());
}

async fn output_floods_while_nobody_reads(arena: Arena) {
    let mut held = Vec::new();
    for index in 0..8 {
        let line = "while :; do echo x; echo y >&2; done";
        let exec = arena.sandbox.guest.exec(shell(line)).await.unwrap();
        if index % 2 == 0 {
            held.push(exec);
        }
    }
    for _ in 0..10 {
        arena.lives().await;
    }
}

async fn a_terminal_floods_while_nobody_reads(arena: Arena) {
    let terminal = Some(Size { rows: 24, cols: 80 });
    let spec = ExecSpec { terminal, stdin: Stdin::Pipe, ..shell("yes") };
    let exec = arena.sandbox.guest.exec(spec).await.unwrap();
    arena.lives().await;
    exec.input.send(ExecInput::Signal(9)).await.unwrap();
    let done = soon("the flood ends", collect_from(exec, 0)).await;
    assert_eq!(done.exit, Exit::Signal(9));
}

async fn standard_input_is_never_read(arena: Arena) {
    let spec = ExecSpec { stdin: Stdin::Pipe, ..shell("sleep 1000") };
    let exec = arena.sandbox.guest.exec(spec).await.unwrap();
    let data = || ExecInput::Data(Bytes::from(vec![0; 1 << 20]));
    let mut taken = 0;
    while time::timeout(Duration::from_millis(300), exec.input.send(data())).await.is_ok() {
        taken += 1;
        assert!(taken < 100, "{taken} MiB were taken");
    }
    arena.lives().await;
}

/// Runs a line whose processes hold a lock; at its deadline none may be left.
async fn dies(arena: &Arena, line: &str) {
    let line = format!("exec 9>lock; flock 9; {line}");
    let deadline = Some(Duration::from_millis(700));
    let done = arena.sandbox.run(ExecSpec { deadline, ..shell(&line) }).await;
    assert_eq!(done.exit, Exit::Timeout);
    let free = arena.sandbox.sh("flock -n lock true").await.exit;
    assert_eq!(free, Exit::Code(0), "something lives on");
}

async fn a_child_survives_the_deadline_by_a_double_fork(arena: Arena) {
    dies(
        &arena,
        "(setsid setsid sh -c '(setsid sh -c \"sleep 1000 & sleep 1000\" &)' &); sleep 1000",
    )
    .await;
    let line = "perl -MPOSIX -e 'for (1..5) { if (!fork) { setsid; if (!fork) { setsid; \
                sleep 1000 } exit } } sleep 1000'";
    dies(&arena, line).await;
}

async fn a_child_survives_the_deadline_by_ignoring_everything(arena: Arena) {
    let line = "perl -MPOSIX -e 'for (1..64) { $SIG{$_} = q(IGNORE) } \
                sigprocmask(SIG_BLOCK, POSIX::SigSet->new(1..31)); setsid; fork; fork; \
                while (1) { sleep 1 }'";
    dies(&arena, line).await;
}

async fn a_child_survives_the_deadline_by_stopping(arena: Arena) {
    dies(&arena, "setsid sh -c 'kill -STOP $$' & (setsid sh -c 'kill -STOP $$' &) ; kill -STOP $$")
        .await;
}

async fn a_child_survives_the_deadline_by_vfork(arena: Arena) {
    if arena.sandbox.sh("command -v python3").await.exit != Exit::Code(0) {
        return arena.skip("there is no python3 on this host");
    }
    let line = "python3 -c 'import ctypes, time\nlibc = ctypes.CDLL(None)\nlibc.setsid()\n\
                if libc.vfork() == 0: libc.sleep(1000)\ntime.sleep(1000)'";
    dies(&arena, line).await;
}

async fn a_child_survives_the_deadline_by_taking_orphans_in(arena: Arena) {
    if arena.sandbox.sh("command -v python3").await.exit != Exit::Code(0) {
        return arena.skip("there is no python3 on this host");
    }
    let line = "python3 -c 'import ctypes, os, time\nlibc = ctypes.CDLL(None)\nlibc.prctl(36, 1)\n\
                for i in range(5):\n if os.fork() == 0:\n  os.setsid(); libc.prctl(36, 1)\n  \
                if os.fork(): os._exit(0)\n  time.sleep(1000)\n\
                if os.fork(): os._exit(0)\ntime.sleep(1000)'; sleep 1000";
    dies(&arena, line).await;
}

async fn children_are_born_faster_than_they_are_killed(arena: Arena) {
    // Perl goes on where a shell gives up because it may not fork.
    let line = "perl -MPOSIX -e 'fork; fork; while (1) { if (defined($p = fork) && !$p) { setsid; \
                fork; select(undef, undef, undef, 0.02); exit } waitpid(-1, WNOHANG) }'";
    dies(&arena, line).await;
}

async fn an_environment_of_ten_megabytes_is_asked_for(arena: Arena) {
    let env = (0..100).map(|n| (format!("V{n}"), "x".repeat(100_000))).collect();
    let outcome = soon("exec", arena.sandbox.guest.exec(ExecSpec { env, ..shell("true") })).await;
    let kind = outcome.err().map(|error| error.kind);
    assert!(matches!(kind, Some(ErrorKind::TooLarge | ErrorKind::Invalid)), "{kind:?}");
    arena.lives().await;
}

async fn arguments_of_ten_megabytes_are_asked_for(arena: Arena) {
    let outcome = soon("exec", arena.sandbox.guest.exec(shell(&"x".repeat(10_000_000)))).await;
    let kind = outcome.err().map(|error| error.kind);
    assert!(matches!(kind, Some(ErrorKind::TooLarge | ErrorKind::Invalid)), "{kind:?}");
    arena.lives().await;
}

async fn hundreds_of_commands_are_left_running(arena: Arena) {
    let mut started = 0;
    for _ in 0..300 {
        match soon("exec", arena.sandbox.guest.exec(shell("exec sleep 1000"))).await {
            Ok(_) => started += 1,
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Exhausted, "after {started}: {error:?}");
                break;
            }
        }
    }
    soon("files", arena.sandbox.guest.stat("/workspace")).await.unwrap();
}

async fn zombies_are_left_behind(arena: Arena) {
    let line = "perl -e 'for (1..40) { exit if !fork } sleep 1'; \
                perl -e 'for (1..40) { if (!fork) { fork; exit } } exit'";
    for _ in 0..5 {
        let deadline = Some(Duration::from_secs(2));
        arena.sandbox.run(ExecSpec { deadline, ..shell(line) }).await;
    }
    eventually("commands run", || async { arena.sandbox.guest.exec(shell("true")).await.is_ok() })
        .await;
}

async fn as_user(arena: &Arena, prepare: &str) {
    let done = arena.sandbox.sh(prepare).await;
    assert_eq!(done.exit, Exit::Code(0), "{}", String::from_utf8_lossy(&done.stderr));
    let spec = ExecSpec { user: Some("nobody".into()), ..shell("id -u") };
    // Found or refused, but soon.
    if let Ok(exec) = soon("exec as a user", arena.sandbox.guest.exec(spec)).await {
        let done = soon("the command", collect_from(exec, 0)).await;
        assert_ne!(done.text(), "0", "a user became root");
    }
    let number = ExecSpec { user: Some("1234:1234".into()), ..shell("id -u") };
    if let Ok(exec) = soon("exec as a number", arena.sandbox.guest.exec(number)).await {
        assert_ne!(soon("the command", collect_from(exec, 0)).await.text(), "0");
    }
    arena.lives().await;
}

async fn the_accounts_become_a_pipe(arena: Arena) {
    as_user(&arena, "rm -f /etc/passwd /etc/group; mkfifo /etc/passwd /etc/group").await;
}

async fn the_accounts_become_ten_megabytes_of_one_line(arena: Arena) {
    as_user(
        &arena,
        "head -c 10000000 /dev/zero | tr '\\0' a > /etc/passwd; cp /etc/passwd /etc/group",
    )
    .await;
}

async fn the_accounts_become_endless(arena: Arena) {
    as_user(&arena, "ln -sf /dev/zero /etc/passwd; ln -sf /dev/zero /etc/group").await;
}

async fn the_accounts_become_a_directory(arena: Arena) {
    as_user(&arena, "rm -f /etc/passwd; mkdir /etc/passwd").await;
}

async fn the_workspace_becomes_a_link(arena: Arena) {
    let sandbox = &arena.sandbox;
    sandbox.sh("cd /; rm -rf /workspace; mv /workspace /gone; ln -s /proc/1/root /workspace").await;
    // Refused or not: soon.
    if let Ok(exec) = soon("exec", sandbox.guest.exec(shell("pwd; ls"))).await {
        soon("the command", collect_from(exec, 0)).await;
    }
    let write = sandbox.guest.write("/workspace/x", WriteOptions::default(), body("x"));
    drop(soon("write", write).await);
    drop(soon("glob", sandbox.guest.glob("**")).await);
}

async fn the_shell_is_replaced(arena: Arena) {
    let sandbox = &arena.sandbox;
    sandbox.sh("rm -f /bin/sh /usr/bin/sh; mkfifo /usr/bin/sh; chmod 755 /usr/bin/sh").await;
    drop(soon("exec", sandbox.guest.exec(shell("true"))).await);
    assert!(std::path::Path::new("/bin/sh").is_file());
}

async fn a_setuid_program_is_made(arena: Arena) {
    let line = "cp /usr/bin/id mine; chown 0:0 mine; chmod 6755 mine; chmod 755 .";
    arena.sandbox.ok(line).await;
    let user = Some("nobody".to_owned());
    let done = arena.sandbox.run(ExecSpec { user, ..shell("./mine -u; ./mine -g") }).await;
    assert_eq!(done.text(), "65534\n65534");
}

async fn the_working_directory_is_a_link_into_proc(arena: Arena) {
    arena.sandbox.ok("ln -s /proc/1/root r; ln -s /proc/1/cwd c; ln -s /proc/self/fd f").await;
    for workdir in ["/workspace/r", "/workspace/c", "/workspace/f", "/proc/1/root"] {
        let spec = ExecSpec { workdir: Some(workdir.into()), ..shell("ls -la; cat etc/shadow") };
        if let Ok(exec) = soon("exec", arena.sandbox.guest.exec(spec)).await {
            let said = soon("the command", collect_from(exec, 0)).await.text();
            assert!(!said.contains("root:"), "{workdir}: {said}");
        }
    }
}
