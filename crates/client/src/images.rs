//! Images: imported root file systems.

use http::{HeaderValue, Method, header};
use stacyvm_api_types::{Image, StatusReply};

use crate::{Answer, Client, Result, Upload, server::Target, transport::Call};

impl Client {
    /// The imported images.
    pub async fn images(&self) -> Result<Answer<Vec<Image>>> {
        self.ask(Call::get(Target::new("/images"))).await
    }

    /// Imports a tar archive, plain or gzip-compressed, under a name; all or nothing.
    pub async fn import_image(&self, name: &str, archive: Upload) -> Result<Answer<Image>> {
        let tar = HeaderValue::from_static("application/x-tar");
        let headers = vec![(header::CONTENT_TYPE, tar)];
        let target = Target::new("/images").segments(name);
        let answer = self.upload(Method::PUT, &target, headers, archive).await?;
        Answer::parse(self.whole(answer).await?)
    }

    /// Removes an image.
    pub async fn remove_image(&self, name: &str) -> Result<Answer<StatusReply>> {
        let target = Target::new("/images").segments(name);
        self.ask(Call::new(Method::DELETE, target).endless()).await
    }
}
