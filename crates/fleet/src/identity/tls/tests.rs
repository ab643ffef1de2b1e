use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// An authority that lives in a directory.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = format!("authority {:016x}", rand::random::<u64>());
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Writes a certificate for this name, or writes over the one that there was.
    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |kind: &str| self.dir.path().join(format!("{name}.{kind}.pem"));
        let pair = Pair { cert: at("cert"), key: at("key") };
        fs::write(&pair.cert, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    fn worker(&self) -> ServerFiles {
        let own = self.issue("w1", |_| {});
        ServerFiles { own, client_ca: Some(self.ca()), client_names: Vec::new() }
    }

    fn control(&self) -> ClientFiles {
        let own = Some(self.issue("control", |_| {}));
        ClientFiles { trust: Trust::Authorities(self.ca()), own, server_name: ID.to_owned() }
    }
}

/// One word there and one back; the error is of the side that refused, or saw the other refuse.
async fn talk(server: &ServerTls, client: &ClientTls) -> Result<(), String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let worker = WorkerId::parse("w1").unwrap();
    let (connector, name) = client.connector_for(&worker).unwrap();
    let accepted = async {
        let mut stream = server.acceptor().accept(far).await?;
        let mut word = [0; 4];
        stream.read_exact(&mut word).await?;
        stream.write_all(&word).await?;
        stream.shutdown().await
    };
    let called = async {
        let mut stream = connector.connect(name, near).await?;
        stream.write_all(b"ping").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        assert_eq!(answer, b"ping");
        Ok::<_, std::io::Error>(())
    };
    match tokio::join!(accepted, called) {
        (Ok(()), Ok(())) => Ok(()),
        (accepted, called) => Err(format!("{accepted:?} {called:?}")),
    }
}

async fn outcome(server: ServerFiles, client: ClientFiles) -> Result<(), String> {
    talk(&ServerTls::new(server).unwrap(), &ClientTls::new(client).unwrap()).await
}

async fn refused(server: ServerFiles, client: ClientFiles, word: &str) {
    let why = outcome(server, client).await.unwrap_err();
    assert!(why.contains(word), "{why}");
}

#[tokio::test]
async fn each_side_that_shows_what_the_other_asks_for_is_heard() {
    let authority = Authority::new();
    outcome(authority.worker(), authority.control()).await.unwrap();
    // A worker that asks for nothing.
    let open = ServerFiles { client_ca: None, ..authority.worker() };
    outcome(open, ClientFiles { own: None, ..authority.control() }).await.unwrap();
}

#[tokio::test]
async fn a_control_plane_without_a_certificate_is_refused() {
    let authority = Authority::new();
    let client = ClientFiles { own: None, ..authority.control() };
    refused(authority.worker(), client, "NoCertificatesPresented").await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_by_each_side() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let client = ClientFiles { own: stranger.control().own, ..authority.control() };
    refused(authority.worker(), client, "InvalidCertificate").await;
    let server = ServerFiles { own: stranger.worker().own, ..authority.worker() };
    refused(server, authority.control(), "UnknownIssuer").await;
}

#[tokio::test]
async fn another_workers_certificate_is_refused() {
    let authority = Authority::new();
    let server = ServerFiles { own: authority.issue("w2", |_| {}), ..authority.worker() };
    refused(server.clone(), authority.control(), "NotValidForName").await;
    // Also when only the template differs.
    let client = ClientFiles { server_name: "{id}.fleet.test".to_owned(), ..authority.control() };
    refused(authority.worker(), client.clone(), "NotValidForName").await;
    let named = ServerFiles { own: authority.issue("w1.fleet.test", |_| {}), ..server };
    outcome(named, client).await.unwrap();
}

#[tokio::test]
async fn a_certificate_outside_of_its_time_is_refused_by_each_side() {
    let authority = Authority::new();
    let past = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    };
    let server = ServerFiles { own: authority.issue("w1", past), ..authority.worker() };
    authority.issue("w1", past);
    refused(server, authority.control(), "Expired").await;
    let client = ClientFiles { own: Some(authority.issue("past", past)), ..authority.control() };
    refused(authority.worker(), client, "Expired").await;
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(4000, 1, 1);
    let client = ClientFiles { own: Some(authority.issue("next", future)), ..authority.control() };
    refused(authority.worker(), client, "NotValidYet").await;
}

#[tokio::test]
async fn a_certificate_for_servers_is_no_clients() {
    let authority = Authority::new();
    let only =
        |purpose| move |params: &mut CertificateParams| params.extended_key_usages = vec![purpose];
    let workers = authority.issue("w2", only(ExtendedKeyUsagePurpose::ServerAuth));
    let client = ClientFiles { own: Some(workers), ..authority.control() };
    refused(authority.worker(), client, "InvalidPurpose").await;
    let clients = authority.issue("c2", only(ExtendedKeyUsagePurpose::ClientAuth));
    let client = ClientFiles { own: Some(clients), ..authority.control() };
    outcome(authority.worker(), client).await.unwrap();
}

#[tokio::test]
async fn a_control_plane_can_be_asked_for_a_name() {
    let authority = Authority::new();
    let names = |name: &str| ServerFiles {
        client_names: vec!["spare".to_owned(), name.to_owned()],
        ..authority.worker()
    };
    outcome(names("control"), authority.control()).await.unwrap();
    refused(names("other"), authority.control(), "NotValidForName").await;
    let client = ClientFiles { own: None, ..authority.control() };
    refused(names("control"), client, "NoCertificatesPresented").await;
}

#[tokio::test]
async fn whoever_believes_anyone_still_talks_to_who_holds_the_key() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let client = ClientFiles { trust: Trust::Anyone, ..authority.control() };
    let server = ServerFiles { own: stranger.issue("w9", |_| {}), ..authority.worker() };
    outcome(server, client).await.unwrap();
}

#[tokio::test]
async fn new_files_are_used_for_new_connections_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = old.worker();
    let mut server = ServerTls::new(files.clone()).unwrap();
    server.0.look_always();
    let mut client = ClientTls::new(old.control()).unwrap();
    client.config.look_always();
    talk(&server, &client).await.unwrap();

    // The worker's certificate is of another authority now, and the control plane learns of it.
    let fresh = new.worker();
    fs::copy(&fresh.own.cert, &files.own.cert).unwrap();
    // Between the two writes the pair does not fit, so the old one stays.
    talk(&server, &client).await.unwrap();
    fs::copy(&fresh.own.key, &files.own.key).unwrap();
    assert!(talk(&server, &client).await.unwrap_err().contains("UnknownIssuer"));
    let both = format!("{}{}", old.issuer.pem(), new.issuer.pem());
    fs::write(old.ca(), both).unwrap();
    talk(&server, &client).await.unwrap();

    // A file that is none of this kind changes nothing.
    fs::write(&files.own.key, "not a key").unwrap();
    talk(&server, &client).await.unwrap();
    fs::remove_file(old.ca()).unwrap();
    talk(&server, &client).await.unwrap();
}

#[tokio::test]
async fn the_authorities_of_a_host_have_a_say_where_they_are_asked_only() {
    let authority = Authority::new();
    let files = ClientFiles { trust: Trust::Host, ..authority.control() };
    match ClientTls::new(files) {
        Ok(client) => {
            let server = ServerTls::new(authority.worker()).unwrap();
            let why = talk(&server, &client).await.unwrap_err();
            assert!(why.contains("UnknownIssuer"), "{why}");
        }
        // A host without any, such as a bare container.
        Err(why) => assert!(why.contains("no authorities of its own"), "{why}"),
    }
}

#[test]
fn a_host_is_called_by_its_name_or_its_address() {
    let client = ClientTls::new(Authority::new().control()).unwrap();
    for name in ["box.example.org", "10.0.0.7", "::1"] {
        assert_eq!(client.connector_to(name).unwrap().1.to_str(), name);
    }
    assert!(client.connector_to("box/../x").is_err());
}

#[test]
fn files_that_cannot_be_used_are_named_and_never_quoted() {
    let authority = Authority::new();
    let files = authority.worker();
    let crossed = Pair { key: authority.issue("w2", |_| {}).key, ..files.own.clone() };
    let swapped = Pair { cert: files.own.key.clone(), key: files.own.cert.clone() };
    let missing = Pair { cert: PathBuf::from("/nonexistent/cert.pem"), ..files.own.clone() };
    for (own, word) in
        [(crossed, "do not go together"), (swapped, "no private key"), (missing, "no certificate")]
    {
        let why = ServerTls::new(ServerFiles { own, ..files.clone() }).unwrap_err();
        assert!(why.contains(word) && !why.contains("BEGIN"), "{why}");
    }
    let server_name = "{id}".to_owned();
    let trust = Trust::Authorities(files.own.key);
    let why = ClientTls::new(ClientFiles { trust, own: None, server_name }).unwrap_err();
    assert!(why.contains("no certificate"), "{why}");
}

#[test]
fn a_worker_without_a_name_for_certificates_is_refused() {
    let authority = Authority::new();
    let client = |template: &str| {
        let server_name = template.to_owned();
        ClientTls::new(ClientFiles { server_name, ..authority.control() }).unwrap()
    };
    let worker = WorkerId::parse("w1..x").unwrap();
    let no_name = client(ID).connector_for(&worker).err();
    assert_eq!(no_name, Some(NoName("w1..x".to_owned())));
    let (_, name) = client("workers.test").connector_for(&worker).unwrap();
    assert_eq!(name.to_str(), "workers.test");
}
