//! The imported images of the default provider.

use stacyvm_provider::{ByteStream, ImageRecord};

use crate::{Control, Error, Result, operations::Act, validate};

impl Control {
    /// All imported images, by name.
    pub async fn images(&self) -> Result<Vec<ImageRecord>> {
        self.image_store()?.list().await.map_err(|error| Error::from_provider(error, None))
    }

    /// Imports a tar archive as an image.
    pub async fn import_image(&self, name: &str, archive: ByteStream) -> Result<ImageRecord> {
        let mut attempt = self.attempt(Act::Change("image.import"), name);
        let imported = async {
            validate::image(name)?;
            self.refuse_built_in(name)?;
            let imported = self.image_store()?.import(name, archive).await;
            imported.map_err(|error| Error::from_provider(error, Some(name)))
        };
        let imported = imported.await;
        attempt.end(imported, |image| format!("bytes={}", image.size)).await
    }

    /// Removes an image that no sandbox uses.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        let mut attempt = self.attempt(Act::Change("image.remove"), name);
        let removed = async {
            validate::image(name)?;
            self.refuse_built_in(name)?;
            let removed = self.image_store()?.remove(name).await;
            removed.map_err(|error| Error::from_provider(error, Some(name)))
        };
        let removed = removed.await;
        attempt.end(removed, |()| String::new()).await
    }

    fn refuse_built_in(&self, name: &str) -> Result<()> {
        if name == "host" {
            return Err(Error::invalid("host is built in: it cannot be imported or removed"));
        }
        Ok(())
    }

    fn image_store(&self) -> Result<&dyn stacyvm_provider::Images> {
        let settings = self.settings();
        self.0
            .parts
            .fleet
            .worker(&settings.worker)
            .and_then(|worker| worker.images(&settings.default_provider))
            .map_err(|error| Error::from_provider(error, None))
    }
}
