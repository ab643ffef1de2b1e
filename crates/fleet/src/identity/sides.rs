//! The two sides: what shows a credential, and what finds out about one. Control plane and worker
//! use both, each for the other's audience.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderValue, header};
use stacyvm_types::{WorkerId, time::Clock};

use super::{
    Authenticate, Credentials, Grant, NoCredential, Refusal, WORKER_ID, WORKER_TOKEN,
    keys::KeyRing,
    scope::{Scope, Scopes},
    token::{self, Audience, Order},
};

/// Shows the other side the credential that the settings give: the worker's own token, else the
/// shared one, else one that is signed for the call and opens nothing besides it. A static token
/// comes first so that a signing key can be given to one host after another: it is used everywhere
/// once the static token is taken away.
pub struct Shown {
    audience: Audience,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
}

impl Shown {
    /// Credentials for calls to this audience.
    pub const fn to(audience: Audience, keys: Arc<KeyRing>, clock: Arc<dyn Clock>) -> Self {
        Self { audience, keys, clock }
    }
}

impl Credentials for Shown {
    fn headers(&self, worker: &WorkerId, scope: Scope) -> Result<HeaderMap, NoCredential> {
        let keys = self.keys.now();
        let token = match keys.token(worker) {
            Some(token) => token.clone(),
            None => {
                let scopes = [scope].into_iter().collect();
                let (worker, audience) = (worker.clone(), self.audience);
                // The life of a token bounds how far the other side's clock may be ahead, so it
                // is more than a call needs.
                let order = Order { worker, audience, scopes, ttl: token::USUAL, id: None };
                token::sign(&keys, &order, self.clock.now()).map_err(|_| NoCredential)?.token
            }
        };
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| NoCredential);
        let mut token = value(token.expose())?;
        token.set_sensitive(true);
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(WORKER_ID, value(worker.as_str())?);
        headers.insert(WORKER_TOKEN, token);
        Ok(headers)
    }
}

/// Finds out what the credential of a call opens: a static token everything that workers and their
/// control planes may ask of each other, a signed one what it names.
pub struct Checked {
    audience: Audience,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
}

impl Checked {
    /// What checks the calls that come to this audience.
    pub const fn at(audience: Audience, keys: Arc<KeyRing>, clock: Arc<dyn Clock>) -> Self {
        Self { audience, keys, clock }
    }
}

impl Authenticate for Checked {
    fn authenticate(&self, worker: &WorkerId, headers: &HeaderMap) -> Result<Grant, Refusal> {
        let keys = self.keys.now();
        if keys.is_empty() {
            return Err(Refusal::NotConfigured);
        }
        let (named, shown) = shown(headers).ok_or(Refusal::Missing)?;
        if named != worker.as_str() {
            return Err(Refusal::OtherWorker);
        }
        if token::is_signed(shown) {
            let now = self.clock.now();
            let scopes = token::verify(&keys, shown, worker, self.audience, now);
            return scopes.map(Grant::of).map_err(Refusal::Token);
        }
        match keys.accepted(worker).any(|token| token.is(shown)) {
            true => Ok(Grant::of(Scopes::all())),
            false => Err(Refusal::Unknown),
        }
    }
}

/// The worker and the token that a call shows, each exactly once.
fn shown(headers: &HeaderMap) -> Option<(&str, &str)> {
    let only = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    };
    let worker = only(WORKER_ID)?;
    let token = match headers.contains_key(WORKER_TOKEN) {
        true => only(WORKER_TOKEN)?,
        false => bearer(only(header::AUTHORIZATION.as_str())?)?,
    };
    (!token.is_empty()).then_some((worker, token))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("audience", &self.audience).finish_non_exhaustive()
    }
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked").field("audience", &self.audience).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
