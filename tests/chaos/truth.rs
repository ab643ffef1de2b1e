//! What is so, whatever anybody was answered: the workers' runtimes, the rows, the event log.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stacyvm_postgres_fixture as postgres;
use stacyvm_types::Timestamp;

use crate::{
    cluster::{MOST, MOST_OF_ONE, Seat},
    history::History,
    http::{Caller, call_worker},
};

/// What must hold in the rows at every moment, as one statement and so of one moment: it finds a
/// text for everything that is wrong.
fn wrong_rows() -> String {
    format!(
        "WITH live AS (SELECT * FROM sandboxes WHERE ended_at_us IS NULL), \
         owners AS (SELECT owner AS name, COUNT(*) AS n FROM live GROUP BY owner), \
         workers AS (SELECT worker AS name, COUNT(*) AS n, SUM(memory_mb) AS mb, SUM(vcpus) AS cpus \
                     FROM live GROUP BY worker), \
         log AS (SELECT COUNT(*) AS n, COALESCE(MAX(id), 0) AS last FROM events) \
         SELECT 'there are ' || n || ' sandboxes' FROM (SELECT COUNT(*) AS n FROM live) AS l \
         WHERE n > {MOST} \
         UNION ALL SELECT name || ' has ' || n || ' sandboxes' FROM owners WHERE n > {MOST_OF_ONE} \
         UNION ALL SELECT 'all are counted as ' || active FROM usage \
         WHERE scope = 'all' AND active <> (SELECT COUNT(*) FROM live) \
         UNION ALL SELECT COALESCE(u.name, o.name) || ' is counted with ' || \
         COALESCE(active, 0) || ' and has ' || COALESCE(n, 0) \
         FROM (SELECT * FROM usage WHERE scope = 'owner') AS u FULL JOIN owners AS o \
         ON u.name = o.name WHERE COALESCE(active, 0) <> COALESCE(n, 0) \
         UNION ALL SELECT COALESCE(u.name, w.name) || ' is counted with ' || \
         COALESCE(active, 0) || ' and has ' || COALESCE(n, 0) \
         FROM (SELECT * FROM usage WHERE scope = 'worker') AS u FULL JOIN workers AS w \
         ON u.name = w.name WHERE COALESCE(active, 0) <> COALESCE(n, 0) \
         OR COALESCE(u.memory_mb, 0) <> COALESCE(mb, 0) OR COALESCE(u.vcpus, 0) <> COALESCE(cpus, 0) \
         UNION ALL SELECT 'of ' || last || ' events there are ' || n FROM log WHERE n <> last \
         UNION ALL SELECT 'events are counted to ' || value || ' and written to ' || last \
         FROM counters, log WHERE name = 'event' AND value <> last \
         UNION ALL SELECT id || ' is live and held by ' || lease_holder || ', not ' || worker \
         FROM live WHERE lease_holder <> worker \
         UNION ALL SELECT metadata || ' made ' || COUNT(*) || ' sandboxes' FROM sandboxes \
         WHERE cause_kind IS NULL OR cause_kind NOT IN ('launch_failed', 'launch_interrupted') \
         GROUP BY metadata HAVING COUNT(*) > 1"
    )
}

/// Looks at the truth while a run goes on.
pub(crate) struct Watch {
    pub(crate) postgres: Arc<postgres::Server>,
    pub(crate) database: String,
    pub(crate) workers: Vec<Seat>,
    pub(crate) history: Arc<History>,
    /// Workers that were killed, and when; until all their sandboxes are marked.
    pub(crate) deaths: Mutex<BTreeMap<String, Instant>>,
    pub(crate) over: AtomicBool,
}

impl Watch {
    pub(crate) fn query(&self, sql: &str) -> Result<Vec<String>> {
        self.postgres.query(&self.database, sql)
    }

    fn deaths(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker was killed just now.
    pub(crate) fn died(&self, worker: &str) {
        let at = Instant::now();
        let sql = running_at(worker);
        // One that has nothing, or whose rows nobody can read, marks nothing.
        if self.query(&sql).is_ok_and(|running| !running.is_empty()) {
            self.deaths().insert(worker.to_owned(), at);
        }
    }

    /// It is started again.
    pub(crate) fn returned(&self, worker: &str) {
        if self.deaths().remove(worker).is_some() {
            self.history.count("workers that were back before all their sandboxes were marked");
        }
    }

    /// Looks at the rows, again and again.
    pub(crate) fn watch_rows(&self) {
        let sql = wrong_rows();
        while !self.over.load(Ordering::Relaxed) {
            // Without Postgres there is nothing to see.
            if let Ok(wrong) = self.query(&sql) {
                self.history.count("looks at the rows");
                for wrong in wrong {
                    self.history.violated(format!("rows: {wrong}"));
                }
            }
            self.watch_deaths();
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn watch_deaths(&self) {
        let deaths = self.deaths().clone();
        for (worker, at) in deaths {
            let sql = running_at(&worker);
            let Ok(running) = self.query(&sql) else { continue };
            if running.is_empty() && self.deaths().remove(&worker).is_some() {
                let what = "from a worker's death to all its sandboxes marked";
                self.history.took(what, at.elapsed());
            }
        }
    }

    /// Looks for sandboxes with runtimes at two workers that would both take calls.
    pub(crate) fn watch_runtimes(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let mut places: BTreeMap<String, Vec<&Seat>> = BTreeMap::new();
            for worker in &self.workers {
                for id in worker.runtimes() {
                    places.entry(id).or_default().push(worker);
                }
            }
            self.history.count("looks at the runtimes");
            for (id, workers) in places.iter().filter(|(_, workers)| workers.len() > 1) {
                self.history.count("sandboxes seen with directories at two workers");
                self.judge(id, workers);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn judge(&self, id: &str, workers: &[&Seat]) {
        let sql = format!("SELECT generation || ' ' || provider FROM sandboxes WHERE id = '{id}'");
        let Ok(rows) = self.query(&sql) else { return };
        let row = rows.first().and_then(|row| row.split_once(' '));
        let Some((generation, provider)) = row else { return };
        let generation: u64 = generation.parse().unwrap_or_default();
        let taken: Vec<&str> = workers
            .iter()
            .filter(|worker| takes_calls(worker, provider, id, generation))
            .map(|worker| worker.name.as_str())
            .collect();
        if taken.len() > 1 {
            self.history.violated(format!(
                "{id} runs at {taken:?}, which both take calls of generation {generation}"
            ));
        }
    }

    /// Waits until rows and runtimes agree and nothing is under way.
    pub(crate) fn settle(&self, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let open = self.unsettled();
            match open {
                Ok(None) => return Ok(began.elapsed()),
                Ok(Some(why)) => ensure!(began.elapsed() < limit, "not settled: {why}"),
                Err(error) => {
                    ensure!(began.elapsed() < limit, "not settled: {error:#}");
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn unsettled(&self) -> Result<Option<String>> {
        let moving = self.query(
            "SELECT id || ' of ' || worker || ' is ' || phase FROM sandboxes \
             WHERE phase NOT IN ('running', 'ended')",
        )?;
        if !moving.is_empty() {
            return Ok(Some(moving.join(", ")));
        }
        let rows =
            self.query("SELECT worker || ' ' || id FROM sandboxes WHERE ended_at_us IS NULL")?;
        let rows: BTreeSet<String> = rows.into_iter().collect();
        let mut runtimes = BTreeSet::new();
        for worker in &self.workers {
            let Seat { name, at, .. } = worker;
            let seen = worker.runtimes();
            let listed = listed(*at, name)?;
            if seen != listed {
                return Ok(Some(format!("{name} lists {listed:?} and has {seen:?}")));
            }
            runtimes.extend(seen.iter().map(|id| format!("{name} {id}")));
        }
        if rows != runtimes {
            let without: Vec<_> = rows.difference(&runtimes).collect();
            let unknown: Vec<_> = runtimes.difference(&rows).collect();
            return Ok(Some(format!("rows without runtimes {without:?}, others {unknown:?}")));
        }
        Ok(None)
    }

    /// What was answered, against the rows.
    pub(crate) fn judge_answers(&self) -> Result<()> {
        let rows = self.query(
            "SELECT id || ' ' || phase || ' ' || COALESCE(cause_kind, '-') || ' ' || \
             COALESCE(owner, '-') || ' ' || provider || ' ' || COALESCE(ended_at_us, 0) \
             FROM sandboxes",
        )?;
        let rows: BTreeMap<&str, Vec<&str>> = rows
            .iter()
            .filter_map(|row| row.split_once(' '))
            .map(|(id, rest)| (id, rest.split(' ').collect()))
            .collect();
        for (id, told) in self.history.told() {
            let Some([phase, cause, owner, provider, ended]) =
                rows.get(id.as_str()).map(Vec::as_slice)
            else {
                self.history.violated(format!("{id} was acknowledged and has no row"));
                continue;
            };
            if *owner != told.owner {
                self.history.violated(format!("{id} of {} belongs to {owner}", told.owner));
            }
            if *phase == "ended" {
                self.history.count(&format!("ended: {cause}"));
            }
            let ended = Timestamp::from_micros(ended.parse().unwrap_or_default());
            let is_early = *phase == "ended" && ended < told.promised();
            // Those of the mock provider end with their worker's process.
            let may_end = match *cause {
                "requested" => told.unwanted,
                "expired" => !is_early,
                _ => !is_early || *provider == "mock",
            };
            if !may_end {
                self.history.violated(format!(
                    "{id} ({provider}) ended with {cause} at {ended}, promised was {}",
                    told.promised()
                ));
            }
            if *phase == "ended" && ["-", "launch_failed", "launch_interrupted"].contains(cause) {
                self.history.violated(format!("{id} was acknowledged and ended with {cause}"));
            }
            if *phase != "ended" && told.destroyed {
                self.history.violated(format!("{id} was destroyed and is {phase}"));
            }
        }
        Ok(())
    }
}

fn running_at(worker: &str) -> String {
    format!("SELECT id FROM sandboxes WHERE worker = '{worker}' AND phase IN ('running', 'paused')")
}

/// Whether a worker takes a call of this generation that reaches into a sandbox.
fn takes_calls(worker: &Seat, provider: &str, id: &str, generation: u64) -> bool {
    let Seat { name, at, .. } = worker;
    let envelope = json!({
        "id": format!("judge-{id}"), "method": "worker.file_stat", "worker_id": name,
        "lease": { "resource_id": id, "holder_id": name, "generation": generation },
        "params": { "sandbox_id": id, "provider": provider, "path": "/workspace" },
    });
    call_worker(*at, name, &envelope).is_ok_and(|reply| reply["error"].is_null())
}

/// The runtimes that a worker lists.
fn listed(at: SocketAddr, worker: &str) -> Result<BTreeSet<String>> {
    let envelope = json!({ "id": "list", "method": "worker.runtimes", "worker_id": worker });
    let reply = call_worker(at, worker, &envelope)?;
    let runtimes = reply["result"]["runtimes"].as_array().with_context(|| reply.to_string())?;
    let ids = runtimes.iter().filter_map(|entry| entry["sandbox_id"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

/// Reads the event stream of one server after another until `over`; every event must follow the one
/// before it.
pub(crate) fn follow(number: usize, caller: &Caller, history: &History, over: &AtomicBool) -> u64 {
    let (mut last, mut server) = (0, number);
    while !over.load(Ordering::Relaxed) {
        server += 1;
        let read = caller.follow(server, last, Duration::from_secs(4), over, |data| {
            let event: Value = serde_json::from_str(data).unwrap_or_default();
            let id = event["id"].as_str().and_then(|id| id.strip_prefix("evt-"));
            let Some(id) = id.and_then(|id| id.parse::<u64>().ok()) else {
                history.violated(format!("a follower was told {data}"));
                return;
            };
            if id != last + 1 {
                history.violated(format!("a follower heard event {id} after {last}"));
            }
            last = id;
        });
        if read.is_err() {
            thread::sleep(Duration::from_millis(100));
        }
    }
    last
}
