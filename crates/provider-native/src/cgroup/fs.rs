//! The control group file system, behind a seam.

use std::{fs, io, path::Path};

/// The few things that are done to control groups.
pub(crate) trait CgroupFs: Send + Sync {
    /// Makes a group. One that exists is fine.
    fn make(&self, group: &Path) -> io::Result<()>;
    /// Writes a value to a control file that exists.
    fn write(&self, file: &Path, value: &str) -> io::Result<()>;
    /// Reads a control file.
    fn read(&self, file: &Path) -> io::Result<String>;
    /// Removes an empty group.
    fn remove(&self, group: &Path) -> io::Result<()>;
}

/// The running kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel;

impl CgroupFs for Kernel {
    fn make(&self, group: &Path) -> io::Result<()> {
        match fs::create_dir(group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn write(&self, file: &Path, value: &str) -> io::Result<()> {
        let file = fs::File::options().write(true).open(file)?;
        rustix::io::write(&file, value.as_bytes())?;
        Ok(())
    }

    fn read(&self, file: &Path) -> io::Result<String> {
        fs::read_to_string(file)
    }

    fn remove(&self, group: &Path) -> io::Result<()> {
        fs::remove_dir(group)
    }
}

/// Writes nothing and remembers what would have been written.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Recorder {
    log: std::sync::Mutex<Vec<String>>,
    files: std::collections::BTreeMap<std::path::PathBuf, String>,
    refuse: Option<&'static str>,
}

#[cfg(test)]
impl Recorder {
    pub(crate) fn refusing(name: &'static str) -> Self {
        Self { refuse: Some(name), ..Self::default() }
    }

    pub(crate) fn with_files(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| (path.into(), (*text).to_owned())).collect();
        Self { files, ..Self::default() }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn note(&self, line: String) -> io::Result<()> {
        self.log.lock().unwrap().push(line);
        Ok(())
    }
}

#[cfg(test)]
impl CgroupFs for Recorder {
    fn make(&self, group: &Path) -> io::Result<()> {
        self.note(format!("mkdir {}", group.display()))
    }

    fn write(&self, file: &Path, value: &str) -> io::Result<()> {
        if self.refuse.is_some_and(|name| file.ends_with(name)) {
            return Err(rustix::io::Errno::BUSY.into());
        }
        self.note(format!("{} = {value}", file.display()))
    }

    fn read(&self, file: &Path) -> io::Result<String> {
        self.files.get(file).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove(&self, group: &Path) -> io::Result<()> {
        self.note(format!("rmdir {}", group.display()))
    }
}
