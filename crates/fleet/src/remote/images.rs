//! The images of a worker at a distance: they are listed, and changed where they are.

use std::sync::Arc;

use async_trait::async_trait;
use stacyvm_provider::{ByteStream, Error, ErrorKind, ImageRecord, Images, Result};

use super::link::Link;
use crate::wire::{ImageList, Target, method};

pub(super) struct RemoteImages {
    pub(super) link: Arc<Link>,
    pub(super) provider: String,
}

impl RemoteImages {
    fn elsewhere<T>(&self, doing: &str) -> Result<T> {
        let message =
            format!("images are {doing} on the host of worker {} itself", self.link.worker());
        Err(Error::new(ErrorKind::Unsupported, message))
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

    async fn import(&self, _: &str, _: ByteStream) -> Result<ImageRecord> {
        self.elsewhere("imported")
    }

    async fn remove(&self, _: &str) -> Result<()> {
        self.elsewhere("removed")
    }
}
