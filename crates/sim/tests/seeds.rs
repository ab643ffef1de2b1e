//! Runs of the simulator: that they are the same again, that they keep every promise, and that a
//! broken promise is seen.

use std::process::Command;

use stacyvm_sim::{Plan, Plant, run};

/// The seeds of an ordinary test run; `cargo run -p stacyvm-sim` makes more.
const SEEDS: std::ops::Range<u64> = 0..200;

#[test]
fn a_seed_is_the_same_run_again() {
    for seed in 0..24 {
        let (once, again) = (run(Plan::of(seed)), run(Plan::of(seed)));
        assert_eq!(once, again);
        assert!(100 < once.lines, "seed {seed} does next to nothing");
    }
}

#[test]
fn a_seed_is_the_same_run_in_another_process() {
    for seed in [1, 7, 17] {
        let binary = env!("CARGO_BIN_EXE_stacyvm-sim");
        let output = Command::new(binary).args(["--seed", &seed.to_string()]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&run(Plan::of(seed)).to_string()), "{text}");
    }
}

#[test]
fn other_seeds_are_other_runs() {
    assert_ne!(run(Plan::of(1)).hash, run(Plan::of(2)).hash);
}

#[test]
fn every_seed_keeps_every_promise() {
    for seed in SEEDS {
        let report = run(Plan::of(seed));
        assert!(report.violation.is_none(), "{report}");
    }
}

/// Where calls come twice and nodes crash all the time: what the planted fencing bugs are measured
/// against.
#[test]
fn much_trouble_breaks_no_promise() {
    for seed in 0..60 {
        let report = run(Plan { troubled: true, ..Plan::of(seed) });
        assert!(report.violation.is_none(), "{report}");
    }
}

/// The first seed that shows a bug, and the promise that it breaks.
fn caught(plant: Plant) -> Option<(u64, &'static str)> {
    SEEDS.clone().find_map(|seed| {
        let report = run(Plan { plant: Some(plant), ..Plan::of(seed) });
        report.violation.map(|violation| (seed, violation.invariant))
    })
}

/// By a promise that the bug breaks, and not by one that it happens to disturb; and as it is
/// written in the book of tests.
#[test]
fn every_planted_bug_is_caught() {
    let book = include_str!("../../../docs/testing.md");
    let mut wrong = Vec::new();
    for plant in Plant::ALL {
        let Some((seed, invariant)) = caught(*plant) else {
            wrong.push(format!("nobody saw {plant}"));
            continue;
        };
        let line = format!("`{invariant}` | {seed} |");
        let is_told = book
            .lines()
            .any(|row| row.starts_with(&format!("| `{plant}`")) && row.ends_with(&line));
        if !is_told {
            wrong.push(format!("docs/testing.md does not say of {plant}: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
