//! Store methods about templates.

use std::time::Duration;

use stacyvm_store::{Error, Result, Template, TemplateChange, TemplateFields};
use stacyvm_types::Timestamp;

use crate::{
    db::{Row, Tx, json, one_row},
    events::micros,
    sql,
};

/// See [`stacyvm_store::Store::template`].
pub(crate) fn one(tx: &Tx<'_>, name: &str) -> Result<Option<Template>> {
    tx.query(sql::TEMPLATE).bind(name).first(read)
}

/// See [`stacyvm_store::Store::templates`].
pub(crate) fn list(tx: &Tx<'_>) -> Result<Vec<Template>> {
    tx.query(sql::TEMPLATES).all(read)
}

/// See [`stacyvm_store::Store::create_template`].
pub(crate) fn create(tx: &mut Tx<'_>, mut template: Template) -> Result<Template> {
    template.version = 1;
    template.fields.ttl = as_kept(template.fields.ttl);
    let fields = &template.fields;
    let inserted = tx
        .query(sql::INSERT_TEMPLATE)
        .bind(template.name.as_str())
        .bind(template.version)
        .bind(fields.image.as_str())
        .bind(fields.description.as_str())
        .bind(fields.provider.as_str())
        .bind(fields.memory_mb)
        .bind(fields.vcpus)
        .bind(micros(fields.ttl))
        .bind(json(&fields.setup)?)
        .bind(json(&fields.env)?)
        .bind(json(&fields.metadata)?)
        .bind(fields.pool_size)
        .bind(json(&fields.allowed_hosts)?)
        .bind(json(&fields.secrets)?)
        .bind(template.created_at)
        .bind(template.updated_at)
        .execute()?;
    if inserted == 0 { Err(Error::Conflict) } else { Ok(template) }
}

/// See [`stacyvm_store::Store::update_template`].
pub(crate) fn update(
    tx: &mut Tx<'_>,
    name: &str,
    change: TemplateChange,
    now: Timestamp,
) -> Result<Template> {
    let found = tx.query(sql::TEMPLATE).bind(name).for_update().first(read)?;
    let mut template = found.ok_or(Error::NotFound)?;
    template.fields.apply(change);
    template.fields.ttl = as_kept(template.fields.ttl);
    let fields = &template.fields;
    let changed = tx
        .query(sql::SET_TEMPLATE)
        .bind(fields.image.as_str())
        .bind(fields.description.as_str())
        .bind(fields.provider.as_str())
        .bind(fields.memory_mb)
        .bind(fields.vcpus)
        .bind(micros(fields.ttl))
        .bind(json(&fields.setup)?)
        .bind(json(&fields.env)?)
        .bind(json(&fields.metadata)?)
        .bind(fields.pool_size)
        .bind(json(&fields.allowed_hosts)?)
        .bind(json(&fields.secrets)?)
        .bind(now)
        .bind(name)
        .bind(template.version)
        .execute()?;
    one_row(changed)?;
    template.version += 1;
    template.updated_at = now;
    Ok(template)
}

/// See [`stacyvm_store::Store::delete_template`].
pub(crate) fn delete(tx: &mut Tx<'_>, name: &str) -> Result<()> {
    let deleted = tx.query(sql::DELETE_TEMPLATE).bind(name).execute()?;
    if deleted == 0 { Err(Error::NotFound) } else { Ok(()) }
}

/// What a read will give back for this duration.
fn as_kept(duration: Duration) -> Duration {
    Duration::from_micros(micros(duration).unsigned_abs())
}

fn read(row: &mut Row<'_>) -> Result<Template> {
    // Fields are evaluated as written here: in the order of the columns.
    Ok(Template {
        name: row.text()?.to_owned(),
        version: row.int()?,
        fields: TemplateFields {
            image: row.text()?.to_owned(),
            description: row.text()?.to_owned(),
            provider: row.text()?.to_owned(),
            memory_mb: row.int()?,
            vcpus: row.int()?,
            ttl: Duration::from_micros(row.int()?),
            setup: row.json()?,
            env: row.json()?,
            metadata: row.json()?,
            pool_size: row.int()?,
            allowed_hosts: row.json()?,
            secrets: row.json()?,
        },
        created_at: row.instant()?,
        updated_at: row.instant()?,
    })
}
