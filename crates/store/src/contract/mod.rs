//! The suite that every store runs: each promise of [`Store`] has a case.
//!
//! A case is a plain async function over an empty store. [`store_contract!`](crate::store_contract)
//! stamps all of them as tests; [`agree::agree`] drives two stores side by side with random calls.

#![expect(clippy::unwrap_used, reason = "a case that cannot go on has failed")]

pub mod agree;
pub mod audit;
pub mod events;
pub mod idempotency;
pub mod keys;
pub mod leases;
pub mod observe;
pub mod quotas;
pub mod retention;
pub mod sandboxes;
pub mod templates;
pub mod workers;

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use stacyvm_admission::Policy;
use stacyvm_types::{
    Beat, Cause, CauseKind, Event, EventKind, ExecId, Generation, Limits, Offer, OwnerId,
    Resources, SandboxId, Timestamp, Transition, WorkerId,
};

use crate::{
    Durability::Disk, EventFilter, NewEvent, NewSandbox, Sandbox, Store, Template, TemplateFields,
};

/// Stamps every case of the contract as a `#[tokio::test]`.
///
/// `$fresh` is the path of an `async fn() -> (Arc<dyn Store>, G)` that makes an empty store; `G` is
/// whatever must outlive it. The crate needs tokio with `macros` and `rt-multi-thread` for tests.
#[macro_export]
macro_rules! store_contract {
    ($fresh:path) => {
        $crate::store_contract! { @each stamp $fresh }
    };
    (@each $how:ident $with:path) => {
        $crate::store_contract! { @$how $with;
            sandboxes:
                an_admitted_sandbox_is_remembered_with_its_lease_and_event
                a_known_id_is_not_admitted_again_and_nothing_changes
                one_of_many_concurrent_admits_of_an_id_wins
                a_transition_changes_the_phase_and_appends_its_events
                a_transition_that_only_reached_the_kernel_is_read_at_once
                a_sandbox_admitted_to_the_kernel_is_read_at_once_and_can_be_synced
                a_repeated_transition_changes_nothing_and_appends_nothing
                a_transition_with_another_generation_is_fenced
                a_refused_transition_changes_nothing
                every_phase_and_cause_is_read_back_as_written
                concurrent_transitions_append_one_event
                a_row_is_never_older_than_it_was_read_before
                extending_moves_the_deadline_and_not_the_lease
                only_a_creating_running_or_paused_sandbox_is_extended
                an_expired_sandbox_is_not_extended
                a_start_that_goes_on_is_told_of_and_changes_nothing_else
                a_sandbox_does_not_expire_before_its_deadline
                an_unknown_sandbox_is_not_found
                expired_sandboxes_come_oldest_deadline_first_up_to_the_limit
                sandboxes_that_stop_or_ended_do_not_expire
                the_next_expiry_is_the_earliest_that_still_matters
                sandboxes_are_listed_newest_first
                a_finished_command_is_recorded_once;
            leases:
                ending_releases_the_lease_and_keeps_the_generation
                the_holder_acquires_again_with_a_higher_generation
                a_held_lease_is_refused_to_others_until_its_holders_has_lapsed
                a_lapsed_lease_is_its_holders_until_the_fence_is_over
                only_a_worker_that_is_heard_of_acquires
                a_sandbox_takes_its_place_along_to_another_worker
                a_lapsed_lease_is_taken_over_and_the_old_holder_has_lost_it
                one_of_sixteen_contenders_wins_a_free_lease
                one_of_sixteen_contenders_takes_over_a_lapsed_lease
                generations_are_never_given_out_twice
                a_renewal_keeps_what_the_holder_said_last
                only_the_holder_renews_a_lease_and_only_while_it_holds
                nothing_is_lost_while_its_lease_holds
                releasing_needs_the_holder_and_its_generation
                a_lease_of_an_unknown_sandbox_cannot_be_taken;
            events:
                events_are_read_in_order_after_an_id_up_to_a_limit
                filters_match_sandbox_owner_and_kind
                concurrent_events_get_gapless_ids
                a_reader_that_follows_the_log_sees_every_event_once_in_order
                a_failed_change_leaves_no_event
                texts_are_kept_byte_for_byte;
            quotas:
                a_quota_is_decided_replaced_and_removed
                quotas_are_listed_by_owner_and_counted_by_kind
                a_full_limit_admits_again_when_a_sandbox_has_ended
                limits_count_what_they_are_about
                a_quota_replaces_the_policys_limits_for_its_owner
                a_known_id_is_a_conflict_also_where_nothing_is_free
                racing_admissions_meet_the_limit_exactly
                a_standing_is_the_quota_and_the_places_taken;
            workers:
                a_worker_is_remembered_as_it_said_last
                a_heartbeat_renews_the_leases_of_all_its_sandboxes
                another_instance_of_a_name_waits_until_the_first_has_lapsed
                one_of_many_instances_gets_a_free_name
                a_worker_is_heard_however_often_it_says_its_first_word
                a_worker_that_is_not_heard_of_takes_nothing_new
                a_drained_worker_takes_nothing_new_and_keeps_what_it_has
                a_worker_is_filled_up_to_what_it_can_hold
                a_worker_that_holds_places_is_not_forgotten
                the_sandboxes_of_a_worker_are_walked_through_by_age;
            templates:
                a_template_is_created_read_and_deleted
                a_known_template_name_is_a_conflict
                an_update_changes_the_named_fields_only
                an_unknown_template_is_not_found
                templates_are_listed_by_name
                the_store_answers_a_ping;
            observe:
                a_census_counts_what_lives_by_state_provider_and_worker
                a_census_tells_leases_that_are_held_from_those_that_lapsed;
            idempotency:
                a_new_key_gives_the_turn_to_who_brings_it
                a_key_with_another_fingerprint_is_a_mismatch
                a_turn_goes_on_with_its_resource_at_its_holder_or_when_its_time_is_over
                a_released_turn_is_free_at_once
                a_kept_answer_is_given_back_and_never_changes
                bodies_of_one_caller_take_no_more_than_its_allowance
                only_the_last_turn_says_how_it_went
                a_turn_is_held_for_as_long_as_its_holder_says
                a_renewed_key_has_its_new_resource_from_then_on
                one_of_sixteen_holders_gets_a_new_key
                old_keys_are_pruned_oldest_first_up_to_the_limit;
            keys:
                a_key_is_read_back_as_it_was_made
                neither_an_id_nor_a_name_of_a_key_is_given_twice
                a_revoked_key_stays_revoked_since_the_first_time
                the_last_use_of_a_key_moves_forward_only;
            audit:
                a_record_stays_as_it_was_written_first
                records_are_read_newest_first_page_by_page
                operations_are_filtered_by_every_field
                admin_requests_are_filtered_by_every_field
                a_page_looks_at_a_bounded_number_of_records;
            retention:
                ended_sandboxes_are_removed_and_no_others
                a_walk_takes_small_steps_and_meets_every_sandbox
                a_sandbox_with_many_commands_is_removed_in_small_steps
                old_records_of_commands_are_removed_oldest_first
                old_events_are_removed_and_the_log_says_up_to_where
                old_audit_records_are_removed_oldest_first;
        }
    };
    (@list $with:path; $($group:ident: $($case:ident)+;)+) => {
        vec![$($(
            (stringify!($case), |store| Box::pin($crate::contract::$group::$case(store))),
        )+)+]
    };
    (@stamp $fresh:path; $($group:ident: $($case:ident)+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                let (store, _outlives_it) = $fresh().await;
                $crate::contract::register(&store).await;
                $crate::contract::$group::$case(store).await;
            }
        )+)+

        #[test]
        fn every_case_of_the_contract_runs_here() {
            let stamped: Vec<&str> = vec![$($(stringify!($case),)+)+];
            assert_eq!($crate::contract::names(), stamped);
        }
    };
}

/// A case of the contract: it panics when the store breaks its promise.
pub type Case = fn(Arc<dyn Store>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// All cases with their names, for suites that are not stamped as tests.
pub fn cases() -> Vec<(&'static str, Case)> {
    crate::store_contract! { @each list cases }
}

/// The names of all cases, in the order of the files.
pub fn names() -> Vec<&'static str> {
    [
        include_str!("sandboxes.rs"),
        include_str!("leases.rs"),
        include_str!("events.rs"),
        include_str!("quotas.rs"),
        include_str!("workers.rs"),
        include_str!("templates.rs"),
        include_str!("observe.rs"),
        include_str!("idempotency.rs"),
        include_str!("keys.rs"),
        include_str!("audit.rs"),
        include_str!("retention.rs"),
    ]
    .into_iter()
    .flat_map(str::lines)
    .filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('(').map(|(name, _)| name))
    .collect()
}

/// An instant that many seconds after the start of the tests' time.
pub fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000).saturating_add(Duration::from_secs(seconds))
}

/// A sandbox id made of a number.
pub fn id(number: u8) -> SandboxId {
    SandboxId::from_entropy([number; 10])
}

/// An exec id made of a number.
pub fn exec_id(number: u8) -> ExecId {
    ExecId::from_entropy([number; 10])
}

/// A worker.
pub fn worker(name: &str) -> WorkerId {
    WorkerId::parse(name).expect("tests name valid workers")
}

/// An owner.
pub fn owner(name: &str) -> OwnerId {
    OwnerId::parse(name).expect("tests name valid owners")
}

/// A map of texts.
pub fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A sandbox to admit that ends at `expires_at` and whose fields are all different.
pub fn new_sandbox(number: u8, expires_at: Timestamp) -> NewSandbox {
    NewSandbox {
        id: id(number),
        owner: Some(owner("ann")),
        provider: "mock".to_owned(),
        worker: worker("w1"),
        image: "host".to_owned(),
        template: Some("base".to_owned()),
        limits: Limits { memory_mb: 11, vcpus: 12, pids: 13, disk_mb: 14 },
        metadata: map(&[("team", "a"), ("", "empty key")]),
        env: map(&[("PATH", "/bin")]),
        expires_at,
    }
}

/// A template whose fields are all different.
pub fn new_template(name: &str) -> Template {
    Template {
        name: name.to_owned(),
        version: 1,
        fields: TemplateFields {
            image: "host".to_owned(),
            description: "words".to_owned(),
            provider: "mock".to_owned(),
            memory_mb: 21,
            vcpus: 22,
            ttl: Duration::from_micros(23),
            setup: vec!["true".to_owned(), "echo \"a\nb\"".to_owned()],
            env: map(&[("A", "1")]),
            metadata: map(&[("B", "2")]),
            pool_size: 24,
            allowed_hosts: vec!["example.org".to_owned()],
            secrets: map(&[("C", "3")]),
        },
        created_at: at(1),
        updated_at: at(2),
    }
}

/// An event of a sandbox.
pub fn event(kind: EventKind, sandbox: u8) -> NewEvent {
    NewEvent {
        kind,
        sandbox: Some(id(sandbox)),
        owner: Some(owner("ann")),
        data: map(&[("n", "1")]),
    }
}

/// A cause of this kind.
pub fn cause(kind: CauseKind) -> Cause {
    Cause::new(kind, format!("because of {}", kind.as_str()))
}

/// The first generation of every sandbox.
pub const FIRST: Generation = Generation(1);

/// No time: a lease that has lapsed may be taken at once.
pub const NOW: Duration = Duration::ZERO;

/// What a worker with two providers says.
pub fn beat(name: &str) -> Beat {
    let offer = |provider: &str, default| Offer {
        provider: provider.to_owned(),
        default,
        ready: !default,
        capabilities: ["exec".to_owned(), "pty".to_owned()].into(),
        images: ["host".to_owned()].into(),
    };
    Beat {
        id: worker(name),
        instance: format!("instance of {name}"),
        hostname: format!("host of {name}"),
        version: "1.2.3".to_owned(),
        url: Some(format!("http://{name}:7433")),
        draining: false,
        offers: vec![offer("mock", true), offer("native", false)],
        capacity: Resources::default(),
    }
}

/// What every case begins with: `w1` is heard of at second 0 and its lease holds until second 50,
/// those of `w2` and `w3` hold without end.
pub async fn register(store: &Arc<dyn Store>) {
    for (name, term) in [("w1", Some(Duration::from_secs(50))), ("w2", None), ("w3", None)] {
        store.beat(beat(name), term, at(0)).await.expect("a first heartbeat");
    }
}

/// Admits a sandbox at second 0; its lease holds until second 50.
pub(crate) async fn admit(store: &Arc<dyn Store>, number: u8, expires_at: Timestamp) -> Sandbox {
    store
        .admit(&Policy::default(), new_sandbox(number, expires_at), Disk, at(0))
        .await
        .expect("a fresh id")
}

/// Takes transitions that must be accepted, one a second from second 1 on; what is to be lost is so
/// after its lease of `w1` has lapsed, which holds until second 50 again then.
pub(crate) async fn steps(
    store: &Arc<dyn Store>,
    number: u8,
    transitions: &[Transition],
) -> Sandbox {
    let mut row = store.sandbox(&id(number)).await.expect("a read").expect("an admitted sandbox");
    let term = async |term| {
        store.beat(beat("w1"), Some(term), at(0)).await.expect("a heartbeat");
    };
    for (transition, second) in transitions.iter().zip(1..) {
        if matches!(transition, Transition::Lost(_)) {
            term(Duration::ZERO).await;
        }
        row = store
            .transition(&id(number), row.generation, transition.clone(), vec![], Disk, at(second))
            .await
            .expect("an accepted transition");
        if matches!(transition, Transition::Lost(_)) {
            term(Duration::from_secs(50)).await;
        }
    }
    row
}

/// Every event in the store.
pub(crate) async fn all_events(store: &Arc<dyn Store>) -> Vec<Event> {
    store.events(0, u32::MAX, EventFilter::default()).await.expect("events")
}

/// Runs the calls at the same time and hands back their results.
pub(crate) async fn race<T, F>(calls: impl IntoIterator<Item = F>) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut set = tokio::task::JoinSet::new();
    for call in calls {
        set.spawn(call);
    }
    set.join_all().await
}
