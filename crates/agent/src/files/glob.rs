//! Finding paths by a pattern.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use stacyvm_agent_proto::{Reply, encode};

use super::{
    Root, Walk, check, is_kernel_file,
    pattern::{self, Part},
    walk::too_many,
};
use crate::{
    fail::{Fail, Result},
    limits::{ENTRIES_PER_SLICE, MAX_ENTRIES, MAX_PATH, MAX_VISITED},
    stream::Slice,
};

/// A directory to look into: the parts of the pattern that its names may match.
struct Task {
    path: Vec<u8>,
    /// Indices into the parts, rising.
    states: Vec<usize>,
}

/// The directory that is being read.
struct Current {
    task: Task,
    dir: Dir,
}

/// A search. Only one directory is open at a time.
pub(crate) struct Glob {
    parts: Vec<Part>,
    tasks: Vec<Task>,
    current: Option<Current>,
    found: u64,
    visited: u64,
}

impl Glob {
    /// Parses the pattern; one that is not absolute starts at the workspace.
    pub(crate) fn begin(pattern: &str, workspace: &str) -> Result<Self> {
        let absolute =
            if pattern.starts_with('/') { pattern.to_owned() } else { join(workspace, pattern) };
        check(&absolute)?;
        if absolute.split('/').any(|part| part == "..") {
            return Err(Fail::invalid("a pattern cannot hold .."));
        }
        let parts = pattern::parse(&absolute)?;
        let start = Task { path: Vec::new(), states: Self::closed(&parts, [0]) };
        Ok(Self { parts, tasks: vec![start], current: None, found: 0, visited: 0 })
    }

    /// Where `**` may stand for no directory, the part after it is expected, too.
    fn closed(parts: &[Part], states: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut all: Vec<usize> = Vec::new();
        for state in states {
            all.push(state);
            if parts[state] == Part::Deep && state + 1 < parts.len() {
                all.push(state + 1);
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    fn tell(&mut self, path: &[u8], paths: &mut Vec<String>) -> Result<()> {
        self.found += 1;
        if MAX_ENTRIES < self.found {
            return Err(too_many());
        }
        paths.push(String::from_utf8_lossy(path).into_owned());
        Ok(())
    }

    fn visit(&mut self) -> Result<()> {
        self.visited += 1;
        if MAX_VISITED < self.visited || MAX_ENTRIES < self.tasks.len() as u64 {
            return Err(too_many());
        }
        Ok(())
    }

    /// Starts with a directory. A name that is written out is looked up instead of searched for.
    fn enter(&mut self, root: &Root, task: Task, paths: &mut Vec<String>) -> Result<()> {
        self.visit()?;
        if let [state] = task.states[..]
            && let Part::Literal(name) = &self.parts[state]
        {
            let path = child(&task.path, name);
            if state + 1 < self.parts.len() {
                let states = Self::closed(&self.parts, [state + 1]);
                self.tasks.push(Task { path, states });
            } else if exists(root, &task.path, name) {
                self.tell(&path, paths)?;
            }
            return Ok(());
        }
        // What is no directory, is gone, or is the kernel's holds no match.
        if let Some(fd) = open(root, &task.path)
            && let Ok(dir) = Dir::new(fd)
        {
            self.current = Some(Current { task, dir });
        }
        Ok(())
    }

    fn entry(&mut self, paths: &mut Vec<String>) -> Result<()> {
        self.visit()?;
        let Some(current) = &mut self.current else { return Ok(()) };
        let Some(Ok(found)) = current.dir.read() else {
            self.current = None;
            return Ok(());
        };
        let name = found.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            return Ok(());
        }
        let mut complete = false;
        let mut deep = Vec::new();
        let mut next = Vec::new();
        for &state in &current.task.states {
            let last = state + 1 == self.parts.len();
            let hit = match &self.parts[state] {
                Part::Deep => {
                    deep.push(state);
                    complete |= last;
                    continue;
                }
                Part::Literal(literal) => literal == name,
                Part::Name(tokens) => pattern::matches(tokens, name),
            };
            complete |= hit && last;
            if hit && !last {
                next.push(state + 1);
            }
        }
        let mut kind = found.file_type();
        if kind == FileType::Unknown
            && let Ok(dir) = current.dir.fd()
            && let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        {
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        let path = child(&current.task.path, name);
        match kind {
            FileType::Directory => next.extend(deep),
            // A part that names a link goes through it; `**` does not.
            FileType::Symlink => {}
            _ => next.clear(),
        }
        if !next.is_empty() && path.len() <= MAX_PATH {
            let states = Self::closed(&self.parts, next);
            self.tasks.push(Task { path: path.clone(), states });
        }
        if complete {
            self.tell(&path, paths)?;
        }
        Ok(())
    }
}

impl Walk for Glob {
    fn step(&mut self, root: &Root, out: &mut Vec<u8>) -> Result<Slice> {
        let mut paths = Vec::new();
        let mut slice = Slice::More;
        for _ in 0..ENTRIES_PER_SLICE {
            if self.current.is_some() {
                self.entry(&mut paths)?;
            } else if let Some(task) = self.tasks.pop() {
                self.enter(root, task, &mut paths)?;
            } else {
                slice = Slice::Done;
                break;
            }
        }
        if !paths.is_empty() {
            encode(&Reply::Paths(paths.into_iter().map(Into::into).collect()), out);
        }
        Ok(slice)
    }
}

fn join(dir: &str, rest: &str) -> String {
    format!("{}/{rest}", dir.trim_end_matches('/'))
}

fn child(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

fn open(root: &Root, path: &[u8]) -> Option<std::os::fd::OwnedFd> {
    let path = if path.is_empty() { b"/".as_slice() } else { path };
    let fd = root.open_at(path, OFlags::PATH | OFlags::DIRECTORY).ok()?;
    if is_kernel_file(fd.as_fd()) {
        return None;
    }
    let fd = root.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK).ok()?;
    (!is_kernel_file(fd.as_fd())).then_some(fd)
}

fn exists(root: &Root, path: &[u8], name: &[u8]) -> bool {
    open(root, path)
        .is_some_and(|dir| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok())
}
