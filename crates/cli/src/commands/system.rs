//! `health`, `providers`.

use crate::{
    Context, ExitStatus, Failure,
    output::{Rows, say},
};

pub(super) async fn providers(context: &Context) -> Result<(), Failure> {
    let providers = context.client.providers().await?;
    let rows = rows(&providers);
    context.out.rows(providers.json(), &rows, "No providers")
}

fn rows(providers: &[stacyvm_api_types::Provider]) -> Rows {
    let mut rows = Rows::new(&["PROVIDER", "USABLE", "DEFAULT", "RUNTIMES", "SUMMARY"]);
    let word = |yes: bool| if yes { "yes" } else { "no" };
    for provider in providers {
        let count = provider.runtime_count.map(|n| n.to_string()).unwrap_or_default();
        let summary = provider.error.as_deref().unwrap_or(&provider.summary);
        let (usable, default) = (word(provider.healthy), word(provider.default));
        rows.push([&provider.name, usable, default, &count, summary]);
    }
    rows
}

/// Exits with 1 when the server is not ready.
pub(super) async fn health(context: &Context) -> Result<ExitStatus, Failure> {
    let ready = context.client.ready().await?;
    if !context.out.is_json() {
        let server = context.client.server();
        let status = ready.status.replace('_', " ");
        let details = match ready.version.is_empty() {
            true => "it tells no more without a valid key".to_owned(),
            false => format!("version {}, up {}", ready.version, ready.uptime),
        };
        let words = format!("{server} is {status} ({details})");
        say(&crate::escape::escape(&words));
        if let Some(error) = &ready.store.error {
            say(&format!("The store does not answer: {}", crate::escape::escape(error)));
        }
    }
    if context.out.is_json() || !ready.version.is_empty() {
        context.out.rows(ready.json(), &rows(&ready.providers), "No providers")?;
    }
    Ok(if ready.status == "ready" { ExitStatus::OK } else { ExitStatus::FAILED })
}
