//! Hints from one server to another.

use std::sync::Arc;

use stacyvm_store::{Durability::Disk, Store, contract};
use stacyvm_types::{CauseKind, EventKind, Transition};

use crate::world::{World, runtime};

pub(crate) fn a_server_hears_of_events_and_places_of_another(world: Arc<World>) {
    let database = world.fresh();
    let (one, other) = (Arc::new(database.open_by_callers_clock()), database.open());
    runtime().block_on(async {
        let mut hints = other.hints().unwrap();
        // Once for having begun to listen.
        hints.events.changed().await.unwrap();
        hints.places.changed().await.unwrap();

        one.append_events(vec![contract::event(EventKind::ExecStarted, 1)], contract::at(0))
            .await
            .unwrap();
        hints.events.changed().await.unwrap();
        assert!(!hints.places.has_changed().unwrap());

        contract::register(&(one.clone() as Arc<dyn Store>)).await;
        crate::world::admit(&*one, 1).await;
        hints.events.changed().await.unwrap();
        assert!(!hints.places.has_changed().unwrap(), "a place was taken, and none was freed");
        for step in [Transition::Stop(contract::cause(CauseKind::Requested)), Transition::Gone] {
            let (id, at) = (contract::id(1), contract::at(1));
            one.transition(&id, contract::FIRST, step, vec![], Disk, at).await.unwrap();
        }
        hints.places.changed().await.unwrap();
    });
}

/// What was missed is not known, so everybody is to look.
pub(crate) fn a_listener_that_was_cut_off_wakes_everybody_once_it_is_back(world: Arc<World>) {
    let database = world.fresh();
    let store = database.open();
    runtime().block_on(async {
        let mut hints = store.hints().unwrap();
        hints.places.changed().await.unwrap();
        hints.events.changed().await.unwrap();
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
        hints.places.changed().await.unwrap();
        hints.events.changed().await.unwrap();
    });
}
