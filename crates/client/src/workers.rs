//! Workers, as operators see and treat them.

use http::Method;
use stacyvm_api_types::{StatusReply, Worker};
use stacyvm_types::WorkerId;

use crate::{Answer, Client, Result, server::Target, transport::Call};

impl Client {
    /// The workers, by id.
    pub async fn workers(&self) -> Result<Answer<Vec<Worker>>> {
        self.ask(Call::get(Target::new("/workers"))).await
    }

    /// One worker.
    pub async fn worker(&self, id: &WorkerId) -> Result<Answer<Worker>> {
        self.ask(Call::get(Target::new("/workers").segment(id.as_str()))).await
    }

    /// Takes nothing new on a worker from now on. What runs there goes on.
    pub async fn drain_worker(&self, id: &WorkerId) -> Result<Answer<Worker>> {
        self.ask(Call::new(Method::POST, of(id).segment("drain")).repeatable()).await
    }

    /// Lets a worker take sandboxes again.
    pub async fn undrain_worker(&self, id: &WorkerId) -> Result<Answer<Worker>> {
        self.ask(Call::new(Method::POST, of(id).segment("undrain")).repeatable()).await
    }

    /// Forgets a worker that holds no sandbox.
    pub async fn remove_worker(&self, id: &WorkerId) -> Result<Answer<StatusReply>> {
        self.ask(Call::new(Method::DELETE, of(id))).await
    }
}

fn of(id: &WorkerId) -> Target {
    Target::new("/admin/workers").segment(id.as_str())
}
