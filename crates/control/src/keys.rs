//! API keys: making, showing and revoking them, and recognising one.
//!
//! A key's text is `svm_<id>_<secret>`, 20 and 64 hex digits. The id finds the row; the secret is
//! 256 random bits, of which only the SHA-256 is kept: nobody can try such a number out, so a slow
//! hash would protect nothing.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sha2::{Digest, Sha256};
use stacyvm_store::{self as store, ApiKey, KeyHash, KeyState};
use stacyvm_types::{KeyId, OwnerId, Role, Timestamp};
use subtle::ConstantTimeEq;
use tokio::time::timeout;

use crate::{Control, Error, Result, metrics::Looked, validate};

/// Every key begins with it, so that people and scanners recognise one.
const PREFIX: &str = "svm_";
const ID_DIGITS: usize = 20;
const SECRET_DIGITS: usize = 64;
/// Uses that follow one another more closely are not written down one by one.
const USE_STEP: Duration = Duration::from_secs(60);
/// Keys whose last use is remembered; the memory begins anew above it.
const MOST_USES: usize = 4096;
/// From when on the list of keys is read again, for those who make others suspicious. Its age does
/// not matter otherwise: whoever is on it is looked up all the same.
const LIST: Range<Duration> = Duration::from_secs(5)..Duration::MAX;
/// How long reading the list may take, and how long somebody waits for that who has an older one.
const LIST_READ: Duration = Duration::from_secs(2);

/// The hashes of all keys, by id.
pub(crate) type List = Arc<Looked<Arc<HashMap<KeyId, KeyHash>>>>;

/// A key to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// What people and records call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whose key it is.
    pub owner: Option<OwnerId>,
    /// Whether it may act for owners that it names. Admin keys always may.
    pub speaks_for_others: bool,
    /// How long it is valid; `None` is until it is revoked.
    pub ttl: Option<Duration>,
}

/// A key that was just made. Its text is shown once and kept nowhere.
#[derive(Clone)]
pub struct IssuedKey {
    /// What is kept.
    pub key: ApiKey,
    /// The key itself: a secret.
    pub text: String,
}

impl fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedKey").field("key", &self.key).finish_non_exhaustive()
    }
}

impl IssuedKey {
    /// Decides everything about a new key and draws its secret; nothing is stored yet.
    pub fn issue(new: NewKey, now: Timestamp) -> Result<Self> {
        validate::key_name(&new.name)?;
        if new.owner.is_some() && Role::Api < new.role {
            return Err(Error::Invalid(format!(
                "a key of one owner has the role viewer or api: {} keys tend every owner's \
                 sandboxes",
                new.role
            )));
        }
        if let Some(ttl) = new.ttl {
            validate::key_ttl(ttl)?;
        }
        let (id, secret) = (KeyId::from_entropy(rand::random()), hex(&rand::random::<[u8; 32]>()));
        let digits = id.as_str().strip_prefix("key-").unwrap_or_default();
        let text = format!("{PREFIX}{digits}_{secret}");
        let key = ApiKey {
            id,
            name: new.name,
            role: new.role,
            owner: new.owner,
            speaks_for_others: new.speaks_for_others || new.role == Role::Admin,
            hash: hash(&secret),
            created_at: now,
            expires_at: new.ttl.map(|ttl| now.saturating_add(ttl)),
            revoked_at: None,
            last_used_at: None,
        };
        Ok(Self { key, text })
    }
}

/// Why a text is no valid key. For the log only: to a caller all ways to be wrong look alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotValid {
    /// There is no such key.
    Unknown,
    /// The key has another secret.
    Secret(KeyId),
    /// The key opens nothing any more.
    Over(KeyId, KeyState),
}

impl fmt::Display for NotValid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no such key"),
            Self::Secret(id) => write!(f, "{id} has another secret"),
            Self::Over(id, state) => write!(f, "{id} is {}", state.as_str()),
        }
    }
}

/// When keys were last noted as used.
#[derive(Default)]
pub(crate) struct Uses(Mutex<HashMap<KeyId, Timestamp>>);

impl Uses {
    /// Whether a use at `now` is to be written down. Then the next ones are not, for a while.
    fn is_due(&self, key: &ApiKey, now: Timestamp) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = noted.get(&key.id).copied().max(key.last_used_at);
        if last.is_some_and(|last| now < last.saturating_add(USE_STEP)) {
            return false;
        }
        if MOST_USES <= noted.len() {
            noted.clear();
        }
        noted.insert(key.id.clone(), now);
        true
    }
}

impl Control {
    /// Makes a key and hands out its text, which cannot be had again.
    pub async fn create_key(&self, new: NewKey) -> Result<IssuedKey> {
        let (control, name) = (self.clone(), new.name.clone());
        let told = |issued: &IssuedKey| format!("id={} role={}", issued.key.id, issued.key.role);
        self.change("key.create", &name, told, async move {
            let issued = IssuedKey::issue(new, control.now())?;
            match control.store().create_key(issued.key.clone()).await {
                Ok(()) => {
                    control.0.key_list.forget();
                    let key = &issued.key;
                    tracing::info!(key.id = %key.id, key.name, role = %key.role, "a key was made");
                    Ok(issued)
                }
                Err(store::Error::Conflict) => Err(name_taken(&issued.key.name)),
                Err(error) => Err(Error::from_store(error)),
            }
        })
        .await
    }

    /// Every key that was ever made, by name.
    pub async fn keys(&self) -> Result<Vec<ApiKey>> {
        self.store().keys().await.map_err(Error::from_store)
    }

    /// Whether a key was ever made. Once one was, there is no way back to "no credentials": who
    /// revokes the last one has locked the door and not opened it.
    pub async fn has_keys(&self) -> Result<bool> {
        self.store().has_keys().await.map_err(Error::from_store)
    }

    /// Revokes a key, from the next request on. May be repeated.
    pub async fn revoke_key(&self, id: &KeyId) -> Result<ApiKey> {
        let (control, id) = (self.clone(), id.clone());
        let told = |key: &ApiKey| format!("name={}", key.name);
        self.change("key.revoke", id.clone().as_str(), told, async move {
            match control.store().revoke_key(&id, control.now()).await {
                Ok(key) => {
                    tracing::info!(key.id = %key.id, key.name, "a key is revoked");
                    Ok(key)
                }
                Err(store::Error::NotFound) => Err(no_key(id.as_str())),
                Err(error) => Err(Error::from_store(error)),
            }
        })
        .await
    }

    /// The key whose text this is, if it is valid now.
    pub async fn recognise(&self, text: &str) -> Result<Result<ApiKey, NotValid>> {
        let Some((id, secret)) = parts(text) else { return Ok(Err(NotValid::Unknown)) };
        let Some(key) = self.store().key(&id).await.map_err(Error::from_store)? else {
            return Ok(Err(NotValid::Unknown));
        };
        if !bool::from(hash(secret).0.ct_eq(&key.hash.0)) {
            return Ok(Err(NotValid::Secret(id)));
        }
        let now = self.now();
        let state = key.state(now);
        if state != KeyState::Active {
            return Ok(Err(NotValid::Over(id, state)));
        }
        self.note_use(&key, now);
        Ok(Ok(key))
    }

    /// As [`Control::recognise`], at no cost to the store when the text is wrong: what is on no list
    /// of keys is not looked up, and the list is read once in five seconds, for everybody. A key
    /// that another server made may be found that much later.
    pub async fn recognise_listed(&self, text: &str) -> Result<Result<ApiKey, NotValid>> {
        let Some((id, secret)) = parts(text) else { return Ok(Err(NotValid::Unknown)) };
        let store = self.0.parts.store.clone();
        let look = || async move {
            match timeout(LIST_READ, store.keys()).await {
                Ok(Ok(keys)) => {
                    Some(Arc::new(keys.into_iter().map(|key| (key.id, key.hash)).collect()))
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the keys could not be listed");
                    None
                }
                Err(_) => {
                    tracing::warn!("the keys could not be listed in time");
                    None
                }
            }
        };
        let listed: Option<(_, Arc<HashMap<KeyId, KeyHash>>)> =
            self.0.key_list.get(self, LIST, LIST_READ, look).await;
        let hash = hash(secret);
        let is_listed = listed
            .and_then(|(_, keys)| keys.get(&id).map(|known| known.0.ct_eq(&hash.0).into()))
            .unwrap_or(false);
        if is_listed { self.recognise(text).await } else { Ok(Err(NotValid::Unknown)) }
    }

    /// Nobody waits for it, and it is no loss when it fails.
    fn note_use(&self, key: &ApiKey, now: Timestamp) {
        if self.0.parts.stopping.is_cancelled() || !self.0.key_uses.is_due(key, now) {
            return;
        }
        let (store, id) = (self.0.parts.store.clone(), key.id.clone());
        self.0.parts.tasks.spawn(async move {
            if let Err(error) = store.note_key_use(&id, now).await {
                tracing::debug!(key.id = %id, %error, "the use of a key was not noted");
            }
        });
    }
}

/// The error of a name that is taken.
pub fn name_taken(name: &str) -> Error {
    Error::Conflict(format!(
        "a key called {name:?} exists or existed; records name keys, so choose another name"
    ))
}

/// The error of a key that is not there.
pub fn no_key(shown: &str) -> Error {
    Error::NotFound(format!("not found: key {shown:?}"))
}

fn parts(text: &str) -> Option<(KeyId, &str)> {
    let (digits, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    if digits.len() != ID_DIGITS || secret.len() != SECRET_DIGITS {
        return None;
    }
    Some((KeyId::parse(&format!("key-{digits}")).ok()?, secret))
}

fn hash(secret: &str) -> KeyHash {
    KeyHash(Sha256::digest(secret).into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(role: Role) -> NewKey {
        NewKey { name: "ci".to_owned(), role, owner: None, speaks_for_others: false, ttl: None }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(0).saturating_add(Duration::from_secs(seconds))
    }

    /// R9.2: what is kept does not hold the secret.
    #[test]
    fn a_key_has_a_text_that_finds_it_and_a_row_that_does_not_hold_it() {
        let issued = IssuedKey::issue(new(Role::Api), at(0)).unwrap();
        let (id, secret) = parts(&issued.text).unwrap();
        assert_eq!(id, issued.key.id);
        assert_eq!(hash(secret), issued.key.hash);
        let shown = format!("{issued:?} {:?}", issued.key);
        assert!(!shown.contains(secret) && !shown.contains(&issued.text), "{shown}");
        assert_ne!(IssuedKey::issue(new(Role::Api), at(0)).unwrap().text, issued.text);
    }

    #[test]
    fn what_is_not_a_key_is_not_looked_up() {
        let good = IssuedKey::issue(new(Role::Api), at(0)).unwrap().text;
        for bad in ["", "svm_", "svm__", &good[4..], &good[..good.len() - 1], &good.to_uppercase()]
        {
            assert_eq!(parts(bad), None, "{bad:?}");
        }
        assert_eq!(parts(&format!("{good}0")), None);
    }

    #[test]
    fn a_key_that_cannot_be_right_is_refused_with_what_would_be() {
        let owner = OwnerId::parse("ann").ok();
        for (key, says) in [
            (NewKey { name: "a b".to_owned(), ..new(Role::Api) }, "key name"),
            (NewKey { name: String::new(), ..new(Role::Api) }, "key name"),
            (NewKey { owner: owner.clone(), ..new(Role::Operator) }, "viewer or api"),
            (NewKey { owner, ..new(Role::Admin) }, "viewer or api"),
            (NewKey { ttl: Some(Duration::ZERO), ..new(Role::Api) }, "positive"),
            (NewKey { ttl: Some(Duration::MAX), ..new(Role::Api) }, "ten years"),
        ] {
            let error = IssuedKey::issue(key, at(0)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(IssuedKey::issue(new(Role::Admin), at(0)).unwrap().key.speaks_for_others);
    }

    #[test]
    fn a_key_is_valid_until_it_expires_or_is_revoked() {
        let key = NewKey { ttl: Some(Duration::from_secs(10)), ..new(Role::Api) };
        let mut key = IssuedKey::issue(key, at(0)).unwrap().key;
        assert_eq!(key.state(at(9)), KeyState::Active);
        assert_eq!(key.state(at(10)), KeyState::Expired);
        key.revoked_at = Some(at(3));
        assert_eq!(key.state(at(9)), KeyState::Revoked);
    }

    #[test]
    fn uses_are_written_down_once_a_minute() {
        let uses = Uses::default();
        let mut key = IssuedKey::issue(new(Role::Api), at(0)).unwrap().key;
        let due: Vec<bool> =
            [0, 59, 60, 61, 200].map(|second| uses.is_due(&key, at(second))).into();
        assert_eq!(due, [true, false, true, false, true]);
        key.last_used_at = Some(at(500));
        assert!(!uses.is_due(&key, at(520)), "another server has noted it");
    }
}
