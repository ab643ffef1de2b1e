//! What runs where, whatever any node believes. Hosts outlive the nodes that run on them.

use std::collections::{BTreeMap, BTreeSet};

use stacyvm_provider::{Runtime, RuntimeState};
use stacyvm_types::{ExecId, Generation, SandboxId, WorkerId};

/// The truth of a run.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    hosts: BTreeMap<WorkerId, BTreeMap<SandboxId, Runtime>>,
    histories: BTreeMap<SandboxId, History>,
    /// The events that were checked already.
    pub(crate) events: u64,
}

/// What has happened to one sandbox.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Whether anybody asked for its end.
    pub(crate) end_asked: bool,
    /// Whether a caller was told that it had ended.
    pub(crate) end_told: bool,
    /// Whether its row said that its runtime had died, when that was so.
    pub(crate) told_dead: bool,
    /// The runtimes that were started for it.
    pub(crate) launches: u64,
    /// The newest generation that changed a runtime of it.
    pub(crate) newest: Option<Generation>,
    /// The commands that ran in it.
    pub(crate) execs: BTreeSet<ExecId>,
}

impl Truth {
    /// The runtimes of a host.
    pub(crate) fn host(&mut self, host: &WorkerId) -> &mut BTreeMap<SandboxId, Runtime> {
        self.hosts.entry(host.clone()).or_default()
    }

    /// All runtimes, with their hosts.
    pub(crate) fn runtimes(&self) -> impl Iterator<Item = (&WorkerId, &Runtime)> {
        self.hosts.iter().flat_map(|(host, runtimes)| runtimes.values().map(move |r| (host, r)))
    }

    /// Where a sandbox runs, if anywhere: runtimes that act.
    pub(crate) fn acting(&self, id: &SandboxId) -> Vec<&WorkerId> {
        self.hosts
            .iter()
            .filter(|(_, runtimes)| {
                runtimes.get(id).is_some_and(|runtime| runtime.state != RuntimeState::Dead)
            })
            .map(|(host, _)| host)
            .collect()
    }

    pub(crate) fn history(&mut self, id: &SandboxId) -> &mut History {
        self.histories.entry(id.clone()).or_default()
    }

    /// What happened to a sandbox, if anything did.
    pub(crate) fn of(&self, id: &SandboxId) -> Option<&History> {
        self.histories.get(id)
    }
}
