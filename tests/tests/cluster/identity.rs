//! R6.5, R6.6: signed tokens and certificates on both ends, as `deploy/` sets them up.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};
use serde_json::json;
use stacyvm_tests::{http, python::run};

use crate::world::{Home, Settings, destroy, says};

fn openssl(dir: &Path, line: &str) -> Result<()> {
    run(Command::new("openssl").current_dir(dir).args(line.split(' '))).map(drop)
}

/// An authority `NAME.pem` in `dir`.
fn authority(dir: &Path, name: &str) -> Result<()> {
    openssl(
        dir,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -keyout {name}.key -out {name}.pem -subj /CN={name}"
        ),
    )
}

/// A certificate for a name, `NAME.pem` with its key.
fn certificate(dir: &Path, by: &str, name: &str) -> Result<()> {
    openssl(
        dir,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key \
             -out {name}.csr -subj /CN={name} -addext subjectAltName=DNS:{name}"
        ),
    )?;
    openssl(
        dir,
        &format!(
            "x509 -req -in {name}.csr -CA {by}.pem -CAkey {by}.key -CAcreateserial -days 2 \
             -copy_extensions copy -out {name}.pem"
        ),
    )
}

pub(crate) fn mutual() -> Result<()> {
    let (home, files) = (Home::new()?, tempfile::tempdir()?);
    let dir = files.path();
    authority(dir, "ca")?;
    for name in ["far.workers.test", "other.workers.test", "control.test", "stranger.test"] {
        certificate(dir, "ca", name)?;
    }
    fs::write(dir.join("signing.key"), "5f0c1b7a9e3d42868f6f0a2b7c9d1e4f\n")?;
    let at = |name: &str| dir.join(name).display().to_string();
    let auth = format!("worker_signing_key_file: {}", at("signing.key"));
    let control_plane = |name: &str| {
        [format!(
            "rpc_tls: {{enabled: true, ca_file: {}, client_cert_file: {}, client_key_file: {}, \
             server_name: \"{{id}}.workers.test\"}}",
            at("ca.pem"),
            at(&format!("{name}.pem")),
            at(&format!("{name}.key")),
        )]
    };
    let worker = |name: &str| {
        [format!(
            "rpc_tls: {{enabled: true, server_cert_file: {}, server_key_file: {}, \
             client_ca_file: {}, client_names: [control.test]}}",
            at(&format!("{name}.pem")),
            at(&format!("{name}.key")),
            at("ca.pem"),
        )]
    };
    let settings = Settings { provider: "mock", auth: Some(&auth), ..Settings::default() };
    let own = control_plane("control.test");
    let server = home.control_plane("server", &Settings { worker: &own, ..settings.clone() })?;
    let own = worker("far.workers.test");
    let far = home.worker("far", &server, &Settings { worker: &own, ..settings.clone() })?;
    let sandbox = server.spawn()?;
    ensure!(says(&server, &sandbox, "echo through TLS")? == "through TLS\n");
    // Whoever shows nothing, or speaks without TLS, hears nothing.
    ensure!(http::call(far.at, "GET", "/health", None).is_err(), "it answers without TLS");
    destroy(&server, &sandbox)?;
    drop(far);

    // A worker with the certificate of another one is heard, and not called.
    let own = worker("other.workers.test");
    let far = home.worker("far", &server, &Settings { worker: &own, ..settings.clone() })?;
    let refused = server.post("/api/v1/sandboxes", &json!({}))?;
    ensure!(refused.status == 503, "{}: {}", refused.status, refused.json());
    drop(far);
    drop(server);

    // A server whose certificate has another name is not let in.
    let own = control_plane("stranger.test");
    let server = home.control_plane("stranger", &Settings { worker: &own, ..settings.clone() })?;
    let own = worker("far.workers.test");
    let far = home.worker("far", &server, &Settings { worker: &own, ..settings })?;
    let refused = server.post("/api/v1/sandboxes", &json!({}))?;
    ensure!(refused.status == 503, "{}: {}", refused.status, refused.json());
    drop(far);
    Ok(())
}
