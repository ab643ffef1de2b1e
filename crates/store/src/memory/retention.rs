//! Forgetting in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use stacyvm_types::{AuditId, ExecId, Phase, SandboxId, Timestamp};

use super::{MemoryStore, State};
use crate::{
    ExecLog, Result,
    retention::{RetentionStore, Swept, Walk},
};

impl State {
    fn prune_sandboxes(&mut self, before: Timestamp, from: Walk, limit: u32) -> Swept {
        let mut by_age: Vec<(Timestamp, SandboxId)> = self
            .sandboxes
            .values()
            .map(|row| (row.created_at, row.spec.id.clone()))
            .filter(|(at, id)| *at < before && (from.created_at, &*from.id) < (*at, id.as_str()))
            .collect();
        by_age.sort();
        let limit = limit as usize;
        let more = limit < by_age.len();
        let (mut removed, mut logs_left) = (0, limit);
        let mut stands = from;
        for (created_at, id) in by_age.into_iter().take(limit) {
            let row = &self.sandboxes[&id];
            let ended = matches!(row.phase, Phase::Ended(_)) && row.updated_at < before;
            if ended && !self.leases.contains_key(&id) {
                let logs =
                    oldest(self.execs.iter().filter(|(_, log)| log.sandbox == id), logs_left + 1);
                let all = logs.len() <= logs_left;
                for log in logs.iter().take(logs_left) {
                    self.execs.remove(log);
                    removed += 1;
                }
                if !all {
                    return Swept { removed, next: Some(stands) };
                }
                logs_left -= logs.len();
                self.sandboxes.remove(&id);
                removed += 1;
            }
            stands = Walk { created_at, id: id.to_string() };
        }
        Swept { removed, next: more.then_some(stands) }
    }
}

type LogKey = (SandboxId, ExecId);

fn oldest<'e>(logs: impl Iterator<Item = (&'e LogKey, &'e ExecLog)>, limit: usize) -> Vec<LogKey> {
    let mut logs: Vec<_> = logs.map(|(key, log)| (log.at, &log.id, key)).collect();
    logs.sort();
    logs.into_iter().take(limit).map(|(.., key)| key.clone()).collect()
}

fn prune<T>(records: &mut BTreeMap<(Timestamp, AuditId), T>, before: Timestamp, limit: u32) -> u64 {
    let mut removed = 0;
    while removed < u64::from(limit)
        && let Some(oldest) = records.first_entry()
        && oldest.key().0 < before
    {
        oldest.remove();
        removed += 1;
    }
    removed
}

#[async_trait]
impl RetentionStore for MemoryStore {
    async fn prune_sandboxes(&self, before: Timestamp, from: Walk, limit: u32) -> Result<Swept> {
        Ok(self.state().prune_sandboxes(before, from, limit))
    }

    async fn prune_exec_logs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let mut state = self.state();
        let old = state.execs.iter().filter(|(_, log)| log.at < before);
        let old = oldest(old, limit as usize);
        for id in &old {
            state.execs.remove(id);
        }
        Ok(old.len() as u64)
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let mut state = self.state();
        let next = &state.events[..state.events.len().min(limit as usize)];
        let count = next.iter().rposition(|event| event.at < before).map_or(0, |last| last + 1);
        state.events.drain(..count);
        state.pruned_events += count as u64;
        Ok(count as u64)
    }

    async fn pruned_events(&self) -> Result<u64> {
        Ok(self.state().pruned_events)
    }

    async fn prune_operation_records(&self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(prune(&mut self.state().audit.operations, before, limit))
    }

    async fn prune_admin_records(&self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(prune(&mut self.state().audit.admin, before, limit))
    }
}
