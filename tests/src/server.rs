//! A server process under test.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{Reply, http};

/// How to start a server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// More arguments of `serve`.
    pub args: Vec<String>,
    /// The admin key that it asks for and that [`Server`] sends; without one it is open.
    pub key: Option<String>,
    /// The step at which the process kills itself.
    pub failpoint: Option<String>,
}

/// The binary under test: beside the test binaries, or `STACYVM_BIN`.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("STACYVM_BIN") {
        return path.into();
    }
    let me = std::env::current_exe().unwrap_or_default();
    let target = me.ancestors().nth(2).unwrap_or_else(|| Path::new("."));
    target.join("stacyvm")
}

/// A running server. Dropping it stops the process; sandboxes are the test's to destroy.
pub struct Server {
    /// The process.
    pub child: Child,
    /// Where it listens.
    pub at: SocketAddr,
    /// What it asks for.
    pub key: Option<String>,
}

impl Server {
    /// Starts a server over `data` and waits until it answers.
    pub fn start(data: &Path, options: &Options) -> Result<Self> {
        let port_file = data.join("port");
        std::fs::create_dir_all(data)?;
        let _ = std::fs::remove_file(&port_file);
        let mut command = Command::new(binary());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "text", "--data-dir"])
            .arg(data)
            .arg("--port-file")
            .arg(&port_file)
            .args(&options.args)
            .stdin(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(data.join("log"))?);
        if let Some(step) = &options.failpoint {
            command.env("STACYVM_FAILPOINT", step);
        }
        if let Some(key) = &options.key {
            command.env("STACYVM_AUTH_ADMIN_API_KEY", key);
            // Wrong keys are counted by address: a test may say where it comes from.
            command.env("STACYVM_SERVER_TRUSTED_PROXIES", "127.0.0.1");
        }
        let child = command.spawn().with_context(|| format!("start {}", binary().display()))?;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = Self { child, at, key: options.key.clone() };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = server.child.try_wait()? {
                let log = std::fs::read_to_string(data.join("log")).unwrap_or_default();
                bail!("the server ended with {status}:\n{log}");
            }
            let port = std::fs::read_to_string(&port_file).ok().and_then(|p| p.trim().parse().ok());
            if let Some(port) = port {
                server.at.set_port(port);
                if server.get("/api/v1/live").is_ok_and(|reply| reply.status == 200) {
                    return Ok(server);
                }
            }
            if Instant::now() > deadline {
                bail!("the server did not answer within 60 s");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Result<Reply> {
        self.call("GET", path, None)
    }

    /// `POST path` with a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.call("POST", path, Some(body))
    }

    /// `DELETE path`.
    pub fn delete(&self, path: &str) -> Result<Reply> {
        self.call("DELETE", path, None)
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Reply> {
        http::call_with(self.at, self.key.as_deref(), method, path, body)
    }

    /// Spawns a sandbox with the defaults and returns its id.
    pub fn spawn(&self) -> Result<String> {
        let reply = self.post("/api/v1/sandboxes", &json!({}))?;
        let body = reply.json();
        match (reply.status, body["id"].as_str()) {
            (201, Some(id)) => Ok(id.to_owned()),
            (status, _) => bail!("spawn answered {status}: {body}"),
        }
    }

    /// Runs a shell line and returns the reply's JSON.
    pub fn exec(&self, id: &str, line: &str) -> Result<Value> {
        let reply =
            self.post(&format!("/api/v1/sandboxes/{id}/exec"), &json!({ "command": line }))?;
        if reply.status != 200 {
            bail!("exec answered {}: {}", reply.status, reply.json());
        }
        Ok(reply.json())
    }

    /// The ids of the sandboxes that have not ended.
    pub fn live(&self) -> Result<Vec<String>> {
        let rows = self.get("/api/v1/sandboxes")?.json();
        let rows = rows.as_array().context("the list is not an array")?;
        Ok(rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect())
    }

    /// Kills the process at once and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until the process has ended by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the server did not end within {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    /// Asks first: a server that is killed leaves its ready pool, and what it has in memory.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.wait(Duration::from_secs(20));
        }
        self.kill();
    }
}

/// Asks until the answer is `Some`, or fails with `what` after `limit`.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
