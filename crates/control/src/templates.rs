//! Named recipes for sandboxes.

use stacyvm_store::{self as store, Sandbox, Template, TemplateChange, TemplateFields};

use crate::{Control, Error, Result, SpawnRequest, TemplateSpawn, Turn, validate};

const MAX_SETUP_LINES: usize = 64;
const MAX_SETUP_BYTES: usize = 64 * 1024;
const MAX_DESCRIPTION: usize = 4 * 1024;

impl Control {
    /// Spawns from a template.
    pub async fn spawn_template(&self, name: &str, request: TemplateSpawn) -> Result<Sandbox> {
        self.spawn_template_once(None, name, request).await
    }

    /// The same, for a turn: the sandbox that its key stands for.
    pub async fn spawn_template_once(
        &self,
        turn: Option<&Turn>,
        name: &str,
        request: TemplateSpawn,
    ) -> Result<Sandbox> {
        let TemplateSpawn { provider, ttl, owner, metadata, env } = request;
        let template = Some(name.to_owned());
        let request = SpawnRequest {
            provider,
            ttl,
            owner,
            template,
            metadata,
            env,
            ..SpawnRequest::default()
        };
        self.spawn_once(turn, request).await
    }

    /// A template by name.
    pub async fn template(&self, name: &str) -> Result<Template> {
        let template = self.store().template(name).await.map_err(Error::from_store)?;
        template.ok_or_else(|| Error::NoTemplate(name.to_owned()))
    }

    /// All templates, by name.
    pub async fn templates(&self) -> Result<Vec<Template>> {
        self.store().templates().await.map_err(Error::from_store)
    }

    /// Makes a template.
    pub async fn create_template(&self, fields: TemplateFields, name: &str) -> Result<Template> {
        let (control, own) = (self.clone(), name.to_owned());
        self.change("template.create", name, version, async move {
            control.refuse_confined("templates")?;
            validate::template_name(&own)?;
            control.check(&fields).await?;
            let now = control.now();
            let template = Template {
                name: own.clone(),
                version: 1,
                fields,
                created_at: now,
                updated_at: now,
            };
            let made = control.store().create_template(template).await;
            made.map_err(|error| of_template(error, &own))
        })
        .await
    }

    /// Changes the named fields of a template.
    pub async fn update_template(&self, name: &str, change: TemplateChange) -> Result<Template> {
        let (control, own) = (self.clone(), name.to_owned());
        self.change("template.update", name, version, async move {
            control.refuse_confined("templates")?;
            let fields = changed(control.template(&own).await?.fields, change.clone());
            control.check(&fields).await?;
            let stored = control.store().update_template(&own, change, control.now()).await;
            stored.map_err(|error| of_template(error, &own))
        })
        .await
    }

    /// Removes a template.
    pub async fn delete_template(&self, name: &str) -> Result<()> {
        let (control, own) = (self.clone(), name.to_owned());
        self.change("template.delete", name, |()| String::new(), async move {
            control.refuse_confined("templates")?;
            let deleted = control.store().delete_template(&own).await;
            deleted.map_err(|error| of_template(error, &own))
        })
        .await
    }

    async fn check(&self, fields: &TemplateFields) -> Result<()> {
        let settings = self.settings();
        let (default, max) = (settings.default_limits, settings.max_limits);
        validate::image(&fields.image)?;
        validate::limit("memory_mb", Some(fields.memory_mb), default.memory_mb, max.memory_mb)?;
        validate::limit("vcpus", Some(fields.vcpus), default.vcpus, max.vcpus)?;
        validate::ttl(fields.ttl, self.rules().policy.max_ttl)?;
        validate::env(&fields.env)?;
        validate::metadata(&fields.metadata)?;
        if !fields.provider.is_empty() {
            self.known_provider(&fields.provider).await?;
        }
        let setup_bytes: usize = fields.setup.iter().map(String::len).sum();
        if MAX_SETUP_LINES < fields.setup.len() || MAX_SETUP_BYTES < setup_bytes {
            return Err(Error::Invalid(format!(
                "setup has {} lines and {setup_bytes} bytes; at most {MAX_SETUP_LINES} lines and \
                 {MAX_SETUP_BYTES} bytes are allowed",
                fields.setup.len()
            )));
        }
        if fields.setup.iter().any(|line| line.contains('\0')) {
            return Err(Error::invalid("setup must not hold a NUL byte"));
        }
        if MAX_DESCRIPTION < fields.description.len() {
            return Err(Error::Invalid(format!(
                "description has {} bytes; at most {MAX_DESCRIPTION} are allowed",
                fields.description.len()
            )));
        }
        Ok(())
    }
}

/// Fills what the request leaves open from the template; what stays open takes the server's
/// defaults. Answers the lines to run before the sandbox is handed out.
pub(crate) fn apply(request: &mut SpawnRequest, template: Template) -> Vec<String> {
    let TemplateFields { image, provider, memory_mb, vcpus, ttl, setup, env, metadata, .. } =
        template.fields;
    request.image.get_or_insert(image);
    if !provider.is_empty() {
        request.provider.get_or_insert(provider);
    }
    request.memory_mb.get_or_insert(memory_mb);
    request.vcpus.get_or_insert(vcpus);
    request.ttl.get_or_insert(ttl);
    for (key, value) in env {
        request.env.entry(key).or_insert(value);
    }
    for (key, value) in metadata {
        request.metadata.entry(key).or_insert(value);
    }
    request.metadata.entry("template".to_owned()).or_insert(template.name);
    setup
}

fn changed(before: TemplateFields, change: TemplateChange) -> TemplateFields {
    TemplateFields {
        image: change.image.unwrap_or(before.image),
        description: change.description.unwrap_or(before.description),
        provider: change.provider.unwrap_or(before.provider),
        memory_mb: change.memory_mb.unwrap_or(before.memory_mb),
        vcpus: change.vcpus.unwrap_or(before.vcpus),
        ttl: change.ttl.unwrap_or(before.ttl),
        setup: change.setup.unwrap_or(before.setup),
        env: change.env.unwrap_or(before.env),
        metadata: change.metadata.unwrap_or(before.metadata),
        pool_size: change.pool_size.unwrap_or(before.pool_size),
        allowed_hosts: change.allowed_hosts.unwrap_or(before.allowed_hosts),
        secrets: change.secrets.unwrap_or(before.secrets),
    }
}

fn version(template: &Template) -> String {
    format!("version={}", template.version)
}

fn of_template(error: store::Error, name: &str) -> Error {
    match error {
        store::Error::NotFound => Error::NoTemplate(name.to_owned()),
        store::Error::Conflict => Error::Conflict("template already exists".to_owned()),
        error => Error::from_store(error),
    }
}
