//! TLS and passwords on the way to the database.

use std::{error::Error, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use stacyvm_postgres_fixture::{Disk, Server};
use stacyvm_store_sql::{PostgresOpenError, PostgresStore, check_postgres};

use crate::world::World;

/// Makes an authority, a certificate of it for `localhost`, and another authority.
fn make_certificates(dir: &Path) -> anyhow::Result<()> {
    let authority = |name: &str| -> anyhow::Result<Issuer<'static, KeyPair>> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        fs::write(dir.join(name), params.self_signed(&key)?.pem())?;
        Ok(Issuer::new(params, key))
    };
    let issuer = authority("ca.pem")?;
    authority("other-ca.pem")?;
    let key = KeyPair::generate()?;
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &issuer)?;
    fs::write(dir.join("server.pem"), certificate.pem())?;
    fs::write(dir.join("server.key"), key.serialize_pem())?;
    fs::set_permissions(dir.join("server.key"), fs::Permissions::from_mode(0o600))?;
    // Readable to the tests, which are another user: the authorities are no secret.
    for name in ["ca.pem", "other-ca.pem"] {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644))?;
    }
    fs::write(
        dir.join("hba"),
        "local all all trust\nhost all stacyvm 127.0.0.1/32 trust\n\
         hostssl all guarded 127.0.0.1/32 scram-sha-256\n",
    )?;
    Ok(())
}

/// What an error says, with all that led to it.
fn said(error: &PostgresOpenError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

pub(crate) fn the_mode_of_the_dsn_is_honoured(world: Arc<World>) {
    let settings =
        ["ssl=on", "ssl_cert_file=../server.pem", "ssl_key_file=../server.key", "hba_file=hba"];
    let server = Server::start_with(Disk::Unsynced, &settings, make_certificates).unwrap();
    let database = server.create_database().unwrap();
    let file = |name: &str| server.directory().join(name).display().to_string();
    let (ca, other) = (file("ca.pem"), file("other-ca.pem"));
    let port = server.port();
    let dsn = |host: &str, rest: &str| {
        format!("postgres://stacyvm@{host}:{port}/{database}?hostaddr=127.0.0.1&{rest}")
    };
    // Whether the connection speaks TLS is what the server says about it.
    let speaks_tls = |dsn: &str| -> Result<bool, PostgresOpenError> {
        let store = PostgresStore::open(dsn)?;
        let encrypted = "SELECT COUNT(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE ssl AND application_name = 'stacyvm'";
        let connected = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'stacyvm'";
        // The listener's connection.
        while server.query(&database, connected).unwrap() != ["1"] {}
        let encrypted = server.query(&database, encrypted).unwrap() == ["1"];
        drop(store);
        while server.query(&database, connected).unwrap() != ["0"] {}
        Ok(encrypted)
    };
    for (host, rest, tls) in [
        ("localhost", "sslmode=disable".to_owned(), false),
        ("localhost", "sslmode=prefer".to_owned(), true),
        ("127.0.0.1", "sslmode=require".to_owned(), true),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={ca}"), true),
        ("localhost", format!("sslmode=verify-full&sslrootcert={ca}"), true),
    ] {
        assert_eq!(speaks_tls(&dsn(host, &rest)).unwrap(), tls, "{host} {rest}");
    }
    for (host, rest) in [
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}")),
        ("localhost", format!("sslmode=verify-ca&sslrootcert={other}")),
        ("localhost", format!("sslmode=require&sslrootcert={other}")),
        ("localhost", "sslmode=verify-full".to_owned()),
    ] {
        let refused = check_postgres(&dsn(host, &rest)).unwrap_err();
        assert!(matches!(refused, PostgresOpenError::Unreachable { .. }), "{rest}: {refused:?}");
    }

    // A server without TLS is refused, and not spoken to without.
    let plain = world.empty();
    let refused = check_postgres(&format!("{}?sslmode=require", plain.dsn())).unwrap_err();
    assert!(said(&refused).contains("does not support TLS"), "{}", said(&refused));

    server.execute(&database, "CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'hunter2'").unwrap();
    let guarded = |password: &str| {
        let dsn = dsn("localhost", &format!("sslmode=verify-full&sslrootcert={ca}"));
        dsn.replace("stacyvm@", &format!("guarded:{password}@"))
    };
    drop(PostgresStore::open(&guarded("hunter2")).unwrap());
    let refused = PostgresStore::open(&guarded("hunter3")).unwrap_err();
    let shown = format!("{} {refused:?}", said(&refused));
    assert!(shown.contains("password authentication failed"), "{shown}");
    assert!(!shown.contains("hunter3"), "{shown}");
}
