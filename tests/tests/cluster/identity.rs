//! R6.5, R6.6: signed tokens and certificates on both ends, as `deploy/` sets them up.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use stacyvm_tests::{Reply, http, python::run};

use crate::world::{Home, Settings, destroy, says};

/// What signs tokens.
const KEY: &str = "5f0c1b7a9e3d42868f6f0a2b7c9d1e4f";

/// A token of these claims, signed with this key.
fn claimed(key: &str, claims: &Value) -> String {
    let head = format!("stacyvm-worker-v1.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any length");
    mac.update(head.as_bytes());
    format!("{head}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// The claims of a token that `audience` takes: `rpc` or `control-plane`.
fn claims(worker: &str, audience: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({
        "worker_id": worker, "aud": format!("worker:{audience}"), "jti": "a-token",
        "scopes": ["worker:heartbeat", "worker:lease", "worker:status"],
        "iat": now, "exp": now + 300,
    })
}

/// A token that `audience` takes.
pub(crate) fn token(key: &str, worker: &str, audience: &str) -> String {
    claimed(key, &claims(worker, audience))
}

fn show(at: SocketAddr, path: &str, worker: &str, token: &str, body: &Value) -> Result<Reply> {
    show_to(&at.to_string(), at, path, worker, token, body)
}

fn show_to(
    host: &str,
    at: SocketAddr,
    path: &str,
    worker: &str,
    token: &str,
    body: &Value,
) -> Result<Reply> {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nX-Worker-ID: {worker}\r\nX-Worker-Token: {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    http::raw(at, head.as_bytes())
}

/// A call to a worker that changes nothing.
pub(crate) fn call(at: SocketAddr, worker: &str, token: &str) -> Result<Reply> {
    let body = json!({"id": "1", "method": "worker.providers", "worker_id": worker});
    show(at, "/rpc", worker, token, &body)
}

/// What a worker says to its server that it lives.
pub(crate) fn heartbeat(at: SocketAddr, worker: &str, token: &str) -> Result<Reply> {
    show(at, &format!("/api/v1/worker/{worker}/heartbeat"), worker, token, &json!({}))
}

/// The seven ways in which a token is not good, at either end.
pub(crate) fn refused() -> Result<()> {
    let home = Home::new()?;
    let auth = format!("worker_signing_key: {KEY}, worker_revoked_token_ids: [taken-back]");
    let settings = Settings { provider: "mock", auth: Some(&auth), ..Settings::default() };
    let server = home.control_plane("server", &settings)?;
    let far = home.worker("far", &server, &settings)?;
    let renew = "/api/v1/worker/far/leases/sb-00000000000000000000/renew";
    let at_server = |token: &str| show(server.at, renew, "far", token, &json!({}));
    let at_worker = |token: &str| call(far.at, "far", token);
    type Shown<'s> = &'s dyn Fn(&str) -> Result<Reply>;
    // A lease that is not there is a conflict, to those who may ask for it.
    let sides: [(&str, &str, u16, Shown<'_>); 2] =
        [("control-plane", "rpc", 409, &at_server), ("rpc", "control-plane", 200, &at_worker)];
    for (audience, other, good, shown) in sides {
        let own = claims("far", audience);
        let now = own["iat"].as_i64().unwrap_or_default();
        let with = |name: &str, value: Value| {
            let mut claims = own.clone();
            claims[name] = value;
            claimed(KEY, &claims)
        };
        let answer = shown(&claimed(KEY, &own))?;
        ensure!(answer.status == good, "{audience}: {} {}", answer.status, answer.json());
        let tampered = claimed(KEY, &own).replacen(".ey", ".eyJ3b3JrZXJfaWQiOiJmYXIifQ", 1);
        let past = json!({"iat": now - 600, "exp": now - 1, "worker_id": "far",
            "aud": own["aud"], "scopes": own["scopes"]});
        let mut why = Vec::new();
        for (what, token) in [
            ("wrong worker", with("worker_id", json!("other"))),
            ("wrong audience", with("aud", json!(format!("worker:{other}")))),
            ("unknown scope", with("scopes", json!(["worker:status", "worker:all"]))),
            ("expired", claimed(KEY, &past)),
            ("not yet valid", with("nbf", json!(now + 120))),
            ("revoked", with("jti", json!("taken-back"))),
            ("tampered", tampered),
        ] {
            let answer = shown(&token)?;
            ensure!(answer.status == 401, "{audience}, {what}: {}", answer.status);
            let mut said = answer.json();
            said.as_object_mut().map(|said| said.remove("request_id"));
            why.push(said);
        }
        why.dedup();
        ensure!(why.len() == 1, "who guesses learns nothing: {why:?}");
        // A good one of another scope is known, and opens nothing.
        let narrow = shown(&with("scopes", json!(["worker:logs"])))?;
        ensure!(narrow.status == 403, "{audience}: {}", narrow.status);
    }
    // A worker calls its server by a name that the server knows, like everybody.
    let good = token(KEY, "far", "control-plane");
    let stranger = show_to("box.example.org", server.at, renew, "far", &good, &json!({}))?;
    let why = stranger.json();
    let is_told = why["message"].as_str().is_some_and(|why| why.contains("--allow-host"));
    ensure!(stranger.status == 403 && is_told, "{}: {why}", stranger.status);
    Ok(())
}

/// An authority, with the certificates that it issued, in a directory.
pub(crate) struct Pki(tempfile::TempDir);

impl Pki {
    /// `ca.pem`, of this name.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let pki = Self(tempfile::tempdir()?);
        pki.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -keyout ca.key -out ca.pem -subj /CN={name}"
        ))?;
        Ok(pki)
    }

    /// Where they are.
    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    fn openssl(&self, line: &str) -> Result<()> {
        run(Command::new("openssl").current_dir(self.dir()).args(line.split(' '))).map(drop)
    }

    /// `NAME.pem` with `NAME.key`.
    pub(crate) fn certificate(&self, name: &str) -> Result<()> {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key \
             -out {name}.csr -subj /CN={name} -addext subjectAltName=DNS:{name}"
        ))?;
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -copy_extensions copy -out {name}.pem"
        ))
    }
}

pub(crate) fn mutual() -> Result<()> {
    let (home, pki) = (Home::new()?, Pki::new("ca")?);
    let dir = pki.dir();
    for name in ["far.workers.test", "other.workers.test", "control.test", "stranger.test"] {
        pki.certificate(name)?;
    }
    fs::write(dir.join("signing.key"), format!("{KEY}\n"))?;
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
