//! Reads a tar stream, entry by entry. Every byte is hostile: sizes, counts and texts are bounded
//! before anything is kept, and what is not understood is refused rather than guessed.

use std::io::{ErrorKind as IoKind, Read};

use stacyvm_provider::{ErrorKind, Result};
use tar::{EntryType, GnuExtSparseHeader, Header};

use super::{
    Caps,
    refusal::{invalid, io_error, refuse, show},
};

const BLOCK: usize = 512;
/// One GNU long name, or one set of PAX records.
const MAX_EXTENSION: u64 = 1024 * 1024;
const MAX_EXTENTS: usize = 100_000;

/// One entry, its names as the archive writes them.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Bytes of the file once it is written, holes included.
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Seconds since the epoch.
    pub(super) mtime: i64,
}

/// What an entry is.
#[derive(Debug)]
pub(super) enum Kind {
    /// A file; the parts of it that the archive holds, in order.
    File(Vec<Extent>),
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Device,
    Pipe,
}

/// A part of a file that is written out; between them are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The archive so far.
pub(super) struct Archive<'a, R> {
    input: R,
    caps: &'a Caps,
    headers: u64,
    /// Bytes of the current entry's body that nobody has read.
    body: u64,
    padding: u64,
}

/// What extension headers say about the entry that follows them.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
}

impl<'a, R: Read> Archive<'a, R> {
    pub(super) fn new(input: R, caps: &'a Caps) -> Self {
        Self { input, caps, headers: 0, body: 0, padding: 0 }
    }

    /// The next entry; what is left of the last one's body is skipped. `None` after the end marker,
    /// with the rest of the stream read to its end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut overrides = Overrides::default();
        loop {
            self.skip_body()?;
            let Some(header) = self.header()? else {
                std::io::copy(&mut self.input, &mut std::io::sink()).map_err(io_error)?;
                return Ok(None);
            };
            let size = header.entry_size().map_err(|_| invalid("a header's size is no number"))?;
            match header.entry_type() {
                EntryType::GNULongName => overrides.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => overrides.link = Some(self.long_name(size)?),
                EntryType::XHeader => {
                    let records = self.extension(size)?;
                    overrides.apply(&records)?;
                }
                // Global records and volume labels say nothing about a root file system.
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                kind if kind.as_byte() == b'V' => self.set_body(size),
                kind => return self.entry(&header, kind, size, overrides).map(Some),
            }
        }
    }

    /// Bytes of the current body. Never `Ok(0)` before its end: that is a truncated archive.
    pub(super) fn read_body(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = usize::try_from(self.body).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let got = read_some(&mut self.input, &mut buffer[..want])?;
        if got == 0 {
            return Err(truncated());
        }
        self.body -= got as u64;
        Ok(got)
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        header_size: u64,
        overrides: Overrides,
    ) -> Result<Entry> {
        let path = overrides.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let stored = overrides.size.unwrap_or(header_size);
        let link = overrides
            .link
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        // Before ustar a directory was an empty file with a slash at the end of its name.
        let old_directory = path.ends_with(b"/") && stored == 0;
        let mut size = stored;
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous if old_directory => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => {
                Kind::File(vec![Extent { offset: 0, length: stored }])
            }
            EntryType::GNUSparse => {
                let (real, extents) = self.sparse_map(header, stored, &path)?;
                size = real;
                Kind::File(extents)
            }
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link),
            EntryType::Link => Kind::HardLink(link),
            EntryType::Char | EntryType::Block => Kind::Device,
            EntryType::Fifo => Kind::Pipe,
            other => {
                let sentence =
                    format!("an entry of the unknown type {:?}", other.as_byte() as char);
                return refuse(ErrorKind::Invalid, &path, &sentence);
            }
        };
        // Other kinds have no body, whatever their size field says.
        self.set_body(if matches!(kind, Kind::File(_)) { stored } else { 0 });
        let number = |field: std::io::Result<u64>| {
            field.map_err(|_| invalid(&format!("{}: a field is no number", show(&path))))
        };
        Ok(Entry {
            kind,
            size,
            mode: header.mode().map_err(|_| invalid("a header's mode is no number"))?,
            uid: overrides.uid.map_or_else(|| number(header.uid()), Ok)?,
            gid: overrides.gid.map_or_else(|| number(header.gid()), Ok)?,
            mtime: match overrides.mtime {
                Some(mtime) => mtime,
                None => i64::try_from(number(header.mtime())?).unwrap_or(0),
            },
            path,
        })
    }

    /// One header block, its checksum checked. `None` is the end marker.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        if !self.fill(header.as_mut_bytes())? {
            return Err(invalid(if self.headers == 0 {
                "the archive is empty"
            } else {
                "the archive stops without an end marker: it was cut short"
            }));
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(invalid(if self.headers == 0 {
                "this is not a tar archive, plain or gzip-compressed"
            } else {
                "a header's checksum is wrong: the archive is damaged"
            }));
        }
        self.headers += 1;
        if self.caps.entries < self.headers {
            let sentence = format!("the archive holds more than {} entries", self.caps.entries);
            return Err(stacyvm_provider::Error::new(ErrorKind::TooLarge, sentence));
        }
        Ok(Some(header))
    }

    fn set_body(&mut self, size: u64) {
        self.body = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip_body(&mut self) -> Result<()> {
        let left = self.body.saturating_add(self.padding);
        (self.body, self.padding) = (0, 0);
        let skipped = std::io::copy(&mut (&mut self.input).take(left), &mut std::io::sink())
            .map_err(io_error)?;
        if skipped < left { Err(truncated()) } else { Ok(()) }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if MAX_EXTENSION < size {
            return Err(invalid("an extension header is larger than 1 MiB"));
        }
        let length = usize::try_from(size).expect("at most a mebibyte");
        let mut content = vec![0; length];
        if length != 0 && !self.fill(&mut content)? {
            return Err(truncated());
        }
        self.set_body(size);
        self.body = 0;
        Ok(content)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.extension(size)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// The map of a GNU sparse file: its real size and the parts that the archive holds.
    fn sparse_map(
        &mut self,
        header: &Header,
        stored: u64,
        path: &[u8],
    ) -> Result<(u64, Vec<Extent>)> {
        let wrong = || invalid(&format!("{}: its sparse map is wrong", show(path)));
        let gnu = header.as_gnu().ok_or_else(wrong)?;
        let real = gnu.real_size().map_err(|_| wrong())?;
        let mut extents = Vec::new();
        let mut add = |slots: &[tar::GnuSparseHeader]| {
            for slot in slots.iter().filter(|slot| !slot.is_empty()) {
                let offset = slot.offset().map_err(|_| wrong())?;
                let length = slot.length().map_err(|_| wrong())?;
                extents.push(Extent { offset, length });
            }
            if MAX_EXTENTS < extents.len() { Err(wrong()) } else { Ok(()) }
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            if !self.fill(block.as_mut_bytes())? {
                return Err(truncated());
            }
            add(block.sparse())?;
            more = block.is_extended();
        }
        let mut end = 0_u64;
        let mut held = 0_u64;
        for extent in &extents {
            let in_order = end <= extent.offset;
            end = extent.offset.checked_add(extent.length).ok_or_else(wrong)?;
            held = held.checked_add(extent.length).ok_or_else(wrong)?;
            if !in_order || real < end {
                return Err(wrong());
            }
        }
        if held == stored { Ok((real, extents)) } else { Err(wrong()) }
    }

    /// Fills the buffer. `false` when the stream was at its end before the first byte.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match read_some(&mut self.input, &mut buffer[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(truncated()),
                got => filled += got,
            }
        }
        Ok(true)
    }
}

impl Overrides {
    /// Applies PAX records: lines of `LENGTH KEY=VALUE`.
    fn apply(&mut self, mut records: &[u8]) -> Result<()> {
        let wrong = || invalid("an extended header is malformed");
        while !records.is_empty() {
            let space = records.iter().take(8).position(|b| *b == b' ').ok_or_else(wrong)?;
            let length: usize = number(&records[..space]).ok_or_else(wrong)?;
            let record = records.get(space + 1..length).ok_or_else(wrong)?;
            records = &records[length..];
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number(value).ok_or_else(wrong)?),
                b"uid" => self.uid = Some(number(value).ok_or_else(wrong)?),
                b"gid" => self.gid = Some(number(value).ok_or_else(wrong)?),
                b"mtime" => {
                    let whole = value.split(|b| *b == b'.').next().unwrap_or_default();
                    self.mtime = Some(number(whole).ok_or_else(wrong)?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(invalid(
                        "sparse files in the PAX format are not read: make the archive without \
                         --sparse, or with --format=gnu",
                    ));
                }
                // Extended attributes, among others: never applied.
                _ => {}
            }
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn truncated() -> stacyvm_provider::Error {
    invalid("the archive was cut short")
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == IoKind::Interrupted => {}
            other => return other.map_err(io_error),
        }
    }
}
