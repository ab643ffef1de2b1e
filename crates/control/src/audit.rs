//! Reading the audit log, and writing what only the API sees.

use std::time::Duration;

use stacyvm_store::{
    Sandbox,
    audit::{AdminFilter, AdminRecord, OperationFilter, OperationRecord, Page, Position},
};
use stacyvm_types::AuditId;
use tokio::runtime::Handle;

use crate::{
    Control, Error, Result,
    events::Record,
    operations::{Act, cut},
};

/// The longest path and the longest user agent in a record, in bytes.
const LONGEST: usize = 512;

/// A request to an admin route and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminRequest {
    /// Who asked: a credential's name, never the credential.
    pub actor: String,
    /// The HTTP method.
    pub method: String,
    /// The path without its query; cut to 512 bytes.
    pub path: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// How long the answer took.
    pub duration: Duration,
    /// The request's id.
    pub request_id: String,
    /// From where.
    pub remote_addr: String,
    /// With what; cut to 512 bytes.
    pub user_agent: String,
}

impl Control {
    /// Operations, newest first, a page at a time; see [`stacyvm_store::AuditStore`].
    pub async fn operation_records(
        &self,
        filter: OperationFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<OperationRecord>> {
        self.store().operation_records(filter, before, limit).await.map_err(Error::from_store)
    }

    /// Admin requests, newest first, a page at a time; see [`stacyvm_store::AuditStore`].
    pub async fn admin_records(
        &self,
        filter: AdminFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<AdminRecord>> {
        self.store().admin_records(filter, before, limit).await.map_err(Error::from_store)
    }

    /// Records a request to an admin route, on a task of the server's: also when the caller does
    /// not wait for it. Waits for a place in the queue, never for the disk.
    pub fn record_admin(&self, request: AdminRequest) {
        let AdminRequest { actor, method, path, status, .. } = request;
        let record = AdminRecord {
            id: AuditId::from_entropy(self.0.entropy.id()),
            at: self.now(),
            actor,
            method,
            path: cut(path, LONGEST),
            status,
            duration: request.duration,
            request_id: request.request_id,
            remote_addr: request.remote_addr,
            user_agent: cut(request.user_agent, LONGEST),
            tenant: None,
        };
        // Called where a request is dropped, which may be as late as the runtime itself.
        let Ok(runtime) = Handle::try_current() else { return };
        let control = self.clone();
        let record = async move { control.0.recorder.record_soon(Record::Admin(record)).await };
        self.0.parts.tasks.spawn_on(record, &runtime);
    }

    /// Records what the reconciler did about a sandbox.
    pub(crate) async fn audit_reconciled(&self, row: &Sandbox, action: &str, reason: String) {
        let mut attempt = self.attempt(Act::Change("reconcile.action"), action);
        attempt.concerns(row);
        attempt.succeeded(reason).await;
    }

    /// Records that the reconciler could not do what a sandbox needs; it tries again.
    pub(crate) async fn audit_not_settled(&self, row: &Sandbox, error: &Error) {
        let mut attempt = self.attempt(Act::Change("reconcile.action"), "");
        attempt.concerns(row);
        attempt.failed(error, Vec::new()).await;
    }
}
