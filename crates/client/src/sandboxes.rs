//! Sandboxes: making, finding, keeping and ending them.

use std::time::Duration;

use http::Method;
use stacyvm_api_types::{
    AdmissionReply, ExtendRequest, PruneReply, Sandbox, SpawnRequest, StatsReply, StatusReply,
};
use stacyvm_types::{SandboxId, format_duration};

use crate::{Answer, Client, Result, server::Target, transport::Call};

/// Which sandboxes to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Those that live.
    Live,
    /// Ended ones too.
    Ended,
}

pub(crate) fn sandbox(id: &SandboxId) -> Target {
    Target::new("/sandboxes").segment(id.as_str())
}

fn showing(target: Target, show: Show) -> Target {
    match show {
        Show::Live => target,
        Show::Ended => target.query("include", "ended"),
    }
}

impl Client {
    /// Makes a sandbox. It is never sent twice: a lost answer may mean that it was made.
    pub async fn spawn(&self, request: &SpawnRequest) -> Result<Answer<Sandbox>> {
        self.ask(Call::new(Method::POST, Target::new("/sandboxes")).json(request)?.endless()).await
    }

    /// Asks whether a spawn would be admitted now; makes nothing.
    pub async fn admission(&self, request: &SpawnRequest) -> Result<Answer<AdmissionReply>> {
        let target = Target::new("/sandboxes/admission");
        self.ask(Call::new(Method::POST, target).json(request)?.repeatable()).await
    }

    /// One sandbox.
    pub async fn sandbox(&self, id: &SandboxId, show: Show) -> Result<Answer<Sandbox>> {
        self.ask(Call::get(showing(sandbox(id), show))).await
    }

    /// The sandboxes, newest first.
    pub async fn sandboxes(&self, show: Show) -> Result<Answer<Vec<Sandbox>>> {
        self.ask(Call::get(showing(Target::new("/sandboxes"), show))).await
    }

    /// Ends a sandbox. One that does not exist is ended already.
    pub async fn destroy(&self, id: &SandboxId) -> Result<Answer<StatusReply>> {
        self.ask(Call::new(Method::DELETE, sandbox(id)).endless()).await
    }

    /// Ends every sandbox whose time is over.
    pub async fn prune(&self) -> Result<Answer<PruneReply>> {
        self.ask(Call::new(Method::DELETE, Target::new("/sandboxes")).endless()).await
    }

    /// Gives a sandbox a new deadline, counted from now.
    pub async fn extend(&self, id: &SandboxId, ttl: Duration) -> Result<Answer<Sandbox>> {
        let request = ExtendRequest { ttl: Some(format_duration(ttl)) };
        let target = sandbox(id).segment("extend");
        self.ask(Call::new(Method::POST, target).json(&request)?.repeatable()).await
    }

    /// The last lines that its commands wrote.
    pub async fn logs(&self, id: &SandboxId, lines: u32) -> Result<Answer<Vec<String>>> {
        let target = sandbox(id).segment("logs").query("lines", &lines.to_string());
        self.ask(Call::get(target)).await
    }

    /// What it uses.
    pub async fn stats(&self, id: &SandboxId) -> Result<Answer<StatsReply>> {
        self.ask(Call::get(sandbox(id).segment("stats"))).await
    }
}
