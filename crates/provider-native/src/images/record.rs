//! What a name means, as a file.

use std::{collections::BTreeSet, io, os::fd::BorrowedFd, path::Path};

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use stacyvm_provider::ImageRecord;
use stacyvm_types::Timestamp;

use super::name::ImageName;
use crate::tree;

/// A record's file is about a hundred bytes.
const MAX_BYTES: u64 = 4096;

/// What a name means.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// The tree's id.
    pub(super) tree: String,
    /// Bytes of its files.
    pub(super) size: u64,
    /// When it was imported.
    pub(super) created: Timestamp,
}

impl Record {
    pub(super) fn public(&self, name: &ImageName) -> ImageRecord {
        ImageRecord { name: name.as_str().to_owned(), size: self.size, created: self.created }
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    tree: String,
    size: u64,
    created_us: i64,
}

pub(super) fn write(names: BorrowedFd<'_>, name: &ImageName, record: &Record) -> io::Result<()> {
    let stored = Stored {
        name: name.as_str().to_owned(),
        tree: record.tree.clone(),
        size: record.size,
        created_us: record.created.as_micros(),
    };
    tree::write_durably(names, &name.file_name(), &serde_json::to_vec(&stored)?)
}

/// Reads one record. Files that are not records are passed over: those that were being written
/// when a predecessor died quietly, damaged ones with a warning.
pub(super) fn read(
    names: BorrowedFd<'_>,
    file: &[u8],
    trees: &BTreeSet<String>,
) -> Option<(ImageName, Record)> {
    let file = std::str::from_utf8(file).ok()?;
    if file.starts_with('.') {
        return None;
    }
    let found = load(names, file).ok().and_then(|stored| {
        let name = ImageName::parse(&stored.name).ok()?;
        let sound = name.file_name() == file && trees.contains(&stored.tree);
        let created = Timestamp::from_micros(stored.created_us);
        sound.then_some((name, Record { tree: stored.tree, size: stored.size, created }))
    });
    if found.is_none() {
        tracing::warn!(file, "an image's record is damaged: import the image again");
    }
    found
}

fn load(names: BorrowedFd<'_>, file: &str) -> io::Result<Stored> {
    let file = std::fs::File::from(tree::open_file_below(names, Path::new(file))?);
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_BYTES), &mut content)?;
    Ok(serde_json::from_slice(&content)?)
}
