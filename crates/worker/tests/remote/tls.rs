//! The contract once more, with certificates on both sides.

use std::{fs, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use stacyvm_fleet::{
    Worker as _,
    contract::{Scene, cases},
    identity::tls::{ClientFiles, ClientTls, ID, Pair, ServerFiles, ServerTls, Trust},
    remote::Tls as TlsOut,
};
use stacyvm_provider::{ErrorKind, Provider, mock::MockProvider};
use stacyvm_types::time::SystemClock;
use stacyvm_worker::{LocalWorker, rpc::Tls};

use crate::world::{World, id};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn issue(&self, dir: &Path, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let pair =
            Pair { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
        fs::write(&pair.cert, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }
}

/// A worker whose certificate has this name.
async fn world(dir: &Path, name: &str) -> World {
    let authority = Authority::new();
    let ca = dir.join("ca.pem");
    fs::write(&ca, authority.0.pem()).unwrap();
    let server = ServerFiles {
        own: authority.issue(dir, name),
        client_ca: Some(ca.clone()),
        client_names: vec!["control".to_owned()],
    };
    let client = ClientFiles {
        trust: Trust::Authorities(ca),
        own: Some(authority.issue(dir, "control")),
        server_name: ID.to_owned(),
    };
    let mock: Arc<dyn Provider> = Arc::new(MockProvider::open(&dir.join("mock")).unwrap());
    let offer = (Arc::from("mock"), mock.capabilities());
    let clock = Arc::new(SystemClock);
    let local = LocalWorker::new(id(), [mock], "mock", &dir.join("worker"), clock).unwrap();
    let way_in = Tls(ServerTls::new(server).unwrap());
    let way_out = TlsOut(Arc::new(ClientTls::new(client).unwrap()));
    World::through(Arc::new(local), offer, Arc::new(way_in), Arc::new(way_out)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_behind_tls_keeps_the_contract() {
    for case in cases() {
        let dir = tempfile::tempdir().unwrap();
        let world = world(dir.path(), "w-1").await;
        eprintln!("{}", case.name);
        (case.run)(Scene { worker: world.remote.clone(), provider: "mock".to_owned() }).await;
    }
}

#[tokio::test]
async fn a_worker_with_anothers_certificate_is_not_talked_to() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), "w-2").await;
    let error = world.remote.drain().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(error.outcome, stacyvm_provider::Outcome::NotDone);
    assert!(!world.local.is_draining());
}
