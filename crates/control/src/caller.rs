//! Who asks.

use std::sync::Arc;

use stacyvm_store::{EventFilter, Sandbox};
use stacyvm_types::OwnerId;

use crate::{Control, Error, Result};

/// Who asks, for the record, and whose sandboxes it may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// A name for records: the credential's, never the credential.
    pub actor: String,
    /// The only owner whose sandboxes exist for this caller; `None` sees all of them.
    pub only: Option<OwnerId>,
}

impl Caller {
    /// The server's own work.
    pub fn system() -> Self {
        Self { actor: "system".to_owned(), only: None }
    }

    /// Whether what belongs to this owner, or to nobody, exists for the caller.
    pub fn sees(&self, owner: Option<&OwnerId>) -> bool {
        self.only.as_ref().is_none_or(|only| owner == Some(only))
    }
}

impl Control {
    /// The same control plane, asked by this caller.
    #[must_use]
    pub fn on_behalf_of(&self, caller: Caller) -> Self {
        Self(self.0.clone(), Arc::new(caller), self.2.clone())
    }

    /// The same control plane, asked in the request with this id.
    #[must_use]
    pub fn in_request(&self, id: Arc<str>) -> Self {
        Self(self.0.clone(), self.1.clone(), Some(id))
    }

    /// The request that asks, if it is one.
    pub fn request_id(&self) -> Option<&str> {
        self.2.as_deref()
    }

    /// Who asks.
    pub fn caller(&self) -> &Caller {
        &self.1
    }

    pub(crate) fn sees(&self, row: &Sandbox) -> bool {
        self.caller().sees(row.spec.owner.as_ref())
    }

    /// The owner of what the caller makes.
    pub(crate) fn owner_of_new(&self, named: Option<OwnerId>) -> Result<Option<OwnerId>> {
        match (&self.caller().only, named) {
            (Some(only), Some(named)) if *only != named => Err(Error::Forbidden(format!(
                "this credential is for the owner {only} only, and the request names {named}"
            ))),
            (Some(only), _) => Ok(Some(only.clone())),
            (None, named) => Ok(named),
        }
    }

    /// Narrows a filter to the events that the caller may see; naming another owner is refused.
    /// Events of no owner concern the whole server. [`Control::events`] does the same.
    pub fn visible_events(&self, mut filter: EventFilter) -> Result<EventFilter> {
        filter.owner = self.owner_of_new(filter.owner)?;
        Ok(filter)
    }

    /// Refuses what is about the whole server, such as its figures, to a caller of one owner.
    pub fn whole_server(&self) -> Result<()> {
        match &self.caller().only {
            None => Ok(()),
            Some(only) => Err(Error::Forbidden(format!(
                "this is about all owners, and this credential is for the owner {only} only"
            ))),
        }
    }

    /// Refuses to change what all owners share.
    pub(crate) fn refuse_confined(&self, shared: &str) -> Result<()> {
        match &self.caller().only {
            None => Ok(()),
            Some(only) => Err(Error::Forbidden(format!(
                "{shared} belong to all owners; this credential is for the owner {only} only and \
                 may use them, not change them"
            ))),
        }
    }
}
