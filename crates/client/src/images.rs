//! Images: imported root file systems.

use http::{HeaderValue, Method, header};
use stacyvm_api_types::{Image, StatusReply};
use stacyvm_types::WorkerId;

use crate::{Answer, Client, Result, Upload, server::Target, transport::Call};

impl Client {
    /// The imported images of one worker, or of all; and the workers that did not answer.
    pub async fn images(
        &self,
        worker: Option<&WorkerId>,
    ) -> Result<(Answer<Vec<Image>>, Vec<String>)> {
        let answer = self.send(Call::get(at(Target::new("/images"), worker))).await?;
        let silent = answer.headers().get("x-silent-workers").and_then(|ids| ids.to_str().ok());
        let silent = silent.unwrap_or_default().split(',').filter(|id| !id.is_empty());
        let silent = silent.map(str::to_owned).collect();
        Ok((Answer::parse(self.whole(answer).await?)?, silent))
    }

    /// Imports a tar archive, plain or gzip-compressed, under a name, at one worker; all or nothing.
    pub async fn import_image(
        &self,
        name: &str,
        worker: Option<&WorkerId>,
        archive: Upload,
    ) -> Result<Answer<Image>> {
        let tar = HeaderValue::from_static("application/x-tar");
        let headers = vec![(header::CONTENT_TYPE, tar)];
        let target = at(Target::new("/images").segments(name), worker);
        let answer = self.upload(Method::PUT, &target, headers, archive).await?;
        Answer::parse(self.whole(answer).await?)
    }

    /// Removes an image from one worker.
    pub async fn remove_image(
        &self,
        name: &str,
        worker: Option<&WorkerId>,
    ) -> Result<Answer<StatusReply>> {
        let target = at(Target::new("/images").segments(name), worker);
        self.ask(Call::new(Method::DELETE, target).endless()).await
    }
}

fn at(target: Target, worker: Option<&WorkerId>) -> Target {
    match worker {
        Some(id) => target.query("worker", id.as_str()),
        None => target,
    }
}
