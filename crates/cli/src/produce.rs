//! Streams of bytes made by blocking code: local files, standard input, archives of directories.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{escape::escape, output::say};

const PIECE: usize = 64 << 10;
const PIECES_AHEAD: usize = 4;

/// Runs `source` on a thread of its own and streams what it writes. It is never more than a few
/// pieces ahead, and its next write fails when the stream is dropped.
pub(crate) fn produce(
    source: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let mut thread = JoinSet::new();
    thread.spawn_blocking(move || {
        let mut pieces = Pieces { sender, buffer: BytesMut::new() };
        if let Err(error) = source(&mut pieces).and_then(|()| pieces.flush()) {
            let _ = pieces.sender.blocking_send(Err(error));
        }
    });
    stream::unfold((receiver, thread), |(mut receiver, thread)| async move {
        receiver.recv().await.map(|piece| (piece, (receiver, thread)))
    })
}

/// The bytes of a reader.
pub(crate) fn read(
    mut reader: impl Read + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    produce(move |out| {
        let mut buffer = vec![0; PIECE];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    out.write_all(&buffer[..n])?;
                    out.flush()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if PIECE <= self.buffer.len() {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = self.buffer.split().freeze();
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A tar archive of a directory's content, made while it is read. Permissions are kept; owners too
/// when we are root, otherwise everything belongs to root, as it would in an image. Sockets and
/// devices are left out. Links are kept as links and not followed.
pub(crate) fn tar_of(
    directory: PathBuf,
    owners: Owners,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    produce(move |out| {
        let mut archive = tar::Builder::new(out);
        let mut waiting = vec![PathBuf::new()];
        while let Some(inside) = waiting.pop() {
            let mut entries: Vec<_> =
                fs::read_dir(directory.join(&inside))?.collect::<io::Result<_>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let name = inside.join(entry.file_name());
                append(&mut archive, &entry.path(), &name, owners)
                    .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", name.display())))?;
                if entry.file_type()?.is_dir() {
                    waiting.push(name);
                }
            }
        }
        archive.finish()
    })
}

/// Whom the files of an archive belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owners {
    /// Whom they belong to here.
    Kept,
    /// Root.
    Root,
}

fn append(
    archive: &mut tar::Builder<&mut dyn Write>,
    path: &Path,
    name: &Path,
    owners: Owners,
) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    let mut header = header(&metadata, owners);
    if kind.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut header, name, io::empty())
    } else if kind.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        archive.append_link(&mut header, name, fs::read_link(path)?)
    } else if kind.is_file() {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(metadata.len());
        // A file that grows or shrinks meanwhile must not shift everything behind it.
        let content = File::open(path)?.take(metadata.len()).chain(io::repeat(0));
        archive.append_data(&mut header, name, content.take(metadata.len()))
    } else {
        let kind = if kind.is_socket() { "socket" } else { "device or pipe" };
        say(&format!("left out: {} is a {kind}", escape(&name.to_string_lossy())));
        Ok(())
    }
}

fn header(metadata: &Metadata, owners: Owners) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    let (uid, gid) = match owners {
        Owners::Kept => (metadata.uid(), metadata.gid()),
        Owners::Root => (0, 0),
    };
    header.set_uid(uid.into());
    header.set_gid(gid.into());
    header
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use futures_util::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn a_directory_becomes_an_archive_with_links_and_modes_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/empty")).unwrap();
        fs::write(dir.path().join("a/big"), vec![7; 200_000]).unwrap();
        symlink("../../etc/passwd", dir.path().join("a/link")).unwrap();
        let pieces: Vec<Bytes> =
            tar_of(dir.path().to_owned(), Owners::Root).try_collect().await.unwrap();
        let mut seen = Vec::new();
        for entry in tar::Archive::new(&pieces.concat()[..]).entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.header().uid().unwrap(), 0);
            seen.push((entry.path().unwrap().display().to_string(), entry.size()));
        }
        seen.sort();
        let wanted = [("a", 0), ("a/big", 200_000), ("a/empty", 0), ("a/link", 0)];
        assert_eq!(seen, wanted.map(|(name, size)| (name.to_owned(), size)));
    }

    #[tokio::test]
    async fn a_source_that_fails_ends_the_stream_with_its_error() {
        let source = produce(|out| {
            out.write_all(b"x")?;
            Err(io::Error::other("gone"))
        });
        let error = source.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.to_string(), "gone");
    }
}
