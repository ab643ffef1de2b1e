//! Brings the sources together.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    config::{Config, contradictions},
    credentials::{self, Credentials, Note},
    file,
    keys::{Key, keys, variable},
    later::{self, Say},
    problem::{Problem, Source},
    secret::{Raw, Secret},
    suggest::nearest,
};

/// Variables that begin with `STACYVM_` and are no settings of the server.
const OTHERS: &[&str] = &[
    "STACYVM_CONFIG",
    "STACYVM_SERVER",
    "STACYVM_API_KEY",
    "STACYVM_API_KEY_FILE",
    "STACYVM_FAILPOINT",
    "STACYVM_BIN",
];

/// What a flag says.
#[derive(Debug, Clone)]
pub struct Written {
    /// The flag, such as `--pool`.
    pub flag: &'static str,
    /// Its value.
    pub raw: Raw,
}

/// Where values come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// What holds when nothing is said.
    pub defaults: Config,
    /// The file to read; see [`crate::choose`].
    pub file: Option<PathBuf>,
    /// The variables of the environment; those that do not begin with `STACYVM_` are ignored.
    pub env: Vec<(String, String)>,
    /// The flags.
    pub flags: Vec<Written>,
}

/// A configuration that can be right.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Where those come from that somebody said.
    pub sources: BTreeMap<&'static str, Source>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What has no effect although somebody wrote it, or has one that it should not have.
    pub warnings: Vec<Problem>,
    /// The operator's own keys, from the settings or from files.
    pub credentials: Credentials,
}

/// Why there is no configuration.
#[derive(Debug)]
pub struct Refused {
    /// At least one.
    pub problems: Vec<Problem>,
    /// What has no effect although somebody wrote it.
    pub warnings: Vec<Problem>,
}

impl Loaded {
    /// Where the value of a key comes from.
    pub fn source(&self, path: &str) -> &Source {
        self.sources.get(path).unwrap_or(&Source::Default)
    }
}

/// Reads everything, and reports all problems at once.
pub fn load(sources: &Sources) -> Result<Loaded, Refused> {
    let mut reader = Reader::new(sources.defaults.clone());
    if let Some(path) = &sources.file {
        match file::read(path) {
            Ok(entries) => {
                let entries = gathered(entries);
                entries.iter().for_each(|(path, raw, at)| reader.file(path, raw, at));
            }
            Err(problem) => reader.problems.push(problem),
        }
    }
    reader.environment(&sources.env);
    for Written { flag, raw } in &sources.flags {
        let found: Vec<_> = keys().iter().filter(|key| key.flag == Some(flag)).collect();
        reader.several(&found, raw, &Source::Flag(flag));
    }
    reader.finish(sources.file.clone())
}

/// The settings of a file, with what lies below a key that has names of its own put together.
fn gathered(entries: Vec<file::Entry>) -> Vec<file::Entry> {
    let mut all: Vec<file::Entry> = Vec::with_capacity(entries.len());
    for (path, raw, at) in entries {
        let whole = keys()
            .iter()
            .filter(|key| (key.keyed)())
            .find_map(|key| below(key.path, &path).map(|name| (key.path, name)));
        let (Some((key, name)), Raw::One(value)) = (whole, &raw) else {
            all.push((path, raw, at));
            continue;
        };
        let named = Secret::new(format!("{name}={}", value.expose()));
        match all.last_mut() {
            Some((before, Raw::Many(items), _)) if before == key => items.push(named),
            _ => all.push((key.to_owned(), Raw::Many(vec![named]), at)),
        }
    }
    all
}

struct Reader {
    config: Config,
    sources: BTreeMap<&'static str, Source>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Reader {
    fn new(config: Config) -> Self {
        Self { config, sources: BTreeMap::new(), problems: Vec::new(), warnings: Vec::new() }
    }

    fn one(&mut self, key: &Key, raw: &Raw, source: &Source) {
        if raw.is_empty() {
            return;
        }
        match (key.read)(&mut self.config, raw) {
            Ok(()) => drop(self.sources.insert(key.path, source.clone())),
            Err(message) => self.problems.push(Problem::new(source, key.path, message)),
        }
    }

    /// Sets the keys that one variable or flag stands for: one, or the two of an address.
    fn several(&mut self, found: &[&Key], raw: &Raw, source: &Source) {
        let (Raw::One(text), [host, port]) = (raw, found) else {
            for key in found {
                self.one(key, raw, source);
            }
            return;
        };
        if raw.is_empty() {
            return;
        }
        match address(text.expose()) {
            Some((address, number)) => {
                self.one(host, &Raw::one(address), source);
                self.one(port, &Raw::one(number), source);
            }
            None => self.problems.push(Problem::new(
                source,
                "",
                "an address looks like 127.0.0.1:7423 or [::1]:7423",
            )),
        }
    }

    fn later(&mut self, path: &str, raw: &Raw, source: &Source, later: &later::Later) {
        match later.judge(raw) {
            Say::Nothing => {}
            Say::Warning(message) => self.warnings.push(Problem::new(source, path, message)),
            Say::Error(message) => self.problems.push(Problem::new(source, path, message)),
        }
    }

    fn file(&mut self, path: &str, raw: &Raw, at: &Source) {
        if let Some(key) = keys().iter().find(|key| key.path == path) {
            return self.one(key, raw, at);
        }
        if let Some(later) = later::find(path) {
            return self.later(path, raw, at, later);
        }
        if is_section(path) && raw.is_empty() {
            return;
        }
        self.problems.push(Problem::new(at, path, unknown(path)));
    }

    fn environment(&mut self, env: &[(String, String)]) {
        let mut said: BTreeMap<&str, (&str, Raw)> = BTreeMap::new();
        // The order of an environment means nothing, so it must not decide anything.
        let mut env: Vec<_> = env.iter().filter(|(name, _)| name.starts_with("STACYVM_")).collect();
        env.sort();
        for (name, value) in env {
            let (raw, source) = (Raw::one(value.as_str()), Source::Env(name.clone()));
            let names = |key: &&Key| key.alias == Some(name) || key.variable() == *name;
            let found: Vec<_> = keys().iter().filter(names).collect();
            if !found.is_empty() {
                if raw.is_empty() {
                    continue;
                }
                let other = found.iter().find_map(|key| {
                    let (other, before) = said.get(key.path)?;
                    (!before.same(&raw)).then_some((key.path, *other))
                });
                said.extend(found.iter().map(|key| (key.path, (name.as_str(), raw.clone()))));
                match other {
                    None => self.several(&found, &raw, &source),
                    Some((path, other)) => {
                        let message = format!("{other} says something else about it; set only one");
                        self.problems.push(Problem::new(&source, path, message));
                    }
                }
            } else if let Some(later) =
                later::ALL.iter().find(|later| variable(later.path.trim_end_matches(".*")) == *name)
            {
                self.later(later.path, &raw, &source, later);
            } else if !OTHERS.contains(&name.as_str()) {
                let known = keys().iter().map(Key::variable);
                let hint = nearest(name, known)
                    .map_or_else(String::new, |near| format!("; did you mean {near}?"));
                let message = format!("no setting has this name, so it has no effect{hint}");
                self.warnings.push(Problem::new(&source, "", message));
            }
        }
    }

    fn finish(mut self, file: Option<PathBuf>) -> Result<Loaded, Refused> {
        for (path, message) in contradictions(&self.config) {
            let source = self.sources.get(path).unwrap_or(&Source::Default);
            self.problems.push(Problem::new(source, path, message));
        }
        let (credentials, notes) = credentials::read(&self.config);
        for note in notes {
            let (list, path, message) = match note {
                Note::Problem(path, message) => (&mut self.problems, path, message),
                Note::Warning(path, message) => (&mut self.warnings, path, message),
            };
            let source = self.sources.get(path).unwrap_or(&Source::Default);
            list.push(Problem::new(source, path, message));
        }
        if self.problems.is_empty() {
            let Self { config, sources, warnings, .. } = self;
            Ok(Loaded { config, sources, file, warnings, credentials })
        } else {
            Err(Refused { problems: self.problems, warnings: self.warnings })
        }
    }
}

/// The two parts of an address to listen on.
fn address(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match bare {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    (good && port.parse::<u16>().is_ok()).then_some((bare.unwrap_or(host), port))
}

fn paths() -> impl Iterator<Item = &'static str> {
    keys().iter().map(|key| key.path).chain(later::ALL.iter().map(|later| later.path))
}

fn below<'a>(section: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(section)?.strip_prefix('.')
}

fn is_section(path: &str) -> bool {
    paths().any(|known| below(path, known).is_some())
}

/// What to say about a path that is no key.
fn unknown(path: &str) -> String {
    if is_section(path) {
        let inside: Vec<_> =
            keys().iter().filter(|key| below(path, key.path).is_some()).map(|k| k.path).collect();
        return match inside.is_empty() {
            true => "it is a section, not a key".to_owned(),
            false => format!("it is a section; its keys are {}", inside.join(", ")),
        };
    }
    if let Some(key) = keys().iter().find(|key| below(key.path, path).is_some()) {
        return format!("{} holds a value, not keys of its own", key.path);
    }
    match nearest(path, paths()) {
        Some(near) => format!("there is no such key; did you mean {near}?"),
        None => "there is no such key; docs/config.md lists all of them".to_owned(),
    }
}
