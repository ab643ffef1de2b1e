//! The store's contract on Postgres, and what only a database with several servers shows.
//!
//! The tests start a server of their own. Where that is not possible they are reported as ignored,
//! with the reason.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::{
    hash::{BuildHasher, RandomState},
    process::ExitCode,
    sync::Arc,
};

use libtest_mimic::{Arguments, Trial};
use stacyvm_store::{contract, memory::MemoryStore};

use crate::world::World;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let world = match arguments.list {
        true => Err("only listing".to_owned()),
        false => World::start().map(Arc::new).map_err(|error| format!("{error:#}")),
    };
    if let (Err(reason), false) = (&world, arguments.list) {
        eprintln!("\nSKIPPED: the store on Postgres is not tested here: {reason}\n");
    }
    let mut trials = Vec::new();
    let mut add = |name: String, test: Box<dyn FnOnce(Arc<World>) + Send>| {
        let world = world.clone();
        let ignored = world.is_err();
        let trial = Trial::test(name, move || {
            test(world?);
            Ok(())
        });
        trials.push(trial.with_ignored_flag(ignored));
    };
    for (name, case) in contract::cases() {
        add(format!("contract::{name}"), Box::new(move |world| world.on_fresh(case)));
    }
    add("random_histories_on_memory_and_postgres_agree_step_by_step".into(), Box::new(agree));
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(world);
    conclusion.exit_code()
}

/// The seeds are fixed but for the last, which is new each time; a failure names its seed.
fn agree(world: Arc<World>) {
    let new_seed = RandomState::new().hash_one("seed");
    for seed in (1..=6).chain([new_seed]) {
        world.on_fresh(move |store| {
            contract::agree::agree(Arc::new(MemoryStore::new()), store, seed, 250)
        });
    }
}
