//! Measures StacyVM over HTTP beside what else the same host can do, in one run, and prints the
//! table of `docs/performance.md`.
//!
//! `scripts/bench [--quick] [--live N] [--load N] [--admission [--postgres]] [--metrics]
//! [--remote] [--scale]` builds and runs it. Needs root, but for `--admission` and `--metrics`: it compares
//! the root rung.

mod admission;
mod external;
mod floor;
mod http;
mod live;
mod metrics;
mod ours;
mod postgres;
mod remote;
mod scale;
mod stats;
mod tree;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use external::Measured;
use stacyvm_provider_native::Spawner;
use stacyvm_tests::{Options, Server};
use stats::{PAUSE, Samples, show};

/// The static `true` of every row, in a place that the image `host` shows.
const PROGRAM: &str = "/usr/local/bin/stacyvm-bench-true";

struct Effort {
    rounds: usize,
    seconds: f64,
    live: usize,
}

fn main() -> Result<()> {
    stacyvm_provider_native::spawner::run_if_requested();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, rounds, program] = &args[..]
        && mode == "__floor"
    {
        return floor::run(rounds.parse()?, Path::new(program));
    }
    if let [mode, rounds, program, dir] = &args[..]
        && mode == "__crun"
    {
        let samples = external::crun_here(rounds.parse()?, Path::new(program), Path::new(dir));
        return samples.map_err(anyhow::Error::msg).map(|samples| samples.print());
    }
    if args == ["--metrics"] {
        return metrics::run();
    }
    if args == ["--remote"] {
        let spawner = Spawner::start().context("the spawner")?;
        let program = StaticTrue::build()?;
        return remote::run(spawner, &program.0.display().to_string());
    }
    if args == ["--scale"] {
        return scale::run(10.0);
    }
    let mut effort = Effort { rounds: 300, seconds: 5.0, live: 1000 };
    let mut load = None;
    let mut only_admission = false;
    let mut on_postgres = false;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--quick" => effort = Effort { rounds: 50, seconds: 1.0, live: 100 },
            "--live" => effort.live = rest.next().context("--live needs a number")?.parse()?,
            "--admission" => only_admission = true,
            "--postgres" => on_postgres = true,
            "--load" => load = Some(rest.next().context("--load needs a number")?.parse()?),
            other => bail!(
                "unknown argument {other}; known are --quick, --live N, --load N, --admission \
                 [--postgres], and alone --metrics, --remote and --scale"
            ),
        }
    }
    if on_postgres {
        ensure!(only_admission, "--postgres goes with --admission");
        return postgres::run(effort.seconds);
    }
    if only_admission {
        return admission::run(effort.seconds);
    }
    ensure!(rustix::process::geteuid().is_root(), "the bench compares the root rung: run as root");
    let program = StaticTrue::build()?;
    match load {
        Some(clients) => only_load(clients, &effort, Path::new(&program.0)),
        None => bench(&effort, Path::new(&program.0)),
    }
}

/// A program that does nothing but exit with 0; removed when dropped.
struct StaticTrue(PathBuf);

impl StaticTrue {
    fn build() -> Result<Self> {
        let source = tempfile::Builder::new().suffix(".c").tempfile()?;
        std::fs::write(
            source.path(),
            "void _start(void){long n=60;__asm__ volatile(\"syscall\"::\"a\"(n),\"D\"(0L));}\n",
        )?;
        let status = Command::new("cc")
            .args(["-static", "-nostdlib", "-O2", "-o", PROGRAM])
            .arg(source.path())
            .status()
            .context("a C compiler")?;
        ensure!(status.success(), "cc ended with {status}");
        Ok(Self(PROGRAM.into()))
    }
}

impl Drop for StaticTrue {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn server(data: &Path, pool: usize) -> Result<Server> {
    let args = vec!["--pool".to_owned(), pool.to_string()];
    let server = Server::start(data, &Options { args, ..Options::default() })?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(server)
}

/// Nothing but cycles without a pause, to look at with a profiler.
#[expect(clippy::print_stdout, reason = "the figures are the output")]
fn only_load(clients: usize, effort: &Effort, program: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = server(&dir.path().join("data"), 64)?;
    let load = ours::load(server.at, &program.display().to_string(), clients, effort.seconds)?;
    let (p50, p99) = (show(load.create_to_exec.p50()), show(load.create_to_exec.p99()));
    println!(
        "{clients} clients: {:.0} cycles a second, create → first exec {p50}, p99 {p99}",
        load.rate
    );
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is the output")]
fn bench(effort: &Effort, program: &Path) -> Result<()> {
    let name = program.display().to_string();
    let rounds = effort.rounds;
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");

    let warm = server(&data, 64)?;
    let idle_mib = live::resident_kib(warm.child.id())? / 1024.0;
    let ready = ours::cycles(warm.at, &name, rounds, PAUSE)?;
    let bwrap = external::bwrap(rounds, program);
    let bare = external::bare(rounds, program);
    let floor = floor::measure(rounds, program);
    let id = warm.spawn()?;
    let exec_one = ours::execs(warm.at, &id, &name, 1, rounds)?;
    let socket = data.join("run/runtimes/sandboxes").join(&id).join("agent.sock");
    let agent = ours::agent_execs(&socket, &name, rounds)?;
    let agent_kill = tree::by_the_agent(&socket, rounds.div_ceil(30));
    let group_kill = tree::by_a_group(rounds.div_ceil(30));
    let group = tree::making_a_group(rounds);
    let exec_many = ours::execs(warm.at, &id, &name, 16, rounds.div_ceil(4))?;
    ensure!(warm.delete(&format!("/api/v1/sandboxes/{id}"))?.status == 200, "destroy failed");
    let one = ours::load(warm.at, &name, 1, effort.seconds)?;
    let two = ours::load(warm.at, &name, 2, effort.seconds)?;
    let many = ours::load(warm.at, &name, 16, effort.seconds)?;
    drop(warm);
    let bwrap_rate = external::bwrap_rate(program, effort.seconds);

    let cold_server = server(&data, 0)?;
    let cold = ours::cycles(cold_server.at, &name, rounds, PAUSE)?;
    let held = live::hold(cold_server.at, cold_server.child.id(), &data, effort.live)?;
    drop(cold_server);
    let crun = external::crun(rounds.min(50), program, &dir.path().join("crun"));
    let docker = external::docker(rounds.min(20), program, dir.path());

    println!("| figure | p50 | p99 | beside `bwrap --unshare-all` |");
    println!("|---|---|---|---|");
    let base = bwrap.as_ref().map_or(f64::NAN, Samples::p50);
    let row = |figure: &str, samples: &Samples| {
        let ratio = samples.p50() / base;
        println!("| {figure} | {} | {} | {ratio:.2} × |", show(samples.p50()), show(samples.p99()));
    };
    let other = |figure: &str, measured: &Measured| match measured {
        Ok(samples) => row(figure, samples),
        Err(reason) => println!("| {figure} | not measured: {reason} | | |"),
    };
    row("create → first exec over HTTP, ready pool", &ready.create_to_exec);
    row("create alone, ready pool", &ready.create);
    row("create → first exec over HTTP, cold", &cold.create_to_exec);
    row("create alone, cold", &cold.create);
    row("destroy over HTTP", &ready.destroy);
    row("create → first exec, 16 clients without pause", &many.create_to_exec);
    row("exec over HTTP", &exec_one);
    row("exec over HTTP, 16 clients, one sandbox", &exec_many);
    row("the same exec asked of the agent directly", &agent);
    let tree = format!("a deadline over {} processes", tree::CHILDREN + 1);
    other(&format!("{tree}: the agent"), &agent_kill);
    other(&format!("{tree}: a v2 group"), &group_kill);
    other("making and removing a v2 group", &group);
    other("`bwrap --unshare-all true`", &bwrap);
    other("`crun run`", &crun);
    other("`docker run --rm --network none`", &docker);
    other("floor: clone3, three mounts, exec, reaped", &floor);
    other("the bare program", &bare);
    println!();
    println!("| figure | value |");
    println!("|---|---|");
    println!(
        "| exec over HTTP ÷ the agent directly, p50 | {:.2} × |",
        exec_one.p50() / agent.p50()
    );
    println!(
        "| 16 clients: p99 ÷ own p50 | {:.1} × |",
        many.create_to_exec.p99() / many.create_to_exec.p50()
    );
    println!("| create+exec+destroy cycles a second, 1 client | {:.0} |", one.rate);
    println!("| create+exec+destroy cycles a second, 2 clients | {:.0} |", two.rate);
    println!("| create+exec+destroy cycles a second, 16 clients | {:.0} |", many.rate);
    match bwrap_rate {
        Ok(rate) => println!("| `bwrap` one-shots a second, 2 threads | {rate:.0} |"),
        Err(reason) => println!("| `bwrap` one-shots a second | not measured: {reason} |"),
    }
    println!(
        "| memory per idle sandbox at {} live | {:.2} MiB |",
        effort.live,
        held.kib_each / 1024.0
    );
    println!("| of it in the server | {:.1} KiB |", held.server_kib_each);
    println!(
        "| create, the last 100 of {}, p50 | {} |",
        effort.live,
        show(held.late_creates.p50())
    );
    println!(
        "| {} destroyed, nothing left, after | {:.1} s |",
        effort.live,
        held.cleared_in.as_secs_f64()
    );
    println!("| idle server, resident | {idle_mib:.1} MiB |");
    Ok(())
}
