//! Whether a spawn would be admitted now.

use stacyvm_admission::{Decision, decide};

use crate::{Admission, Control, Error, Overflow, Result, SpawnRequest, sandboxes::Plan};

impl Control {
    /// Whether this spawn would be admitted now, or could wait, and why not. Starts and reserves
    /// nothing. Its place in the queue is found with `explain` only. What the request gets wrong is refused as a spawn would refuse it, but for a
    /// provider that nobody has: no worker takes that.
    pub async fn admission(&self, request: SpawnRequest, explain: bool) -> Result<Admission> {
        let owner = self.owner_of_new(request.owner.clone())?;
        let worker = self.settings().worker.clone();
        let (plan, provider) = match self.plan(request).await {
            Ok(plan) => (Some(plan), None),
            Err(Error::NoProvider(name)) => (None, Some(name)),
            Err(error) => return Err(error),
        };
        let standing = self.store().standing(owner.as_ref(), &worker).await;
        let standing = standing.map_err(Error::from_store)?;
        let rules = self.rules();
        let fields = standing.quota.map(|quota| quota.fields).unwrap_or_default();
        let limits = fields.limits();
        let mut admission = Admission {
            allowed: false,
            queueable: false,
            reason: None,
            active_sandboxes: standing.usage.total,
            max_sandboxes: rules.policy.max_sandboxes,
            active_owner_sandboxes: standing.usage.owner,
            max_owner_sandboxes: if owner.is_some() {
                rules.policy.sandboxes_of(&limits)
            } else {
                0
            },
            max_ttl: rules.policy.ttl_of(&limits),
            worker: None,
            rejected: Vec::new(),
            outlook: None,
        };
        let Some(Plan { reservation, .. }) = plan else {
            let reason = format!("it has no provider {:?}", provider.unwrap_or_default());
            admission.rejected.push((worker, reason));
            admission.reason = Some("worker_unavailable".to_owned());
            return Ok(admission);
        };
        let request = stacyvm_admission::Request { owned: owner.is_some(), ttl: reservation.ttl };
        match decide(&rules.policy, &limits, standing.usage, request) {
            Decision::Admit => {
                admission.allowed = true;
                admission.worker = Some(worker);
            }
            Decision::Refuse(refusal) => admission.reason = Some(refusal.reason().to_owned()),
            Decision::Wait(full) => {
                admission.reason = Some(full.reason().to_owned());
                if let stacyvm_admission::Full::Worker { max } = full {
                    admission
                        .rejected
                        .push((worker, format!("it has {max} sandboxes and takes no more")));
                } else {
                    admission.worker = Some(worker);
                }
                let weight = fields.weight.unwrap_or_default();
                if let Overflow::Queue { places, .. } = rules.overflow
                    && self.0.queue.has_room(&owner, weight, places)
                {
                    admission.queueable = true;
                    // It looks at everybody who waits, so only for those who ask.
                    admission.outlook =
                        explain.then(|| self.0.queue.outlook(&owner, weight, reservation.priority));
                }
            }
        }
        Ok(admission)
    }
}
