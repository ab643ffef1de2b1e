//! Where an archive is unpacked before its tree is put in place.

use std::{
    ffi::{OsStr, OsString},
    os::fd::AsFd,
};

use rustix::fs::{self, Mode};
use stacyvm_provider::Result;

use super::{Store, extract, input, refusal::host};
use crate::tree;

/// An import on its way. Dropped before it is published, it leaves nothing.
pub(super) struct Staging<'a> {
    store: &'a Store,
    /// What the tree will be called.
    pub(super) id: String,
    published: bool,
}

impl<'a> Staging<'a> {
    /// Makes an empty place.
    pub(super) fn new(store: &'a Store) -> Result<Self> {
        let id = format!("{:016x}", rand::random::<u64>());
        fs::mkdirat(&store.images, Self::name_of(&id), Mode::RWXU).map_err(|e| host("begun", e))?;
        Ok(Self { store, id, published: false })
    }

    fn name_of(id: &str) -> String {
        format!(".import-{id}")
    }

    fn name(&self) -> String {
        Self::name_of(&self.id)
    }

    /// Unpacks an archive there; when this returns its files are on the disk.
    pub(super) fn fill(&self, source: input::Source) -> Result<u64> {
        let begun = |error: rustix::io::Errno| host("begun", error);
        let images = self.store.images.as_fd();
        let staging = tree::open_below(images, OsStr::new(&self.name())).map_err(begun)?;
        fs::mkdirat(&staging, "rootfs", Mode::RWXU).map_err(begun)?;
        let root = tree::open_below(staging.as_fd(), OsStr::new("rootfs")).map_err(begun)?;
        fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(begun)?;
        let caps = &self.store.caps;
        let input = input::unpacked(source, caps.bytes)?;
        let size = extract::extract(input, root.as_fd(), caps, self.store.owners)?;
        fs::syncfs(&root).map_err(|e| host("written", e))?;
        Ok(size)
    }

    /// Puts the tree in place, under its id.
    pub(super) fn publish(mut self) -> Result<()> {
        fs::renameat(&self.store.images, self.name(), &self.store.trees, &self.id)
            .map_err(|e| host("put in place", e))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        let name = OsString::from(self.name());
        if let Err(error) = tree::remove_tree(self.store.images.as_fd(), &name) {
            tracing::warn!(%error, "a refused import could not be removed yet");
            self.store.state().leftovers.push(name);
        }
    }
}
