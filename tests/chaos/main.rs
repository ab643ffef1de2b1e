//! Three servers, five workers and a Postgres, real processes all, with clients on them and faults
//! in them: what was answered, what is written and what runs must agree throughout.
//!
//! `CHAOS_SECONDS` is how long there are faults, `CHAOS_SEED` what they are made from, and
//! `CHAOS_KEEP` a directory that keeps logs and history.

mod cell;
mod chance;
mod clients;
mod cluster;
mod faults;
mod history;
mod http;
mod leftovers;
mod member;
mod net;
mod proxy;
mod truth;

use std::{
    path::PathBuf,
    process::exit,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Trial};
use stacyvm_tests::host::Leftovers;

use crate::{
    cell::Stage,
    clients::Client,
    cluster::Cluster,
    faults::Means,
    history::History,
    http::Caller,
    leftovers::Host,
    net::Net,
    truth::{Watch, follow},
};

const CLIENTS: u64 = 8;
const FOLLOWERS: usize = 2;
/// How long everything may take to be in order again once nothing is broken any more: a launch that
/// was cut short is given up after 90 s.
const SETTLE: Duration = Duration::from_secs(150);

fn main() -> Result<()> {
    let arguments = Arguments::from_args();
    let inside = cell::stage() == Stage::Inside;
    let missing = if inside { None } else { cell::missing() };
    match cell::stage() {
        Stage::Outermost if missing.is_none() && !arguments.list => exit(cell::enter()?),
        Stage::First => exit(cell::begin()?),
        Stage::Outermost | Stage::Inside => {}
    }
    if let Some(why) = &missing {
        eprintln!("\nSKIPPED: faults between network namespaces are not tested here: {why}\n");
    }
    let database = Cluster::missing();
    if let Some(why) = &database {
        eprintln!("\nSKIPPED: clusters are not tested here: {why}\n");
    }
    // One after the other: each has all of the host.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    let name = |name: &str, why: Option<&String>| match why {
        Some(why) => format!("{name} ({why})"),
        None => name.to_owned(),
    };
    let apart = missing.as_ref().or(database.as_ref());
    let trials = vec![
        Trial::test(name("faults_of_processes_on_loopback", database.as_ref()), move || {
            // Where there are namespaces the other one does all of this and more.
            let share = if inside { 6 } else { 1 };
            chaos(Net::loopback(), seconds() / share).map_err(|e| format!("{e:?}").into())
        })
        .with_ignored_flag(database.is_some()),
        Trial::test(name("faults_between_network_namespaces", apart), || {
            let run = || chaos(Net::bridge()?, seconds());
            run().map_err(|e| format!("{e:?}").into())
        })
        .with_ignored_flag(apart.is_some()),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

fn seconds() -> Duration {
    Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(60))
}

fn chaos(net: Net, lasts: Duration) -> Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    let fresh = u64::try_from(now % 1_000_000_007)?;
    let seed = number("CHAOS_SEED").unwrap_or(fresh);
    let temporary = tempfile::Builder::new().prefix("stacyvm-chaos-").tempdir()?;
    let parent = match cell::stage() {
        // Whoever made the namespaces looks at what is left there, and removes it.
        Stage::Inside => std::env::temp_dir(),
        Stage::Outermost | Stage::First => temporary.path().to_owned(),
    };
    let parent = cell::kept().unwrap_or(parent);
    let root = parent.join(if net.is_apart() { "apart" } else { "loopback" });
    ensure!(!root.exists(), "{} holds another run", root.display());
    std::fs::create_dir_all(&root)?;
    let root = root.canonicalize()?;
    let history = Arc::new(History::new(&root.join("history"))?);
    eprintln!("chaos: {} s, CHAOS_SEED={seed}", lasts.as_secs());
    let result = with_cluster(net, &root, seed, lasts, &history);
    eprintln!("chaos: CHAOS_SEED={seed}\n{}", history.summary());
    result.with_context(|| format!("CHAOS_SEED={seed}"))?;
    Ok(())
}

fn with_cluster(
    net: Net,
    root: &std::path::Path,
    seed: u64,
    lasts: Duration,
    history: &Arc<History>,
) -> Result<()> {
    let before = Host::now();
    let native = Cluster::has_native();
    if let Err(why) = &native {
        eprintln!("chaos: SKIPPED: workers with real runtimes: {why:#}");
    }
    let native = native.is_ok();
    let mut cluster = Cluster::start(net, root, native)?;
    let apart = cluster.net.is_apart();
    let netem = apart && cluster.has_netem();
    if !netem {
        let why = if apart { "this kernel has no netem" } else { "all are on loopback" };
        eprintln!("chaos: SKIPPED: delay and loss: {why}");
    }
    let watch = Watch {
        postgres: cluster.postgres.clone(),
        database: cluster.database.clone(),
        workers: cluster.workers(),
        history: history.clone(),
        deaths: Mutex::default(),
        over: AtomicBool::new(false),
    };
    let homes: Vec<PathBuf> = watch.workers.iter().map(|worker| worker.home.clone()).collect();
    let calm = Arc::new(AtomicBool::new(false));
    let caller = Caller::new(cluster.servers());
    let outcome = thread::scope(|scope| {
        scope.spawn(|| watch.watch_rows());
        scope.spawn(|| watch.watch_runtimes());
        let followers: Vec<_> = (0..FOLLOWERS)
            .map(|n| {
                let (caller, watch) = (caller.clone(), &watch);
                scope.spawn(move || follow(n, &caller, &watch.history, &watch.over))
            })
            .collect();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| Client::new(n, seed, caller.clone(), history.clone(), calm.clone(), native))
            .map(|client| scope.spawn(|| client.work()))
            .collect();
        let run = || -> Result<()> {
            let means = Means { apart, netem };
            faults::run(&mut cluster, &watch, seed, means, lasts)?;
            history.note("no fault any more");
            calm.store(true, Ordering::Relaxed);
            cluster.wait_until_whole()?;
            let calm_since = Instant::now();
            for client in clients {
                ensure!(client.join().is_ok(), "a client panicked");
            }
            let settled = watch.settle(SETTLE);
            history.took("from the last fault to rest", calm_since.elapsed());
            settled?;
            watch.judge_answers()?;
            // What is there now and must not be at the end.
            let groups = ("control groups", leftovers::groups(&homes).len());
            for (what, number) in Host::now().more_than(&before).into_iter().chain([groups]) {
                history.held(&format!("{what} at rest"), number);
            }
            clear(&caller, &watch)?;
            for panic in cluster.panics() {
                history.violated(panic);
            }
            cluster.check_rows()
        };
        let outcome = run();
        calm.store(true, Ordering::Relaxed);
        watch.over.store(true, Ordering::Relaxed);
        for follower in followers {
            let heard = follower.join().unwrap_or_default();
            history.note(&format!("a follower heard {heard} events"));
            if heard == 0 {
                history.violated("a follower heard nothing".to_owned());
            }
        }
        outcome
    });
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
    }
    outcome?;
    for member in &mut cluster.members {
        let status = member.stop()?;
        ensure!(status.success(), "{} stopped with {status}", member.name);
    }
    drop((cluster, watch));
    let left = leftovers::at_last(|| {
        let mut left = leftovers::of(root, &homes);
        // On the host others start and end things too.
        if cell::stage() == Stage::Inside {
            left.extend(Host::now().since(&before));
        }
        left
    });
    ensure!(left.is_empty(), "left on the host: {left:#?}");
    if let Some(deed) = clients::never_done(history, native) {
        bail!("never {deed}");
    }
    let violations = history.violations();
    if !violations.is_empty() {
        bail!("{} violations:\n{}", violations.len(), violations.join("\n"));
    }
    Ok(())
}

/// Destroys what is left, and waits until nothing of it is.
fn clear(caller: &Caller, watch: &Watch) -> Result<()> {
    let give_up = Instant::now() + SETTLE;
    loop {
        let live = watch.query("SELECT id FROM sandboxes WHERE ended_at_us IS NULL")?;
        let left: usize = watch.workers.iter().map(|worker| worker.runtimes().len()).sum();
        // The workers go on, and keep nothing but what is ready for the next sandbox.
        let data = watch.workers.iter().map(|worker| Leftovers::of(&worker.home.join("data")));
        let left_over: Vec<_> = data.filter(|left| !left.is_empty()).collect();
        if live.is_empty() && left == 0 && left_over.is_empty() {
            break;
        }
        ensure!(
            Instant::now() < give_up,
            "{live:?}, {left} runtimes and {left_over:#?} do not end"
        );
        for (n, id) in live.iter().enumerate() {
            let path = format!("/api/v1/sandboxes/{id}");
            let _asked_again = caller.ask(n, "DELETE", &path, None, &[]);
        }
        thread::sleep(Duration::from_millis(50));
    }
    let counted = watch.query(
        "SELECT scope || ' ' || name || ' ' || active FROM usage \
         WHERE active <> 0 OR memory_mb <> 0 OR vcpus <> 0",
    )?;
    ensure!(counted.is_empty(), "places were not given back: {counted:?}");
    Ok(())
}
