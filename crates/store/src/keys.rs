//! API keys at rest.

use std::fmt;

use async_trait::async_trait;
use stacyvm_types::{KeyId, OwnerId, Role, Timestamp};

use crate::Result;

/// The SHA-256 of a key's secret. The secret is 256 random bits, which nobody can try out, so a
/// slow hash would only slow the server down.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyHash(pub [u8; 32]);

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(hidden)")
    }
}

/// An API key as it is kept: everything but its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id, which is part of the key's text.
    pub id: KeyId,
    /// What people and records call it; no other key has or had this name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whose key it is. What it makes belongs to that owner.
    pub owner: Option<OwnerId>,
    /// Whether it may act for owners that it names.
    pub speaks_for_others: bool,
    /// What its secret must hash to.
    pub hash: KeyHash,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// From when on it is refused because somebody said so.
    pub revoked_at: Option<Timestamp>,
    /// When it was used last, to the minute or so.
    pub last_used_at: Option<Timestamp>,
}

/// Whether a key opens anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// Somebody revoked it.
    Revoked,
}

impl KeyState {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl ApiKey {
    /// Whether it opens anything at `now`.
    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if self.expires_at.is_some_and(|end| end <= now) {
            KeyState::Expired
        } else {
            KeyState::Active
        }
    }
}

/// What the store remembers about API keys. A key is never forgotten, only revoked: records name
/// it, and a server that ever had one asks for one.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Inserts a key; a known id or name is [`crate::Error::Conflict`].
    async fn create_key(&self, key: ApiKey) -> Result<()>;

    /// One key, also one that is not valid any more.
    async fn key(&self, id: &KeyId) -> Result<Option<ApiKey>>;

    /// All keys, by name.
    async fn keys(&self) -> Result<Vec<ApiKey>>;

    /// Whether there is or was a key.
    async fn has_keys(&self) -> Result<bool>;

    /// Revokes a key and returns it; the first instant stays. An unknown id is
    /// [`crate::Error::NotFound`].
    async fn revoke_key(&self, id: &KeyId, now: Timestamp) -> Result<ApiKey>;

    /// Notes that a key was used at `at`; an earlier instant than the one that is known, and an
    /// unknown id, change nothing.
    async fn note_key_use(&self, id: &KeyId, at: Timestamp) -> Result<()>;
}
