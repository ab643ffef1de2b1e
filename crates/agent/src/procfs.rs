//! The process table, read through a descriptor that the sandbox cannot replace.

use std::{io, os::fd::OwnedFd};

use rustix::fs::{Dir, Mode, OFlags};

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    /// Dead already, only not asked for by its parent.
    pub(crate) zombie: bool,
    /// Clock ticks used by it and by its dead children.
    pub(crate) ticks: u64,
    pub(crate) threads: u64,
    /// Resident pages.
    pub(crate) pages: u64,
}

/// Every process that can be seen.
pub(crate) fn processes(proc: &OwnedFd) -> io::Result<Vec<Process>> {
    let mut dir = Dir::read_from(proc)?;
    let mut found = Vec::new();
    while let Some(entry) = dir.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.first().is_some_and(u8::is_ascii_digit) {
            // One that ended meanwhile is no error.
            found.extend(process(proc, name));
        }
    }
    Ok(found)
}

fn process(proc: &OwnedFd, name: &[u8]) -> Option<Process> {
    let mut path = name.to_vec();
    path.extend_from_slice(b"/stat");
    let mut buffer = [0; 1024];
    let text = read(proc, &path, &mut buffer).ok()?;
    parse_stat(text)
}

/// Reads the beginning of a file of procfs.
pub(crate) fn read<'a>(proc: &OwnedFd, path: &[u8], buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let fd = rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let length = rustix::io::read(&fd, &mut *buffer)?;
    Ok(&buffer[..length])
}

/// Writes a file of procfs.
pub(crate) fn write(proc: &OwnedFd, path: &str, text: &[u8]) -> io::Result<()> {
    let fd = rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&fd, text)?;
    Ok(())
}

/// Parses a line of `stat`. The name within may hold anything, parentheses and spaces too.
fn parse_stat(text: &[u8]) -> Option<Process> {
    let name_ends = text.iter().rposition(|byte| *byte == b')')?;
    let pid = number(text.split(|byte| *byte == b' ').next()?)?;
    let rest = text.get(name_ends + 2..)?;
    let fields: Vec<&[u8]> = rest.split(|byte| *byte == b' ').take(22).collect();
    let field = |at: usize| fields.get(at).and_then(|field| number::<u64>(field));
    Some(Process {
        pid,
        parent: number(fields.get(1)?)?,
        zombie: matches!(fields.first()?, &[b'Z' | b'X', ..]),
        ticks: (11..15).filter_map(field).fold(0, u64::saturating_add),
        threads: field(17)?,
        pages: field(21)?,
    })
}

/// A decimal number.
pub(crate) fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pretend_to_be_fields() {
        let line = b"42 (a) R 1 (x) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 3 0 99 1000 5";
        let expected =
            Process { pid: 42, parent: 7, zombie: false, ticks: 100, threads: 3, pages: 5 };
        assert_eq!(parse_stat(line), Some(expected));
    }

    #[test]
    fn this_process_is_in_the_table() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let proc = rustix::fs::open("/proc", flags, Mode::empty()).unwrap();
        let me = rustix::process::getpid().as_raw_nonzero().get();
        assert!(processes(&proc).unwrap().iter().any(|process| process.pid == me));
    }
}
