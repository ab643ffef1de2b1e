//! Signed worker tokens: who may do what to which worker, for a quarter of an hour at most.
//!
//! A token is three parts with dots: a fixed word that is its version, the claims as JSON, and the
//! HMAC-SHA256 of the first two as they stand; the last two in base64url without padding. The
//! format is the one of the Go implementation. What it left open is closed here: a token without an
//! audience, with a scope that is not known, or with a life of more than [`LONGEST`] is refused.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use stacyvm_types::{Timestamp, WorkerId};

use super::{
    keys::Keys,
    scope::{Scope, Scopes},
    secret::Secret,
};

/// The first part: what every signed token begins with, and no other secret should.
pub const VERSION: &str = "stacyvm-worker-v1";
/// The longest life of a token.
pub const LONGEST: Duration = Duration::from_secs(15 * 60);
/// The life of a token for which nobody asks for another.
pub const USUAL: Duration = Duration::from_secs(5 * 60);
/// How far the clock of who signs may be ahead of that of who checks.
const SKEW: i64 = 30;
/// No token of ours is longer, and nobody makes us decode more.
const MAX_LENGTH: usize = 4096;

/// Who a token is to be shown to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The worker routes of a control plane.
    ControlPlane,
    /// The RPC listener of a worker.
    Rpc,
}

impl Audience {
    /// Its name in tokens.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "worker:control-plane",
            Self::Rpc => "worker:rpc",
        }
    }

    /// What a token for it opens whose maker names nothing: what a worker needs at its control
    /// plane, and nothing at a worker, where each call needs a right of its own.
    pub fn usual_scopes(self) -> Scopes {
        match self {
            Self::ControlPlane => [Scope::Heartbeat, Scope::Lease].into_iter().collect(),
            Self::Rpc => Scopes::NONE,
        }
    }

    /// The audience of exactly this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::ControlPlane, Self::Rpc].into_iter().find(|audience| audience.as_str() == name)
    }
}

/// What a token says, as it stands in it. Claims that are not known are passed over: they can only
/// narrow what a later version would let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The worker that it is about.
    pub worker_id: String,
    /// Its own id, by which it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Who it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// What it opens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// When it ends, in seconds since the epoch.
    pub exp: i64,
    /// When it was signed, in seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// When it begins, in seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
}

impl Claims {
    /// When it ends.
    pub const fn expires_at(&self) -> Timestamp {
        instant(self.exp)
    }

    /// When it was signed, if it says so.
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.iat.map(instant)
    }

    /// When it begins, if it says so.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.nbf.map(instant)
    }
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct Order {
    /// The worker that it is about.
    pub worker: WorkerId,
    /// Who it is for.
    pub audience: Audience,
    /// What it opens.
    pub scopes: Scopes,
    /// How long it is good for, at most [`LONGEST`]; a part of a second does not count.
    pub ttl: Duration,
    /// Its own id; a random one is drawn otherwise.
    pub id: Option<String>,
}

/// A token that was made.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Its text: a secret.
    pub token: Secret,
    /// What it says.
    pub claims: Claims,
}

/// Why a token cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    /// There is no key to sign with.
    #[error("no worker signing key is configured")]
    NoKey,
    /// It would be good for longer than any token is, or for no time at all.
    #[error("a token is good for 1s to 15m")]
    Ttl,
}

/// Why a token is not good. None of the texts repeats what only the token's maker can have said,
/// unless the signature shows that it was the maker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It is not three parts of the right kind.
    #[error("this is not a worker token")]
    Malformed,
    /// No key of this side made its signature.
    #[error("no key that is configured here made the token's signature")]
    Signature,
    /// It is about another worker.
    #[error("the token is for another worker")]
    Worker,
    /// It is for another audience, or for none.
    #[error("the token is not for the audience {}", .0.as_str())]
    Audience(Audience),
    /// It names a scope that this version does not know.
    #[error("the token names a scope that is not known")]
    UnknownScope,
    /// It has ended.
    #[error("the token has expired")]
    Expired,
    /// It has not begun.
    #[error("the token is not valid yet")]
    NotYet,
    /// It would be good for too long.
    #[error("the token is good for longer than 15 minutes, which none may be")]
    TooLong,
    /// Its id is on the list of those that were taken back.
    #[error("the token was revoked")]
    Revoked,
}

/// Signs a token with the first key.
pub fn sign(keys: &Keys, order: &Order, now: Timestamp) -> Result<Signed, Unsigned> {
    if order.ttl < Duration::from_secs(1) || LONGEST < order.ttl {
        return Err(Unsigned::Ttl);
    }
    let key = keys.signing.as_ref().ok_or(Unsigned::NoKey)?;
    let now = seconds(now);
    let claims = Claims {
        worker_id: order.worker.to_string(),
        jti: Some(order.id.clone().unwrap_or_else(random_id)),
        aud: Some(order.audience.as_str().to_owned()),
        scopes: order.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        exp: now + i64::try_from(order.ttl.as_secs()).unwrap_or_default(),
        iat: Some(now),
        nbf: None,
    };
    Ok(Signed { token: encode(key, &claims), claims })
}

/// The token of these claims, whatever they say.
fn encode(key: &Secret, claims: &Claims) -> Secret {
    let json = serde_json::to_vec(claims).expect("texts and numbers are JSON");
    let head = format!("{VERSION}.{}", URL_SAFE_NO_PAD.encode(json));
    let code = URL_SAFE_NO_PAD.encode(key.sign(head.as_bytes()));
    Secret::new(&format!("{head}.{code}"))
}

/// What a token says of itself. Nobody looks at the signature: these may be anybody's words.
pub fn inspect(token: &str) -> Result<Claims, Invalid> {
    parts(token).and_then(|parts| parts.claims())
}

/// What a token opens that is shown for calls about this worker, to this audience, now.
pub fn verify(
    keys: &Keys,
    token: &str,
    worker: &WorkerId,
    audience: Audience,
    now: Timestamp,
) -> Result<Scopes, Invalid> {
    let parts = parts(token)?;
    let is_signed = keys.verifying().any(|key| key.signed(parts.head.as_bytes(), &parts.code));
    if !is_signed {
        return Err(Invalid::Signature);
    }
    let claims = parts.claims()?;
    if claims.worker_id != worker.as_str() {
        return Err(Invalid::Worker);
    }
    if claims.aud.as_deref() != Some(audience.as_str()) {
        return Err(Invalid::Audience(audience));
    }
    in_time(&claims, seconds(now))?;
    if claims.jti.as_ref().is_some_and(|id| keys.revoked.contains(id)) {
        return Err(Invalid::Revoked);
    }
    let known: Option<Scopes> = claims.scopes.iter().map(|name| Scope::parse(name)).collect();
    known.ok_or(Invalid::UnknownScope)
}

fn in_time(claims: &Claims, now: i64) -> Result<(), Invalid> {
    let longest = i64::try_from(LONGEST.as_secs()).unwrap_or(i64::MAX);
    if claims.exp <= now {
        return Err(Invalid::Expired);
    }
    let begins = claims.nbf.into_iter().chain(claims.iat).max();
    if begins.is_some_and(|at| now.saturating_add(SKEW) < at) {
        return Err(Invalid::NotYet);
    }
    // Without a word about its beginning it began now.
    let life = claims.exp.saturating_sub(claims.iat.unwrap_or(now));
    if longest < life {
        return Err(Invalid::TooLong);
    }
    Ok(())
}

struct Parts<'t> {
    /// What is signed.
    head: &'t str,
    claims: &'t str,
    code: Vec<u8>,
}

impl Parts<'_> {
    fn claims(&self) -> Result<Claims, Invalid> {
        let json = URL_SAFE_NO_PAD.decode(self.claims).map_err(|_| Invalid::Malformed)?;
        serde_json::from_slice(&json).map_err(|_| Invalid::Malformed)
    }
}

fn parts(token: &str) -> Result<Parts<'_>, Invalid> {
    if MAX_LENGTH < token.len() {
        return Err(Invalid::Malformed);
    }
    let (head, code) = token.rsplit_once('.').ok_or(Invalid::Malformed)?;
    let claims = head.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix('.'));
    let claims = claims.ok_or(Invalid::Malformed)?;
    let code = URL_SAFE_NO_PAD.decode(code).map_err(|_| Invalid::Malformed)?;
    Ok(Parts { head, claims, code })
}

/// Whether a text is a signed token, good or not, rather than a static one.
pub(super) fn is_signed(text: &str) -> bool {
    text.strip_prefix(VERSION).is_some_and(|rest| rest.starts_with('.'))
}

fn random_id() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 12]>())
}

const fn instant(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds.saturating_mul(1_000_000))
}

fn seconds(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(1_000_000)
}

#[cfg(test)]
mod tests;
