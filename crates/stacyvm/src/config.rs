//! `config`: what the settings are, and what to think of them.

use std::{fmt::Write, path::PathBuf};

use clap::{Args, Subcommand, ValueHint};
use serde_json::{Value, json};
use stacyvm_cli::{
    ExitStatus, Failure, Format, Global, Rows, escape::escape, print_json, print_rows, print_text,
};
use stacyvm_config::{Effect, Source, Verdict, keys};

use crate::{
    failed,
    settings::{self, SettingArgs},
};

/// `config`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every setting that `serve` would use with the same flags, and where it comes from
    Show(Box<SettingArgs>),
    /// Judge the settings; the exit code is 1 when a check fails
    Lint(LintArgs),
    /// Write the JSON Schema of the file to standard output
    Schema,
}

/// `config lint`
#[derive(Debug, Args)]
pub(crate) struct LintArgs {
    /// The file with the settings; otherwise the one that `serve` would read
    #[arg(long, alias = "config", value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Fail on what must not be so where it matters
    #[arg(long)]
    production: bool,
}

/// Runs it.
pub(crate) fn config(global: &Global, command: ConfigCommand) -> Result<ExitStatus, Failure> {
    match command {
        ConfigCommand::Show(args) => show(global, &args),
        ConfigCommand::Lint(args) => lint(global, args),
        ConfigCommand::Schema => {
            print_text(&format!("{:#}\n", stacyvm_config::schema()))?;
            Ok(ExitStatus::OK)
        }
    }
}

fn show(global: &Global, args: &SettingArgs) -> Result<ExitStatus, Failure> {
    let loaded = settings::load(args)?;
    for warning in &loaded.warnings {
        stacyvm_cli::say(&escape(&format!("warning: {warning}")));
    }
    if global.output == Format::Json {
        let values: Vec<Value> = keys()
            .iter()
            .map(|key| {
                let source = loaded.source(key.path);
                let mut shown = json!({
                    "key": key.path,
                    "value": key.shown(&loaded.config),
                    "origin": origin(source),
                    "reload": key.effect == Effect::Reload,
                });
                if let Source::File { line, .. } = source {
                    shown["line"] = (*line).into();
                }
                shown
            })
            .collect();
        let file = loaded.file.as_ref().map(|path| path.display().to_string());
        let report = json!({ "file": file, "values": values });
        print_json(report.to_string().as_bytes())?;
    } else {
        let mut rows = Rows::new(&["KEY", "VALUE", "FROM"]);
        for key in keys() {
            let source = loaded.source(key.path).to_string();
            rows.push([key.path, &key.text(&loaded.config), &source]);
        }
        print_rows(&rows)?;
    }
    Ok(ExitStatus::OK)
}

/// Without the line, which JSON has apart.
fn origin(source: &Source) -> String {
    match source {
        Source::File { path, .. } => Source::File { path: path.clone(), line: 0 }.to_string(),
        Source::Default | Source::Env(_) | Source::Flag(_) => source.to_string(),
    }
}

fn lint(global: &Global, args: LintArgs) -> Result<ExitStatus, Failure> {
    let loaded = stacyvm_config::load(&settings::sources(args.file));
    let strict = if args.production { Verdict::Fail } else { Verdict::Warn };
    let checks = stacyvm_config::lint(&loaded, strict);
    let failing = checks.iter().filter(|check| check.verdict == Verdict::Fail).count();
    if global.output == Format::Json {
        let checks: Vec<Value> = checks
            .iter()
            .map(|check| {
                let mut shown = json!({
                    "name": check.name,
                    "status": check.verdict.word().to_ascii_lowercase(),
                    "message": check.message,
                });
                if !check.fix.is_empty() {
                    shown["fix"] = check.fix.as_str().into();
                }
                shown
            })
            .collect();
        let report = json!({ "production": args.production, "checks": checks, "failing": failing });
        print_json(report.to_string().as_bytes())?;
    } else {
        let mut text = String::new();
        for check in &checks {
            let (name, message) = (escape(&check.name), escape(&check.message));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "[{}] {name}: {message}", check.verdict.word());
            if !check.fix.is_empty() {
                let _ = writeln!(text, "  fix: {}", check.fix);
            }
        }
        print_text(&text)?;
    }
    match failing {
        0 => Ok(ExitStatus::OK),
        _ => Err(failed(format!("config lint found {failing} failing check(s)"))),
    }
}
