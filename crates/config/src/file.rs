//! Which file is read, and how.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{
    problem::{Problem, Source},
    secret::Raw,
    yaml,
};

/// The largest file in bytes.
const MAX_SIZE: u64 = 1 << 20;

/// The file to read: the one that is asked for, otherwise the first that exists of
/// `./stacyvm.yaml` and `~/.stacyvm/config.yaml`.
pub fn choose(asked: Option<PathBuf>, home: Option<&Path>) -> Option<PathBuf> {
    asked.or_else(|| {
        let own = home.map(|home| home.join(".stacyvm/config.yaml"));
        [Some(PathBuf::from("./stacyvm.yaml")), own]
            .into_iter()
            .flatten()
            .find(|path| fs::symlink_metadata(path).is_ok())
    })
}

/// A path, what is written there, and where.
pub(crate) type Entry = (String, Raw, Source);

/// The settings of a file with their lines.
pub(crate) fn read(path: &Path) -> Result<Vec<Entry>, Problem> {
    let at = |line| Source::File { path: path.to_owned(), line };
    let text =
        text(path).map_err(|e| Problem::new(&at(0), "", format!("it cannot be read: {e}")))?;
    let entries =
        yaml::read(&text).map_err(|fault| Problem::new(&at(fault.line), "", fault.message))?;
    Ok(entries.into_iter().map(|entry| (entry.path, entry.raw, at(entry.line))).collect())
}

fn text(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    File::open(path)?.take(MAX_SIZE + 1).read_to_string(&mut text)?;
    if MAX_SIZE < text.len() as u64 {
        return Err(io::Error::other(format!("it is larger than {MAX_SIZE} bytes")));
    }
    Ok(text)
}
