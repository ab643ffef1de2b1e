//! Several real processes: servers and workers over loopback, with a file or a Postgres that the
//! tests start. What a single process shows is shown where that process is tested; here is what
//! can only be seen between them.

mod death;
mod drain;
mod identity;
mod images;
mod killed;
mod once;
mod replicas;
mod rotation;
mod smoke;
mod wire;
mod world;

use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use stacyvm_postgres_fixture::{self as postgres, Disk};

/// What a test needs of the host.
enum Test {
    Anywhere(fn() -> Result<()>),
    Native(fn() -> Result<()>),
    Postgres(fn(&postgres::Server) -> Result<()>),
    Both(fn(&postgres::Server) -> Result<()>),
}

use Test::{Anywhere, Both, Native, Postgres};

/// The tests of this binary, by name.
const TESTS: &[(&str, Test)] = &[
    ("a_server_and_a_worker_run_a_sandbox", Anywhere(smoke::mock)),
    ("a_server_and_a_worker_run_an_isolated_sandbox", Native(smoke::native)),
    ("a_server_on_postgres_and_a_worker_run_a_sandbox", Postgres(smoke::postgres)),
    ("either_server_is_killed_at_any_step_and_the_other_goes_on", Both(killed::at_any_step)),
    ("a_worker_that_says_once_that_it_lives_ends", Anywhere(smoke::once)),
    ("a_dead_workers_sandboxes_are_unhealthy_until_it_is_back", Native(death::comes_back)),
    ("what_was_destroyed_while_its_worker_was_gone_ends_there", Native(death::destroyed_meanwhile)),
    ("a_worker_that_is_cut_off_ends_what_is_over", Native(death::ends_by_itself)),
    ("a_worker_that_cannot_be_called_is_passed_over", Anywhere(death::unreachable)),
    ("a_drained_worker_takes_nothing_until_that_is_undone", Anywhere(drain::by_command)),
    ("a_worker_that_stops_says_so_and_adopts_what_ran", Native(drain::by_signal)),
    ("a_server_and_a_worker_show_each_other_who_they_are", Anywhere(identity::mutual)),
    ("an_image_of_a_workers_own_host_is_launched_there", Native(images::at_the_host)),
    ("an_image_is_imported_at_a_worker_from_the_server", Native(images::from_the_server)),
    ("a_token_that_is_not_good_is_refused_at_either_end", Anywhere(identity::refused)),
    ("the_shared_token_is_changed_without_a_refused_request", Anywhere(rotation::shared)),
    ("the_signing_key_is_changed_without_a_refused_request", Anywhere(rotation::signed)),
    ("certificates_are_changed_while_both_ends_run", Anywhere(rotation::certificates)),
    ("a_worker_that_stops_says_so_last", Anywhere(drain::last_word)),
    ("an_earlier_workers_heartbeat_and_calls_are_understood", Anywhere(wire::earlier)),
    ("two_servers_on_one_database_reach_each_others_sandboxes", Postgres(replicas::routed)),
    ("a_server_that_takes_no_calls_is_named_in_the_refusal", Postgres(replicas::not_routed)),
    ("events_of_one_server_are_followed_on_the_other", Postgres(replicas::events)),
    ("waiters_of_both_servers_get_every_place_that_is_freed", Postgres(replicas::waiters)),
    ("a_key_repeated_at_another_server_is_the_same_sandbox", Postgres(once::repeated)),
    ("a_key_whose_spawn_waits_is_the_same_sandbox_elsewhere", Postgres(once::queued)),
];

fn main() {
    let arguments = Arguments::from_args();
    let wanted = |name: &str| match &arguments.filter {
        Some(filter) => name.contains(filter.as_str()),
        None => true,
    };
    let tests = TESTS.iter().filter(|(name, _)| !arguments.list && wanted(name));
    let some = |is: fn(&Test) -> bool| tests.clone().any(|(_, test)| is(test));
    let database = some(|test| matches!(test, Postgres(_) | Both(_)))
        .then(|| postgres::Server::start(Disk::Unsynced).map(Arc::new));
    let database = database.transpose().map_err(|error| format!("{error:#}"));
    let native = some(|test| matches!(test, Native(_) | Both(_)));
    let native = if native { world::native_runs_here() } else { Ok(()) };
    let over = |name: &&'static str,
                test: &fn(&postgres::Server) -> Result<()>,
                native: Result<(), String>| {
        let (test, found) = (*test, database.clone());
        trial(name, native.and_then(|()| found.clone().map(drop)), move || match found {
            Ok(Some(database)) => test(&database),
            _ => anyhow::bail!("there is no Postgres"),
        })
    };
    let trials = TESTS.iter().map(|(name, test)| match test {
        Anywhere(test) => trial(name, Ok(()), test),
        Native(test) => trial(name, native.clone(), test),
        Postgres(test) => over(name, test, Ok(())),
        Both(test) => over(name, test, native.clone()),
    });
    let trials = trials.collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(database);
    conclusion.exit();
}

/// A test that is ignored, with the reason in its name, where the host cannot run it.
fn trial(
    name: &str,
    runs_here: Result<(), String>,
    test: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    let ignored = runs_here.is_err();
    let name = match runs_here {
        Ok(()) => name.to_owned(),
        Err(why) => format!("{name} (not here: {why})"),
    };
    Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:?}"))))
        .with_ignored_flag(ignored)
}
