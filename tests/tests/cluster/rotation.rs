//! R6.5, R6.6: secrets and certificates of running servers and workers are changed, with each host
//! learning of each step at its own time, and nobody's request is refused meanwhile.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use stacyvm_tests::{Server, Worker, server::wait_for};

use crate::{
    identity::{Pki, call, heartbeat, token},
    world::{Home, LIMIT, Settings, destroy, is},
};

const OLD: &str = "b2xkLW9uZS1vZi1ib3RoLWZvci1hLXJvdGF0aW9u";
const NEW: &str = "bmV3LW9uZS1vZi1ib3RoLWZvci1hLXJvdGF0aW9u";
/// Who calls without a pause.
const CALLERS: usize = 3;

/// The secrets of one host, as files.
struct Host<'h> {
    dir: PathBuf,
    log: PathBuf,
    home: &'h Home,
    name: &'static str,
}

impl<'h> Host<'h> {
    fn new(home: &'h Home, name: &'static str) -> Result<Self> {
        let dir = home.data(name).with_file_name("secrets");
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, log: home.data(name).join("log"), home, name })
    }

    fn at(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// As the manual says: nobody reads half of it.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let fresh = self.dir.join("fresh");
        fs::write(&fresh, text)?;
        Ok(fs::rename(&fresh, self.dir.join(name))?)
    }

    fn said(&self, words: &str) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().matches(words).count()
    }

    /// Writes a file, and waits until the process goes by it.
    fn changes(&self, name: &str, text: &str) -> Result<()> {
        const SAID: &str = "read again from changed files";
        let before = self.said(SAID);
        self.write(name, text)?;
        wait_for(SAID, LIMIT, || Ok((before < self.said(SAID)).then_some(())))
            .with_context(|| format!("{}: {name}", self.name))
    }

    /// Changes the settings, and waits until the process goes by them after SIGHUP.
    fn is_told(&self, process: &std::process::Child, from: &str, to: &str) -> Result<()> {
        const SAID: &str = "the settings were reloaded";
        let file = self.home.settings(self.name);
        let text = fs::read_to_string(&file)?;
        ensure!(text.contains(from), "{text}");
        fs::write(&file, text.replace(from, to))?;
        let before = self.said(SAID);
        kill_process(Pid::from_child(process), Signal::HUP)?;
        wait_for(SAID, LIMIT, || Ok((before < self.said(SAID)).then_some(())))
            .with_context(|| format!("{}: {to}", self.name))
    }
}

/// Makes requests through the server to the worker until it is told to stop.
fn calls_on(server: &Server, sandbox: &str, over: &AtomicBool, made: &AtomicUsize) -> Result<()> {
    let mut number = 0;
    while !over.load(Ordering::Acquire) {
        let ran = server.exec(sandbox, "true")?;
        ensure!(ran["exit_code"] == 0, "{ran}");
        if number % 5 == 0 {
            destroy(server, &server.spawn()?)?;
        }
        number += 1;
        made.fetch_add(1, Ordering::AcqRel);
    }
    Ok(())
}

/// Does `steps` while others call, each of which waits for what it is given: a request of every
/// caller that began after the step before.
fn under_load(
    server: &Server,
    worker: &Worker,
    steps: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>,
) -> Result<()> {
    called(server, steps).with_context(|| worker.log())
}

fn called(
    server: &Server,
    steps: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>,
) -> Result<()> {
    let sandbox = server.spawn()?;
    let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let done = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| scope.spawn(|| calls_on(server, &sandbox, &over, &made)))
            .collect();
        let all_call = || {
            // One more than all that were under way.
            let enough = made.load(Ordering::Acquire) + 2 * CALLERS;
            let broken = || callers.iter().any(std::thread::ScopedJoinHandle::is_finished);
            wait_for("requests", LIMIT, || {
                ensure!(!broken(), "a request failed");
                Ok((enough <= made.load(Ordering::Acquire)).then_some(()))
            })
        };
        let done = all_call().and_then(|()| steps(&all_call)).and_then(|()| all_call());
        over.store(true, Ordering::Release);
        for caller in callers {
            caller.join().map_err(|_| anyhow!("a caller panicked"))??;
        }
        done
    });
    done?;
    destroy(server, &sandbox)
}

/// Neither end refused a call of the other, not even one that was made again.
fn nothing_was_refused(server: &Host<'_>, worker: &Host<'_>) -> Result<()> {
    for (host, words) in
        [(worker, "a call was refused"), (worker, "a heartbeat was not taken"), (server, "refuses")]
    {
        ensure!(host.said(words) == 0, "{}: {}", host.name, fs::read_to_string(&host.log)?);
    }
    Ok(())
}

/// Whether both ends let in who shows this.
fn are_open_to(server: SocketAddr, worker: SocketAddr, token: &str) -> Result<[bool; 2]> {
    let at_server = heartbeat(server, "stranger", token)?.status;
    let at_worker = call(worker, "far", token)?.status;
    Ok([at_server == 200, at_worker == 200])
}

/// The next heartbeat arrives.
fn is_heard(server: &Server) -> Result<()> {
    let before = server.get("/api/v1/workers/far")?.json()["last_heartbeat"].clone();
    is(server, "far", |row| row["last_heartbeat"] != before)
}

/// The token that all share: first in the settings, then in a file that changes.
pub(crate) fn shared() -> Result<()> {
    let home = Home::new()?;
    let (at_server, at_worker) = (Host::new(&home, "server")?, Host::new(&home, "far")?);
    let inline = format!("worker_token: {OLD}");
    let settings = Settings { provider: "mock", auth: Some(&inline), ..Settings::default() };
    let server = home.control_plane("server", &settings)?;
    let far = home.worker("far", &server, &settings)?;
    under_load(&server, &far, |all_call| {
        for (host, process) in [(&at_worker, &far.child), (&at_server, &server.child)] {
            host.write("tokens", &format!("{OLD}\n{NEW}\n"))?;
            let file = format!("worker_token_file: {}", host.at("tokens"));
            host.is_told(process, &inline, &file)?;
            all_call()?;
            is_heard(&server)?;
        }
        ensure!(are_open_to(server.at, far.at, NEW)? == [true, true]);
        for text in [format!("{NEW}\n{OLD}\n"), format!("# the only one\n{NEW}\n")] {
            for host in [&at_server, &at_worker] {
                host.changes("tokens", &text)?;
                all_call()?;
                is_heard(&server)?;
            }
        }
        Ok(())
    })?;
    nothing_was_refused(&at_server, &at_worker)?;
    ensure!(are_open_to(server.at, far.at, NEW)? == [true, true]);
    ensure!(are_open_to(server.at, far.at, OLD)? == [false, false]);
    no_secret_is_told(&[&at_server, &at_worker])
}

/// The key that signs tokens, by the steps of `rotation-plan`.
pub(crate) fn signed() -> Result<()> {
    let home = Home::new()?;
    let (at_server, at_worker) = (Host::new(&home, "server")?, Host::new(&home, "far")?);
    let auth = |host: &Host<'_>| -> Result<String> {
        host.write("key", &format!("{OLD}\n"))?;
        host.write("keys", "# none besides\n")?;
        let (key, keys) = (host.at("key"), host.at("keys"));
        Ok(format!("worker_signing_key_file: {key}, worker_signing_keys_file: {keys}"))
    };
    let (of_server, of_worker) = (auth(&at_server)?, auth(&at_worker)?);
    let settings = Settings { provider: "mock", ..Settings::default() };
    let server =
        home.control_plane("server", &Settings { auth: Some(&of_server), ..settings.clone() })?;
    let far = home.worker("far", &server, &Settings { auth: Some(&of_worker), ..settings })?;
    under_load(&server, &far, |all_call| {
        let both = format!("{NEW}\n{OLD}\n");
        let steps = [("keys", &*both), ("key", NEW), ("keys", "# none besides\n")];
        for (file, text) in steps {
            for host in [&at_worker, &at_server] {
                host.changes(file, text)?;
                all_call()?;
                is_heard(&server)?;
            }
        }
        Ok(())
    })?;
    nothing_was_refused(&at_server, &at_worker)?;
    for (key, status) in [(NEW, 200), (OLD, 401)] {
        ensure!(call(far.at, "far", &token(key, "far", "rpc"))?.status == status, "{key}");
    }
    ensure!(heartbeat(server.at, "far", &token(OLD, "far", "control-plane"))?.status == 401);
    no_secret_is_told(&[&at_server, &at_worker])
}

fn no_secret_is_told(hosts: &[&Host<'_>]) -> Result<()> {
    for host in hosts {
        let log = fs::read_to_string(&host.log)?;
        ensure!(![OLD, NEW].iter().any(|secret| log.contains(secret)), "{log}");
    }
    Ok(())
}

/// Certificates and authorities of running processes are replaced: what each end shows, and whom it
/// believes, is of the moment of the connection.
pub(crate) fn certificates() -> Result<()> {
    let (home, old, new) = (Home::new()?, Pki::new("old")?, Pki::new("new")?);
    let (at_server, at_worker) = (Host::new(&home, "server")?, Host::new(&home, "far")?);
    for pki in [&old, &new] {
        pki.certificate("far.workers.test")?;
        pki.certificate("control.test")?;
    }
    let take = |host: &Host<'_>, from: &Pki, files: &[(&str, &str)]| {
        files.iter().try_for_each(|(name, file)| {
            let text = fs::read_to_string(from.dir().join(file))?;
            host.write(name, &text)
        })
    };
    let of_server = [("own.pem", "control.test.pem"), ("own.key", "control.test.key")];
    let of_worker = [("own.pem", "far.workers.test.pem"), ("own.key", "far.workers.test.key")];
    let authority = [("ca.pem", "ca.pem")];
    take(&at_server, &old, &[&of_server[..], &authority].concat())?;
    take(&at_worker, &old, &[&of_worker[..], &authority].concat())?;
    let auth = format!("worker_signing_key: {OLD}");
    let settings = Settings { provider: "mock", auth: Some(&auth), ..Settings::default() };
    let own = [at_server.tls("ca_file", "client", "server_name: \"{id}.workers.test\"")];
    let server = home.control_plane("server", &Settings { worker: &own, ..settings.clone() })?;
    let own = [at_worker.tls("client_ca_file", "server", "client_names: [control.test]")];
    let far = home.worker("far", &server, &Settings { worker: &own, ..settings })?;
    let sandbox = server.spawn()?;
    let calls = Calls::new(&server, &sandbox);
    calls.comes_through(true)?;

    take(&at_worker, &new, &of_worker)?;
    calls.comes_through(false).context("a worker of another authority")?;
    take(&at_server, &new, &authority)?;
    calls.comes_through(true).context("the authority is the new one")?;
    take(&at_worker, &new, &authority)?;
    calls.comes_through(false).context("a server of another authority")?;
    take(&at_server, &new, &of_server)?;
    calls.comes_through(true).context("all is new")?;

    // What cannot be used keeps what there was.
    at_worker.write("own.key", "no key\n")?;
    at_server.write("ca.pem", "no certificate\n")?;
    for host in [&at_server, &at_worker] {
        wait_for("the refusal", LIMIT, || {
            calls.comes_through(true)?;
            Ok((0 < host.said("the old ones stay")).then_some(()))
        })
        .with_context(|| host.name.to_owned())?;
    }
    drop(calls);
    destroy(&server, &sandbox)?;
    drop::<Worker>(far);
    Ok(())
}

/// Commands that run on, each of which takes one of the server's connections to its worker: the one
/// after those that are kept gets a new one.
struct Calls<'s> {
    server: &'s Server,
    sandbox: &'s str,
    held: Mutex<Vec<TcpStream>>,
}

impl<'s> Calls<'s> {
    const fn new(server: &'s Server, sandbox: &'s str) -> Self {
        Self { server, sandbox, held: Mutex::new(Vec::new()) }
    }

    /// Waits until calls over a new connection come through, or until they do not.
    fn comes_through(&self, whether: bool) -> Result<()> {
        wait_for("new connections", LIMIT, || Ok((self.is_begun()? == whether).then_some(())))
    }

    fn is_begun(&self) -> Result<bool> {
        let at = self.server.at;
        let body = json!({"command": "echo begun; exec sleep 600", "stream": true}).to_string();
        let head = format!(
            "POST /api/v1/sandboxes/{}/exec HTTP/1.1\r\nHost: {at}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.sandbox,
            body.len()
        );
        let mut stream = TcpStream::connect(at)?;
        stream.write_all(head.as_bytes())?;
        let mut answer = [0; 32];
        let count = stream.read(&mut answer)?;
        let status = String::from_utf8_lossy(&answer[..count]);
        match status.split(' ').nth(1) {
            Some("200") => {}
            Some("503") => return Ok(false),
            _ => return Err(anyhow!("{status}")),
        }
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        Ok(true)
    }
}

impl Host<'_> {
    fn tls(&self, ca: &str, side: &str, names: &str) -> String {
        let at = |name: &str| self.at(name);
        format!(
            "rpc_tls: {{enabled: true, {ca}: {}, {side}_cert_file: {}, {side}_key_file: {}, {names}}}",
            at("ca.pem"),
            at("own.pem"),
            at("own.key"),
        )
    }
}
