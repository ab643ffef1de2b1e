//! What lets workers and control planes in at each other: written as values, or kept in files that
//! are read again while the server runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use stacyvm_types::WorkerId;

use crate::{
    config::Auth,
    credentials::{Note, exposed, secret, text},
    secret::{Secret, fit_for_a_header},
    values::Scalar as _,
    worker::{TokenId, WorkerTokens},
};

/// A token takes a hundred bytes, and there are at most some thousand workers.
const MAX_LIST: u64 = 1 << 20;

/// What lets workers and control planes in at each other, wherever it stands.
#[derive(Debug, Clone, Default)]
pub struct WorkerCredentials {
    /// `auth.worker_token`, or what its file holds: of several, the first is shown and all are
    /// accepted.
    pub shared: Vec<Secret>,
    /// `auth.worker_tokens`, or what their file holds: of several for one worker, the first is
    /// shown and all are accepted.
    pub tokens: BTreeMap<WorkerId, Vec<Secret>>,
    /// `auth.worker_signing_key`, or what its file holds.
    pub signing_key: Option<Secret>,
    /// `auth.worker_signing_keys`, or what their file holds.
    pub signing_keys: Vec<Secret>,
    /// `auth.worker_revoked_token_ids`, or what their file holds.
    pub revoked: BTreeSet<String>,
}

impl WorkerCredentials {
    /// Reads them again; the error is a sentence without a secret in it.
    pub fn read(auth: &Auth) -> Result<Self, String> {
        let (credentials, notes) = read(auth);
        let problem = notes.into_iter().find_map(|note| match note {
            Note::Problem(key, why) => Some(format!("{key}: {why}")),
            Note::Warning(..) => None,
        });
        problem.map_or(Ok(credentials), Err)
    }

    /// The files that they are read from.
    pub fn files(auth: &Auth) -> Vec<PathBuf> {
        [
            &auth.worker_token_file,
            &auth.worker_tokens_file,
            &auth.worker_signing_key_file,
            &auth.worker_signing_keys_file,
            &auth.worker_revoked_token_ids_file,
        ]
        .into_iter()
        .flatten()
        .cloned()
        .collect()
    }
}

/// Reads all of them, and says what is wrong with those that cannot be used.
pub(crate) fn read(auth: &Auth) -> (WorkerCredentials, Vec<Note>) {
    let mut files = Files::default();
    let token = &auth.worker_token.0;
    let signing_key = &auth.worker_signing_key.0;
    let signing_keys: Vec<_> =
        auth.worker_signing_keys.0.iter().filter_map(|key| key.0.clone()).collect();
    let revoked: BTreeSet<_> =
        auth.worker_revoked_token_ids.iter().map(|id| id.0.clone()).collect();
    let credentials = WorkerCredentials {
        shared: files
            .of("auth.worker_token_file", token.is_some(), &auth.worker_token_file, |path| {
                list(path, |lines| lines.map(key).collect::<Result<Vec<_>, _>>().and_then(some))
            })
            .unwrap_or_else(|| token.iter().cloned().collect()),
        tokens: files
            .of(
                "auth.worker_tokens_file",
                !auth.worker_tokens.0.is_empty(),
                &auth.worker_tokens_file,
                |path| list(path, |lines| WorkerTokens::all(lines).map(|tokens| tokens.0)),
            )
            .unwrap_or_else(|| auth.worker_tokens.0.clone()),
        signing_key: files
            .of(
                "auth.worker_signing_key_file",
                signing_key.is_some(),
                &auth.worker_signing_key_file,
                secret,
            )
            .or_else(|| signing_key.clone()),
        signing_keys: files
            .of(
                "auth.worker_signing_keys_file",
                !signing_keys.is_empty(),
                &auth.worker_signing_keys_file,
                |path| list(path, |lines| lines.map(key).collect()),
            )
            .unwrap_or(signing_keys),
        revoked: files
            .of(
                "auth.worker_revoked_token_ids_file",
                !revoked.is_empty(),
                &auth.worker_revoked_token_ids_file,
                |path| {
                    list(path, |lines| lines.map(|id| TokenId::parse(id).map(|id| id.0)).collect())
                },
            )
            .unwrap_or(revoked),
    };
    (credentials, files.0)
}

fn some(secrets: Vec<Secret>) -> Result<Vec<Secret>, String> {
    (!secrets.is_empty()).then_some(secrets).ok_or_else(|| "it holds no token".to_owned())
}

fn key(text: &str) -> Result<Secret, String> {
    fit_for_a_header(text).map(|()| Secret::new(text))
}

/// What is wrong with the files that were read.
#[derive(Default)]
struct Files(Vec<Note>);

impl Files {
    /// What the file of this key holds, unless there is none or it cannot be used.
    fn of<T>(
        &mut self,
        key: &'static str,
        is_given: bool,
        path: &Option<PathBuf>,
        read: impl FnOnce(&Path) -> Result<(T, bool), String>,
    ) -> Option<T> {
        let path = path.as_ref()?;
        if is_given {
            let message = "it is given as a value too; give it in one place only".to_owned();
            self.0.push(Note::Problem(key, message));
            return None;
        }
        match read(path) {
            Ok((value, is_exposed)) => {
                self.0.extend(is_exposed.then(|| Note::Warning(key, exposed(path))));
                Some(value)
            }
            Err(why) => {
                self.0.push(Note::Problem(key, format!("{}: {why}", path.display())));
                None
            }
        }
    }
}

/// What the lines of a file make, without empty ones and those that begin with `#`; and whether
/// everybody can read it.
fn list<T>(
    path: &Path,
    make: impl FnOnce(&mut dyn Iterator<Item = &str>) -> Result<T, String>,
) -> Result<(T, bool), String> {
    let (text, is_exposed) = text(path, MAX_LIST)?;
    let mut lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    make(&mut lines).map(|made| (made, is_exposed))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lists_are_lines_and_secrets_are_never_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            let auth = Auth { worker_tokens_file: Some(path.clone()), ..Auth::default() };
            WorkerCredentials::read(&auth).map(|found| found.tokens.len())
        };
        assert_eq!(read("# of the first rack\nw1=hunter2\n\n  w2 = hunter3\r\n"), Ok(2));
        assert_eq!(read("# nobody\n"), Ok(0));
        for wrong in ["hunter2\n", "w 1=hunter2", "w1=hunter 2"] {
            let why = read(wrong).unwrap_err();
            assert!(
                why.starts_with("auth.worker_tokens_file: /") && !why.contains("hunter"),
                "{why}"
            );
        }
    }

    #[test]
    fn every_file_can_be_read_again_with_what_it_holds_then() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            Some(dir.path().join(name))
        };
        let auth = Auth {
            worker_token_file: at("token", "# the next\nt1\n\nt0\n"),
            worker_tokens_file: at("tokens", "w1=t2\nw1=t4\n"),
            worker_signing_key_file: at("key", "k1\n"),
            worker_signing_keys_file: at("keys", "k2\nk3\n"),
            worker_revoked_token_ids_file: at("revoked", "a\nb\n"),
            ..Auth::default()
        };
        assert_eq!(WorkerCredentials::files(&auth).len(), 5);
        let shown = |found: &WorkerCredentials| {
            let text = |secret: &Secret| secret.expose().to_owned();
            let own = found.tokens.values().flatten();
            let all = found.shared.iter().chain(own).chain(&found.signing_key);
            let secrets: Vec<_> = all.chain(&found.signing_keys).map(text).collect();
            (secrets.join(" "), found.revoked.len())
        };
        let first = WorkerCredentials::read(&auth).unwrap();
        assert_eq!(shown(&first), ("t1 t0 t2 t4 k1 k2 k3".to_owned(), 2));
        at("key", "k9");
        at("revoked", "");
        let second = WorkerCredentials::read(&auth).unwrap();
        assert_eq!(shown(&second), ("t1 t0 t2 t4 k9 k2 k3".to_owned(), 0));
        at("key", "");
        assert!(
            WorkerCredentials::read(&auth).unwrap_err().contains("auth.worker_signing_key_file")
        );
        at("key", "k9");
        for wrong in ["", "# none\n", "t1\ntwo words\n"] {
            at("token", wrong);
            let why = WorkerCredentials::read(&auth).unwrap_err();
            assert!(why.contains("auth.worker_token_file") && !why.contains("words"), "{why}");
        }
    }
}
