//! How the database is reached: a DSN, which holds a password, as a value or in a file of its own.

use serde_json::{Value, json};

use crate::{
    config::Database,
    credentials::{self, Note},
    secret::{Raw, Secret},
    values::{Driver, Setting},
};

/// The largest file of a DSN in bytes.
const MAX_SIZE: u64 = 16 << 10;

/// A DSN that may be missing. Equal when the texts are.
#[derive(Debug, Clone, Default)]
pub struct Dsn(pub Option<Secret>);

impl PartialEq for Dsn {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref().map(Secret::expose) == other.0.as_ref().map(Secret::expose)
    }
}

impl Eq for Dsn {}

impl Setting for Dsn {
    fn read(raw: &Raw) -> Result<Self, String> {
        let Raw::One(text) = raw else {
            return Err("it is a single value, not a list".to_owned());
        };
        fit(text.expose())?;
        Ok(Self(Some(text.clone())))
    }

    fn show(&self) -> Value {
        match self.0 {
            Some(_) => json!("(hidden)"),
            None => Value::Null,
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "writeOnly": true })
    }
}

/// Whether it looks like a DSN. The message repeats nothing of it.
fn fit(text: &str) -> Result<(), String> {
    let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    let is_pairs = text.split_once('=').is_some_and(|(key, _)| {
        let key = key.trim();
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    });
    (is_url || is_pairs).then_some(()).ok_or_else(|| {
        "a DSN looks like postgres://user:password@host:5432/database?sslmode=verify-full, or like \
         host=… dbname=… user=…"
            .to_owned()
    })
}

/// The DSN, wherever it stands, and what is wrong about it.
pub(crate) fn read(database: &Database) -> (Option<Secret>, Vec<Note>) {
    let mut notes = Vec::new();
    let dsn = match (&database.dsn.0, &database.dsn_file) {
        (value, None) => value.clone(),
        (Some(_), Some(_)) => {
            let message = "the DSN is given as a value too; give it in one place only";
            return (None, vec![Note::Problem("database.dsn_file", message.to_owned())]);
        }
        (None, Some(path)) => match credentials::text(path, MAX_SIZE) {
            Ok((text, is_exposed)) => {
                let note = || Note::Warning("database.dsn_file", credentials::exposed(path));
                notes.extend(is_exposed.then(note));
                if let Err(why) = fit(text.trim()) {
                    let message = format!("{}: {why}", path.display());
                    notes.push(Note::Problem("database.dsn_file", message));
                }
                Some(Secret::new(text.trim()))
            }
            Err(why) => {
                let message = format!("{}: {why}", path.display());
                return (None, vec![Note::Problem("database.dsn_file", message)]);
            }
        },
    };
    let key = if database.dsn_file.is_some() { "database.dsn_file" } else { "database.dsn" };
    match (database.driver, &dsn) {
        (Driver::Postgres, None) => {
            let message = "database.driver is postgres, which needs database.dsn or \
                           database.dsn_file to say where the database is";
            notes.push(Note::Problem("database.dsn", message.to_owned()));
        }
        (Driver::Sqlite | Driver::Memory, Some(_)) => {
            let message = format!(
                "it has no effect while database.driver is {}; set that to postgres",
                database.driver.word()
            );
            notes.push(Note::Warning(key, message));
        }
        (Driver::Postgres, Some(_)) | (Driver::Sqlite | Driver::Memory, None) => {}
    }
    (dsn, notes)
}

/// Whether nobody on the way can read what is said to the database or answer in its place: it is
/// on this host, or its certificate is checked.
pub(crate) fn is_protected(dsn: &Secret) -> bool {
    let dsn = dsn.expose();
    let value = |key: &str| {
        let (_, rest) = dsn.rsplit_once(&format!("{key}="))?;
        let rest = rest.trim_start_matches('\'');
        rest.split(|c: char| c == '&' || c == '\'' || c.is_whitespace()).next()
    };
    if matches!(value("sslmode"), Some("verify-full" | "verify-ca")) {
        return true;
    }
    let hosts = match dsn.split_once("://") {
        Some((_, rest)) => {
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
            if hosts.is_empty() { value("host").unwrap_or_default() } else { hosts }
        }
        None => value("host").unwrap_or_default(),
    };
    hosts.split(',').all(|host| {
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let is_path = host.starts_with('/') || host.to_ascii_lowercase().starts_with("%2f");
        is_path || ["localhost", "127.0.0.1", "[::1]", "::1"].contains(&host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dsn_is_recognised_and_never_repeated() {
        for good in ["postgres://u:p@h/d", "postgresql://h", "host=h user=u", "host = /run"] {
            Dsn::read(&Raw::one(good)).unwrap();
        }
        for bad in ["hunter2", "mysql://hunter2@h/d", "Hunter2=1", "=hunter2"] {
            let why = Dsn::read(&Raw::one(bad)).unwrap_err();
            assert!(!why.to_lowercase().contains("hunter2"), "{why}");
        }
        let shown = Dsn::read(&Raw::one("postgres://u:hunter2@h/d")).unwrap();
        assert_eq!(Setting::show(&shown), json!("(hidden)"));
        assert!(!format!("{shown:?}").contains("hunter2"));
    }

    #[test]
    fn the_way_is_protected_on_this_host_and_where_the_certificate_is_checked() {
        for (dsn, expected) in [
            ("postgres://u:p@db.example/d", false),
            ("postgres://u:p@db.example/d?sslmode=require", false),
            ("postgres://u:p@db.example/d?sslmode=verify-full", true),
            ("postgres://u:p@db.example/d?sslmode=verify-ca&connect_timeout=3", true),
            ("postgres://u:p@127.0.0.1:5432/d", true),
            ("postgres://u:p@localhost,db.example/d", false),
            ("postgres://u@%2Frun%2Fpostgresql/d", true),
            ("postgres:///d?host=/run/postgresql", true),
            ("postgres://u:p@[::1]:5432/d", true),
            ("host=db.example sslmode='verify-full' user=u", true),
            ("host=db.example user=u", false),
            ("host=/run/postgresql user=u", true),
        ] {
            assert_eq!(is_protected(&Secret::new(dsn)), expected, "{dsn}");
        }
    }
}
