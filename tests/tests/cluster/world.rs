//! Servers and workers of one test.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stacyvm_postgres_fixture as postgres;
use stacyvm_tests::{Options, Reply, Server, Worker, http, server, server::wait_for};

/// How often workers say that they live; a lease lasts three times as long.
pub(crate) const HEARTBEAT: &str = "1s";
/// The longest that anything may take which is waited for.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// What servers and workers show each other.
pub(crate) const TOKEN: &str = "c2hhcmVkLWJldHdlZW4tYWxsLW9mLXRoaXMtdGVzdA";

/// Whether sandboxes can be isolated on this host.
pub(crate) fn native_runs_here() -> Result<(), String> {
    let look = || -> Result<bool> {
        let dir = tempfile::tempdir()?;
        let doctor =
            Command::new(server::binary()).args(["doctor", "--data-dir"]).arg(dir.path()).output();
        Ok(doctor?.status.success())
    };
    match look() {
        Ok(true) => Ok(()),
        Ok(false) => Err("stacyvm doctor says that sandboxes cannot run".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// A directory for the data and the settings of everybody in a test.
pub(crate) struct Home(tempfile::TempDir);

/// The settings of one process, but for those that all have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings<'a> {
    /// What runs sandboxes.
    pub(crate) provider: &'a str,
    /// What stands below `auth`, if it is not a token that all share.
    pub(crate) auth: Option<&'a str>,
    /// Below `worker`, each `key: value`.
    pub(crate) worker: &'a [String],
    /// Below `defaults`, the same.
    pub(crate) defaults: &'a [&'a str],
    /// The database, if it is not the file of the process.
    pub(crate) dsn: Option<&'a str>,
    /// The step at which the process kills itself.
    pub(crate) failpoint: Option<&'a str>,
}

impl Home {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    /// Where the process of this name keeps its data.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.0.path().join(name).join("data")
    }

    /// Where the process of this name finds its settings.
    pub(crate) fn settings(&self, name: &str) -> PathBuf {
        self.0.path().join(name).join("stacyvm.yaml")
    }

    fn write(&self, name: &str, settings: &Settings<'_>) -> Result<String> {
        let dir = self.0.path().join(name);
        fs::create_dir_all(&dir)?;
        let worker = [&[format!("heartbeat_interval: {HEARTBEAT}")], settings.worker].concat();
        let shared = format!("worker_token: {TOKEN}");
        let auth = settings.auth.unwrap_or(&shared);
        let mut text = format!(
            "providers: {{default: {}, mock: {{enabled: true}}}}\n\
             auth: {{{auth}}}\nworker: {{{}}}\n",
            settings.provider,
            worker.join(", "),
        );
        let defaults = [&["pool_size: 0"], settings.defaults].concat();
        text.push_str(&format!("defaults: {{{}}}\n", defaults.join(", ")));
        if let Some(dsn) = settings.dsn {
            text.push_str(&format!("database: {{driver: postgres, dsn: \"{dsn}\"}}\n"));
        }
        let file = self.settings(name);
        fs::write(&file, text)?;
        Ok(format!("--config={}", file.display()))
    }

    /// A server that runs nothing itself.
    pub(crate) fn control_plane(&self, name: &str, settings: &Settings<'_>) -> Result<Server> {
        let worker = [&["enabled: false".to_owned()], settings.worker].concat();
        self.server(name, &Settings { worker: &worker, ..settings.clone() })
    }

    /// A server.
    pub(crate) fn server(&self, name: &str, settings: &Settings<'_>) -> Result<Server> {
        let worker = [&[format!("id: {name}")], settings.worker].concat();
        let config = self.write(name, &Settings { worker: &worker, ..settings.clone() })?;
        let failpoint = settings.failpoint.map(str::to_owned);
        let options = Options { args: vec![config], failpoint, ..Options::default() };
        Server::start(&self.data(name), &options)
    }

    /// A worker whose control plane is at `url`.
    pub(crate) fn worker_of(
        &self,
        name: &str,
        url: &str,
        settings: &Settings<'_>,
    ) -> Result<Worker> {
        let config = self.write(name, settings)?;
        Worker::start(&self.data(name), name, &[config, format!("--control-plane={url}")])
    }

    /// What a worker does that says once that it lives.
    pub(crate) fn says_once(
        &self,
        name: &str,
        server: &Server,
        settings: &Settings<'_>,
    ) -> Result<Output> {
        let config = self.write(name, settings)?;
        let mut command = Command::new(server::binary());
        command.args(["worker", "--once", "--id", name, &config]);
        command.arg(format!("--control-plane=http://{}", server.at));
        Ok(command.arg("--data-dir").arg(self.data(name)).output()?)
    }

    /// A worker that the server has heard of.
    pub(crate) fn worker(
        &self,
        name: &str,
        server: &Server,
        settings: &Settings<'_>,
    ) -> Result<Worker> {
        let worker = self.worker_of(name, &format!("http://{}", server.at), settings)?;
        heard(server, &worker)?;
        Ok(worker)
    }
}

/// A database of its own.
pub(crate) fn database(server: &postgres::Server) -> Result<String> {
    Ok(server.dsn(&server.create_database()?))
}

/// Waits until the server would send the worker something.
pub(crate) fn heard(server: &Server, worker: &Worker) -> Result<()> {
    let end = format!("://{}", worker.at);
    is(server, &worker.id, |row| {
        let url = row["capacity"]["rpc_url"].as_str().unwrap_or_default();
        row["status"] == "online" && url.ends_with(&end)
    })
    .with_context(|| worker.log())?;
    // The registry has it a moment before this server looks there.
    wait_for("the server's look", LIMIT, || {
        let placed = server.post("/api/v1/sandboxes/admission?explain=true", &json!({}))?.json();
        let chosen = placed["selected_worker_id"] == *worker.id;
        let mut others = placed["rejected_workers"].as_array().into_iter().flatten();
        Ok((chosen || others.any(|other| other["worker_id"] == *worker.id)).then_some(()))
    })
}

/// Waits until the registry says this of a worker.
pub(crate) fn is(server: &Server, worker: &str, what: impl Fn(&Value) -> bool) -> Result<()> {
    let mut last = Value::Null;
    wait_for("the worker's row", LIMIT, || {
        last = server.get(&format!("/api/v1/workers/{worker}"))?.json();
        Ok(what(&last).then_some(()))
    })
    .with_context(|| format!("{worker}: {last}"))
}

/// A sandbox's row.
pub(crate) fn row(server: &Server, id: &str) -> Result<Reply> {
    server.get(&format!("/api/v1/sandboxes/{id}"))
}

/// Waits until the sandbox is in this state; its row.
pub(crate) fn becomes(server: &Server, id: &str, state: &str) -> Result<Value> {
    let mut last = Value::Null;
    wait_for(state, LIMIT, || {
        last = row(server, id)?.json();
        Ok((last["state"] == state).then_some(()))
    })
    .with_context(|| format!("{id}: {last}"))?;
    Ok(last)
}

/// Spawns with this body; the sandbox's row.
pub(crate) fn spawn(server: &Server, body: &Value) -> Result<Value> {
    let reply = server.post("/api/v1/sandboxes", body)?;
    ensure!(reply.status == 201, "spawn answered {}: {}", reply.status, reply.json());
    Ok(reply.json())
}

/// No worker is there for another sandbox.
pub(crate) fn nobody_takes_it(server: &Server) -> Result<()> {
    let refused = server.post("/api/v1/sandboxes", &json!({}))?;
    let said = refused.json();
    // What this server knew, or what the store said when it was asked.
    let words = [(429, "no eligible worker"), (503, "no worker can take the sandbox")];
    let why = words.iter().any(|(status, words)| {
        *status == refused.status && said["message"].as_str().is_some_and(|m| m.contains(words))
    });
    ensure!(why, "{}: {said}", refused.status);
    Ok(())
}

/// The id in a row.
pub(crate) fn id(row: &Value) -> Result<String> {
    Ok(row["id"].as_str().context("an id")?.to_owned())
}

/// Ends a sandbox.
pub(crate) fn destroy(server: &Server, id: &str) -> Result<()> {
    let reply = server.delete(&format!("/api/v1/sandboxes/{id}"))?;
    ensure!(reply.status == 200, "destroy answered {}: {}", reply.status, reply.json());
    Ok(())
}

/// A line's output, asked for at this server.
pub(crate) fn says(server: &Server, id: &str, line: &str) -> Result<String> {
    let reply = server.exec(id, line)?;
    Ok(reply["stdout"].as_str().context("stdout")?.to_owned())
}

/// The generation of the sandbox's lease, which `worker` holds.
pub(crate) fn generation(server: &Server, worker: &str, id: &str) -> Result<u64> {
    let path = format!("/api/v1/admin/workers/{worker}/leases/{id}/renew");
    let reply = server.post(&path, &json!({}))?;
    ensure!(reply.status == 200, "renew answered {}: {}", reply.status, reply.json());
    reply.json()["lease"]["generation"].as_u64().context("a generation")
}

/// Sends a request with an idempotency key.
pub(crate) fn keyed(at: SocketAddr, path: &str, key: &str, body: &Value) -> Result<Reply> {
    let body = body.to_string();
    let head = format!(
        "POST /api/v1{path} HTTP/1.1\r\nHost: {at}\r\nIdempotency-Key: {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    http::raw(at, head.as_bytes())
}

/// The sandboxes that the native provider over `data` has, by the directories that it made.
pub(crate) fn runtimes(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("run/runtimes/sandboxes")).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
