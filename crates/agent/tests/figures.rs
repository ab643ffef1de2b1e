//! Figures of the agent: how long a command takes and how much memory it holds when idle.

#![expect(dead_code, reason = "each test program uses a part of what they share")]
#![expect(clippy::unwrap_used, reason = "what the tests share fails by panic, as they do")]

mod common;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use common::{Sandbox, argv, run};
use stacyvm_provider::Exit;

/// The agent below `unshare`.
fn agent_pid(unshare: u32) -> String {
    let path = format!("/proc/{unshare}/task/{unshare}/children");
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

fn private_kib(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut anonymous = false;
    let mut sum = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or("");
        if !first.ends_with(':') {
            // A mapping's first line; one without a file has no sixth word or a bracketed one.
            anonymous = words.nth(4).is_none_or(|name| name.starts_with('['));
        } else if first.starts_with("Private_") && anonymous {
            sum += words.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sum
}

#[tokio::test]
#[ignore = "prints figures; run it alone, in a release build"]
async fn latency_of_a_static_true_and_memory_of_an_idle_agent() {
    let Some(sandbox) = Sandbox::start().await else { return };
    let program = sandbox.path("true");
    let source = sandbox.path("true.c");
    std::fs::write(&source, "void _start(void){__asm__(\"mov $60,%eax;xor %edi,%edi;syscall\");}")
        .unwrap();
    let built = Command::new("cc")
        .args(["-static", "-nostdlib", "-O2", "-o", &program, &source])
        .status()
        .is_ok_and(|status| status.success());
    if !built {
        eprintln!("skipped: no C compiler to make a static program with");
        return;
    }
    let mut times = Vec::new();
    for _ in 0..1000 {
        let started = Instant::now();
        let ran = run(&sandbox.guest, argv(&[&program])).await;
        times.push(started.elapsed());
        assert_eq!(ran.exit, Some(Exit::Code(0)));
    }
    times.sort();
    println!(
        "exec of a static true: p50 {:?} p90 {:?} p99 {:?}",
        times[500], times[900], times[990]
    );
    let pid = agent_pid(sandbox.agent.id());
    println!("private anonymous memory with a session: {} KiB", private_kib(&pid));
    tokio::time::sleep(Duration::from_secs(32)).await;
    println!("private anonymous memory when idle: {} KiB", private_kib(&pid));
}
