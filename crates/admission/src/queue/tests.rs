use std::collections::BTreeMap;

use proptest::prelude::*;
use stacyvm_types::OwnerId;

use super::{Blocked, Lane, Priority, Queue, Ticket, Weight, model::Model};

fn lane(number: u8) -> Lane {
    (number != 0).then(|| OwnerId::parse(&format!("owner-{number}")).unwrap())
}

#[derive(Debug, Clone)]
enum Step {
    Join { lane: u8, weight: u8, priority: u8 },
    Admit,
    BlockNext { all: bool },
    Leave { which: prop::sample::Index },
    Freed { lane: u8 },
    UnblockAll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0_u8..6, 1_u8..=4, 0_u8..=9)
            .prop_map(|(lane, weight, priority)| Step::Join { lane, weight, priority }),
        4 => Just(Step::Admit),
        2 => any::<bool>().prop_map(|all| Step::BlockNext { all }),
        1 => any::<prop::sample::Index>().prop_map(|which| Step::Leave { which }),
        2 => (0_u8..6).prop_map(|lane| Step::Freed { lane }),
        1 => Just(Step::UnblockAll),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    /// R3.5
    #[test]
    fn the_queue_answers_as_its_model_does(steps in steps()) {
        let (mut queue, mut model) = (Queue::default(), Model::default());
        let mut waiting = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Join { lane: number_of_lane, weight, priority } => {
                    let ticket = Ticket(number as u64);
                    let (weight, priority) = (Weight(weight), Priority(priority));
                    queue.join(ticket, lane(number_of_lane), weight, priority);
                    model.join(ticket, lane(number_of_lane), weight, priority);
                    waiting.push(ticket);
                }
                Step::Admit => if let Some(next) = model.next() {
                    queue.admitted(next);
                    model.admitted(next);
                    waiting.retain(|ticket| *ticket != next);
                },
                Step::BlockNext { all } => if let Some(next) = model.next() {
                    let what = if all { Blocked::All } else { Blocked::Lane };
                    queue.block(next, what);
                    model.block(next, what);
                },
                Step::Leave { which } => if !waiting.is_empty() {
                    let ticket = waiting.remove(which.index(waiting.len()));
                    prop_assert_eq!(queue.leave(ticket), model.leave(ticket));
                    prop_assert!(!queue.leave(ticket), "it left once");
                },
                Step::Freed { lane: number } => {
                    queue.freed(&lane(number));
                    model.freed(&lane(number));
                }
                Step::UnblockAll => {
                    queue.unblock_all();
                    model.unblock_all();
                }
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.next(), model.next());
            for number in 0..6 {
                let lane = lane(number);
                let weight = Weight(number + 1);
                prop_assert_eq!(queue.gives_way(&lane, weight), model.gives_way(&lane, weight));
            }
        }
        queue.unblock_all();
        while let Some(next) = queue.next() {
            queue.admitted(next);
            waiting.retain(|ticket| *ticket != next);
        }
        prop_assert!(waiting.is_empty(), "everybody got a turn");
        prop_assert!(queue.lanes.is_empty() && queue.ahead.is_empty() && queue.longest.is_empty(), "nothing is left behind");
    }

    /// R3.5: the bound that the module states.
    #[test]
    fn nobody_waits_longer_than_the_others_weights_say(
        weights in prop::collection::vec(1_u8..=9, 2..6),
        arrivals in prop::collection::vec((0_usize..6, any::<bool>()), 1..300),
    ) {
        let mut queue = Queue::default();
        let mut owner = BTreeMap::new();
        // For each lane with a waiter: how often each other lane was admitted since its head came
        // to be the head.
        let mut since = vec![vec![0_u32; weights.len()]; weights.len()];
        let lane = |number: usize| lane(u8::try_from(number).unwrap() + 1);
        for (ticket, (number, admit)) in (0..).map(Ticket).zip(arrivals) {
            let number = number % weights.len();
            if queue.len_of(&lane(number)) == 0 {
                since[number].fill(0);
            }
            owner.insert(ticket, number);
            queue.join(ticket, lane(number), Weight(weights[number]), Priority(0));
            if !admit {
                continue;
            }
            let next = queue.next().unwrap();
            queue.admitted(next);
            let winner = owner[&next];
            since[winner].fill(0);
            for (loser, counts) in since.iter_mut().enumerate() {
                if loser == winner || queue.len_of(&lane(loser)) == 0 {
                    continue;
                }
                counts[winner] += 1;
                let bound = u32::from(weights[winner].div_ceil(weights[loser])) + 1;
                prop_assert!(counts[winner] <= bound, "{counts:?} of {loser} by {winner}");
            }
        }
    }
}

#[test]
fn lanes_take_turns_whatever_one_of_them_brings() {
    let mut queue = Queue::default();
    for number in 0..100 {
        queue.join(Ticket(number), lane(1), Weight(1), Priority(0));
    }
    queue.join(Ticket(100), lane(2), Weight(1), Priority(0));
    queue.join(Ticket(101), lane(2), Weight(1), Priority(0));
    let mut order = Vec::new();
    for _ in 0..4 {
        let next = queue.next().unwrap();
        queue.admitted(next);
        order.push(next.0);
    }
    assert_eq!(order, [0, 100, 1, 101]);
}

#[test]
fn a_queue_that_emptied_does_not_know_any_more_that_all_was_full() {
    let mut queue = Queue::default();
    queue.join(Ticket(1), lane(1), Weight(1), Priority(0));
    queue.block(Ticket(1), Blocked::All);
    queue.leave(Ticket(1));
    queue.join(Ticket(2), lane(2), Weight(1), Priority(0));
    assert_eq!(queue.next(), Some(Ticket(2)));
}

#[test]
fn a_lane_that_was_away_has_saved_up_nothing() {
    let mut queue = Queue::default();
    for number in 0..20 {
        queue.join(Ticket(number), lane(1), Weight(1), Priority(0));
    }
    for number in 0..10 {
        queue.admitted(Ticket(number));
    }
    for number in 20..30 {
        queue.join(Ticket(number), lane(2), Weight(1), Priority(0));
    }
    let mut turns = [0; 2];
    for _ in 0..10 {
        let next = queue.next().unwrap();
        queue.admitted(next);
        turns[usize::from(next.0 >= 20)] += 1;
    }
    assert_eq!(turns, [5, 5]);
}

#[test]
fn priority_overtakes_a_bounded_number_of_its_own_lane() {
    let mut queue = Queue::default();
    for number in 0..40 {
        queue.join(Ticket(number), lane(1), Weight(1), Priority(0));
    }
    queue.join(Ticket(100), lane(1), Weight(1), Priority(1));
    queue.join(Ticket(200), lane(2), Weight(1), Priority(0));
    assert_eq!(queue.ahead_of(&lane(1), Weight(1), Priority(9)), 1);
    let order: Vec<_> = std::iter::from_fn(|| {
        let next = queue.next()?;
        queue.admitted(next);
        Some(next.0)
    })
    .collect();
    let at = |ticket| order.iter().position(|other| *other == ticket).unwrap();
    assert_eq!(at(200), 1, "another lane does not wait for it");
    let overtaken = (0..40).filter(|number| at(100) < at(*number)).count() as u64;
    assert_eq!(overtaken, Priority::STEP - 1);
}

/// R3.5
#[test]
fn the_longest_lane_gives_way_until_all_have_their_share() {
    let mut queue = Queue::default();
    let others = |queue: &Queue| queue.gives_way(&lane(2), Weight(1));
    assert_eq!(others(&queue), None, "nobody waits");
    for number in 0..6 {
        queue.join(Ticket(number), lane(1), Weight(1), Priority(0));
    }
    assert_eq!(queue.gives_way(&lane(1), Weight(1)), None, "not to its own");
    assert_eq!(queue.gives_way(&lane(2), Weight(2)), Some(Ticket(5)));
    for (number, last) in (6..9).zip([5, 4, 3]) {
        assert_eq!(others(&queue), Some(Ticket(last)));
        queue.leave(Ticket(last));
        queue.join(Ticket(number), lane(2), Weight(1), Priority(0));
    }
    assert_eq!(others(&queue), None, "three and three");
    assert_eq!(queue.gives_way(&lane(1), Weight(1)), None, "nobody is driven out by turns");
}

#[test]
fn a_lane_that_waits_for_itself_is_in_nobodys_way() {
    let mut queue = Queue::default();
    assert!(queue.is_open_to(&lane(1)));
    queue.join(Ticket(1), lane(1), Weight(1), Priority(0));
    assert!(!queue.is_open_to(&lane(2)), "it could be the next");
    queue.block(Ticket(1), Blocked::Lane);
    assert!(queue.is_open_to(&lane(2)) && !queue.is_open_to(&lane(1)));
    queue.join(Ticket(2), lane(3), Weight(1), Priority(0));
    queue.block(Ticket(2), Blocked::All);
    assert!(!queue.is_open_to(&lane(2)));
}

#[test]
fn weights_and_priorities_are_bounded() {
    assert_eq!(Weight::new(0), None);
    assert_eq!(Weight::new(101), None);
    assert_eq!(Weight::new(100).map(Weight::get), Some(100));
    assert_eq!(Priority::new(10), None);
    assert!(Priority::new(9).is_some());
}
