//! TLS of the worker RPC, where both ends show a certificate.
//!
//! Promises:
//! - TLS 1.2 or newer, with certificates that a file of the settings vouches for. The system's
//!   authorities have no say in who is a worker, and only where that is asked for in who is a
//!   control plane.
//! - A worker's certificate must name the worker that is called: its id, or what the template makes
//!   of it. So one worker's key does not make anybody another worker.
//! - A session is never resumed, so each connection is judged by the certificates of its time.
//! - New connections use the files as they are, or were a second ago; files that cannot be used
//!   keep what there was, and the log says so once.

mod verify;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use stacyvm_types::WorkerId;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::watched::{Load, Watched};

/// What a name template has in the place of the worker's id.
pub const ID: &str = "{id}";

/// A certificate with its chain, and its key, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The file of the certificate, followed by those that lead to its authority.
    pub cert: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
}

/// What a worker shows, and whom it lets connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// The worker's own.
    pub own: Pair,
    /// The authorities of control planes, as PEM; without them nobody is asked for a certificate.
    pub client_ca: Option<PathBuf>,
    /// The DNS names of which a control plane's certificate has one; empty is any.
    pub client_names: Vec<String>,
}

/// What the calling side shows, and whom it believes: a control plane that calls workers, or a
/// worker that calls its control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// Whom it believes.
    pub trust: Trust,
    /// Its own certificate, for who asks for one.
    pub own: Option<Pair>,
    /// The name in the certificate of a worker, with [`ID`] for its id.
    pub server_name: String,
}

/// Whom the calling side believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those that these authorities vouch for; the file is PEM.
    Authorities(PathBuf),
    /// Those that the authorities of this host vouch for, as they were at the start.
    Host,
    /// All that answer. Whoever is on the way can be one: for trying out.
    Anyone,
}

/// The worker's end.
#[derive(Debug)]
pub struct ServerTls(Watched<ServerConfig>);

impl ServerTls {
    /// Reads the files. The error is a sentence that names the file.
    pub fn new(files: ServerFiles) -> Result<Self, String> {
        Watched::new("certificates of the worker RPC listener", server(files)).map(Self)
    }

    /// What accepts a connection, with the certificates of now.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.now())
    }
}

/// The calling end.
#[derive(Debug)]
pub struct ClientTls {
    config: Watched<ClientConfig>,
    server_name: String,
}

impl ClientTls {
    /// Reads the files. The error is a sentence that names the file.
    pub fn new(files: ClientFiles) -> Result<Self, String> {
        let server_name = files.server_name.clone();
        let config = Watched::new("certificates for calls to workers", client(files))?;
        Ok(Self { config, server_name })
    }

    /// What connects to this worker with the certificates of now, and the name that the worker's
    /// certificate must have.
    pub fn connector_for(
        &self,
        worker: &WorkerId,
    ) -> Result<(TlsConnector, ServerName<'static>), NoName> {
        self.connector_to(&self.server_name.replace(ID, worker.as_str()))
    }

    /// What connects to a host that shows the certificate of this name, a domain or an address:
    /// the way of a worker to its control plane.
    pub fn connector_to(&self, name: &str) -> Result<(TlsConnector, ServerName<'static>), NoName> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| NoName(name.to_owned()))?;
        Ok((TlsConnector::from(self.config.now()), name))
    }
}

/// A worker's name is none that a certificate can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name that a certificate can have; give the worker another id, or the workers a name template"
)]
pub struct NoName(String);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn server(files: ServerFiles) -> Load<ServerConfig> {
    let paths = [&files.own.cert, &files.own.key].into_iter().chain(&files.client_ca);
    Load { files: paths.cloned().collect(), read: Box::new(move || read_server(&files)) }
}

fn read_server(files: &ServerFiles) -> Result<ServerConfig, String> {
    let (chain, key) = pair(&files.own)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(clients(ca, &files.client_names)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| unfit(&files.own, &e))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn clients(ca: &Path, names: &[String]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = Arc::new(authorities(ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
    let verifier = verifier.map_err(|e| format!("{}: {e}", ca.display()))?;
    if names.is_empty() {
        return Ok(verifier);
    }
    let name = |name: &String| {
        ServerName::try_from(name.clone()).map_err(|_| format!("{name:?} is no DNS name"))
    };
    let names = names.iter().map(name).collect::<Result<_, _>>()?;
    Ok(Arc::new(verify::Named::new(verifier, names)))
}

fn client(files: ClientFiles) -> Load<ClientConfig> {
    let mut paths: Vec<_> = match &files.trust {
        Trust::Authorities(ca) => vec![ca.clone()],
        Trust::Host | Trust::Anyone => Vec::new(),
    };
    if let Some(own) = &files.own {
        paths.extend([own.cert.clone(), own.key.clone()]);
    }
    Load { files: paths, read: Box::new(move || read_client(&files)) }
}

fn read_client(files: &ClientFiles) -> Result<ClientConfig, String> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match &files.trust {
        Trust::Authorities(ca) => builder.with_root_certificates(authorities(ca)?),
        Trust::Host => builder.with_root_certificates(of_this_host()?),
        Trust::Anyone => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verify::Anyone::new(provider))),
    };
    let mut config = match &files.own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let (chain, key) = pair(own)?;
            builder.with_client_auth_cert(chain, key).map_err(|e| unfit(own, &e))?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn of_this_host() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match added {
        0 => Err("this host knows no authorities of its own; name a file of them".to_owned()),
        _ => Ok(roots),
    }
}

fn unfit(pair: &Pair, error: &rustls::Error) -> String {
    format!("{} and {} do not go together: {error}", pair.cert.display(), pair.key.display())
}

fn pair(files: &Pair) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    // The parser's errors could quote what it read, which may be a key.
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|_| format!("{} holds no private key in PEM", files.key.display()))?;
    Ok((certificates(&files.cert)?, key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let none = || format!("{} holds no certificate in PEM", path.display());
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(|all| all.collect::<Result<_, _>>())
        .map_err(|_| none())?;
    (!all.is_empty()).then_some(all).ok_or_else(none)
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
