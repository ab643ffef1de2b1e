//! `templates …`

use stacyvm_api_types::{Code, TemplateRequest, TemplateSpawnRequest};
use stacyvm_types::format_duration;

use super::{map, sandboxes::show_new};
use crate::{
    Context, Failure,
    args::{TemplateArgs, TemplatesCommand},
    output::Rows,
};

pub(super) async fn run(context: &Context, command: TemplatesCommand) -> Result<(), Failure> {
    let client = &context.client;
    match command {
        TemplatesCommand::Ls => {
            let templates = client.templates().await?;
            let mut rows = Rows::new(&["NAME", "VERSION", "IMAGE", "MEMORY", "VCPUS", "TTL"]);
            for template in &*templates {
                rows.push([
                    &template.name,
                    &template.version.to_string(),
                    &template.image,
                    &format!("{} MiB", template.memory_mb),
                    &template.vcpus.to_string(),
                    &template.ttl,
                ]);
            }
            context.out.rows(templates.json(), &rows, "No templates")
        }
        TemplatesCommand::Get { name } => {
            let template = client.template(&name).await?;
            let mut rows = Rows::new(&[]);
            let mut row = |name: &str, value: &str| {
                if !value.is_empty() {
                    rows.push([name, value]);
                }
            };
            row("name", &template.name);
            row("version", &template.version.to_string());
            row("description", &template.description);
            row("image", &template.image);
            row("provider", &template.provider);
            row("memory", &format!("{} MiB", template.memory_mb));
            row("vcpus", &template.vcpus.to_string());
            row("ttl", &template.ttl);
            for line in &template.setup {
                row("setup", line);
            }
            for (key, value) in &template.env {
                row("env", &format!("{key}={value}"));
            }
            for (key, value) in &template.metadata {
                row("metadata", &format!("{key}={value}"));
            }
            row("created", &template.created_at);
            row("updated", &template.updated_at);
            context.out.rows(template.json(), &rows, "")
        }
        TemplatesCommand::Save(args) => save(context, args).await,
        TemplatesCommand::Rm { names } => {
            for name in names {
                let reply = client.delete_template(&name).await?;
                context.out.done(reply.json(), &format!("Template {name} removed"))?;
            }
            Ok(())
        }
        TemplatesCommand::Spawn { name, provider, ttl } => {
            let ttl = ttl.map(format_duration);
            let request = TemplateSpawnRequest { provider, ttl, ..Default::default() };
            let sandbox = client.spawn_template(&name, &request).await?;
            show_new(context, sandbox.json(), &sandbox)
        }
    }
}

/// Changes the template of that name, or makes it.
async fn save(context: &Context, args: TemplateArgs) -> Result<(), Failure> {
    let request = TemplateRequest {
        name: Some(args.name.clone()),
        image: args.image,
        description: args.description,
        provider: args.provider,
        memory_mb: args.memory,
        vcpus: args.vcpus,
        ttl: args.ttl.map(format_duration),
        setup: (!args.setup.is_empty()).then_some(args.setup),
        env: map(args.env),
        metadata: map(args.metadata),
        ..TemplateRequest::default()
    };
    let template = match context.client.update_template(&args.name, &request).await {
        Err(error) if error.code() == Some(Code::NotFound) => {
            context.client.create_template(&request).await?
        }
        answer => answer?,
    };
    let words = format!("Template {} saved as version {}", template.name, template.version);
    context.out.done(template.json(), &words)
}
