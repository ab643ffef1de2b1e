//! Everything that can happen next.

use stacyvm_types::{Cause, CauseKind, Seen, Transition, Verdict};

use super::{Lease, Message, Rules, SANDBOXES, Stage, State, To, WORKERS, generation};

/// The highest generation that is looked at.
const MOST: u64 = 3;

/// Every state that follows from one, with what happens between.
pub(crate) fn after(state: &State, rules: Rules) -> Vec<(What, State)> {
    let mut steps = Steps { state, rules, found: Vec::with_capacity(32) };
    steps.workers();
    steps.rows();
    steps.wire();
    steps.found
}

/// What happened between two states: to workers, or sandboxes, or sandboxes on workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Heard(usize),
    Lapses(usize),
    MarginOver(usize),
    Crashes(usize),
    StartsAgain(usize),
    EndsItself(usize, usize),
    Buries(usize, usize),
    Forgets(usize, usize),
    Given(usize, usize),
    AcquiredAnew(usize, usize),
    MarkedUnhealthy(usize),
    ToEnd(usize),
    Sent(Message),
    Arrives(Message),
    ArrivesAndStays(Message),
    Lost(Message),
}

struct Steps<'s> {
    state: &'s State,
    rules: Rules,
    found: Vec<(What, State)>,
}

impl Steps<'_> {
    fn add(&mut self, what: What, next: State) {
        if next.wire.len() <= self.rules.wire && next != *self.state {
            self.found.push((what, next));
        }
    }

    const fn to(sandbox: usize, worker: usize, generation: u64) -> To {
        To { worker, sandbox, generation }
    }

    fn workers(&mut self) {
        for w in 0..WORKERS {
            let worker = self.state.workers[w];
            if worker.up && worker.lease != Lease::Held {
                let mut next = *self.state;
                next.workers[w].lease = Lease::Held;
                self.add(What::Heard(w), next);
            }
            if worker.lease == Lease::Held {
                let mut next = *self.state;
                next.workers[w].lease = Lease::Lapsed;
                self.add(What::Lapses(w), next);
            }
            let acts = self.state.sandboxes.iter().any(|sandbox| sandbox.on[w].runs);
            let ended = !(self.rules.marked && self.rules.ends_itself && acts);
            let calls = self.rules.bounded
                && self.state.wire.messages().any(|message| message.callee() == Some(w));
            if worker.lease == Lease::Lapsed && ended && !calls {
                let mut next = *self.state;
                next.workers[w].lease = Lease::Over;
                self.add(What::MarginOver(w), next);
            }
            if worker.up {
                let mut next = *self.state;
                next.workers[w].up = false;
                for sandbox in &mut next.sandboxes {
                    let seen = &mut sandbox.on[w].seen;
                    *seen = Seen {
                        live: seen.live.filter(|_| self.rules.remembered),
                        gone: seen.gone.filter(|_| self.rules.graves),
                    };
                }
                self.add(What::Crashes(w), next);
            }
            if !worker.up {
                let mut next = *self.state;
                next.workers[w].up = true;
                self.add(What::StartsAgain(w), next);
            }
            for s in 0..self.rules.sandboxes.min(SANDBOXES) {
                self.host(w, s);
            }
        }
    }

    /// What happens to a sandbox on a worker by itself.
    fn host(&mut self, w: usize, s: usize) {
        let place = self.state.sandboxes[s].on[w];
        let lapsed = self.state.workers[w].lease != Lease::Held;
        if place.runs && self.rules.marked && self.rules.ends_itself && lapsed {
            let mut next = *self.state;
            next.sandboxes[s].on[w].runs = false;
            self.add(What::EndsItself(s, w), next);
        }
        if self.state.workers[w].up && !place.runs && place.seen.live.is_some() {
            let mut next = *self.state;
            next.sandboxes[s].on[w].seen = Seen { live: None, gone: place.seen.highest() };
            self.add(What::Buries(w, s), next);
        }
        let late =
            |message| matches!(message, Message::Spawn(to) if to.worker == w && to.sandbox == s);
        if place.seen.gone.is_some() && !self.state.wire.messages().any(late) {
            let mut next = *self.state;
            next.sandboxes[s].on[w].seen.gone = None;
            self.add(What::Forgets(w, s), next);
        }
    }

    fn rows(&mut self) {
        for s in 0..self.rules.sandboxes.min(SANDBOXES) {
            let row = self.state.sandboxes[s].row;
            let holder = self.state.workers[row.holder];
            match row.stage {
                Stage::None => {
                    for w in 0..WORKERS {
                        self.launch(s, w);
                    }
                }
                Stage::Creating | Stage::Running | Stage::Unhealthy => {
                    if holder.lease != Lease::Held {
                        self.transition(
                            s,
                            Transition::Lost(why().detail),
                            What::MarkedUnhealthy(s),
                        );
                    }
                    self.transition(s, Transition::Stop(why()), What::ToEnd(s));
                    if row.stage == Stage::Running && holder.lease == Lease::Held {
                        self.send(Message::Exec(Steps::to(s, row.holder, row.generation)));
                    }
                    if row.stage == Stage::Unhealthy {
                        self.unhealthy(s);
                    }
                }
                Stage::Stopping => {
                    self.send(Message::Destroy(Steps::to(s, row.holder, row.generation)));
                }
                Stage::Ended => {}
            }
        }
    }

    fn unhealthy(&mut self, s: usize) {
        let row = self.state.sandboxes[s].row;
        if self.state.workers[row.holder].lease == Lease::Held && row.generation < MOST {
            let mut next = *self.state;
            // Acquired anew for the same holder, and asked under the new generation.
            next.sandboxes[s].give(row.holder, true);
            let generation = next.sandboxes[s].row.generation;
            if !next.wire.insert(Message::Ask(Steps::to(s, row.holder, generation))) {
                return;
            }
            self.add(What::AcquiredAnew(s, row.holder), next);
        }
        let free = match self.state.workers[row.holder].lease {
            Lease::Held => false,
            Lease::Lapsed => !self.rules.margin,
            Lease::Over => true,
        };
        if self.rules.marked && free {
            for w in (0..WORKERS).filter(|w| *w != row.holder) {
                self.launch(s, w);
            }
        }
    }

    /// Gives a sandbox to a worker and sends the launch.
    fn launch(&mut self, s: usize, w: usize) {
        let row = self.state.sandboxes[s].row;
        if self.state.workers[w].lease != Lease::Held || MOST <= row.generation {
            return;
        }
        let mut next = *self.state;
        next.sandboxes[s].give(w, self.rules.raised);
        next.sandboxes[s].row.stage = Stage::Creating;
        let generation = next.sandboxes[s].row.generation;
        if !next.wire.insert(Message::Spawn(Steps::to(s, w, generation))) {
            return;
        }
        self.add(What::Given(s, w), next);
    }

    fn transition(&mut self, s: usize, transition: Transition, what: What) {
        let mut next = *self.state;
        if let Some(stage) = self.state.sandboxes[s].row.stage.step(transition) {
            next.sandboxes[s].row.stage = stage;
            self.add(what, next);
        }
    }

    fn send(&mut self, message: Message) {
        let mut next = *self.state;
        if !next.wire.insert(message) {
            return;
        }
        self.add(What::Sent(message), next);
    }

    fn wire(&mut self) {
        for message in self.state.wire.messages() {
            let mut lost = *self.state;
            lost.wire.retain(|other| other != message);
            for (mut next, what) in
                [(lost, What::Arrives(message)), (*self.state, What::ArrivesAndStays(message))]
            {
                self.deliver(message, &mut next);
                self.add(what, next);
            }
            self.add(What::Lost(message), lost);
        }
    }

    fn deliver(&self, message: Message, next: &mut State) {
        match message {
            Message::Spawn(to) => self.spawn(to, next),
            Message::Exec(to) => {
                if self.admits(to, next, Seen::judge)
                    && next.sandboxes[to.sandbox].on[to.worker].runs
                {
                    next.sandboxes[to.sandbox].act(to.generation);
                }
            }
            Message::Destroy(to) => {
                let sandbox = to.sandbox;
                if self.admits(to, next, Seen::judge) {
                    let place = &mut next.sandboxes[sandbox].on[to.worker];
                    let ran = place.runs;
                    place.runs = false;
                    place.seen = Seen { live: None, gone: place.seen.highest() };
                    if ran {
                        next.sandboxes[sandbox].act(to.generation);
                    }
                    next.wire.insert(Message::Gone { sandbox, generation: to.generation });
                }
            }
            Message::Ask(to) => self.ask(to, next),
            Message::Started { sandbox, generation } => {
                self.told(sandbox, generation, Transition::Started, next);
            }
            Message::Present { sandbox, generation } => {
                self.told(sandbox, generation, Transition::Recovered, next);
            }
            Message::Gone { sandbox, generation } => {
                self.told(sandbox, generation, Transition::Gone, next);
            }
            Message::Absent { sandbox, generation } => {
                // Its holder was asked and said that there is none: it may start elsewhere.
                let row = next.sandboxes[sandbox].row;
                let other = (row.holder + 1) % WORKERS;
                let free = next.workers[other].lease == Lease::Held;
                if row.stage == Stage::Unhealthy
                    && row.generation == generation
                    && free
                    && generation < MOST
                {
                    next.sandboxes[sandbox].give(other, self.rules.raised);
                    next.sandboxes[sandbox].row.stage = Stage::Creating;
                    let generation = next.sandboxes[sandbox].row.generation;
                    next.wire.insert(Message::Spawn(Steps::to(sandbox, other, generation)));
                }
            }
        }
    }

    /// An answer about a sandbox: it moves the row of the generation that it was asked under.
    fn told(&self, sandbox: usize, generation: u64, transition: Transition, next: &mut State) {
        let row = &mut next.sandboxes[sandbox].row;
        if row.generation == generation
            && let Some(stage) = row.stage.step(transition)
        {
            row.stage = stage;
        }
    }

    fn spawn(&self, to: To, next: &mut State) {
        if self.admits(to, next, Seen::judge_launch) {
            let sandbox = &mut next.sandboxes[to.sandbox];
            if !sandbox.on[to.worker].runs {
                sandbox.on[to.worker].runs = true;
                sandbox.act(to.generation);
            }
            let (sandbox, generation) = (to.sandbox, to.generation);
            next.wire.insert(Message::Started { sandbox, generation });
        }
    }

    fn ask(&self, to: To, next: &mut State) {
        let To { sandbox, generation, worker, .. } = to;
        let answers = if self.rules.asking_fences {
            self.admits(to, next, Seen::judge)
        } else {
            next.workers[worker].up
        };
        if answers {
            let runs = next.sandboxes[sandbox].on[worker].runs;
            next.wire.insert(if runs {
                Message::Present { sandbox, generation }
            } else {
                Message::Absent { sandbox, generation }
            });
        }
    }

    /// Whether a worker takes a call; it remembers the generation of one that it takes.
    fn admits(
        &self,
        to: To,
        next: &mut State,
        judge: fn(Seen, stacyvm_types::Generation) -> Verdict,
    ) -> bool {
        let worker = next.workers[to.worker];
        if !worker.up {
            return false;
        }
        let seen = &mut next.sandboxes[to.sandbox].on[to.worker].seen;
        let verdict = judge(*seen, generation(to.generation));
        match verdict {
            Verdict::Stale | Verdict::Ended if self.rules.fenced => false,
            Verdict::Newer => {
                seen.live = Some(generation(to.generation));
                true
            }
            Verdict::Known | Verdict::Stale | Verdict::Ended => true,
        }
    }
}

const fn why() -> Cause {
    Cause { kind: CauseKind::WorkerLost, detail: String::new() }
}
