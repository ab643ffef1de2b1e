//! The secrets of one side, and how they change while it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use stacyvm_types::WorkerId;

use super::{
    secret::Secret,
    token,
    watched::{Load, Watched},
};

/// The secrets with which worker credentials are made and checked.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// The tokens of every worker that has none of its own. Of several, the first is shown and all
    /// are accepted, so that one follows another without a refused call.
    pub shared: Vec<Secret>,
    /// The tokens of single workers, in the same way. Where there is one, the shared ones are not
    /// good.
    pub tokens: BTreeMap<WorkerId, Vec<Secret>>,
    /// What signs, and is accepted.
    pub signing: Option<Secret>,
    /// What is accepted besides: keys that others sign with already, or still.
    pub also: Vec<Secret>,
    /// The ids of tokens that are not accepted any more.
    pub revoked: BTreeSet<String>,
}

impl Keys {
    /// Whether any credential could be right.
    pub fn is_empty(&self) -> bool {
        self.shared.is_empty() && self.tokens.is_empty() && self.verifying().next().is_none()
    }

    /// The token that is shown in calls about this worker.
    pub(super) fn token(&self, worker: &WorkerId) -> Option<&Secret> {
        self.configured(worker).first()
    }

    /// The tokens that are accepted in calls about this worker without a signature. A signed token
    /// that somebody configured is there to be shown, and good for as long as it says.
    pub(super) fn accepted(&self, worker: &WorkerId) -> impl Iterator<Item = &Secret> {
        self.configured(worker).iter().filter(|token| !token::is_signed(token.expose()))
    }

    fn configured(&self, worker: &WorkerId) -> &[Secret] {
        match self.tokens.get(worker) {
            Some(own) if !own.is_empty() => own,
            Some(_) | None => &self.shared,
        }
    }

    /// The keys whose signatures are accepted.
    pub fn verifying(&self) -> impl Iterator<Item = &Secret> {
        self.signing.iter().chain(&self.also)
    }
}

/// The keys that are good now: those of the settings and of the files that the settings name,
/// which are read again when they change.
#[derive(Debug)]
pub struct KeyRing(pub(super) Watched<Keys>);

impl KeyRing {
    /// Reads the keys the first time; the error is the reader's.
    pub fn new(load: Load<Keys>) -> Result<Self, String> {
        Watched::new("worker credentials", load).map(Self)
    }

    /// Keys that come from no file.
    pub fn of(keys: Keys) -> Self {
        Self(Watched::of("worker credentials", keys))
    }

    /// The keys that are good now.
    pub fn now(&self) -> Arc<Keys> {
        self.0.now()
    }

    /// Uses another reader from now on, such as after new settings. One that fails changes nothing.
    pub fn replace(&self, load: Load<Keys>) -> Result<(), String> {
        self.0.replace(load)
    }
}
