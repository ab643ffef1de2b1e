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
/// the process died may be cut short and is then the last one. One that could not be appended, such as
/// where the disk was full, spoils no other line and is no line that could be understood.
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
    /// Whether a part of a line may stand at the end.
    is_torn: bool,
}

/// What follows the part of a line: with it, it says nothing.
const TORN: &str = "?\n";

impl FileLedger {
    const fn new(path: PathBuf) -> Self {
        Self { path, file: None, is_torn: false }
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
        let whole = if self.is_torn { &format!("{TORN}{line}") } else { line };
        self.is_torn = true;
        file.write_all(whole.as_bytes())?;
        self.is_torn = false;
        Ok(())
    }

    fn replace(&mut self, text: &str) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.path)?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        self.is_torn = false;
        Ok(())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A half of `+ … 1700` that reads as `+ … 17` would end a sandbox that lives, and one that runs
    /// into the next line would lose that.
    #[test]
    fn a_line_for_which_there_was_no_room_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = FileLedger::new(dir.path().join("log"));
        ledger.replace("+ a 1\n").unwrap();
        let kept = ledger.file.take();
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        for written in ["", "+ b 17"] {
            ledger.file = Some(full.try_clone().unwrap());
            assert_eq!(ledger.append("+ b 1700\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
            // As much as there was room for.
            let mut file = kept.as_ref().unwrap().try_clone().unwrap();
            file.write_all(written.as_bytes()).unwrap();
            ledger.file = Some(file);
            ledger.append("+ c 2\n").unwrap();
            ledger.append("+ d 3\n").unwrap();
        }
        let text = ledger.read().unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            ["+ a 1", "?", "+ c 2", "+ d 3", "+ b 17?", "+ c 2", "+ d 3"],
            "a line with a question mark is none"
        );
    }
}
