//! Who asks.

use std::sync::Arc;

use stacyvm_types::OwnerId;

use crate::Control;

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
}
