//! R8.3, R9.5: the document is valid OpenAPI, and the server does what it says, whatever is sent.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use stacyvm_tests::{
    Options, Server,
    python::{self, run},
};

const PACKAGES: &[&str] = &["schemathesis==4.32.5", "openapi-spec-validator==0.9.0"];

fn environment() -> Result<std::path::PathBuf> {
    python::environment("openapi-tools", PACKAGES, "schemathesis, openapi_spec_validator")
}

/// R8.3: the official schema and the rules beyond it.
#[test]
fn the_document_is_valid_openapi() -> Result<()> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi/openapi.json");
    let said =
        run(Command::new(environment()?).args(["-m", "openapi_spec_validator"]).arg(document))?;
    ensure!(said.contains("OK"), "{said}");
    Ok(())
}

/// A variable of the environment, for longer runs.
fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// R8.3, R9.5: no server error, no undocumented status, type, header or body, and nothing accepted
/// that the document refuses.
#[test]
fn schemathesis_finds_nothing() -> Result<()> {
    let python = environment()?;
    let dir = tempfile::tempdir()?;
    // With credentials for workers, so that their routes are more than a 503.
    let settings = dir.path().join("stacyvm.yaml");
    let secret = "0123456789abcdef".repeat(3);
    let text =
        format!("auth:\n  worker_token: {secret}-token\n  worker_signing_key: {secret}-key\n");
    std::fs::write(&settings, text)?;
    let settings = settings.to_string_lossy().into_owned();
    let args = ["--provider", "mock", "--store", "memory", "--pool", "0", "--config", &settings]
        .map(str::to_owned);
    let key = "the-key-of-this-run-and-no-other".to_owned();
    let options = Options { args: args.into(), key: Some(key.clone()), ..Options::default() };
    let server = Server::start(&dir.path().join("data"), &options)?;
    let base = format!("http://{}/api/v1", server.at);

    let id = server.spawn()?;
    let extended =
        server.post(&format!("/api/v1/sandboxes/{id}/extend"), &json!({"ttl": "24h"}))?;
    ensure!(extended.status == 200, "extend answered {}", extended.json());
    let exec = server.exec(&id, "echo hello > a.txt && cat a.txt")?;
    let exec = exec["exec_id"].as_str().context("an exec has an id")?;

    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let said = run(Command::new(python.with_file_name("schemathesis"))
        .current_dir(dir.path())
        .env("PYTHONPATH", &config)
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .envs([("SANDBOX", id.as_str()), ("EXEC", exec)])
        .arg("--config-file")
        .arg(config.join("schemathesis.toml"))
        .args(["run", &format!("{base}/openapi.json"), "--url", &base])
        .args(["--header", &format!("X-API-Key: {key}")])
        .args(["--max-examples", &setting("SCHEMATHESIS_EXAMPLES", "10")])
        .args(["--seed", &setting("SCHEMATHESIS_SEED", "1")])
        .args(["--continue-on-failure", "--no-color"]));
    let log = fs::read_to_string(dir.path().join("data/log")).unwrap_or_default();
    let said = said.with_context(|| format!("the end of the server's log:\n{}", tail(&log)))?;
    println!("{said}");
    Ok(())
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
