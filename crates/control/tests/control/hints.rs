//! Hints of other servers on the same database.

use crate::{gate::Gate, world::World};

#[tokio::test]
async fn a_hint_of_another_servers_events_wakes_who_follows_the_log_here() {
    let world = World::new();
    let gate = Gate::open();
    let server = world.server(&gate);
    server.control.start_jobs();
    let mut followed = server.control.event_signal();
    followed.mark_unchanged();
    gate.events.send_modify(|count| *count += 1);
    followed.changed().await.unwrap();
}
