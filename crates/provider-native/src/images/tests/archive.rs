//! Archives for tests, honest and hostile.

use std::io::Write as _;

use tar::{EntryType, Header};

/// An archive that grows entry by entry.
#[derive(Default, Clone)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn header(path: &str, kind: EntryType, size: u64, link: &str) -> Header {
        let mut header = Header::new_gnu();
        let bytes = header.as_old_mut();
        bytes.name[..path.len()].copy_from_slice(path.as_bytes());
        bytes.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_size(size);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    /// Any header, its checksum made right, and a body.
    pub(super) fn raw(mut self, mut header: Header, body: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, path: &str, body: &[u8]) -> Self {
        self.raw(Self::header(path, EntryType::Regular, body.len() as u64, ""), body)
    }

    pub(super) fn owned_file(self, path: &str, mode: u32, uid: u64, gid: u64) -> Self {
        let mut header = Self::header(path, EntryType::Regular, 0, "");
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        self.raw(header, b"")
    }

    pub(super) fn dir(self, path: &str) -> Self {
        self.raw(Self::header(path, EntryType::Directory, 0, ""), b"")
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(Self::header(path, EntryType::Symlink, 0, target), b"")
    }

    pub(super) fn hard_link(self, path: &str, target: &str) -> Self {
        self.raw(Self::header(path, EntryType::Link, 0, target), b"")
    }

    pub(super) fn special(self, path: &str, kind: EntryType) -> Self {
        self.raw(Self::header(path, kind, 0, ""), b"")
    }

    /// PAX records, lengths computed, before the next entry.
    pub(super) fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let mut length = rest.len() + 1;
            while rest.len() + length.to_string().len() != length {
                length += 1;
            }
            write!(body, "{length}{rest}").unwrap();
        }
        self.extension(EntryType::XHeader, &body)
    }

    pub(super) fn extension(self, kind: EntryType, body: &[u8]) -> Self {
        self.raw(Self::header("ext", kind, body.len() as u64, ""), body)
    }

    /// Without the end marker.
    pub(super) fn cut(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(super) fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// A small tree such as a static busybox gives.
pub(super) fn busybox() -> Tar {
    let program = std::fs::read("/usr/bin/busybox").unwrap_or_else(|_| b"program".to_vec());
    let mut header = Tar::header("./bin/busybox", EntryType::Regular, program.len() as u64, "");
    header.set_mode(0o4755);
    Tar::default()
        .dir("./")
        .dir("./bin")
        .raw(header, &program)
        .symlink("./bin/sh", "busybox")
        .hard_link("./bin/ls", "./bin/busybox")
        .dir("./dev")
        .special("./dev/null", EntryType::Char)
        .file("./etc/passwd", b"root:x:0:0::/:/bin/sh\n")
}
