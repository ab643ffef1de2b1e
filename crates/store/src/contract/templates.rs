//! Cases about templates, and the ping.

use std::{sync::Arc, time::Duration};

use super::{at, map, new_template};
use crate::{Error, Store, Template, TemplateChange, TemplateFields};

/// Create returns what a read returns; delete forgets it.
pub async fn a_template_is_created_read_and_deleted(store: Arc<dyn Store>) {
    let asked = Template { version: 77, ..new_template("base") };
    let made = store.create_template(asked).await.unwrap();
    assert_eq!(made, new_template("base"), "the version starts at 1");
    assert_eq!(store.template("base").await.unwrap(), Some(made));
    store.delete_template("base").await.unwrap();
    assert_eq!(store.template("base").await.unwrap(), None);
    store.create_template(new_template("base")).await.unwrap();
}

/// The first one stays.
pub async fn a_known_template_name_is_a_conflict(store: Arc<dyn Store>) {
    let first = store.create_template(new_template("base")).await.unwrap();
    let mut second = new_template("base");
    second.fields.image = "other".to_owned();
    let refused = store.create_template(second).await;
    assert!(matches!(refused, Err(Error::Conflict)), "{refused:?}");
    assert_eq!(store.templates().await.unwrap(), [first]);
}

/// Each field alone, none, and all together.
pub async fn an_update_changes_the_named_fields_only(store: Arc<dyn Store>) {
    let mut expected = store.create_template(new_template("base")).await.unwrap();
    let none = TemplateChange::default;
    let other = TemplateFields {
        image: "alpine".to_owned(),
        description: String::new(),
        provider: "native".to_owned(),
        memory_mb: 31,
        vcpus: 32,
        ttl: Duration::from_micros(33),
        setup: vec![],
        env: map(&[]),
        metadata: map(&[("x", "y")]),
        pool_size: 34,
        allowed_hosts: vec!["a".to_owned(), "b".to_owned()],
        secrets: map(&[("k", "v")]),
    };
    let changes = [
        none(),
        TemplateChange { image: Some(other.image.clone()), ..none() },
        TemplateChange { description: Some(other.description.clone()), ..none() },
        TemplateChange { provider: Some(other.provider.clone()), ..none() },
        TemplateChange { memory_mb: Some(other.memory_mb), ..none() },
        TemplateChange { vcpus: Some(other.vcpus), ..none() },
        TemplateChange { ttl: Some(other.ttl + Duration::from_nanos(999)), ..none() },
        TemplateChange { setup: Some(other.setup.clone()), ..none() },
        TemplateChange { env: Some(other.env.clone()), ..none() },
        TemplateChange { metadata: Some(other.metadata.clone()), ..none() },
        TemplateChange { pool_size: Some(other.pool_size), ..none() },
        TemplateChange { allowed_hosts: Some(other.allowed_hosts.clone()), ..none() },
        TemplateChange { secrets: Some(other.secrets.clone()), ..none() },
    ];
    for (change, second) in changes.into_iter().zip(10..) {
        expected.fields.apply(change.clone());
        if change.ttl.is_some() {
            expected.fields.ttl = other.ttl;
        }
        expected.version += 1;
        expected.updated_at = at(second);
        let row = store.update_template("base", change, at(second)).await.unwrap();
        assert_eq!(row, expected);
        assert_eq!(store.template("base").await.unwrap().as_ref(), Some(&expected));
    }
    assert_eq!(expected.fields, other, "every field has a change");
    assert_eq!(expected.created_at, at(1));
}

/// Reads say `None`, changes say `NotFound`.
pub async fn an_unknown_template_is_not_found(store: Arc<dyn Store>) {
    assert_eq!(store.template("base").await.unwrap(), None);
    let updated = store.update_template("base", TemplateChange::default(), at(1)).await;
    assert!(matches!(updated, Err(Error::NotFound)), "{updated:?}");
    let deleted = store.delete_template("base").await;
    assert!(matches!(deleted, Err(Error::NotFound)), "{deleted:?}");
}

/// By the bytes of their names.
pub async fn templates_are_listed_by_name(store: Arc<dyn Store>) {
    for name in ["b", "a", "ä", "B", "a-1"] {
        store.create_template(new_template(name)).await.unwrap();
    }
    let names: Vec<_> =
        store.templates().await.unwrap().into_iter().map(|template| template.name).collect();
    assert_eq!(names, ["B", "a", "a-1", "b", "ä"]);
}

/// An empty store is a healthy one.
pub async fn the_store_answers_a_ping(store: Arc<dyn Store>) {
    store.ping().await.unwrap();
}
