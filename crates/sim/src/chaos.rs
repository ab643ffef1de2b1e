//! What goes wrong by itself, second by second, for as long as the run is busy.

use std::time::Duration;

use stacyvm_provider::RuntimeState;
use tokio::time::sleep;

use crate::{server::Host, world::World};

/// Steps within which a node dies that is to die at one.
const STEPS: u64 = 60;

/// What the store is called in the network.
pub(crate) const STORE: &str = "store";

/// Makes trouble until faults end.
pub(crate) async fn make_trouble(world: World, hosts: Vec<Host>) {
    while world.faults() {
        sleep(Duration::from_secs(1)).await;
        let profile = world.profile();
        if world.strikes("store outages", profile.store.outages) {
            let time =
                world.roll(|rng| rng.time(Duration::from_millis(50), Duration::from_secs(20)));
            world.note("world", format_args!("the store goes away for {time:?}"));
            world.take_store_away(time);
        }
        if world.strikes("store failovers", profile.store.failovers) {
            let time =
                world.roll(|rng| rng.time(Duration::from_millis(50), Duration::from_secs(10)));
            world.note("world", format_args!("the store fails over for {time:?}"));
            world.fail_over(time);
        }
        if world.strikes("runtime deaths", profile.provider.deaths) {
            kill_a_runtime(&world);
        }
        if world.strikes("network cuts", profile.net.cuts) {
            cut_somewhere(&world, &hosts);
        }
        for host in &hosts {
            trouble_host(&world, host).await;
        }
    }
}

async fn trouble_host(world: &World, host: &Host) {
    let faults = &world.profile().node;
    let Some(life) = host.life() else { return };
    if world.strikes("node crashes", faults.crashes) {
        if world.roll(|rng| rng.permille(faults.at_a_step)) {
            life.kill_after(world.roll(|rng| rng.between(1, STEPS)));
        } else {
            sleep(world.roll(|rng| rng.time(Duration::ZERO, Duration::from_secs(1)))).await;
            life.kill("at an instant");
        }
    } else if world.strikes("node pauses", faults.pauses) {
        let time = world.roll(|rng| rng.time(Duration::from_millis(10), Duration::from_secs(20)));
        world.note(life.name(), format_args!("is stopped for {time:?}"));
        life.stop(true);
        sleep(time).await;
        world.note(life.name(), format_args!("goes on"));
        life.stop(false);
    } else if world.strikes("node restarts", faults.restarts) {
        host.restart().await;
    }
}

fn cut_somewhere(world: &World, hosts: &[Host]) {
    let names: Vec<_> = hosts.iter().map(|host| host.id().as_str()).chain([STORE]).collect();
    let (one, other) = world.roll(|rng| (rng.pick(&names).copied(), rng.pick(&names).copied()));
    let (Some(one), Some(other)) = (one, other) else { return };
    let time = world.roll(|rng| rng.time(Duration::from_secs(1), Duration::from_secs(70)));
    world.note("world", format_args!("{one} and {other} are cut off for {time:?}"));
    world.cut(one, other, time);
}

fn kill_a_runtime(world: &World) {
    let traceless = world.profile().provider.traceless;
    let mut guard = world.state();
    let state = &mut *guard;
    let all: Vec<_> =
        state.truth.runtimes().map(|(host, runtime)| (host.clone(), runtime.id.clone())).collect();
    let Some((host, id)) = state.rng.pick(&all).cloned() else { return };
    let runtimes = state.truth.host(&host);
    if state.rng.permille(traceless) {
        runtimes.remove(&id);
    } else if let Some(runtime) = runtimes.get_mut(&id) {
        runtime.state = RuntimeState::Dead;
    }
    drop(guard);
    world.note("world", format_args!("the runtime of {id} on {host} dies"));
}
