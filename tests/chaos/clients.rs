//! Clients that spawn, use, extend, destroy and list sandboxes through all servers, repeat what
//! was not answered, and judge what is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use stacyvm_tests::Reply;
use stacyvm_types::{
    Timestamp,
    time::{Clock, SystemClock},
};

use crate::{chance::Chance, history::History, http::Caller};

/// Sandboxes that one client wants at the same time.
const WANTED: usize = 5;
/// How long what was begun may take to be answered once nothing is broken any more: the turn of a
/// request whose server was killed is held for two minutes.
const FINISH: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(40);
const SANDBOXES: &str = "/api/v1/sandboxes";

/// What an extended sandbox has left.
const LONGER: Duration = Duration::from_secs(40);

/// The deadline that an answer tells of; none is one that never comes.
fn deadline(said: &Value) -> Timestamp {
    let text = said["expires_at"].as_str().unwrap_or_default();
    Timestamp::parse(text).unwrap_or(Timestamp::MAX)
}

/// What has to be done for a run to say anything, and was not yet.
pub(crate) fn never_done(history: &History, native: bool) -> Option<&'static str> {
    let deeds = ["spawned", "ran a command", "extended", "destroyed", "listed"];
    let real = native.then_some("spawned with a real runtime");
    deeds.into_iter().chain(real).find(|deed| history.counted(deed) == 0)
}

/// What came of a request.
enum Answer {
    /// This one, for good.
    Said(Reply),
    /// None, or one that says to come again.
    Later,
}

/// A spawn that is wanted.
struct Wish {
    key: String,
    body: Value,
    /// How long the sandbox is to live.
    ttl: Duration,
    /// When it was asked for first.
    since: Instant,
}

struct Mine {
    id: String,
    /// The key of the request that writes the marker, until that was answered.
    marking: Option<String>,
}

/// A client and what it knows.
pub(crate) struct Client {
    name: String,
    owner: String,
    caller: Caller,
    chance: Chance,
    history: Arc<History>,
    /// Set once no fault is left.
    calm: Arc<AtomicBool>,
    /// Whether there are real runtimes.
    native: bool,
    next_server: usize,
    keys: u64,
    live: Vec<Mine>,
    /// Spawns that were not answered.
    spawning: Vec<Wish>,
    /// Destructions that were not answered.
    ending: Vec<String>,
    /// Destructions that were.
    gone: Vec<String>,
}

impl Client {
    pub(crate) fn new(
        number: u64,
        seed: u64,
        caller: Caller,
        history: Arc<History>,
        calm: Arc<AtomicBool>,
        native: bool,
    ) -> Self {
        Self {
            name: format!("client-{number}"),
            owner: format!("owner-{}", number % 4),
            caller,
            chance: Chance::of(seed.wrapping_add(number.wrapping_mul(7919))),
            history,
            calm,
            native,
            next_server: usize::try_from(number).unwrap_or(0),
            keys: 0,
            live: Vec::new(),
            spawning: Vec::new(),
            ending: Vec::new(),
            gone: Vec::new(),
        }
    }

    fn key(&mut self) -> String {
        self.keys += 1;
        format!("{}-{}", self.name, self.keys)
    }

    /// Asks the next server.
    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>, key: Option<&str>) -> Answer {
        self.next_server += 1;
        let mut headers = vec![("X-User-ID", self.owner.as_str())];
        headers.extend(key.map(|key| ("Idempotency-Key", key)));
        let began = Instant::now();
        let asked = self.caller.ask(self.next_server, method, path, body, &headers);
        let server = self.next_server % crate::cluster::SERVERS;
        let what = format!("{} {method} {path} key {key:?} at server-{server}", self.name);
        let reply = match asked {
            Ok(reply) => reply,
            Err(error) => {
                self.history.count("not answered");
                self.history.note(&format!("{what}: {error}"));
                return Answer::Later;
            }
        };
        let said = reply.json();
        let code = said["code"].as_str().unwrap_or_default();
        let time = began.elapsed().as_millis();
        self.history.note(&format!("{what}: {} {code} in {time} ms {said}", reply.status));
        match (reply.status, code) {
            (200..=299, _) => self.history.succeeded(),
            (500, _) => self.history.violated(format!("{what}: a bug: {said}")),
            (503, _) => {
                self.history.count("503");
                return Answer::Later;
            }
            (409, "IDEMPOTENCY_KEY_IN_USE") => {
                self.history.count("409 the same request is still under way");
                return Answer::Later;
            }
            _ => {}
        }
        Answer::Said(reply)
    }

    /// Works until it is calm and everything was done once, then finishes what it has begun.
    pub(crate) fn work(mut self) {
        let mut give_up = None;
        loop {
            if self.calm.load(Ordering::Relaxed) {
                let give_up = *give_up.get_or_insert_with(|| Instant::now() + FINISH);
                if never_done(&self.history, self.native).is_none() || give_up < Instant::now() {
                    break;
                }
            }
            match self.chance.below(12) {
                0..=1 => self.list(),
                2..=3 => self.finish_one(),
                4..=5 if self.live.len() + self.spawning.len() < WANTED => {
                    let key = self.key();
                    let ttl = [6, 20, 60, 240][self.chance.index(4)];
                    let native = self.native && self.chance.below(3) == 0;
                    let provider = if native { "native" } else { "mock" };
                    let metadata = json!({ "key": key });
                    let body = json!({
                        "ttl": format!("{ttl}s"), "provider": provider, "metadata": metadata,
                    });
                    let ttl = Duration::from_secs(ttl);
                    self.spawn(Wish { key, body, ttl, since: Instant::now() });
                }
                6..=8 => self.exec(),
                9 => self.extend(),
                10 => self.destroy_one(),
                _ => self.look(),
            }
            thread::sleep(PAUSE);
        }
        let give_up = Instant::now() + FINISH;
        while !self.spawning.is_empty() || !self.ending.is_empty() {
            if give_up < Instant::now() {
                let spawning: Vec<_> = self.spawning.iter().map(|wish| &wish.key).collect();
                let open = format!("{spawning:?} {:?}", self.ending);
                self.history.violated(format!("{}: never answered: {open}", self.name));
                return;
            }
            self.finish_one();
            thread::sleep(PAUSE);
        }
        self.list();
    }

    fn finish_one(&mut self) {
        if !self.spawning.is_empty() {
            let index = self.chance.index(self.spawning.len());
            let wish = self.spawning.remove(index);
            self.spawn(wish);
        }
        if !self.ending.is_empty() {
            let index = self.chance.index(self.ending.len());
            let id = self.ending.remove(index);
            self.destroy(id);
        }
    }

    fn spawn(&mut self, wish: Wish) {
        match self.ask("POST", SANDBOXES, Some(&wish.body), Some(&wish.key)) {
            Answer::Later => self.spawning.push(wish),
            Answer::Said(reply) if reply.status == 201 => {
                let said = reply.json();
                let id = said["id"].as_str().unwrap_or_default().to_owned();
                self.history.count("spawned");
                if wish.body["provider"] == "native" {
                    self.history.count("spawned with a real runtime");
                }
                self.history.spawned(&id, &self.owner, deadline(&said));
                let marking = Some(self.key());
                self.live.push(Mine { id, marking });
            }
            Answer::Said(reply) if reply.status == 429 => self.history.count("refused by a limit"),
            // It was made, and its time was over before its worker answered.
            Answer::Said(reply)
                if reply.json()["details"]["cause"]["kind"] == "expired"
                    && wish.ttl <= wish.since.elapsed() =>
            {
                self.history.count("expired before the spawn was answered");
            }
            Answer::Said(reply) => {
                self.history.count(&format!("spawn answered {}", reply.status));
                if reply.status != 500 {
                    let said = reply.json();
                    self.history.violated(format!("a spawn answered {}: {said}", reply.status));
                }
            }
        }
    }

    /// Runs a command that shows whose sandbox it runs in.
    fn exec(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let index = self.chance.index(self.live.len());
        let Some(mine) = self.live.get(index) else { return };
        let (id, marking) = (mine.id.clone(), mine.marking.clone());
        let line = match marking {
            Some(_) => format!("printf %s {id} > marker && cat marker"),
            None => "cat marker".to_owned(),
        };
        let key = marking.or_else(|| (self.chance.below(2) == 0).then(|| self.key()));
        let body = json!({ "command": line, "timeout": "10s" });
        let path = format!("{SANDBOXES}/{id}/exec");
        // A command without a key that was not answered may have run, and may be run again.
        let Answer::Said(reply) = self.ask("POST", &path, Some(&body), key.as_deref()) else {
            return;
        };
        if reply.status != 200 {
            self.refused("exec", index, &reply);
            return;
        }
        let said = reply.json();
        if said["exit_code"] == 0 {
            self.history.count("ran a command");
            if said["stdout"] != id.as_str() {
                self.history.violated(format!("a command of {id} answered {said}"));
            } else if let Some(mine) = self.live.get_mut(index) {
                mine.marking = None;
            }
        } else if said["stderr"].as_str().is_some_and(|text| text.contains("No such file")) {
            self.history.violated(format!("the marker of {id} is not there: {said}"));
        } else {
            self.history.count("a command was cut short");
        }
    }

    fn extend(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let index = self.chance.index(self.live.len());
        let Some(id) = self.live.get(index).map(|mine| mine.id.clone()) else { return };
        let key = self.key();
        let path = format!("{SANDBOXES}/{id}/extend");
        let body = json!({ "ttl": format!("{}s", LONGER.as_secs()) });
        let at_least = SystemClock.now().saturating_add(LONGER);
        match self.ask("POST", &path, Some(&body), Some(&key)) {
            Answer::Said(reply) if reply.status == 200 => {
                self.history.count("extended");
                self.history.extended(&id, deadline(&reply.json()));
            }
            // Also what is refused may be written down already.
            Answer::Said(reply) => {
                self.history.perhaps_extended(&id, at_least);
                self.refused("extend", index, &reply);
            }
            Answer::Later => self.history.perhaps_extended(&id, at_least),
        }
    }

    /// An answer that is no success to what is asked of a sandbox that this client was told of.
    fn refused(&mut self, what: &str, index: usize, reply: &Reply) {
        let said = reply.json();
        let code = said["code"].as_str().unwrap_or_default();
        self.history.count(&format!("{what} answered {} {code}", reply.status));
        match reply.status {
            404 => {
                let mine = self.live.remove(index);
                if said["details"]["cause"]["kind"].as_str().is_none() {
                    self.history.violated(format!("{} was lost without a cause: {said}", mine.id));
                }
            }
            // Unhealthy, or held under a newer generation: it may run again.
            409 | 500 | 408 => {}
            _ => self.history.violated(format!("{what} answered {}: {said}", reply.status)),
        }
    }

    fn destroy_one(&mut self) {
        if !self.live.is_empty() {
            let index = self.chance.index(self.live.len());
            let mine = self.live.remove(index);
            self.destroy(mine.id);
        }
    }

    fn destroy(&mut self, id: String) {
        self.history.unwanted(&id);
        match self.ask("DELETE", &format!("{SANDBOXES}/{id}"), None, None) {
            Answer::Said(reply) if reply.status == 200 => {
                self.history.count("destroyed");
                self.history.destroyed(&id);
                self.gone.push(id);
            }
            Answer::Said(reply) if reply.status != 409 && reply.status != 500 => {
                let said = reply.json();
                self.history.violated(format!("the end of {id} answered {}: {said}", reply.status));
            }
            _ => self.ending.push(id),
        }
    }

    /// What was destroyed stays so, whoever is asked and whatever is asked of it.
    fn look(&mut self) {
        if self.gone.is_empty() {
            return;
        }
        let index = self.chance.index(self.gone.len());
        let Some(id) = self.gone.get(index).cloned() else { return };
        let exec = self.chance.below(2) == 0;
        let answer = match exec {
            true => {
                let body = json!({ "command": "true" });
                self.ask("POST", &format!("{SANDBOXES}/{id}/exec"), Some(&body), None)
            }
            false => self.ask("GET", &format!("{SANDBOXES}/{id}"), None, None),
        };
        match answer {
            Answer::Said(reply) if reply.status != 404 => {
                let said = reply.json();
                self.history.violated(format!("{id} came back: {} {said}", reply.status));
            }
            Answer::Said(_) => self.history.count("destroyed ones that were asked for"),
            Answer::Later => {}
        }
    }

    fn list(&mut self) {
        let Answer::Said(reply) = self.ask("GET", SANDBOXES, None, None) else { return };
        let rows = reply.json();
        let Some(rows) = rows.as_array().filter(|_| reply.status == 200) else {
            self.history.violated(format!("a list answered {}: {rows}", reply.status));
            return;
        };
        self.history.count("listed");
        for row in rows {
            if self.gone.iter().any(|id| row["id"] == id.as_str()) {
                self.history.violated(format!("what was destroyed is listed: {row}"));
            }
        }
    }
}
