//! What may go wrong in a run, and how often: drawn from the seed, class by class, so that runs
//! differ in kind and a fault meets calm as well as every other fault.

use std::time::Duration;

use crate::{plant::Plant, rng::Rng};

/// Chances are in a thousand, of each call or of each second of the fault phase.
#[derive(Debug, Clone, Default)]
pub(crate) struct Profile {
    /// How long clients and faults work.
    pub(crate) busy: Duration,
    pub(crate) clients: u64,
    pub(crate) store: StoreFaults,
    pub(crate) provider: ProviderFaults,
    pub(crate) node: NodeFaults,
    pub(crate) net: NetFaults,
    pub(crate) skew: Skew,
    /// Servers that share the store, and workers without a server; no server is one that has the
    /// store for itself.
    pub(crate) servers: usize,
    pub(crate) workers: usize,
    /// Calls that their client gives up, of those that it makes.
    pub(crate) impatience: u64,
    pub(crate) limits: Limits,
    /// Whether clients also drain workers, bring idempotency keys, and start from templates that
    /// take long to set up.
    pub(crate) varied: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct StoreFaults {
    /// The longest way there, and back.
    pub(crate) latency: Duration,
    /// Calls that fail and did nothing.
    pub(crate) refused: u64,
    /// Calls that fail and did it.
    pub(crate) unacknowledged: u64,
    /// Outages that begin, by second.
    pub(crate) outages: u64,
    /// Pauses as of a failover, by second: calls wait for its end.
    pub(crate) failovers: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ProviderFaults {
    /// The longest launch that does not hang.
    pub(crate) launch: Duration,
    /// Calls that fail and did nothing.
    pub(crate) refused: u64,
    /// Calls that fail and did it.
    pub(crate) unacknowledged: u64,
    /// Calls that never end.
    pub(crate) hangs: u64,
    /// Runtimes that a list leaves out.
    pub(crate) left_out: u64,
    /// Runtimes that die, by second.
    pub(crate) deaths: u64,
    /// Of those that die, the ones of which nothing is left.
    pub(crate) traceless: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct NodeFaults {
    /// Crashes, by second and node.
    pub(crate) crashes: u64,
    /// Of these, those that strike at a step that is counted instead of at an instant.
    pub(crate) at_a_step: u64,
    /// Pauses, by second and node.
    pub(crate) pauses: u64,
    /// Orderly restarts, by second and node.
    pub(crate) restarts: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct NetFaults {
    /// The longest way there, and back.
    pub(crate) latency: Duration,
    /// Calls that never arrive.
    pub(crate) lost: u64,
    /// Calls whose answer never arrives.
    pub(crate) unanswered: u64,
    /// Calls that arrive late.
    pub(crate) slow: u64,
    /// Calls that arrive once more, later.
    pub(crate) repeated: u64,
    /// Cuts between two nodes, or a node and the store, by second.
    pub(crate) cuts: u64,
}

/// How wrong clocks are, in microseconds, and in microseconds a second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Skew {
    pub(crate) ahead: i64,
    pub(crate) drift: i64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    /// Sandboxes at a time; 0 is no limit.
    pub(crate) total: u64,
    pub(crate) per_owner: u64,
    pub(crate) per_worker: u64,
    /// How many spawns may wait, and how long; without, what finds no place is refused.
    pub(crate) queue: Option<(u64, Duration)>,
}

impl Profile {
    /// What a seed lets go wrong. One seed in eight is calm: then promises are held to the second.
    pub(crate) fn draw(seed: u64, rng: &mut Rng, plant: Option<Plant>, troubled: bool) -> Self {
        let mut profile = Self {
            busy: rng.time(Duration::from_secs(20), Duration::from_secs(90)),
            clients: rng.between(1, 5),
            limits: limits(rng),
            varied: 8 <= seed % 16,
            ..Self::default()
        };
        profile.provider.launch = rng.time(Duration::from_millis(1), Duration::from_secs(2));
        profile.store.latency = rng.time(Duration::from_micros(50), Duration::from_millis(20));
        if plant.is_some_and(Plant::needs_calm) {
            profile.limits = Limits {
                total: rng.between(1, 3),
                queue: Some((6, Duration::from_secs(30))),
                ..Limits::default()
            };
            return profile;
        }
        if rng.permille(650) || troubled || plant.is_some_and(Plant::needs_others) {
            profile.servers = size(rng.between(1, 3));
            profile.workers = size(rng.between(u64::from(profile.servers == 1), 2));
            profile.net.latency = rng.time(Duration::from_micros(50), Duration::from_millis(10));
        }
        if seed.is_multiple_of(8) {
            // What waits for a place is told from what a limit of its own holds up.
            if rng.permille(500) {
                profile.limits.total = rng.between(1, 4);
                (profile.limits.per_owner, profile.limits.per_worker) = (0, 0);
            }
            return profile;
        }
        let one_of = |rng: &mut Rng, most: u64| if rng.permille(400) { rng.below(most) } else { 0 };
        let store = &mut profile.store;
        store.refused = one_of(rng, 60);
        store.unacknowledged = one_of(rng, 60);
        store.outages = one_of(rng, 40);
        store.failovers = one_of(rng, 40);
        let provider = &mut profile.provider;
        provider.refused = one_of(rng, 200);
        provider.unacknowledged = one_of(rng, 200);
        provider.hangs = one_of(rng, 50);
        provider.left_out = one_of(rng, 200);
        provider.deaths = one_of(rng, 60);
        provider.traceless = rng.below(1000);
        let node = &mut profile.node;
        node.crashes = one_of(rng, 60);
        node.at_a_step = rng.below(1000);
        node.pauses = one_of(rng, 40);
        node.restarts = one_of(rng, 30);
        let net = &mut profile.net;
        net.lost = one_of(rng, 60);
        net.unanswered = one_of(rng, 60);
        net.slow = one_of(rng, 100);
        net.repeated = one_of(rng, 100);
        net.cuts = one_of(rng, 80);
        if profile.servers != 0 && rng.permille(500) {
            profile.skew = Skew { ahead: 20_000_000, drift: 200 };
        }
        profile.impatience = one_of(rng, 200);
        if troubled || plant.is_some_and(Plant::needs_trouble) {
            profile.node.crashes = profile.node.crashes.max(60);
            profile.net.repeated = profile.net.repeated.max(300);
        }
        profile
    }

    /// Whether nothing goes wrong at all.
    pub(crate) fn is_calm(&self) -> bool {
        let Self { store, provider, node, net, impatience, .. } = self;
        let chances = [
            store.refused,
            store.unacknowledged,
            store.outages,
            store.failovers,
            provider.refused,
            provider.unacknowledged,
            provider.hangs,
            provider.left_out,
            provider.deaths,
            node.crashes,
            node.pauses,
            node.restarts,
            net.lost,
            net.unanswered,
            net.slow,
            net.repeated,
            net.cuts,
            *impatience,
        ];
        chances.iter().all(|chance| *chance == 0)
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn limits(rng: &mut Rng) -> Limits {
    let limit = |rng: &mut Rng| if rng.permille(500) { rng.between(1, 6) } else { 0 };
    let queue = rng
        .permille(600)
        .then(|| (rng.between(1, 6), rng.time(Duration::from_secs(1), Duration::from_secs(30))));
    Limits { total: limit(rng), per_owner: limit(rng), per_worker: limit(rng), queue }
}
