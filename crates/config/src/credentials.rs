//! The operator's own keys: written as values, or kept in files of their own.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{
    config::{Auth, Config},
    database,
    secret::{Secret, fit_for_a_header},
    values::Password,
    worker_credentials::{self, WorkerCredentials},
};

/// The largest file of a secret in bytes.
const MAX_SIZE: u64 = 4096;

/// The operator's own keys, wherever they stand.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// `auth.api_key`, or what its file holds.
    pub api_key: Option<Secret>,
    /// `auth.admin_api_key`, or what its file holds.
    pub admin_api_key: Option<Secret>,
    /// `database.dsn`, or what its file holds.
    pub database_dsn: Option<Secret>,
    /// What lets workers and control planes in at each other.
    pub workers: WorkerCredentials,
}

/// What is said about a file of a secret.
pub(crate) enum Note {
    /// It cannot be used.
    Problem(&'static str, String),
    /// It can, and should not be as it is.
    Warning(&'static str, String),
}

/// The two ways of giving a secret.
struct Pair<'c> {
    file_key: &'static str,
    value: &'c Password,
    file: Option<&'c PathBuf>,
}

fn pairs(auth: &Auth) -> [Pair<'_>; 2] {
    [
        Pair {
            file_key: "auth.api_key_file",
            value: &auth.api_key,
            file: auth.api_key_file.as_ref(),
        },
        Pair {
            file_key: "auth.admin_api_key_file",
            value: &auth.admin_api_key,
            file: auth.admin_api_key_file.as_ref(),
        },
    ]
}

/// Reads what is kept in files.
pub(crate) fn read(config: &Config) -> (Credentials, Vec<Note>) {
    let mut notes = Vec::new();
    let [api_key, admin_api_key] = pairs(&config.auth).map(|pair| match pair.file {
        None => pair.value.0.clone(),
        Some(_) if pair.value.0.is_some() => {
            let message = "the key is given as a value too; give it in one place only";
            notes.push(Note::Problem(pair.file_key, message.to_owned()));
            None
        }
        Some(path) => match secret(path) {
            Ok((secret, is_exposed)) => {
                notes.extend(is_exposed.then(|| Note::Warning(pair.file_key, exposed(path))));
                Some(secret)
            }
            Err(why) => {
                notes.push(Note::Problem(pair.file_key, format!("{}: {why}", path.display())));
                None
            }
        },
    });
    let (workers, others) = worker_credentials::read(&config.auth);
    notes.extend(others);
    let (database_dsn, others) = database::read(&config.database);
    notes.extend(others);
    (Credentials { api_key, admin_api_key, database_dsn, workers }, notes)
}

/// What is said about a file that everybody can read.
pub(crate) fn exposed(path: &Path) -> String {
    format!(
        "every user of this machine can read {}; take the right from them, such as with chmod 600",
        path.display()
    )
}

/// The secret in a file, and whether everybody can read it.
pub(crate) fn secret(path: &Path) -> Result<(Secret, bool), String> {
    let (text, is_exposed) = text(path, MAX_SIZE)?;
    let text = text.trim();
    if text.is_empty() {
        return Err("it holds no key".to_owned());
    }
    fit_for_a_header(text)?;
    Ok((Secret::new(text), is_exposed))
}

/// The text of a file of at most this many bytes, and whether everybody can read it.
pub(crate) fn text(path: &Path, max: u64) -> Result<(String, bool), String> {
    if !path.is_absolute() {
        return Err("an absolute path is needed".to_owned());
    }
    let cannot = |e: std::io::Error| format!("it cannot be read: {e}");
    // Looked at before it is opened: a pipe would hold up the start.
    let metadata = fs::metadata(path).map_err(cannot)?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(cannot)?.take(max + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if max < bytes.len() as u64 {
        return Err(format!("it is larger than {max} bytes, which no key is"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    Ok((text, metadata.permissions().mode() & 0o004 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(bytes: &[u8], mode: u32) -> Result<(String, bool), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        secret(&path).map(|(secret, exposed)| (secret.expose().to_owned(), exposed))
    }

    #[test]
    fn a_secret_is_the_one_line_of_its_file() {
        assert_eq!(kept(b"hunter2\n", 0o600), Ok(("hunter2".to_owned(), false)));
        assert_eq!(kept(b" hunter2 \r\n", 0o644), Ok(("hunter2".to_owned(), true)));
        for bad in [&b""[..], b" \n", b"a\nb", b"\xff", "ä".as_bytes(), &[b'a'; 5000]] {
            let why = kept(bad, 0o600).unwrap_err();
            assert!(!why.contains("hunter2") && !why.is_empty());
        }
        assert!(secret(Path::new("key")).unwrap_err().contains("absolute"));
        assert!(secret(Path::new("/nonexistent/key")).unwrap_err().contains("cannot be read"));
        assert!(secret(Path::new("/dev")).unwrap_err().contains("not a file"));
    }
}
