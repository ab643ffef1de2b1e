//! The imported images of the default provider.

use std::sync::Arc;

use stacyvm_provider::{ByteStream, ImageRecord, Images};

use crate::{Control, Error, Result, validate};

impl Control {
    /// All imported images, by name.
    pub async fn images(&self) -> Result<Vec<ImageRecord>> {
        self.image_store()?.list().await.map_err(|error| Error::from_provider(error, None))
    }

    /// Imports a tar archive as an image. An archive that breaks off leaves nothing.
    pub async fn import_image(&self, name: &str, archive: ByteStream) -> Result<ImageRecord> {
        let (control, own) = (self.clone(), name.to_owned());
        let told = |image: &ImageRecord| format!("bytes={}", image.size);
        self.change("image.import", name, told, async move {
            control.refuse_confined("images")?;
            validate::image(&own)?;
            control.refuse_built_in(&own)?;
            let imported = control.image_store()?.import(&own, archive).await;
            imported.map_err(|error| Error::from_provider(error, Some(&own)))
        })
        .await
    }

    /// Removes an image that no sandbox uses.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        let (control, own) = (self.clone(), name.to_owned());
        self.change("image.remove", name, |()| String::new(), async move {
            control.refuse_confined("images")?;
            validate::image(&own)?;
            control.refuse_built_in(&own)?;
            let removed = control.image_store()?.remove(&own).await;
            removed.map_err(|error| Error::from_provider(error, Some(&own)))
        })
        .await
    }

    fn refuse_built_in(&self, name: &str) -> Result<()> {
        if name == "host" {
            return Err(Error::invalid("host is built in: it cannot be imported or removed"));
        }
        Ok(())
    }

    /// The images of this server's own worker.
    fn image_store(&self) -> Result<Arc<dyn Images>> {
        let settings = self.settings();
        let worker = self.0.parts.fleet.worker(&settings.worker);
        worker
            .and_then(|worker| worker.images(&settings.default_provider))
            .map_err(|error| Error::from_provider(error, None))
    }
}
