//! `image …`

use std::{io, path::Path};

use stacyvm_api_types::Image;
use stacyvm_client::{Client, Upload};
use stacyvm_types::WorkerId;

use super::files;
use crate::{
    Context, Failure,
    args::ImageCommand,
    output::{Output, Rows, say, short_size, short_time},
    produce::{self, Owners},
    progress::Progress,
};

/// What is answered, and its JSON.
pub struct Told<T> {
    /// What is answered.
    pub value: T,
    /// The same as the API writes it.
    pub json: Vec<u8>,
}

/// Where images are: at a server, or on this host.
pub trait ImagePlace {
    /// The images, and the workers that did not say what they have.
    fn list(&self) -> impl Future<Output = Result<(Told<Vec<Image>>, Vec<String>), Failure>>;
    /// Imports an archive.
    fn import(
        &self,
        name: &str,
        archive: Upload,
    ) -> impl Future<Output = Result<Told<Image>, Failure>>;
    /// Removes an image; the JSON of the answer.
    fn remove(&self, name: &str) -> impl Future<Output = Result<Vec<u8>, Failure>>;
}

/// The images of one worker that a server knows, or of those that it means.
struct AtServer<'a> {
    client: &'a Client,
    worker: Option<&'a WorkerId>,
}

impl ImagePlace for AtServer<'_> {
    async fn list(&self) -> Result<(Told<Vec<Image>>, Vec<String>), Failure> {
        let (images, silent) = self.client.images(self.worker).await?;
        let json = images.json().to_vec();
        Ok((Told { value: images.into_inner(), json }, silent))
    }

    async fn import(&self, name: &str, archive: Upload) -> Result<Told<Image>, Failure> {
        let image = self.client.import_image(name, self.worker, archive).await?;
        let json = image.json().to_vec();
        Ok(Told { value: image.into_inner(), json })
    }

    async fn remove(&self, name: &str) -> Result<Vec<u8>, Failure> {
        Ok(self.client.remove_image(name, self.worker).await?.json().to_vec())
    }
}

pub(super) async fn run(context: &Context, command: ImageCommand) -> Result<(), Failure> {
    let (ImageCommand::Import { at, .. } | ImageCommand::List { at } | ImageCommand::Rm { at, .. }) =
        &command;
    let worker = at.worker.clone();
    let place = AtServer { client: &context.client, worker: worker.as_ref() };
    run_at(context.out, &place, command).await
}

pub(crate) async fn run_at(
    out: Output,
    place: &impl ImagePlace,
    command: ImageCommand,
) -> Result<(), Failure> {
    match command {
        ImageCommand::Import { name, source, .. } => import(out, place, &name, &source).await,
        ImageCommand::List { .. } => {
            let (images, silent) = place.list().await?;
            let mut rows = Rows::new(&["NAME", "SIZE", "IMPORTED", "WORKERS"]);
            for image in &images.value {
                let size = short_size(image.size_bytes);
                let workers = image.workers.join(",");
                rows.push([&image.name, &size, &short_time(&image.created_at), &workers]);
            }
            let none = "No imported images; `host` is always there";
            out.rows(&images.json, &rows, none)?;
            if !silent.is_empty() {
                say(&format!(
                    "stacyvm: without the images of {}, which did not answer",
                    crate::escape::escape(&silent.join(", "))
                ));
            }
            Ok(())
        }
        ImageCommand::Rm { names, .. } => {
            for name in names {
                let json = place.remove(&name).await?;
                out.done(&json, &format!("Image {name} removed"))?;
            }
            Ok(())
        }
    }
}

async fn import(
    out: Output,
    place: &impl ImagePlace,
    name: &str,
    source: &Path,
) -> Result<(), Failure> {
    let what = format!("Importing {name}");
    let progress;
    let archive = if source.as_os_str() == "-" {
        progress = Progress::new(out, &what, None);
        Upload::stream(progress.count(produce::read(io::stdin())))
    } else if source.is_dir() {
        progress = Progress::new(out, &what, None);
        let owners = match rustix::process::geteuid().is_root() {
            true => Owners::Kept,
            false => Owners::Root,
        };
        Upload::stream(progress.count(produce::tar_of(source.to_owned(), owners)))
    } else {
        let (file, size) = files::open(source)?;
        progress = Progress::new(out, &what, size);
        Upload::stream(progress.count(produce::read(file)))
    };
    let image = place.import(name, archive).await;
    drop(progress);
    let Told { value: image, json } = image?;
    let mut words = format!("Image {} imported ({})", image.name, short_size(image.size_bytes));
    if let [worker] = &image.workers[..] {
        words.push_str(&format!(" at {worker}"));
    }
    out.done(&json, &words)
}
