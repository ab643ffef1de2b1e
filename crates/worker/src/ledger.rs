//! Where the records of a worker are kept.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// A text that grows by whole lines and outlives the process.
///
/// Promises: what [`Ledger::append`] and [`Ledger::replace`] returned `Ok` for is read by the next
/// process, in order; a replacement happens whole or not at all; a line that was being appended when
/// the process died may be cut short and is then the last one.
pub trait Ledger: Send {
    /// All of it; empty where there is none yet.
    fn read(&mut self) -> io::Result<String>;

    /// Adds a line, its end included.
    fn append(&mut self, line: &str) -> io::Result<()>;

    /// Puts another text in its place.
    fn replace(&mut self, text: &str) -> io::Result<()>;

    /// What it is called in an error.
    fn name(&self) -> String;
}

/// The records of one worker.
pub struct Ledgers {
    /// The highest generation seen of each sandbox.
    pub generations: Box<dyn Ledger>,
    /// When each sandbox ends by itself.
    pub deadlines: Box<dyn Ledger>,
}

impl Ledgers {
    /// Files in a directory, which is made when they are first written.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            generations: Box::new(FileLedger::new(dir.join("generations.log"))),
            deadlines: Box::new(FileLedger::new(dir.join("deadlines.log"))),
        }
    }
}

/// A ledger that is a file. Lines are not flushed to the disk: see [`crate::journal`].
#[derive(Debug)]
struct FileLedger {
    path: PathBuf,
    file: Option<File>,
}

impl FileLedger {
    const fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }
}

impl Ledger for FileLedger {
    fn read(&mut self) -> io::Result<String> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error),
        }
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().append(true).create(true).open(&self.path)?),
        };
        file.write_all(line.as_bytes())
    }

    fn replace(&mut self, text: &str) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.path)?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        Ok(())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}
