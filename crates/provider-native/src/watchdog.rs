//! Memory where no control group counts it: the sum of what a sandbox's processes hold is looked at
//! twice a second, and a sandbox above its limit is killed.
//!
//! Coarser than the kernel's limit: it may be passed for half a second, and it ends the whole
//! sandbox. Files in the sandbox's writable space are not counted; they have their own limit.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use stacyvm_provider::RuntimeState;

use crate::{provider::Shared, runtime::Live};

const PERIOD: Duration = Duration::from_millis(500);

/// Looks until the server stops.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let stopping = shared.stopping.clone();
    let looking = async {
        loop {
            tokio::time::sleep(PERIOD).await;
            let all = shared.registry.all();
            if all.iter().any(|live| live.state() == RuntimeState::Running) {
                let above = shared.tasks.spawn_blocking(move || above_limit(all)).await;
                kill(&shared, above.unwrap_or_default()).await;
            }
        }
    };
    stopping.run_until_cancelled(looking).await;
}

async fn kill(shared: &Shared, above: Vec<Arc<Live>>) {
    for live in above {
        tracing::warn!(runtime = live.record.name, "killed: above its memory limit");
        if let Err(error) = live.kill(&shared.tasks).await {
            tracing::warn!(%error, "a runtime above its memory limit cannot be killed");
        }
    }
}

fn above_limit(all: Vec<Arc<Live>>) -> Vec<Arc<Live>> {
    let table = processes();
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, (parent, _)) in &table {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut above = |live: &Arc<Live>| {
        let mut sum = 0;
        let mut todo = vec![live.record.process.pid];
        // Orphans inside become children of the first process, so the tree is complete.
        while let Some(pid) = todo.pop() {
            sum += table.get(&pid).map_or(0, |(_, bytes)| *bytes);
            todo.extend(children.remove(&pid).unwrap_or_default());
        }
        u64::from(live.record.memory_mb) << 20 < sum
    };
    all.into_iter().filter(|live| above(live)).collect()
}

/// Every process's parent and the resident bytes that are its own.
fn processes() -> BTreeMap<i32, (i32, u64)> {
    let page = rustix::param::page_size() as u64;
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let numbers = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
            let parent = fields.nth(1)?.parse().ok()?;
            // Pages of files and libraries are shared by all who use them; counting them for each
            // would end a sandbox of many small processes.
            let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
            let mut pages = statm.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
            let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
            Some((pid, (parent, resident.saturating_sub(shared) * page)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_this_process_with_its_parent() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let (parent, bytes) = processes()[&own];
        let expected = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        assert_eq!(parent, expected);
        assert!(0 < bytes);
    }
}
