//! Cases about API keys.

use std::sync::Arc;

use stacyvm_types::{KeyId, Role};

use super::{at, owner, race};
use crate::{ApiKey, Error, KeyHash, Store};

/// The id of a key, made of a number.
pub fn key_id(number: u8) -> KeyId {
    KeyId::from_entropy([number; 10])
}

/// A key whose fields are all different.
pub fn new_key(number: u8, name: &str) -> ApiKey {
    ApiKey {
        id: key_id(number),
        name: name.to_owned(),
        role: Role::Api,
        owner: Some(owner("ann")),
        speaks_for_others: true,
        hash: KeyHash(std::array::from_fn(|index| {
            number.wrapping_add(u8::try_from(index).unwrap_or_default())
        })),
        created_at: at(1),
        expires_at: Some(at(2)),
        revoked_at: None,
        last_used_at: None,
    }
}

/// Every role, with and without what may be missing.
pub async fn a_key_is_read_back_as_it_was_made(store: Arc<dyn Store>) {
    for (role, number) in Role::ALL.iter().zip(0..) {
        let full = ApiKey { role: *role, ..new_key(number, role.as_str()) };
        store.create_key(full.clone()).await.unwrap();
        assert_eq!(store.key(&full.id).await.unwrap(), Some(full));
    }
    let bare =
        ApiKey { owner: None, speaks_for_others: false, expires_at: None, ..new_key(99, "bare") };
    store.create_key(bare.clone()).await.unwrap();
    assert_eq!(store.key(&bare.id).await.unwrap(), Some(bare));
    let names: Vec<_> = store.keys().await.unwrap().into_iter().map(|key| key.name).collect();
    assert_eq!(names, ["admin", "api", "bare", "operator", "viewer"]);
}

/// Of racing makers of one name, one wins.
pub async fn neither_an_id_nor_a_name_of_a_key_is_given_twice(store: Arc<dyn Store>) {
    assert!(!store.has_keys().await.unwrap());
    let first = new_key(1, "a");
    store.create_key(first.clone()).await.unwrap();
    for second in [new_key(1, "b"), new_key(2, "a")] {
        let refused = store.create_key(second).await;
        assert!(matches!(refused, Err(Error::Conflict)), "{refused:?}");
    }
    store.revoke_key(&first.id, at(5)).await.unwrap();
    let refused = store.create_key(new_key(2, "a")).await;
    assert!(matches!(refused, Err(Error::Conflict)), "a revoked key keeps its name");
    assert!(store.has_keys().await.unwrap());
    let made = race((10..20).map(|number| {
        let store = store.clone();
        async move { store.create_key(new_key(number, "raced")).await.is_ok() }
    }))
    .await;
    assert_eq!(made.into_iter().filter(|won| *won).count(), 1);
}

/// The first instant stays.
pub async fn a_revoked_key_stays_revoked_since_the_first_time(store: Arc<dyn Store>) {
    store.create_key(new_key(1, "a")).await.unwrap();
    let revoked = ApiKey { revoked_at: Some(at(5)), ..new_key(1, "a") };
    assert_eq!(store.revoke_key(&key_id(1), at(5)).await.unwrap(), revoked);
    assert_eq!(store.revoke_key(&key_id(1), at(9)).await.unwrap(), revoked);
    assert_eq!(store.keys().await.unwrap(), [revoked]);
    let unknown = store.revoke_key(&key_id(2), at(9)).await;
    assert!(matches!(unknown, Err(Error::NotFound)), "{unknown:?}");
    assert_eq!(store.key(&key_id(2)).await.unwrap(), None);
}

/// Uses may be noted late and out of order.
pub async fn the_last_use_of_a_key_moves_forward_only(store: Arc<dyn Store>) {
    store.create_key(new_key(1, "a")).await.unwrap();
    for (noted, known) in [(7, 7), (5, 7), (9, 9)] {
        store.note_key_use(&key_id(1), at(noted)).await.unwrap();
        let key = store.key(&key_id(1)).await.unwrap().unwrap();
        assert_eq!(key.last_used_at, Some(at(known)));
    }
    store.note_key_use(&key_id(2), at(1)).await.unwrap();
}
