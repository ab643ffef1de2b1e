//! Makes runs: `stacyvm-sim --seeds 0..10000 --jobs 2`, or one of them again, watched:
//! `stacyvm-sim --seed 17 --trace`.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use clap::Parser;
use stacyvm_sim::{Plan, Plant, Report, run};

#[derive(Parser)]
#[command(about = "The control plane and its workers, simulated")]
struct Args {
    /// The seeds to run, the last one not included.
    #[arg(long, value_parser = range, default_value = "0..1000")]
    seeds: (u64, u64),
    /// One seed instead.
    #[arg(long)]
    seed: Option<u64>,
    /// Print each line of the trace as it happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// How many runs to make at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Plant a bug, to see it caught.
    #[arg(long)]
    plant: Option<Plant>,
    /// More repeated calls and crashes than a seed says.
    #[arg(long)]
    troubled: bool,
    /// Go on after a failure, and name every seed that fails.
    #[arg(long)]
    keep_going: bool,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("{text:?} is no range of seeds, such as 0..1000");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    Ok((from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?))
}

#[derive(Default)]
struct Outcome {
    runs: u64,
    failures: Vec<Report>,
    only: Option<Report>,
    counts: BTreeMap<&'static str, u64>,
}

#[expect(clippy::print_stdout, reason = "it is what the program is for")]
fn main() -> ExitCode {
    let args = Args::parse();
    let (first, end) = args.seed.map_or(args.seeds, |seed| (seed, seed + 1));
    let begun = Instant::now();
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let outcome = Mutex::new(Outcome::default());
    thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if end <= seed {
                        return;
                    }
                    let (plant, troubled, print) = (args.plant, args.troubled, args.trace);
                    let report = run(Plan { seed, plant, troubled, print });
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    outcome.runs += 1;
                    for (name, count) in &report.counts {
                        *outcome.counts.entry(name).or_default() += count;
                    }
                    if report.violation.is_some() {
                        outcome.failures.push(report);
                        stop.fetch_or(!args.keep_going, Ordering::Relaxed);
                    } else if args.seed.is_some() {
                        outcome.only = Some(report);
                    }
                }
            });
        }
    });
    let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    let took = begun.elapsed();
    println!(
        "{} runs in {took:.1?}, {:.1?} each",
        outcome.runs,
        took / u32::try_from(outcome.runs.max(1)).unwrap_or(u32::MAX)
    );
    for (name, count) in &outcome.counts {
        println!("{count:>10} {name}");
    }
    match outcome.failures.as_slice() {
        [] => {
            if let Some(report) = &outcome.only {
                println!("{report}");
            }
            ExitCode::SUCCESS
        }
        [first, rest @ ..] => {
            println!("{first}");
            for report in rest {
                if let Some(violation) = &report.violation {
                    println!("seed {} breaks {}", report.seed, violation.invariant);
                }
            }
            ExitCode::FAILURE
        }
    }
}
