//! The native provider against the running kernel. Needs root; says so where it is not.
//!
//! The program is also the spawner of its own tests, and the server that one of them kills.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, in a harness of their own")]

mod bench;
mod platform;

use std::{collections::BTreeSet, fs, process::ExitCode, time::Duration};

use libtest_mimic::{Arguments, Failed, Trial};
use platform::{Platform, limits, spec};
use stacyvm_provider::{ErrorKind, Provider, RuntimeState};
use stacyvm_types::{Limits, SandboxId};

type Outcome = Result<(), Failed>;
type Case = (&'static str, fn() -> Outcome);

fn main() -> ExitCode {
    stacyvm_provider_native::spawner::run_if_requested();
    if let Some(dir) = std::env::var_os(platform::SERVER_TO_KILL) {
        platform::serve_until_killed(dir.into());
    }
    let mut arguments = Arguments::from_args();
    if std::env::var_os("STACYVM_MEASURE").is_some() {
        bench::measure();
        return ExitCode::SUCCESS;
    }
    // They look at what is left in the kernel, so they run one after another.
    arguments.test_threads = Some(1);
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: the tests of the native provider need root");
        return ExitCode::SUCCESS;
    }
    let cases: [Case; 16] = [
        ("a_destroyed_sandbox_leaves_nothing", a_destroyed_sandbox_leaves_nothing),
        ("a_command_runs_as_an_unprivileged_root", a_command_runs_as_an_unprivileged_root),
        ("a_second_launch_finds_the_first", a_second_launch_finds_the_first),
        ("a_hundred_launches_at_once_succeed", a_hundred_launches_at_once_succeed),
        ("a_ready_runtime_is_handed_over", a_ready_runtime_is_handed_over),
        ("a_stopped_server_takes_its_pool_with_it", a_stopped_server_takes_its_pool_with_it),
        ("a_killed_server_loses_no_sandbox", a_killed_server_loses_no_sandbox),
        ("a_restart_of_the_host_ends_all_runtimes", a_restart_of_the_host_ends_all_runtimes),
        ("a_dead_spawner_is_replaced", a_dead_spawner_is_replaced),
        ("a_dead_sandbox_is_shown_until_destroyed", a_dead_sandbox_is_shown_until_destroyed),
        ("an_unknown_image_leaves_nothing", an_unknown_image_leaves_nothing),
        ("nothing_says_who_started_it", nothing_says_who_started_it),
        ("a_launch_that_never_comes_leaves_nothing", a_launch_that_never_comes_leaves_nothing),
        ("an_expected_launch_is_like_any_other", an_expected_launch_is_like_any_other),
        ("nobody_is_charged_for_a_predecessor", nobody_is_charged_for_a_predecessor),
        (
            "no_two_sandboxes_ever_have_the_same_network",
            no_two_sandboxes_ever_have_the_same_network,
        ),
    ];
    let trials = cases.map(|(name, case)| Trial::test(name, case)).into_iter().collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn a_destroyed_sandbox_leaves_nothing() -> Outcome {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let platform = Platform::start(0);
    platform.run(async {
        let spec = spec();
        platform.provider.launch(&spec).await?;
        platform.shell(&spec.id, "(setsid sleep 1000 &) ; sleep 1000 & echo started").await?;
        let processes = platform.processes(&spec.id);
        assert!(3 <= processes.len(), "{processes:?}");
        platform.provider.destroy(&spec.id).await?;
        for pid in processes {
            assert!(!fs::exists(format!("/proc/{pid}"))?, "process {pid} is left");
        }
        platform.provider.destroy(&spec.id).await?;
        assert!(platform.provider.list().await?.is_empty());
        Ok::<_, Failed>(())
    })?;
    let dir = platform.stop();
    assert_eq!(platform::leftovers(dir.path()), Vec::<String>::new());
    assert_eq!(fs::read_to_string("/proc/self/mountinfo")?, mounts);
    Ok(())
}

fn a_command_runs_as_an_unprivileged_root() -> Outcome {
    let platform = Platform::start(0);
    platform.run(async {
        let spec = spec();
        platform.provider.launch(&spec).await?;
        let script = "id -u; hostname; cat /proc/self/uid_map; ls /proc/1 2>&1; \
                      python3 -c 'print(40+2)'";
        let said = platform.shell(&spec.id, script).await?;
        let mut lines = said.lines();
        assert_eq!((lines.next(), lines.next()), (Some("0"), Some("sandbox")), "{said}");
        let map: Vec<u32> =
            lines.next().unwrap().split_ascii_whitespace().map(|n| n.parse().unwrap()).collect();
        assert!(map[0] == 0 && 0x6000_0000 <= map[1] && map[2] == 65_536, "{said}");
        assert!(lines.next().unwrap().contains("cannot access"), "{said}");
        assert_eq!(lines.next(), Some("42"), "{said}");
        platform.provider.destroy(&spec.id).await?;
        Ok(())
    })
}

fn a_second_launch_finds_the_first() -> Outcome {
    let platform = Platform::start(0);
    platform.run(async {
        let spec = spec();
        let (first, second) =
            tokio::join!(platform.provider.launch(&spec), platform.provider.launch(&spec));
        assert_eq!(first?, second?);
        assert_eq!(platform.provider.list().await?.len(), 1);
        platform.provider.destroy(&spec.id).await?;
        Ok(())
    })
}

fn a_hundred_launches_at_once_succeed() -> Outcome {
    let platform = Platform::start(0);
    platform.run(async {
        let specs: Vec<_> = (0..100).map(|_| spec()).collect();
        let mut launches = tokio::task::JoinSet::new();
        for spec in specs.clone() {
            let provider = platform.provider.clone();
            launches.spawn(async move { provider.launch(&spec).await });
        }
        while let Some(launched) = launches.join_next().await {
            launched??;
        }
        let listed: BTreeSet<SandboxId> =
            platform.provider.list().await?.into_iter().map(|r| r.id).collect();
        assert_eq!(listed, specs.iter().map(|s| s.id.clone()).collect());
        assert_eq!(platform.shell(&specs[99].id, "echo hi").await?, "hi\n");
        for spec in &specs {
            platform.provider.destroy(&spec.id).await?;
        }
        Ok::<_, Failed>(())
    })?;
    let dir = platform.stop();
    assert_eq!(platform::leftovers(dir.path()), Vec::<String>::new());
    Ok(())
}

fn a_ready_runtime_is_handed_over() -> Outcome {
    let platform = Platform::start(1);
    platform.run(async {
        platform.until_waiting(1).await;
        let mut spec = spec();
        spec.limits = Limits { memory_mb: 300, pids: 77, ..limits() };
        platform.provider.launch(&spec).await?;
        let guest = platform.provider.guest(&spec.id).await?;
        assert_eq!(guest.stats().await?.memory_limit_bytes, Some(300 << 20));
        assert_eq!(platform.shell(&spec.id, "echo hi").await?, "hi\n");
        if let Some(pids) = platform.group_value(&spec.id, "pids.max") {
            assert_eq!(pids.trim(), "78");
        }
        // Another is made in its place.
        platform.until_waiting(1).await;
        // One that no waiting runtime fits is made at once.
        let other = platform::spec_with_disk(64);
        platform.provider.launch(&other).await?;
        let said = platform.shell(&other.id, "df -k --output=size /dev/shm | tail -1").await?;
        assert_eq!(said.trim(), "65536");
        assert_eq!(platform.provider.waiting(), 1);
        platform.provider.destroy(&spec.id).await?;
        platform.provider.destroy(&other.id).await?;
        Ok(())
    })
}

fn a_stopped_server_takes_its_pool_with_it() -> Outcome {
    let platform = Platform::start(2);
    platform.run(platform.until_waiting(2));
    let dir = platform.stop();
    assert_eq!(platform::leftovers(dir.path()), Vec::<String>::new());
    Ok(())
}

fn a_killed_server_loses_no_sandbox() -> Outcome {
    let dir = tempfile::tempdir()?;
    let id = platform::kill_a_server(dir.path());
    let platform = Platform::over(dir, 0);
    platform.run(async {
        let listed = platform.provider.list().await?;
        assert_eq!(listed.iter().map(|r| &r.id).collect::<Vec<_>>(), [&id]);
        assert_eq!(listed[0].state, RuntimeState::Running);
        assert_eq!(platform.shell(&id, "cat /workspace/kept").await?, "before\n");
        platform.provider.destroy(&id).await?;
        Ok::<_, Failed>(())
    })?;
    let dir = platform.stop();
    assert_eq!(platform::leftovers(dir.path()), Vec::<String>::new());
    Ok(())
}

fn a_restart_of_the_host_ends_all_runtimes() -> Outcome {
    let dir = tempfile::tempdir()?;
    let before = platform::kill_a_server(dir.path());
    platform::restart_the_host(dir.path());
    let platform = Platform::over(dir, 0);
    platform.run(async {
        assert!(platform.provider.list().await?.is_empty());
        let gone = platform.provider.status(&before).await.unwrap_err();
        assert_eq!(gone.kind, ErrorKind::NoSandbox);
        platform.provider.destroy(&before).await?;
        let after = spec_and_launch(&platform).await?;
        assert_eq!(platform.shell(&after, "echo hi").await?, "hi\n");
        platform.provider.destroy(&after).await?;
        Ok::<_, Failed>(())
    })?;
    let dir = platform.stop();
    assert_eq!(platform::leftovers(dir.path()), Vec::<String>::new());
    Ok(())
}

fn a_dead_spawner_is_replaced() -> Outcome {
    let platform = Platform::start(0);
    platform.run(async {
        let (first, second) = (spec(), spec());
        platform.provider.launch(&first).await?;
        // A spawner that dies right after its start is not replaced at once.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let pid = i32::try_from(platform.provider.spawner_pid())?;
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::Signal::KILL,
        )?;
        let launched = loop {
            match platform.provider.launch(&second).await {
                Err(error) if error.kind == ErrorKind::Unavailable => {}
                done => break done,
            }
        };
        launched?;
        assert_ne!(i32::try_from(platform.provider.spawner_pid())?, pid);
        assert_eq!(platform.shell(&first.id, "echo hi").await?, "hi\n");
        platform.provider.destroy(&first.id).await?;
        platform.provider.destroy(&second.id).await?;
        Ok(())
    })
}

fn a_dead_sandbox_is_shown_until_destroyed() -> Outcome {
    let platform = Platform::start(0);
    platform.run(async {
        let spec = spec();
        platform.provider.launch(&spec).await?;
        let first = platform.first_process(&spec.id);
        rustix::process::kill_process(first, rustix::process::Signal::KILL)?;
        while platform.provider.status(&spec.id).await?.state != RuntimeState::Dead {
            tokio::task::yield_now().await;
        }
        let refused = platform.provider.guest(&spec.id).await.map(drop).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unavailable);
        platform.provider.destroy(&spec.id).await?;
        let unknown = platform.provider.status(&spec.id).await.unwrap_err();
        assert_eq!(unknown.kind, ErrorKind::NoSandbox);
        Ok(())
    })
}

fn an_unknown_image_leaves_nothing() -> Outcome {
    let platform = Platform::start(0);
    platform.run(async {
        let mut spec = spec();
        spec.image = "nobody:imported".to_owned();
        let error = platform.provider.launch(&spec).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoImage);
        assert!(platform.provider.list().await?.is_empty());
        Ok::<_, Failed>(())
    })?;
    let dir = platform.stop();
    assert_eq!(platform::leftovers(dir.path()), Vec::<String>::new());
    Ok(())
}

fn nothing_says_who_started_it() -> Outcome {
    let platform = Platform::start(0);
    platform.run(async {
        let spec = spec();
        platform.provider.launch(&spec).await?;
        let pid = platform.first_process(&spec.id).as_raw_nonzero();
        let read = |pid: i32, file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap();
        let spawner = i32::try_from(platform.provider.spawner_pid())?;
        for (pid, title) in [(pid.get(), "stacyvm: sandbox"), (spawner, "stacyvm: spawner")] {
            let line = String::from_utf8(read(pid, "cmdline"))?;
            assert_eq!(line.trim_end_matches('\0'), title);
            assert!(read(pid, "environ").is_empty());
        }
        // Of what a launch is done with, the last may still be open for a moment: before as after.
        let fds = || fs::read_dir(format!("/proc/{spawner}/fd")).map(Iterator::count);
        let before = fds()?;
        let mut launched = vec![spec.id];
        for _ in 0..3 {
            launched.push(spec_and_launch(&platform).await?);
        }
        let after = fds()?;
        assert!(after <= before + 1, "three launches left {before} and then {after} open");
        for id in launched {
            platform.provider.destroy(&id).await?;
        }
        Ok(())
    })
}

fn a_launch_that_never_comes_leaves_nothing() -> Outcome {
    let platform = Platform::start(0);
    platform.run(async {
        let spec = spec();
        platform.provider.expect(&spec.image, &spec.limits);
        platform.until("a runtime was begun", || platform.begun() == 1).await;
        assert!(platform.provider.list().await?.is_empty());
        platform.until("it is gone", || platform.begun() == 0).await;
        Ok::<_, Failed>(())
    })?;
    let dir = platform.stop();
    assert_eq!(platform::leftovers(dir.path()), Vec::<String>::new());
    Ok(())
}

fn an_expected_launch_is_like_any_other() -> Outcome {
    let platform = Platform::start(0);
    platform.run(async {
        for begun in [false, true] {
            let spec = spec();
            platform.provider.expect(&spec.image, &spec.limits);
            if begun {
                platform.until("a runtime was begun", || platform.begun() == 1).await;
            }
            platform.provider.launch(&spec).await?;
            assert_eq!(platform.shell(&spec.id, "echo hello").await?, "hello\n");
            assert_eq!(platform.provider.list().await?.len(), 1);
            platform.provider.destroy(&spec.id).await?;
        }
        Ok(())
    })
}

/// Control groups are used again, and what they have counted for others is nobody's concern.
fn nobody_is_charged_for_a_predecessor() -> Outcome {
    const BURN: &str = "timeout 0.5 sh -c 'while :; do :; done'; true";
    let platform = Platform::start(0);
    platform.run(async {
        let mut burnt = BTreeSet::new();
        let mut again = 0;
        for _ in 0..10 {
            let spec = spec();
            platform.provider.launch(&spec).await?;
            let stats = platform.provider.guest(&spec.id).await?.stats().await?;
            let groups = platform.groups(&spec.id);
            if groups.is_empty() {
                println!("skipped: this host has no control groups for sandboxes");
                return Ok(());
            }
            if burnt.contains(&groups) {
                again += 1;
                let used = stats.cpu_us.ok_or("no processor time")?;
                assert!(used < 300_000, "{used} µs before its first command");
            }
            platform.shell(&spec.id, BURN).await?;
            burnt.insert(groups);
            platform.provider.destroy(&spec.id).await?;
        }
        assert!(0 < again, "no group was ever used again");
        Ok(())
    })
}

/// What tells one network namespace from every other that ever was.
const COOKIE: &str = "python3 -c '\
    import socket; \
    s = socket.socket(socket.AF_UNIX); \
    print(int.from_bytes(s.getsockopt(socket.SOL_SOCKET, 71, 8), \"little\"))'";

fn no_two_sandboxes_ever_have_the_same_network() -> Outcome {
    let platform = Platform::start(0);
    platform.run(async {
        let mut seen = BTreeSet::new();
        for round in 0..20 {
            let spec = spec();
            platform.provider.launch(&spec).await?;
            let cookie: u64 = platform.shell(&spec.id, COOKIE).await?.trim().parse()?;
            assert!(seen.insert(cookie), "sandbox {round} has the network of an earlier one");
            platform.provider.destroy(&spec.id).await?;
        }
        Ok(())
    })
}

async fn spec_and_launch(platform: &Platform) -> Result<SandboxId, Failed> {
    let spec = spec();
    platform.provider.launch(&spec).await?;
    Ok(spec.id)
}
