//! Quotas of owners.

use std::time::Duration;

use stacyvm_store::{self as store, NewEvent, Quota, QuotaCounts, QuotaFields};
use stacyvm_types::{EventKind, OwnerId, format_duration};

use crate::{Control, Error, Result, events, operations::Act};

/// Times of quotas are whole seconds.
const GRAIN: Duration = Duration::from_secs(1);

/// What an owner has and may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerUsage {
    /// The owner.
    pub owner: OwnerId,
    /// Its sandboxes that hold a place.
    pub active_sandboxes: u64,
    /// How many it may have; 0 is no limit.
    pub max_sandboxes: u64,
    /// The longest time to live.
    pub max_ttl: Option<Duration>,
    /// The longest deadline of a command.
    pub max_exec_timeout: Option<Duration>,
    /// Whether the owner has limits of its own.
    pub quota_configured: bool,
}

impl Control {
    /// All quotas that the caller may see, by owner.
    pub async fn quotas(&self) -> Result<Vec<Quota>> {
        let mut quotas = self.store().quotas().await.map_err(Error::from_store)?;
        if let Some(only) = &self.caller().only {
            quotas.retain(|quota| quota.owner == *only);
        }
        Ok(quotas)
    }

    /// How many there are, naming nobody.
    pub async fn quota_counts(&self) -> Result<QuotaCounts> {
        self.store().quota_counts().await.map_err(Error::from_store)
    }

    /// The quota of an owner.
    pub async fn quota(&self, owner: &OwnerId) -> Result<Quota> {
        self.visible(owner)?;
        let quota = self.store().quota(owner).await.map_err(Error::from_store)?;
        quota.ok_or_else(|| no_quota(owner))
    }

    /// Decides the quota of an owner, replacing what was decided before.
    pub async fn put_quota(&self, owner: &OwnerId, fields: QuotaFields) -> Result<Quota> {
        let (control, owner) = (self.clone(), owner.clone());
        self.owned(async move {
            let mut attempt = control.attempt(Act::Change("quota.save"), owner.as_str());
            attempt.owner = Some(owner.clone());
            let saved = control.save_quota(&owner, fields).await;
            attempt.end(saved, told).await
        })
        .await
    }

    async fn save_quota(&self, owner: &OwnerId, fields: QuotaFields) -> Result<Quota> {
        self.visible(owner)?;
        for (name, value) in
            [("max_ttl", fields.max_ttl), ("max_exec_timeout", fields.max_exec_timeout)]
        {
            if value.is_some_and(|value| value < GRAIN || value.subsec_nanos() != 0) {
                return Err(Error::invalid(format!(
                    "{name} must be a whole number of seconds, such as \"90s\" or \"1h\", or 0 to \
                     have the server's"
                )));
            }
        }
        let time = |value: Option<Duration>| format_duration(value.unwrap_or_default());
        let event = about(
            owner,
            EventKind::QuotaSaved,
            [
                ("max_sandboxes", fields.max_sandboxes.unwrap_or(0).to_string()),
                ("max_ttl", time(fields.max_ttl)),
                ("max_exec_timeout", time(fields.max_exec_timeout)),
            ],
        );
        let saved = self.store().put_quota(owner, fields, vec![event], self.now()).await;
        let quota = saved.map_err(Error::from_store)?;
        self.quota_changed();
        Ok(quota)
    }

    /// Removes the quota of an owner: it may do again what everybody may.
    pub async fn delete_quota(&self, owner: &OwnerId) -> Result<()> {
        let (control, owner) = (self.clone(), owner.clone());
        self.owned(async move {
            let mut attempt = control.attempt(Act::Change("quota.delete"), owner.as_str());
            attempt.owner = Some(owner.clone());
            let removed = control.remove_quota(&owner).await;
            attempt.end(removed, |()| String::new()).await
        })
        .await
    }

    async fn remove_quota(&self, owner: &OwnerId) -> Result<()> {
        self.visible(owner)?;
        let event = about(owner, EventKind::QuotaDeleted, []);
        match self.store().delete_quota(owner, vec![event], self.now()).await {
            Ok(()) => {
                self.quota_changed();
                Ok(())
            }
            Err(store::Error::NotFound) => Err(no_quota(owner)),
            Err(error) => Err(Error::from_store(error)),
        }
    }

    /// What an owner has and may have, known or not.
    pub async fn owner_usage(&self, owner: &OwnerId) -> Result<OwnerUsage> {
        self.visible(owner)?;
        let standing = self.store().standing(Some(owner), &self.settings().worker).await;
        let standing = standing.map_err(Error::from_store)?;
        let rules = self.rules();
        let fields = standing.quota.as_ref().map(|quota| quota.fields).unwrap_or_default();
        Ok(OwnerUsage {
            owner: owner.clone(),
            active_sandboxes: standing.usage.owner,
            max_sandboxes: rules.policy.sandboxes_of(&fields.limits()),
            max_ttl: rules.policy.ttl_of(&fields.limits()),
            max_exec_timeout: fields.max_exec_timeout.or(rules.max_exec_timeout),
            quota_configured: standing.quota.is_some(),
        })
    }

    /// The longest time to live of this owner's sandboxes.
    pub(crate) async fn max_ttl(&self, owner: Option<&OwnerId>) -> Result<Option<Duration>> {
        let quota = match owner {
            Some(owner) => self.store().quota(owner).await.map_err(Error::from_store)?,
            None => None,
        };
        let limits = quota.map(|quota| quota.fields.limits()).unwrap_or_default();
        Ok(self.rules().policy.ttl_of(&limits))
    }

    fn quota_changed(&self) {
        self.0.recorder.appended();
        self.0.queue.limits_changed();
    }

    /// To a caller of one owner there are no others.
    fn visible(&self, owner: &OwnerId) -> Result<()> {
        match &self.caller().only {
            Some(only) if only != owner => Err(no_quota(owner)),
            _ => Ok(()),
        }
    }
}

fn told(quota: &Quota) -> String {
    let QuotaFields { max_sandboxes, max_ttl, max_exec_timeout, weight: _ } = quota.fields;
    let time = |value: Option<Duration>| format_duration(value.unwrap_or_default());
    format!(
        "max_sandboxes={} max_ttl={} max_exec_timeout={}",
        max_sandboxes.unwrap_or(0),
        time(max_ttl),
        time(max_exec_timeout)
    )
}

fn no_quota(owner: &OwnerId) -> Error {
    Error::NotFound(format!("not found: quota {:?}", owner.as_str()))
}

fn about<const N: usize>(owner: &OwnerId, kind: EventKind, data: [(&str, String); N]) -> NewEvent {
    let mut event = events::general(kind, data);
    event.data.insert("owner_id".to_owned(), owner.to_string());
    NewEvent { owner: Some(owner.clone()), ..event }
}
