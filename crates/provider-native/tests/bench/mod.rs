//! Figures, not checks: `STACYVM_MEASURE=1 cargo test --release --test native`.

use std::{
    fs,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use stacyvm_provider::{Program, Provider};

use crate::platform::{Platform, exec_spec, spec};

fn show(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{name}: p50 {:?}, p90 {:?}, p99 {:?}, n {}", at(50), at(90), at(99), times.len());
}

async fn run_true(platform: &Platform, id: &stacyvm_types::SandboxId, program: &str) {
    let guest = platform.provider.guest(id).await.unwrap();
    let spec = exec_spec(Program::Argv(vec![program.to_owned()]));
    let mut exec = guest.exec(spec).await.unwrap();
    while let Some(event) = exec.events.next().await {
        event.unwrap();
    }
}

pub(crate) fn measure() {
    let program = std::env::var("STACYVM_TRUE").unwrap_or_else(|_| "/bin/true".to_owned());
    let platform = Platform::start(0);
    let (mut launch, mut first, mut destroy) = (vec![], vec![], vec![]);
    for _ in 0..300 {
        platform.run(async {
            let spec = spec();
            let start = Instant::now();
            platform.provider.launch(&spec).await.unwrap();
            launch.push(start.elapsed());
            let start = Instant::now();
            run_true(&platform, &spec.id, &program).await;
            first.push(start.elapsed());
            let start = Instant::now();
            platform.provider.destroy(&spec.id).await.unwrap();
            destroy.push(start.elapsed());
        });
    }
    show("cold launch to hello", launch);
    show("first exec", first);
    show("destroy", destroy);
    let spec = spec();
    platform.run(async {
        platform.provider.launch(&spec).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let pid = platform.first_process(&spec.id).as_raw_nonzero();
        for (name, pid) in [
            ("first process", pid.get()),
            ("spawner", platform.provider.spawner_pid().cast_signed()),
        ] {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let lines = text.lines().filter(|l| l.starts_with("Private") || l.starts_with("Rss"));
            println!("{name}: {:?}", lines.collect::<Vec<_>>());
        }
        let mut again = vec![];
        for _ in 0..300 {
            let start = Instant::now();
            run_true(&platform, &spec.id, &program).await;
            again.push(start.elapsed());
        }
        show("exec", again);
        platform.provider.destroy(&spec.id).await.unwrap();
    });
    rate(&platform);
    drop(platform.stop());
    let platform = Platform::start(8);
    let mut claimed = vec![];
    for _ in 0..200 {
        platform.run(async {
            platform.until_waiting(8).await;
            let spec = crate::platform::spec();
            let start = Instant::now();
            platform.provider.launch(&spec).await.unwrap();
            run_true(&platform, &spec.id, &program).await;
            claimed.push(start.elapsed());
            platform.provider.destroy(&spec.id).await.unwrap();
        });
    }
    show("claim and exec", claimed);
    drop(platform.stop());
}

fn rate(platform: &Platform) {
    let start = Instant::now();
    platform.run(async {
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let provider = platform.provider.clone();
            workers.spawn(async move {
                for _ in 0..250 {
                    let spec = spec();
                    provider.launch(&spec).await.unwrap();
                    provider.destroy(&spec.id).await.unwrap();
                }
            });
        }
        workers.join_all().await;
    });
    let seconds = start.elapsed().as_secs_f64();
    println!("launch and destroy, 4 at once: {:.0} a second", 1000.0 / seconds);
}
