//! The store's contract on Postgres, and what only a database with several servers shows.
//!
//! The tests start a server of their own. Where that is not possible they are reported as ignored,
//! with the reason.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod faults;
mod hints;
mod races;
mod schema;
mod tls;
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
        let ignored = world.is_err() && !arguments.list;
        let name = if ignored { format!("{name} (no Postgres here)") } else { name };
        let trial = Trial::test(name, move || {
            test(world?);
            Ok(())
        });
        trials.push(trial.with_ignored_flag(ignored));
    };
    for (name, case) in contract::cases() {
        add(
            format!("contract::{name}"),
            Box::new(move |world| {
                world.on_fresh(|store| async move {
                    contract::register(&store).await;
                    case(store).await;
                });
            }),
        );
    }
    macro_rules! tests {
        ($($($path:ident)::+),+ $(,)?) => {
            $(add([$(stringify!($path)),+].join("::"), Box::new($($path)::+));)+
        };
    }
    tests![
        random_histories_on_memory_and_postgres_agree_step_by_step,
        schema::every_statement_prepares,
        schema::both_databases_have_the_same_tables_and_columns,
        schema::starters_at_once_all_find_the_store_ready,
        schema::a_newer_an_edited_and_a_foreign_schema_are_refused_and_left_alone,
        schema::a_step_that_fails_is_undone_and_tried_again_at_the_next_start,
        schema::a_filled_database_is_brought_up_to_date,
        schema::the_check_names_what_does_not_add_up,
        races::a_free_lease_has_one_winner_each_time,
        races::a_lapsed_lease_has_one_winner_each_time,
        races::leases_are_judged_by_the_databases_clock,
        races::changes_of_every_kind_meet_and_everything_adds_up,
        races::a_follower_on_another_server_sees_every_event_once_in_order,
        races::one_of_many_servers_gets_the_turn_of_a_key,
        faults::broken_connections_lose_nothing_and_write_nothing_twice,
        faults::a_restart_of_the_database_needs_none_of_ours,
        faults::calls_fail_clearly_while_the_database_is_away,
        faults::a_call_whose_caller_went_away_finishes,
        faults::a_deadlock_is_nobodys_failure,
        hints::a_server_hears_of_events_and_places_of_another,
        hints::a_listener_that_was_cut_off_wakes_everybody_once_it_is_back,
        tls::the_mode_of_the_dsn_is_honoured,
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(world);
    conclusion.exit_code()
}

/// The seeds are fixed but for the last, which is new each time; a failure names its seed.
fn random_histories_on_memory_and_postgres_agree_step_by_step(world: Arc<World>) {
    let new_seed = RandomState::new().hash_one("seed");
    for seed in (1..=6).chain([new_seed]) {
        world.on_fresh(move |store| {
            contract::agree::agree(Arc::new(MemoryStore::new()), store, seed, 250)
        });
    }
}
