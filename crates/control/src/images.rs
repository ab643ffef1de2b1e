//! The imported images, each on the workers that it was imported at.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use stacyvm_provider::{self as provider, ByteStream, ErrorKind, ImageRecord, Images};
use stacyvm_types::WorkerId;
use tokio::time::timeout;

use crate::{Control, Error, Image, ImageList, Result, validate};

/// How long one worker of many is asked for its list.
const LIST: Duration = Duration::from_secs(5);
/// Workers that are asked at once.
const ASKED: usize = 32;
/// Workers that a refusal names.
const NAMED: usize = 5;

/// The images of one worker.
struct Shelf {
    worker: WorkerId,
    provider: String,
    images: Arc<dyn Images>,
}

impl Control {
    /// The imported images of this worker, or of all, by name. Of all, a worker that does not
    /// answer soon, or was not heard of in time, is named instead.
    pub async fn images(&self, worker: Option<&WorkerId>) -> Result<ImageList> {
        if let Some(id) = worker {
            let records = self.shelf_of(id).await?.images.list().await;
            let records = records.map_err(|error| Error::from_provider(error, None))?;
            let image = |record| Image { record, workers: vec![id.clone()] };
            let images = records.into_iter().map(image).collect();
            return Ok(ImageList { images, silent: Vec::new() });
        }
        let shelves = self.shelves();
        if shelves.is_empty() {
            return Err(nobody());
        }
        let lists = stream::iter(shelves).map(|shelf| async move {
            let listed = timeout(LIST, shelf.images.list()).await;
            let listed = listed.unwrap_or_else(|late| {
                Err(provider::Error::unknown(ErrorKind::Unavailable, "no answer").because(late))
            });
            (shelf.worker, listed)
        });
        let mut lists: Vec<_> = lists.buffer_unordered(ASKED).collect().await;
        lists.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut found = BTreeMap::<String, Image>::new();
        let mut silent: Vec<_> = self.importers(false).into_iter().map(|(id, _)| id).collect();
        for (worker, listed) in lists {
            let records = match listed {
                Ok(records) => records,
                Err(error) => {
                    tracing::warn!(worker.id = %worker, ?error, "a worker does not list its images");
                    silent.push(worker);
                    continue;
                }
            };
            for record in records {
                let image = found
                    .entry(record.name.clone())
                    .or_insert_with(|| Image { record: record.clone(), workers: Vec::new() });
                image.workers.push(worker.clone());
                if image.record.created < record.created {
                    image.record = record;
                }
            }
        }
        silent.sort();
        Ok(ImageList { images: found.into_values().collect(), silent })
    }

    /// Imports a tar archive as an image at this worker; at the server's own, or at the only one
    /// that imports images, if none is named. An archive that breaks off leaves nothing.
    pub async fn import_image(
        &self,
        name: &str,
        worker: Option<&WorkerId>,
        archive: ByteStream,
    ) -> Result<Image> {
        let (control, own, worker) = (self.clone(), name.to_owned(), worker.cloned());
        let told = |image: &Image| {
            let at = image.workers.first().map(WorkerId::as_str).unwrap_or_default();
            format!("bytes={} worker={at}", image.record.size)
        };
        self.change("image.import", name, told, async move {
            control.refuse_confined("images")?;
            validate::image(&own)?;
            control.refuse_built_in(&own)?;
            let shelf = control.shelf(worker.as_ref()).await?;
            let imported = shelf.images.import(&own, archive).await;
            let record: ImageRecord =
                imported.map_err(|error| Error::from_provider(error, Some(&own)))?;
            control.images_changed(&shelf, &own, true).await;
            Ok(Image { record, workers: vec![shelf.worker] })
        })
        .await
    }

    /// Removes an image that no sandbox uses from this worker; if none is named, from the one that
    /// it would be imported at.
    pub async fn remove_image(&self, name: &str, worker: Option<&WorkerId>) -> Result<()> {
        let (control, own, worker) = (self.clone(), name.to_owned(), worker.cloned());
        let told = |at: &WorkerId| format!("worker={at}");
        let removed = self.change("image.remove", name, told, async move {
            control.refuse_confined("images")?;
            validate::image(&own)?;
            control.refuse_built_in(&own)?;
            let shelf = control.shelf(worker.as_ref()).await?;
            let removed = shelf.images.remove(&own).await;
            removed.map_err(|error| Error::from_provider(error, Some(&own)))?;
            control.images_changed(&shelf, &own, false).await;
            Ok(shelf.worker)
        });
        removed.await.map(drop)
    }

    fn refuse_built_in(&self, name: &str) -> Result<()> {
        if name == "host" {
            return Err(Error::invalid("host is built in: it cannot be imported or removed"));
        }
        Ok(())
    }

    /// Spawns go by what is known of the workers: this is known at once.
    async fn images_changed(&self, shelf: &Shelf, name: &str, is_there: bool) {
        self.note_image(&shelf.worker, &shelf.provider, name, is_there);
        if shelf.worker == self.settings().worker
            && let Err(error) = self.renew().await
        {
            tracing::debug!(%error, "other servers hear of an image with the next heartbeat");
        }
    }

    /// The workers that import images and can be called, by id.
    fn shelves(&self) -> Vec<Shelf> {
        let fleet = &self.0.parts.fleet;
        let shelf = |(worker, provider): (WorkerId, String)| {
            let images = fleet.worker(&worker).and_then(|found| found.images(&provider)).ok()?;
            Some(Shelf { worker, provider, images })
        };
        self.importers(true).into_iter().filter_map(shelf).collect()
    }

    async fn shelf_of(&self, id: &WorkerId) -> Result<Shelf> {
        let find = || self.shelves().into_iter().find(|shelf| shelf.worker == *id);
        if let Some(shelf) = find() {
            return Ok(shelf);
        }
        self.look_again().await.map_err(Error::from_store)?;
        find().ok_or_else(|| match (self.known_workers().contains(id), self.lost_since(id)) {
            (false, _) => Error::NotFound(format!("not found: worker {:?}", id.as_str())),
            (true, Some(since)) => {
                Error::unavailable(format!("worker {id} was not heard of since {since}"))
            }
            (true, None) => Error::Unsupported(format!("worker {id} imports no images")),
        })
    }

    /// The worker that is named, else the server's own, else the only one.
    async fn shelf(&self, named: Option<&WorkerId>) -> Result<Shelf> {
        if let Some(id) = named {
            return self.shelf_of(id).await;
        }
        let own = |shelf: &Shelf| shelf.worker == self.settings().worker;
        if let Some(own) = self.shelves().into_iter().find(own) {
            return Ok(own);
        }
        // One that came a moment ago counts too: there is not to be only one by chance.
        self.look_again().await.map_err(Error::from_store)?;
        let mut all = self.shelves();
        if 1 < all.len() {
            let names = all.iter().take(NAMED).map(|shelf| shelf.worker.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            let more = if NAMED < all.len() { " and others" } else { "" };
            return Err(Error::invalid(format!(
                "this server imports no images itself: say which worker is meant; there are \
                 {names}{more}"
            )));
        }
        all.pop().ok_or_else(nobody)
    }
}

fn nobody() -> Error {
    Error::Unsupported("there is no worker that imports images".to_owned())
}
