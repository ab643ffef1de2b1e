//! What the last look at the registry showed.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use stacyvm_store::WorkerRow;
use stacyvm_types::{Resources, WorkerId, full_image_name};

/// The image that every host is.
pub(super) const HOST: &str = "host";

/// The workers by id, and who has which image.
#[derive(Clone, Default)]
pub(super) struct View {
    workers: BTreeMap<WorkerId, Known>,
    holders: Arc<Holders>,
}

/// By provider and image.
type Holders = HashMap<String, HashMap<String, Vec<WorkerId>>>;

/// Clones share the load, which changes between two looks.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) row: Arc<WorkerRow>,
    pub(super) load: Arc<Load>,
}

#[derive(Default)]
pub(super) struct Load {
    sandboxes: AtomicU64,
    memory_mb: AtomicU64,
    vcpus: AtomicU64,
}

impl View {
    pub(super) fn new(rows: Vec<(WorkerRow, Resources)>) -> Self {
        let mut holders = Holders::new();
        for (row, _) in &rows {
            for offer in &row.beat.offers {
                let of_provider = holders.entry(offer.provider.clone()).or_default();
                for image in offer.images.iter().map(String::as_str).chain([HOST]) {
                    match of_provider.get_mut(image) {
                        Some(holders) => holders.push(row.beat.id.clone()),
                        None => {
                            of_provider.insert(image.to_owned(), vec![row.beat.id.clone()]);
                        }
                    }
                }
            }
        }
        let known = |(row, load): (WorkerRow, _)| {
            let known = Known { row: Arc::new(row), load: Arc::new(Load::of(load)) };
            (known.row.beat.id.clone(), known)
        };
        Self { workers: rows.into_iter().map(known).collect(), holders: Arc::new(holders) }
    }

    /// Those that had the image with the provider when they were looked at; all that have the
    /// provider where nobody has it, because not every provider needs an import.
    pub(super) fn holders(&self, provider: &str, image: &str) -> &[WorkerId] {
        let image = if image == HOST { image.into() } else { full_image_name(image) };
        let of_provider = self.holders.get(provider);
        let holders = of_provider.and_then(|images| {
            images.get(&*image).filter(|holders| !holders.is_empty()).or_else(|| images.get(HOST))
        });
        holders.map_or(&[], Vec::as_slice)
    }

    /// The worker has this image now, or not any more. The name has its tag.
    pub(super) fn set_image(&mut self, id: &WorkerId, provider: &str, image: &str, has: bool) {
        let Some(known) = self.workers.get_mut(id) else { return };
        let offers = &mut Arc::make_mut(&mut known.row).beat.offers;
        let Some(offer) = offers.iter_mut().find(|offer| offer.provider == provider) else {
            return;
        };
        let changed = match has {
            true => offer.images.insert(image.to_owned()),
            false => offer.images.remove(image),
        };
        if !changed {
            return;
        }
        let of_provider = Arc::make_mut(&mut self.holders).entry(provider.to_owned()).or_default();
        let holders = of_provider.entry(image.to_owned()).or_default();
        match has {
            true => holders.push(id.clone()),
            false => holders.retain(|holder| holder != id),
        }
    }

    /// Its row changed since.
    pub(super) fn update(&mut self, row: WorkerRow) {
        if let Some(known) = self.workers.get_mut(&row.beat.id) {
            known.row = Arc::new(row);
        }
    }
}

impl Deref for View {
    type Target = BTreeMap<WorkerId, Known>;

    fn deref(&self) -> &Self::Target {
        &self.workers
    }
}

impl Load {
    pub(super) fn of(taken: Resources) -> Self {
        let Resources { sandboxes, memory_mb, vcpus } = taken;
        Self { sandboxes: sandboxes.into(), memory_mb: memory_mb.into(), vcpus: vcpus.into() }
    }

    pub(super) fn now(&self) -> Resources {
        Resources {
            sandboxes: self.sandboxes.load(Ordering::Relaxed),
            memory_mb: self.memory_mb.load(Ordering::Relaxed),
            vcpus: self.vcpus.load(Ordering::Relaxed),
        }
    }

    /// The three are changed one after the other: what is read is a hint anyway.
    pub(super) fn change(&self, how: fn(u64, u64) -> u64, by: Resources) {
        let each = [
            (&self.sandboxes, by.sandboxes),
            (&self.memory_mb, by.memory_mb),
            (&self.vcpus, by.vcpus),
        ];
        for (taken, by) in each {
            let changed = |old| Some(how(old, by));
            _ = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
        }
    }
}
