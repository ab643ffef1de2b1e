//! `image …`

use std::{io, path::Path};

use stacyvm_client::Upload;

use super::files;
use crate::{
    Context, Failure,
    args::ImageCommand,
    output::{Rows, short_size, short_time},
    produce::{self, Owners},
    progress::Progress,
};

pub(super) async fn run(context: &Context, command: ImageCommand) -> Result<(), Failure> {
    let client = &context.client;
    match command {
        ImageCommand::Import { name, source } => import(context, &name, &source).await,
        ImageCommand::List => {
            let images = client.images().await?;
            let mut rows = Rows::new(&["NAME", "SIZE", "IMPORTED"]);
            for image in &*images {
                let size = short_size(image.size_bytes);
                rows.push([&image.name, &size, &short_time(&image.created_at)]);
            }
            context.out.rows(images.json(), &rows, "No imported images; `host` is always there")
        }
        ImageCommand::Rm { names } => {
            for name in names {
                let reply = client.remove_image(&name).await?;
                context.out.done(reply.json(), &format!("Image {name} removed"))?;
            }
            Ok(())
        }
    }
}

async fn import(context: &Context, name: &str, source: &Path) -> Result<(), Failure> {
    let what = format!("Importing {name}");
    let progress;
    let archive = if source.as_os_str() == "-" {
        progress = Progress::new(context.out, &what, None);
        Upload::stream(progress.count(produce::read(io::stdin())))
    } else if source.is_dir() {
        progress = Progress::new(context.out, &what, None);
        let owners = match rustix::process::geteuid().is_root() {
            true => Owners::Kept,
            false => Owners::Root,
        };
        Upload::stream(progress.count(produce::tar_of(source.to_owned(), owners)))
    } else {
        let (file, size) = files::open(source)?;
        progress = Progress::new(context.out, &what, size);
        Upload::stream(progress.count(produce::read(file)))
    };
    let image = context.client.import_image(name, archive).await;
    drop(progress);
    let image = image?;
    let words = format!("Image {} imported ({})", image.name, short_size(image.size_bytes));
    context.out.done(image.json(), &words)
}
