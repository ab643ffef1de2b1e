//! The life of a sandbox: one function knows every transition.
//!
//! `Phase::step` is pure. Any event that was accepted may be repeated and then asks for nothing,
//! so a caller that lost an answer simply tries again.

use std::fmt;

/// Why a sandbox left the phase it was in. Clients read it, also after the sandbox's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The reason as a word that programs can match.
    pub kind: CauseKind,
    /// One sentence for people, with numbers; never host paths or secrets.
    pub detail: String,
}

impl Cause {
    /// A cause with its sentence.
    pub fn new(kind: CauseKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// The reasons there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CauseKind {
    /// A client asked for it.
    Requested,
    /// Its time to live was over.
    Expired,
    /// The runtime could not be started.
    LaunchFailed,
    /// The server stopped while the runtime was being started, or lost its host just after, and
    /// nothing of it was found.
    LaunchInterrupted,
    /// The runtime ended by itself.
    RuntimeDied,
    /// The worker that holds the runtime does not answer.
    WorkerLost,
}

impl CauseKind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Requested,
        Self::Expired,
        Self::LaunchFailed,
        Self::LaunchInterrupted,
        Self::RuntimeDied,
        Self::WorkerLost,
    ];

    /// The wire name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Expired => "expired",
            Self::LaunchFailed => "launch_failed",
            Self::LaunchInterrupted => "launch_interrupted",
            Self::RuntimeDied => "runtime_died",
            Self::WorkerLost => "worker_lost",
        }
    }

    /// The kind with this wire name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The row and its lease exist; the runtime is being started.
    Creating,
    /// The runtime answers.
    Running,
    /// The runtime is frozen.
    Paused,
    /// The runtime may live, but calls cannot be trusted to reach it.
    Unhealthy(Cause),
    /// The end is decided; the runtime must be proved gone.
    Stopping(Cause),
    /// The runtime is gone. Nothing follows.
    Ended(Cause),
}

/// What can happen to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// The runtime answered for the first time, or was found alive after a restart.
    Started,
    /// The runtime was frozen.
    Paused,
    /// The runtime was thawed.
    Resumed,
    /// The worker cannot be reached or lost its lease, in a sentence. Whether a launch was
    /// interrupted is for the phase to say: who reports this may have seen an earlier one.
    Lost(String),
    /// The worker is back and its runtime lives.
    Recovered,
    /// The sandbox must end, for this cause.
    Stop(Cause),
    /// The runtime is proved gone.
    Gone,
}

/// An event that the phase does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox that is {} cannot take this step", .phase.as_str())]
pub struct Refused {
    /// The phase that refused.
    pub phase: Phase,
    /// What it refused.
    pub transition: Transition,
}

impl Phase {
    /// The phase after `transition`. An unchanged phase means that nothing is left to do.
    pub fn step(self, transition: Transition) -> Result<Self, Refused> {
        use Phase as P;
        use Transition as T;
        Ok(match (self, transition) {
            (P::Creating, T::Started) => P::Running,
            (P::Running, T::Paused) => P::Paused,
            (P::Paused, T::Resumed) => P::Running,
            (P::Creating, T::Lost(why)) => {
                P::Unhealthy(Cause::new(CauseKind::LaunchInterrupted, why))
            }
            (P::Running | P::Paused, T::Lost(why)) => {
                P::Unhealthy(Cause::new(CauseKind::WorkerLost, why))
            }
            (P::Unhealthy(_), T::Recovered | T::Started) => P::Running,
            // Decided on a row that has been handed out since.
            (
                phase @ (P::Running | P::Paused),
                transition @ T::Stop(Cause { kind: CauseKind::LaunchInterrupted, .. }),
            ) => return Err(Refused { phase, transition }),
            (P::Creating | P::Running | P::Paused | P::Unhealthy(_), T::Stop(cause)) => {
                P::Stopping(cause)
            }
            (P::Stopping(cause), T::Gone) => P::Ended(cause),
            (P::Running, T::Started | T::Resumed | T::Recovered) => P::Running,
            (P::Paused, T::Paused) => P::Paused,
            (P::Unhealthy(cause), T::Lost(_)) => P::Unhealthy(cause),
            (P::Stopping(cause), T::Stop(_) | T::Lost(_)) => P::Stopping(cause),
            (P::Ended(cause), T::Stop(_) | T::Gone | T::Lost(_)) => P::Ended(cause),
            (phase, transition) => return Err(Refused { phase, transition }),
        })
    }

    /// Whether the sandbox still holds its place and may have a runtime.
    pub const fn is_live(&self) -> bool {
        !matches!(self, Self::Ended(_))
    }

    /// The cause that this phase carries.
    pub const fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Creating | Self::Running | Self::Paused => None,
            Self::Unhealthy(cause) | Self::Stopping(cause) | Self::Ended(cause) => Some(cause),
        }
    }

    /// The name of the phase in rows and logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Unhealthy(_) => "unhealthy",
            Self::Stopping(_) => "stopping",
            Self::Ended(_) => "ended",
        }
    }

    /// The inverse of [`Phase::as_str`]; `None` for an unknown name or a missing cause.
    pub fn parse(name: &str, cause: Option<Cause>) -> Option<Self> {
        Some(match (name, cause) {
            ("creating", _) => Self::Creating,
            ("running", _) => Self::Running,
            ("paused", _) => Self::Paused,
            ("unhealthy", Some(cause)) => Self::Unhealthy(cause),
            ("stopping", Some(cause)) => Self::Stopping(cause),
            ("ended", Some(cause)) => Self::Ended(cause),
            _ => return None,
        })
    }

    /// The state on the wire. This is the one table from internal phases to published states.
    pub const fn wire_state(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Unhealthy(_) => "unhealthy",
            Self::Stopping(cause) | Self::Ended(cause) => match cause.kind {
                CauseKind::Requested => "destroyed",
                CauseKind::Expired => "expired",
                CauseKind::LaunchFailed | CauseKind::LaunchInterrupted => "error",
                CauseKind::RuntimeDied | CauseKind::WorkerLost => "stopped",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause() -> Cause {
        Cause::new(CauseKind::Requested, "destroyed by request")
    }

    fn phases() -> Vec<Phase> {
        vec![
            Phase::Creating,
            Phase::Running,
            Phase::Paused,
            Phase::Unhealthy(cause()),
            Phase::Stopping(cause()),
            Phase::Ended(cause()),
        ]
    }

    fn transitions() -> Vec<Transition> {
        let other = Cause::new(CauseKind::Expired, "time to live over");
        vec![
            Transition::Started,
            Transition::Paused,
            Transition::Resumed,
            Transition::Lost("its worker is silent".to_owned()),
            Transition::Recovered,
            Transition::Stop(other),
            Transition::Gone,
        ]
    }

    /// R1.7: any accepted event may be repeated and changes nothing the second time.
    #[test]
    fn an_accepted_event_may_be_repeated() {
        for phase in phases() {
            for transition in transitions() {
                let Ok(once) = phase.clone().step(transition.clone()) else { continue };
                let twice = once.clone().step(transition.clone());
                assert_eq!(twice, Ok(once), "{phase:?} {transition:?}");
            }
        }
    }

    /// R1.7: an end keeps its first cause, whatever is asked of it later.
    #[test]
    fn an_ended_sandbox_stays_ended_for_its_first_cause() {
        for transition in transitions() {
            if let Ok(next) = Phase::Ended(cause()).step(transition) {
                assert_eq!(next, Phase::Ended(cause()));
            }
        }
    }

    /// Found by real processes under faults: a server that saw a sandbox being started, and was slow
    /// to say so, called one interrupted that its client had been given meanwhile.
    #[test]
    fn what_was_handed_out_was_not_interrupted_while_it_was_started() {
        let why = "its worker is silent";
        let lost = |phase: Phase| phase.step(Transition::Lost(why.to_owned())).unwrap();
        let interrupted = Cause::new(CauseKind::LaunchInterrupted, why);
        assert_eq!(lost(Phase::Creating), Phase::Unhealthy(interrupted.clone()));
        for phase in [Phase::Running, Phase::Paused] {
            let of_the_worker = Cause::new(CauseKind::WorkerLost, why);
            assert_eq!(lost(phase.clone()), Phase::Unhealthy(of_the_worker));
            assert!(phase.step(Transition::Stop(interrupted.clone())).is_err());
        }
        let given_up = lost(Phase::Creating).step(Transition::Stop(interrupted.clone()));
        assert_eq!(given_up, Ok(Phase::Stopping(interrupted)));
    }

    /// R1.7: no runtime is forgotten: only proof that it is gone ends a sandbox.
    #[test]
    fn a_sandbox_ends_only_when_its_runtime_is_proved_gone() {
        for phase in phases().into_iter().filter(Phase::is_live) {
            for transition in transitions() {
                if let Ok(Phase::Ended(_)) = phase.clone().step(transition.clone()) {
                    assert_eq!(transition, Transition::Gone);
                    assert!(matches!(phase, Phase::Stopping(_)));
                }
            }
        }
    }

    #[test]
    fn every_phase_is_found_by_its_name() {
        for phase in phases() {
            assert_eq!(Phase::parse(phase.as_str(), phase.cause().cloned()), Some(phase));
        }
    }
}
