//! Whether a spawn would be admitted now.

use std::collections::BTreeSet;

use stacyvm_admission::{Decision, Full, Placement, Rejection, decide};
use stacyvm_store::NewSandbox;
use stacyvm_types::Resources;

use crate::{Admission, Control, Error, Overflow, Result, SpawnRequest, sandboxes::Plan};

impl Control {
    /// Whether this spawn would be admitted now, or could wait, and why not. Starts and reserves
    /// nothing. Its place in the queue is found with `explain` only. What the request gets wrong is
    /// refused as a spawn would refuse it, but for a provider that nobody has: no worker takes that.
    pub async fn admission(&self, request: SpawnRequest, explain: bool) -> Result<Admission> {
        let owner = self.owner_of_new(request.owner.clone())?;
        let (plan, provider) = match self.plan(request).await {
            Ok(plan) => (Some(plan), None),
            Err(Error::NoProvider(name)) => (None, Some(name)),
            Err(error) => return Err(error),
        };
        let placement = match &plan {
            Some(Plan { reservation, .. }) => self.proposal(&reservation.new).await?,
            None => Placement::default(),
        };
        let worker = placement.chosen.as_ref().unwrap_or_else(|| &self.settings().worker);
        let standing = self.store().standing(owner.as_ref(), worker).await;
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
            eligible: 0,
            rejected: placement
                .rejected
                .iter()
                .map(|(id, why)| (id.clone(), why.to_string()))
                .collect(),
            outlook: None,
        };
        let outscored = |(_, why): &&(_, Rejection)| *why == Rejection::Outscored;
        let outscored = placement.rejected.iter().filter(outscored).count();
        let Some(Plan { reservation, .. }) = plan else {
            let reason = format!("it has no provider {:?}", provider.unwrap_or_default());
            let workers = self.known_workers().into_iter();
            admission.rejected = workers.map(|id| (id, reason.clone())).collect();
            admission.reason = Some("worker_unavailable".to_owned());
            return Ok(admission);
        };
        let request = stacyvm_admission::Request {
            owned: owner.is_some(),
            ttl: reservation.ttl,
            takes: Resources::of_one(&reservation.new.limits),
        };
        let decision = match &placement.chosen {
            Some(worker) => {
                let capacity = self.capacity_of(worker);
                decide(&rules.policy, &limits, &capacity, standing.usage, request)
            }
            None => {
                match decide(&rules.policy, &limits, &Resources::default(), standing.usage, request)
                {
                    Decision::Refuse(refusal) => Decision::Refuse(refusal),
                    Decision::Admit | Decision::Wait(_) => {
                        Decision::Wait(Full::Worker { max: Resources::default() })
                    }
                }
            }
        };
        match decision {
            Decision::Admit => {
                admission.allowed = true;
                admission.eligible = outscored + usize::from(placement.chosen.is_some());
                admission.worker = placement.chosen;
            }
            Decision::Refuse(refusal) => admission.reason = Some(refusal.reason().to_owned()),
            Decision::Wait(full) => {
                admission.reason = Some(full.reason().to_owned());
                if let Full::Worker { max: capacity } = full {
                    let why = Rejection::Full { capacity }.to_string();
                    admission.rejected.extend(placement.chosen.map(|worker| (worker, why)));
                } else {
                    admission.eligible = outscored + usize::from(placement.chosen.is_some());
                    admission.worker = placement.chosen;
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

    /// Where it would run, known as well as a spawn would know it.
    async fn proposal(&self, new: &NewSandbox) -> Result<Placement> {
        let nobody = BTreeSet::new();
        let placement = self.place(new, &nobody);
        if placement.chosen.is_some() {
            return Ok(placement);
        }
        self.look_again().await.map_err(Error::from_store)?;
        Ok(self.place(new, &nobody))
    }
}
