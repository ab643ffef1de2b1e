//! The images of a worker at a distance.

use std::sync::Arc;

use async_trait::async_trait;
use stacyvm_provider::{ByteStream, ImageRecord, Images, Result};

use super::{files, link::Link};
use crate::wire::{ImageEntry, ImageList, ImageParams, Target, method};

pub(super) struct RemoteImages {
    pub(super) link: Arc<Link>,
    pub(super) provider: String,
}

impl RemoteImages {
    fn named(&self, name: &str) -> ImageParams {
        ImageParams { provider: self.provider.clone(), name: name.to_owned() }
    }
}

#[async_trait]
impl Images for RemoteImages {
    async fn list(&self) -> Result<Vec<ImageRecord>> {
        let params = Target { sandbox_id: String::new(), provider: self.provider.clone() };
        let call = self.link.call(method::IMAGES, None, &params)?;
        let list: ImageList = self.link.ask(call).await?;
        Ok(list.images.into_iter().map(|image| image.record()).collect())
    }

    async fn import(&self, name: &str, archive: ByteStream) -> Result<ImageRecord> {
        let call = self.link.call(method::IMAGE_IMPORT, None, &self.named(name))?;
        let imported: ImageEntry = files::send(&self.link, call, archive).await?;
        Ok(imported.record())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let call = self.link.call(method::IMAGE_REMOVE, None, &self.named(name))?;
        self.link.ask(call).await
    }
}
