//! Everything that can happen next.

use stacyvm_types::{Cause, CauseKind, Seen, Transition, Verdict};

use super::{Lease, Message, Rules, Stage, State, To, WORKERS, generation};

/// The highest generation and term that are looked at.
const MOST: u64 = 3;
const TERMS: u8 = 3;

/// Every state that follows from one, with what happens between.
pub(crate) fn after(state: &State, rules: Rules) -> Vec<(String, State)> {
    let mut steps = Steps { state, rules, found: Vec::new() };
    steps.workers();
    steps.rows();
    steps.wire();
    steps.found
}

struct Steps<'s> {
    state: &'s State,
    rules: Rules,
    found: Vec<(String, State)>,
}

impl Steps<'_> {
    fn add(&mut self, what: String, next: State) {
        if next.wire.len() <= self.rules.wire && next != *self.state {
            self.found.push((what, next));
        }
    }

    fn to(&self, sandbox: usize, worker: usize, generation: u64) -> To {
        let term = if self.rules.termed { self.state.workers[worker].term } else { 0 };
        To { worker, sandbox, generation, term }
    }

    fn workers(&mut self) {
        for w in 0..WORKERS {
            let worker = self.state.workers[w];
            if worker.up && worker.lease != Lease::Held && worker.term < TERMS {
                let mut next = self.state.clone();
                next.workers[w].lease = Lease::Held;
                next.workers[w].term += 1;
                self.add(format!("worker {w} is heard again"), next);
            }
            if worker.lease == Lease::Held {
                let mut next = self.state.clone();
                next.workers[w].lease = Lease::Lapsed;
                self.add(format!("the lease of worker {w} lapses"), next);
            }
            let acts = self.state.sandboxes.iter().any(|sandbox| sandbox.on[w].runs);
            let ended = !(self.rules.marked && self.rules.ends_itself && acts);
            if worker.lease == Lease::Lapsed && ended {
                let mut next = self.state.clone();
                next.workers[w].lease = Lease::Over;
                self.add(format!("the margin of worker {w} is over"), next);
            }
            if worker.up && self.state.crashes < self.rules.crashes {
                let mut next = self.state.clone();
                next.crashes += 1;
                next.workers[w].up = false;
                for sandbox in &mut next.sandboxes {
                    let seen = &mut sandbox.on[w].seen;
                    *seen = Seen {
                        live: seen.live.filter(|_| self.rules.remembered),
                        // Graves are kept in memory.
                        gone: None,
                    };
                }
                self.add(format!("worker {w} crashes"), next);
            }
            if !worker.up && worker.term < TERMS {
                let mut next = self.state.clone();
                next.workers[w].up = true;
                next.workers[w].term += 1;
                self.add(format!("worker {w} starts again"), next);
            }
            for s in 0..self.rules.sandboxes {
                self.host(w, s);
            }
        }
    }

    /// What happens to a sandbox on a worker by itself.
    fn host(&mut self, w: usize, s: usize) {
        let place = self.state.sandboxes[s].on[w];
        let lapsed = self.state.workers[w].lease != Lease::Held;
        if place.runs && self.rules.marked && self.rules.ends_itself && lapsed {
            let mut next = self.state.clone();
            next.sandboxes[s].on[w].runs = false;
            self.add(format!("the runtime of {s} on {w} ends by itself"), next);
        }
        if self.state.workers[w].up && !place.runs && place.seen.live.is_some() {
            let mut next = self.state.clone();
            next.sandboxes[s].on[w].seen = Seen { live: None, gone: place.seen.highest() };
            self.add(format!("worker {w} buries {s}"), next);
        }
        let late = |message: &Message| matches!(message, Message::Spawn(to) if to.worker == w && to.sandbox == s);
        if place.seen.gone.is_some() && !self.state.wire.iter().any(late) {
            let mut next = self.state.clone();
            next.sandboxes[s].on[w].seen.gone = None;
            self.add(format!("worker {w} forgets the grave of {s}"), next);
        }
    }

    fn rows(&mut self) {
        for s in 0..self.rules.sandboxes {
            let row = self.state.sandboxes[s].row;
            let holder = self.state.workers[row.holder];
            match row.stage {
                Stage::None => {
                    for w in 0..WORKERS {
                        self.launch(s, w, "is admitted");
                    }
                }
                Stage::Creating | Stage::Running | Stage::Unhealthy => {
                    if holder.lease != Lease::Held {
                        self.transition(s, Transition::Lost(why()), "is marked unhealthy");
                    }
                    self.transition(s, Transition::Stop(why()), "is to end");
                    if row.stage == Stage::Running && holder.lease == Lease::Held {
                        self.send(Message::Exec(self.to(s, row.holder, row.generation)));
                    }
                    if row.stage == Stage::Unhealthy {
                        self.unhealthy(s);
                    }
                }
                Stage::Stopping => {
                    self.send(Message::Destroy(self.to(s, row.holder, row.generation)));
                }
                Stage::Ended => {}
            }
        }
    }

    fn unhealthy(&mut self, s: usize) {
        let row = self.state.sandboxes[s].row;
        if self.state.workers[row.holder].lease == Lease::Held && row.generation < MOST {
            let mut next = self.state.clone();
            // Acquired anew for the same holder, and asked under the new generation.
            next.sandboxes[s].give(row.holder, true);
            let generation = next.sandboxes[s].row.generation;
            next.wire.insert(Message::Ask(self.to(s, row.holder, generation)));
            self.add(format!("{s} is acquired anew for {}", row.holder), next);
        }
        let free = match self.state.workers[row.holder].lease {
            Lease::Held => false,
            Lease::Lapsed => !self.rules.margin,
            Lease::Over => true,
        };
        if self.rules.marked && free {
            for w in (0..WORKERS).filter(|w| *w != row.holder) {
                self.launch(s, w, "is taken over");
            }
        }
    }

    /// Gives a sandbox to a worker and sends the launch.
    fn launch(&mut self, s: usize, w: usize, how: &str) {
        let row = self.state.sandboxes[s].row;
        if self.state.workers[w].lease != Lease::Held || MOST <= row.generation {
            return;
        }
        let mut next = self.state.clone();
        next.sandboxes[s].give(w, self.rules.raised);
        next.sandboxes[s].row.stage = Stage::Creating;
        let generation = next.sandboxes[s].row.generation;
        next.wire.insert(Message::Spawn(self.to(s, w, generation)));
        self.add(format!("{s} {how} on {w}"), next);
    }

    fn transition(&mut self, s: usize, transition: Transition, how: &str) {
        let mut next = self.state.clone();
        if let Some(stage) = self.state.sandboxes[s].row.stage.step(transition) {
            next.sandboxes[s].row.stage = stage;
            self.add(format!("{s} {how}"), next);
        }
    }

    fn send(&mut self, message: Message) {
        let mut next = self.state.clone();
        next.wire.insert(message);
        self.add(format!("{message:?} is sent"), next);
    }

    fn wire(&mut self) {
        for message in &self.state.wire {
            let mut lost = self.state.clone();
            lost.wire.remove(message);
            for (kept, how) in [(false, "arrives"), (true, "arrives, and once more later")] {
                let mut next = if kept { self.state.clone() } else { lost.clone() };
                self.deliver(*message, &mut next);
                self.add(format!("{message:?} {how}"), next);
            }
            self.add(format!("{message:?} is lost"), lost);
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
                    next.wire.insert(Message::Spawn(self.to(sandbox, other, generation)));
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
        let worker = next.workers[to.worker];
        if self.rules.own_lease && worker.lease != Lease::Held {
            return;
        }
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
        if !worker.up || (self.rules.termed && worker.term != to.term) {
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
