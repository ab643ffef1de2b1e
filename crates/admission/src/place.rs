//! Which worker takes a sandbox: filter, then score.
//!
//! What is known about workers here may be a second old. The store decides again, on fresh figures,
//! about the one that was chosen; whoever asked leaves that one out then and asks again.

use std::{cmp::Ordering, fmt};

use stacyvm_types::{Resources, Unfit, WorkerId};

/// What a sandbox needs of its worker.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The provider that launches it.
    pub provider: &'a str,
    /// The image it starts from.
    pub image: &'a str,
    /// What it takes.
    pub takes: Resources,
    /// A number of the sandbox's own: workers that are equally good are chosen by it, so that
    /// servers that ask at the same time do not all choose the same.
    pub salt: u64,
}

/// What is known of a worker.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name.
    pub id: &'a WorkerId,
    /// Why it takes nothing new, whatever it is.
    pub unfit: Option<Unfit>,
    /// Whether it has the wanted provider, and that one is ready; `None` when it has none.
    pub provider_ready: Option<bool>,
    /// Whether the wanted image is there; `None` where none has to be imported.
    pub has_image: Option<bool>,
    /// Whether whoever places can call it.
    pub reachable: bool,
    /// Whether it failed lately: then it is asked when nobody else can take it.
    pub backed_off: bool,
    /// Whether the store refused it for this sandbox already.
    pub refused: bool,
    /// What it can hold.
    pub capacity: Resources,
    /// What is taken of that.
    pub load: Resources,
}

/// Why a worker was not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// It takes nothing new.
    Unfit(Unfit),
    /// It does not have the provider.
    NoProvider,
    /// It has the provider, which cannot run there now.
    NotReady,
    /// There is no way to call it.
    Unreachable,
    /// It does not have the image, and another one has.
    NoImage,
    /// It has no room.
    Full {
        /// What it can hold.
        capacity: Resources,
    },
    /// The store refused it a moment ago.
    Refused,
    /// Another one is better.
    Outscored,
}

/// The answer: who takes it, and why each of the others does not, in the order they were given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// The worker to ask.
    pub chosen: Option<WorkerId>,
    /// All others.
    pub rejected: Vec<(WorkerId, Rejection)>,
}

impl Placement {
    /// Whether some worker would do if only it had room, now or in a moment.
    pub fn waits_for_room(&self) -> bool {
        self.rejected
            .iter()
            .any(|(_, why)| matches!(why, Rejection::Full { .. } | Rejection::Refused))
    }
}

/// How many workers [`choose`] looks at.
const LOOKED: usize = 32;

/// Chooses as [`place`] does, in a time that does not grow with the workers: it looks at some of
/// those `likely` that have the image, by position, from one on that the sandbox's own number picks. Of many
/// workers a few random ones hold an empty one nearly always (Mitzenmacher, "The Power of Two
/// Choices in Randomized Load Balancing", 2001). `None` when none of those is a good choice: then
/// somebody has to look at all, and say why.
pub fn choose<'a>(
    wanted: &Wanted<'_>,
    likely: usize,
    candidate: impl Fn(usize) -> Option<Candidate<'a>>,
) -> Option<WorkerId> {
    let first = usize::try_from(spread(wanted.salt) >> 33).ok()?.checked_rem(likely)?;
    let looked = (0..likely.min(LOOKED)).filter_map(|step| candidate((first + step) % likely));
    let able = looked.filter(|candidate| rejection(wanted, candidate).is_none());
    let best = able.min_by(|a, b| compare(wanted, a, b))?;
    (best.has_image != Some(false) && !best.backed_off).then(|| best.id.clone())
}

/// Chooses a worker: of those that can take the sandbox, one that did not fail lately before one
/// that did, then the one that is least full afterwards, then by the sandbox's own number. One
/// without the image is asked only if none is known to have it, also where it has no room: what was
/// imported a moment ago may not be known yet. The order of the candidates changes nothing but the
/// order of the explanation.
pub fn place<'a>(
    wanted: &Wanted<'_>,
    candidates: impl IntoIterator<Item = Candidate<'a>>,
) -> Placement {
    let mut placement = Placement::default();
    let mut best: Option<Candidate<'a>> = None;
    let mut without_image = Vec::new();
    let mut is_somewhere = false;
    for candidate in candidates {
        let why = rejection(wanted, &candidate);
        let waits = matches!(why, None | Some(Rejection::Full { .. } | Rejection::Refused));
        is_somewhere |= waits && candidate.has_image == Some(true);
        match why {
            Some(why) => placement.rejected.push((candidate.id.clone(), why)),
            None if candidate.has_image == Some(false) => without_image.push(candidate),
            None => contend(wanted, &mut best, candidate, &mut placement),
        }
    }
    for candidate in without_image {
        match is_somewhere {
            true => placement.rejected.push((candidate.id.clone(), Rejection::NoImage)),
            false => contend(wanted, &mut best, candidate, &mut placement),
        }
    }
    placement.chosen = best.map(|best| best.id.clone());
    placement
}

/// Keeps the better of two.
fn contend<'a>(
    wanted: &Wanted<'_>,
    best: &mut Option<Candidate<'a>>,
    candidate: Candidate<'a>,
    placement: &mut Placement,
) {
    let loser = match *best {
        Some(other) if compare(wanted, &candidate, &other) != Ordering::Less => Some(candidate),
        other => {
            *best = Some(candidate);
            other
        }
    };
    placement.rejected.extend(loser.map(|loser| (loser.id.clone(), Rejection::Outscored)));
}

fn rejection(wanted: &Wanted<'_>, candidate: &Candidate<'_>) -> Option<Rejection> {
    match (candidate.unfit, candidate.provider_ready) {
        (Some(unfit), _) => return Some(Rejection::Unfit(unfit)),
        (None, None) => return Some(Rejection::NoProvider),
        (None, Some(false)) => return Some(Rejection::NotReady),
        (None, Some(true)) => {}
    }
    if !candidate.reachable {
        Some(Rejection::Unreachable)
    } else if candidate.refused {
        Some(Rejection::Refused)
    } else if !candidate.capacity.holds(&candidate.load.plus(wanted.takes)) {
        Some(Rejection::Full { capacity: candidate.capacity })
    } else {
        None
    }
}

/// Less is better.
fn compare(wanted: &Wanted<'_>, a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    a.backed_off
        .cmp(&b.backed_off)
        .then_with(|| {
            let lacks = |one: &Candidate<'_>| one.has_image == Some(false);
            lacks(a).cmp(&lacks(b))
        })
        .then_with(|| fullness(wanted, a).cmp(&fullness(wanted, b)))
        .then_with(|| draw(wanted.salt, a.id).cmp(&draw(wanted.salt, b.id)))
        .then_with(|| a.id.cmp(b.id))
}

/// How full a worker is with the sandbox, in millionths of what is scarcest there. One without any
/// limit counts as one that holds [`UNLIMITED`].
fn fullness(wanted: &Wanted<'_>, candidate: &Candidate<'_>) -> u64 {
    let (max, load) = (candidate.capacity, candidate.load.plus(wanted.takes));
    let share = |taken: u64, max: u64| taken.saturating_mul(1_000_000).checked_div(max);
    let shares = [
        share(load.sandboxes, max.sandboxes),
        share(load.memory_mb, max.memory_mb),
        share(load.vcpus, max.vcpus),
    ];
    let scarcest = shares.into_iter().flatten().max();
    scarcest.or_else(|| share(load.sandboxes, UNLIMITED)).unwrap_or(u64::MAX)
}

/// What a worker counts as holding that names no limit, so that it can be compared at all.
const UNLIMITED: u64 = 1_000;

/// A number that a sandbox and a worker make together (FNV-1a, finished as in MurmurHash3).
fn draw(salt: u64, id: &WorkerId) -> u64 {
    let bytes = salt.to_le_bytes().into_iter().chain(id.as_str().bytes());
    spread(bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

fn spread(number: u64) -> u64 {
    let number = (number ^ (number >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    number ^ (number >> 33)
}

/// The operator's sentence, to follow the worker's name.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit(unfit) => unfit.fmt(f),
            Self::NoProvider => f.write_str("it does not have the provider"),
            Self::Unreachable => f.write_str("this server has no way to call it"),
            Self::NoImage => f.write_str("it does not have the image, which another one has"),
            Self::NotReady => f.write_str("its provider cannot run there now"),
            Self::Full { capacity: Resources { sandboxes, memory_mb, vcpus } } => write!(
                f,
                "it has no room: it holds {sandboxes} sandboxes, {memory_mb} MiB and {vcpus} \
                 processors (0 is no limit)"
            ),
            Self::Refused => f.write_str("its place was taken meanwhile"),
            Self::Outscored => f.write_str("another one is better"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'_> = Wanted {
        provider: "native",
        image: "host",
        takes: Resources { sandboxes: 1, memory_mb: 100, vcpus: 1 },
        salt: 7,
    };

    fn id(name: &str) -> WorkerId {
        WorkerId::parse(name).unwrap()
    }

    fn able(id: &WorkerId) -> Candidate<'_> {
        Candidate {
            id,
            unfit: None,
            provider_ready: Some(true),
            has_image: Some(true),
            reachable: true,
            backed_off: false,
            refused: false,
            capacity: Resources { sandboxes: 10, memory_mb: 1000, vcpus: 10 },
            load: Resources { sandboxes: 5, memory_mb: 500, vcpus: 5 },
        }
    }

    /// R4.4: a reason for each worker that cannot take it.
    #[test]
    fn a_worker_that_cannot_take_it_says_why() {
        let id = id("w");
        let good = able(&id);
        let full = Resources { memory_mb: 901, ..good.load };
        for (candidate, why) in [
            (Candidate { unfit: Some(Unfit::Stale), ..good }, Rejection::Unfit(Unfit::Stale)),
            (Candidate { provider_ready: None, ..good }, Rejection::NoProvider),
            (Candidate { provider_ready: Some(false), ..good }, Rejection::NotReady),
            (Candidate { reachable: false, ..good }, Rejection::Unreachable),
            (Candidate { refused: true, ..good }, Rejection::Refused),
            (Candidate { load: full, ..good }, Rejection::Full { capacity: good.capacity }),
        ] {
            let placement = place(&WANTED, [candidate]);
            assert_eq!(placement.chosen, None);
            assert_eq!(placement.rejected, [(id.clone(), why)]);
        }
        assert_eq!(place(&WANTED, [good]).chosen, Some(id.clone()));
    }

    /// R4.3, R4.4: what nobody has may be anywhere; what somebody has is waited for there.
    #[test]
    fn an_image_is_looked_for_where_it_is() {
        let (a, b) = (id("a"), id("b"));
        let with = able(&a);
        let full = Candidate { load: Resources { vcpus: 10, ..with.load }, ..with };
        let without = Candidate { load: Resources::default(), has_image: Some(false), ..able(&b) };
        for holder in [with, Candidate { backed_off: true, ..with }] {
            for candidates in [[holder, without], [without, holder]] {
                let placement = place(&WANTED, candidates);
                assert_eq!(placement.chosen, Some(a.clone()));
                assert_eq!(placement.rejected, [(b.clone(), Rejection::NoImage)]);
            }
        }
        for holder in [full, Candidate { refused: true, ..with }] {
            let placement = place(&WANTED, [holder, without]);
            assert_eq!(placement.chosen, None);
            assert!(placement.waits_for_room(), "{placement:?}");
        }
        // Nobody who could ever take it has it, as far as is known.
        let gone = Candidate { unfit: Some(Unfit::Stale), ..with };
        for other in [gone, Candidate { has_image: Some(false), backed_off: true, ..with }] {
            assert_eq!(place(&WANTED, [other, without]).chosen, Some(b.clone()));
        }
    }

    /// R4.4: the emptier one by what is scarcest.
    #[test]
    fn room_is_what_is_scarcest() {
        let (a, b) = (id("a"), id("b"));
        let fuller = Candidate { load: Resources { vcpus: 9, ..able(&a).load }, ..able(&a) };
        let empty = Candidate { load: Resources::default(), ..able(&b) };
        assert_eq!(place(&WANTED, [fuller, empty]).chosen, Some(b.clone()));
        let many_small =
            Candidate { load: Resources { sandboxes: 8, ..able(&b).load }, ..able(&b) };
        assert_eq!(place(&WANTED, [fuller, many_small]).chosen, Some(b));
    }

    /// R4.4: a worker that stopped answering is skipped, as long as there is another one.
    #[test]
    fn a_worker_that_failed_lately_is_the_last_choice() {
        let (a, b) = (id("a"), id("b"));
        let failed = Candidate { backed_off: true, load: Resources::default(), ..able(&a) };
        assert_eq!(place(&WANTED, [failed, able(&b)]).chosen, Some(b));
        assert_eq!(place(&WANTED, [failed]).chosen, Some(a));
    }

    /// R4.4: a stable order.
    #[test]
    fn the_order_of_the_candidates_changes_nothing() {
        let ids: Vec<_> = (0..20).map(|number| id(&format!("w{number}"))).collect();
        for salt in 0..50 {
            let wanted = Wanted { salt, ..WANTED };
            let forward = place(&wanted, ids.iter().map(able));
            let backward = place(&wanted, ids.iter().rev().map(able));
            assert_eq!(forward.chosen, backward.chosen);
            assert_eq!(forward.rejected.len(), 19);
        }
    }

    #[test]
    fn equal_workers_share_what_many_servers_place_at_once() {
        let ids: Vec<_> = (0..4).map(|number| id(&format!("w{number}"))).collect();
        let mut counts = [0; 4];
        for salt in 0..4000 {
            let wanted = Wanted { salt: u64::wrapping_mul(salt, 0x9e37_79b9_7f4a_7c15), ..WANTED };
            let chosen = place(&wanted, ids.iter().map(able)).chosen.unwrap();
            counts[ids.iter().position(|id| *id == chosen).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn workers_without_limits_are_compared_by_number() {
        let (a, b) = (id("a"), id("b"));
        let free = |id, sandboxes| Candidate {
            capacity: Resources::default(),
            load: Resources { sandboxes, memory_mb: sandboxes * 512, vcpus: sandboxes },
            ..able(id)
        };
        assert_eq!(place(&WANTED, [free(&a, 3), free(&b, 2)]).chosen, Some(b));
    }

    /// R4.4: one of few workers is the same whether all are looked at or those that have the image.
    #[test]
    fn a_choice_among_few_is_the_one_among_all() {
        let ids: Vec<_> = (0..20).map(|number| id(&format!("w{number}"))).collect();
        let of = |salt: u64, number: usize| Candidate {
            load: Resources { sandboxes: (salt + number as u64) % 10, ..Resources::default() },
            backed_off: (salt + number as u64).is_multiple_of(3),
            has_image: Some(number < 10),
            ..able(&ids[number])
        };
        for salt in 0..200 {
            let wanted = Wanted { salt, ..WANTED };
            let all = place(&wanted, (0..20).map(|number| of(salt, number)));
            assert_eq!(choose(&wanted, 10, |number| Some(of(salt, number))), all.chosen);
        }
    }

    /// R4.4: however many there are, a bounded number is looked at, and nobody is chosen whom
    /// another would be better than for a reason that is no matter of room.
    #[test]
    fn a_choice_among_many_looks_at_some_and_takes_a_good_one() {
        let ids: Vec<_> = (0..1000).map(|number| id(&format!("w{number}"))).collect();
        let mut times = vec![0_u32; 1000];
        for salt in 0..4000 {
            let looked = std::cell::Cell::new(0);
            let chosen = choose(&Wanted { salt, ..WANTED }, 1000, |number| {
                looked.set(looked.get() + 1);
                let backed_off = number.is_multiple_of(2);
                let refused = number.is_multiple_of(5);
                Some(Candidate { refused, backed_off, ..able(&ids[number]) })
            });
            let chosen = ids.iter().position(|id| Some(id) == chosen.as_ref()).unwrap();
            assert!(!chosen.is_multiple_of(2) && !chosen.is_multiple_of(5));
            assert!(looked.get() <= LOOKED);
            times[chosen] += 1;
        }
        let most = times.iter().max().copied();
        assert!(most < Some(40), "each of 400 is chosen about ten times: {most:?}");
        let none = |number: usize| Some(Candidate { backed_off: true, ..able(&ids[number]) });
        assert_eq!(choose(&WANTED, 1000, none), None, "somebody has to look at all");
        assert_eq!(choose(&WANTED, 0, none), None);
    }
}
