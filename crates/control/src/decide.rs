//! What to do about one sandbox, from its row and its runtime. Pure.

use std::time::Duration;

use stacyvm_provider::RuntimeState;
use stacyvm_store::Sandbox;
use stacyvm_types::{Cause, CauseKind, Phase, Timestamp};

use crate::sandboxes::expiry_of;

/// How long nobody must have said of a row that its start goes on before that counts as interrupted.
/// Whoever starts it says so every 20 s.
const CREATING_DEADLINE: Duration = Duration::from_secs(90);
/// How long after its latest deadline a runtime is certainly gone, whoever was heard meanwhile: a
/// worker ends each by itself, counting from when it heard of the deadline, which is at most the
/// longest call later, with a clock that may be a little slow.
const OUTLIVED: Duration = Duration::from_secs(5 * 60);

/// Which pass looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The first one, before requests: nobody else works on anything.
    Startup,
    /// A later one.
    Running,
}

/// What is known of a sandbox's runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Its provider did not answer.
    Unknown,
    /// Its worker was not heard of in time, or never.
    NoWorker,
    /// Its provider says that there is none.
    Absent,
    /// It is there, in this state.
    Present(RuntimeState),
}

/// The one thing to do for a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// The runtime answers: the row says so from now on.
    Adopt,
    /// The worker is back and the runtime lives.
    Recover,
    /// The worker is gone.
    Lose(String),
    /// The sandbox must end.
    Stop(Cause),
    /// The end is decided: destroy what is left and end the row.
    Finish,
    /// The end is decided, nobody can be asked, and the worker has ended the runtime by itself long
    /// ago: end the row.
    Conclude,
    /// A runtime that no live row names must go.
    DestroyOrphan,
}

/// Decides the one step for a sandbox. Pure.
pub fn decide(
    row: Option<&Sandbox>,
    seen: Seen,
    pass: Pass,
    in_flight: bool,
    now: Timestamp,
) -> Step {
    use RuntimeState::{Dead, Paused, Running};
    if in_flight {
        return Step::Nothing;
    }
    let orphan = |seen| match seen {
        Seen::Present(_) => Step::DestroyOrphan,
        Seen::Unknown | Seen::NoWorker | Seen::Absent => Step::Nothing,
    };
    let Some(row) = row else { return orphan(seen) };
    let is_over = row.spec.expires_at <= now;
    let died = |detail: &str| Step::Stop(Cause::new(CauseKind::RuntimeDied, detail));
    match (&row.phase, seen) {
        (Phase::Ended(_), seen) => orphan(seen),
        (Phase::Stopping(_), Seen::NoWorker) if row.latest_end.saturating_add(OUTLIVED) <= now => {
            Step::Conclude
        }
        (Phase::Stopping(_), _) => Step::Finish,
        _ if is_over => Step::Stop(expiry_of(row)),
        (Phase::Creating | Phase::Running | Phase::Paused, Seen::NoWorker) => {
            Step::Lose(format!("its worker {} is not heard of", row.spec.worker))
        }
        (Phase::Creating, seen) => decide_creating(row, seen, pass, now),
        (Phase::Running | Phase::Paused, Seen::Present(Running | Paused) | Seen::Unknown)
        | (Phase::Unhealthy(_), Seen::Unknown | Seen::NoWorker) => Step::Nothing,
        // Its worker was lost while it was being started: a template may be half set up, and nobody
        // was told of it yet.
        (Phase::Unhealthy(lost), seen) if lost.kind == CauseKind::LaunchInterrupted => match seen {
            Seen::Present(Running | Paused) if row.spec.template.is_none() => Step::Recover,
            _ => Step::Stop(lost.clone()),
        },
        (Phase::Unhealthy(_), Seen::Present(Running | Paused)) => Step::Recover,
        (_, Seen::Present(Dead)) => died("its first process ended"),
        (_, Seen::Absent) => died("its runtime is gone"),
    }
}

/// A creation that nobody works on. Before the first request the runtime, if it answers, is what
/// was asked for and is kept; but not when a template's lines may have been cut short. A host that
/// dies takes the runtime along and may take the word that it had started, too.
fn decide_creating(row: &Sandbox, seen: Seen, pass: Pass, now: Timestamp) -> Step {
    let interrupted = |detail: &str| Step::Stop(Cause::new(CauseKind::LaunchInterrupted, detail));
    match (pass, seen) {
        (Pass::Startup, Seen::Present(RuntimeState::Running | RuntimeState::Paused)) => {
            if row.spec.template.is_none() {
                Step::Adopt
            } else {
                interrupted("the server stopped while its template was set up")
            }
        }
        (Pass::Startup, Seen::Absent | Seen::Present(RuntimeState::Dead)) => {
            interrupted("the server or its host stopped while it was being started or just after")
        }
        _ if row.updated_at.saturating_add(CREATING_DEADLINE) <= now => {
            interrupted("its start was interrupted and nobody finished it")
        }
        _ => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use stacyvm_store::NewSandbox;
    use stacyvm_types::{Generation, Limits, SandboxId, WorkerId};

    use super::*;

    const BORN: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn at(seconds: u64) -> Timestamp {
        BORN.saturating_add(Duration::from_secs(seconds))
    }

    fn row(phase: Phase) -> Sandbox {
        Sandbox {
            spec: NewSandbox {
                id: SandboxId::from_entropy([1; 10]),
                owner: None,
                provider: "fake".to_owned(),
                worker: WorkerId::parse("local").unwrap(),
                image: "host".to_owned(),
                template: None,
                limits: Limits::DEFAULT,
                metadata: [].into(),
                env: [].into(),
                expires_at: at(1000),
            },
            latest_end: at(1000),
            phase,
            generation: Generation(1),
            version: 1,
            created_at: BORN,
            updated_at: BORN,
        }
    }

    fn why() -> Cause {
        Cause::new(CauseKind::Requested, "destroyed by request")
    }

    fn phases() -> [Phase; 6] {
        [
            Phase::Creating,
            Phase::Running,
            Phase::Paused,
            Phase::Unhealthy(why()),
            Phase::Stopping(why()),
            Phase::Ended(why()),
        ]
    }

    const SEEN: [Seen; 6] = [
        Seen::Unknown,
        Seen::NoWorker,
        Seen::Absent,
        Seen::Present(RuntimeState::Running),
        Seen::Present(RuntimeState::Paused),
        Seen::Present(RuntimeState::Dead),
    ];

    /// One letter per step: the table can be read at a glance.
    fn letter(step: &Step) -> char {
        match step {
            Step::Nothing => '.',
            Step::Adopt => 'A',
            Step::Recover => 'R',
            Step::Lose(_) => 'L',
            Step::Finish => 'F',
            Step::Conclude => 'C',
            Step::DestroyOrphan => 'O',
            Step::Stop(cause) => match cause.kind {
                CauseKind::Expired => 'e',
                CauseKind::LaunchInterrupted => 'i',
                CauseKind::RuntimeDied => 'd',
                _ => '?',
            },
        }
    }

    fn table(pass: Pass, now: Timestamp) -> Vec<String> {
        phases()
            .into_iter()
            .map(|phase| {
                let row = row(phase);
                let step = |seen| letter(&decide(Some(&row), seen, pass, false, now));
                SEEN.into_iter().map(step).collect()
            })
            .collect()
    }

    #[test]
    fn each_row_and_runtime_has_one_step() {
        //  columns: unknown, no worker, absent, running, paused, dead
        //  rows:    creating, running, paused, unhealthy, stopping, ended
        let rest = [".Ld..d", ".Ld..d", "..dRRd", "FFFFFF", "...OOO"];
        let with = |creating| [&[creating][..], &rest].concat();
        assert_eq!(table(Pass::Startup, at(1)), with(".LiAAi"));
        assert_eq!(table(Pass::Running, at(1)), with(".L...."));
        assert_eq!(table(Pass::Running, at(90)), with("iLiiii"));
        let over = ["eeeeee", "eeeeee", "eeeeee", "eeeeee", "FFFFFF", "...OOO"];
        assert_eq!(table(Pass::Startup, at(1000)), over);
        assert_eq!(table(Pass::Running, at(1000)), over);
        let outlived = ["eeeeee", "eeeeee", "eeeeee", "eeeeee", "FCFFFF", "...OOO"];
        assert_eq!(table(Pass::Running, at(1300)), outlived);
    }

    #[test]
    fn a_runtime_without_a_row_goes_and_silence_destroys_nothing() {
        let steps = SEEN.map(|seen| letter(&decide(None, seen, Pass::Running, false, at(1))));
        assert_eq!(steps.iter().collect::<String>(), "...OOO");
    }

    #[test]
    fn what_a_spawn_of_this_process_works_on_is_left_alone() {
        for phase in phases() {
            for seen in SEEN {
                let row = row(phase.clone());
                let step = decide(Some(&row), seen, Pass::Running, true, at(5000));
                assert_eq!(step, Step::Nothing);
            }
        }
    }

    #[test]
    fn a_template_that_may_be_half_set_up_is_not_handed_out() {
        let mut row = row(Phase::Creating);
        row.spec.template = Some("t".to_owned());
        let seen = Seen::Present(RuntimeState::Running);
        let step = decide(Some(&row), seen, Pass::Startup, false, at(1));
        assert_eq!(letter(&step), 'i');
    }

    /// Found by real processes under faults: the worker was lost during the launch and came back.
    #[test]
    fn what_was_lost_while_it_was_started_ends_as_interrupted_or_is_whole() {
        let lost = Phase::Creating.step(stacyvm_types::Transition::Lost(String::new())).unwrap();
        let mut row = row(lost);
        let steps = |row: &Sandbox| -> String {
            let step = |seen| letter(&decide(Some(row), seen, Pass::Running, false, at(1)));
            SEEN.into_iter().map(step).collect()
        };
        assert_eq!(steps(&row), "..iRRi");
        row.spec.template = Some("t".to_owned());
        assert_eq!(steps(&row), "..iiii");
    }

    /// Whatever is decided, the phase accepts it.
    #[test]
    fn every_step_is_one_that_the_phase_allows() {
        use stacyvm_types::Transition as T;
        for (phase, seen, pass, now) in phases().into_iter().flat_map(|phase| {
            SEEN.into_iter().flat_map(move |seen| {
                let phase = phase.clone();
                [(Pass::Startup, 1), (Pass::Running, 1), (Pass::Running, 95), (Pass::Running, 2000)]
                    .map(|(pass, now)| (phase.clone(), seen, pass, at(now)))
            })
        }) {
            let transition = match decide(Some(&row(phase.clone())), seen, pass, false, now) {
                Step::Nothing | Step::DestroyOrphan => continue,
                Step::Adopt => T::Started,
                Step::Recover => T::Recovered,
                Step::Lose(why) => T::Lost(why),
                Step::Stop(cause) => T::Stop(cause),
                Step::Finish | Step::Conclude => T::Gone,
            };
            assert!(phase.clone().step(transition.clone()).is_ok(), "{phase:?} {transition:?}");
        }
    }
}
