//! Files inside a sandbox.

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use http::{HeaderValue, Method, StatusCode, header};
use hyper::body::Body as _;
use stacyvm_api_types::{
    ChmodRequest, FileInfo, MoveRequest, StatusReply, WriteReply, WriteRequest,
};
use stacyvm_types::SandboxId;

use crate::{
    Answer, Client, Error, Result, Upload,
    sandboxes::sandbox,
    server::Target,
    transport::{Call, flowing},
};

/// A file on its way here.
pub struct Download {
    /// How many bytes follow, if the server said so.
    pub size: Option<u64>,
    /// The bytes. An error item means that the rest is missing.
    pub body: BoxStream<'static, Result<Bytes>>,
}

impl Download {
    /// Reads all of it, at most `limit` bytes.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes> {
        let mut all = Vec::new();
        while let Some(chunk) = self.body.next().await {
            let chunk = chunk?;
            if limit < all.len() + chunk.len() {
                return Err(Error::Unexpected(format!("the file is larger than {limit} bytes")));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }
}

fn files(id: &SandboxId) -> Target {
    sandbox(id).segment("files")
}

impl Client {
    /// Reads a file as a stream.
    pub async fn read_file(&self, id: &SandboxId, path: &str) -> Result<Download> {
        self.download(Call::get(files(id).query("path", path)), StatusCode::OK).await
    }

    /// Reads a part of a file as a stream: `length` bytes from `start`, fewer at its end.
    pub async fn read_file_part(
        &self,
        id: &SandboxId,
        path: &str,
        start: u64,
        length: u64,
    ) -> Result<Download> {
        let Some(last) = length.checked_sub(1).and_then(|n| start.checked_add(n)) else {
            return Err(Error::Invalid("the part of a file must hold a byte".to_owned()));
        };
        let range = HeaderValue::try_from(format!("bytes={start}-{last}"))
            .map_err(|e| Error::Invalid(e.to_string()))?;
        let call = Call::get(files(id).query("path", path)).header(header::RANGE, range);
        self.download(call, StatusCode::PARTIAL_CONTENT).await
    }

    async fn download(&self, call: Call, wanted: StatusCode) -> Result<Download> {
        let answer = self.send(call).await?;
        if answer.status() != wanted {
            let status = answer.status();
            return Err(Error::Unexpected(format!("status {status} where {wanted} was asked for")));
        }
        let size = answer.body().size_hint().exact();
        Ok(Download { size, body: flowing(answer.into_body()).boxed() })
    }

    /// Writes a small text file in one request.
    pub async fn write_text(
        &self,
        id: &SandboxId,
        request: &WriteRequest,
    ) -> Result<Answer<StatusReply>> {
        self.ask(Call::new(Method::POST, files(id)).json(request)?.repeatable()).await
    }

    /// Writes a file from a stream, all or nothing. `mode` is octal text.
    pub async fn write_file(
        &self,
        id: &SandboxId,
        path: &str,
        mode: Option<&str>,
        content: Upload,
    ) -> Result<Answer<WriteReply>> {
        let mut target = files(id).query("path", path);
        if let Some(mode) = mode {
            target = target.query("mode", mode);
        }
        let octets = HeaderValue::from_static("application/octet-stream");
        let headers = vec![(header::CONTENT_TYPE, octets)];
        let answer = self.upload(Method::PUT, &target, headers, content).await?;
        Answer::parse(self.whole(answer).await?)
    }

    /// Removes a file or an empty directory.
    pub async fn remove_file(&self, id: &SandboxId, path: &str) -> Result<Answer<StatusReply>> {
        self.ask(Call::new(Method::DELETE, files(id).query("path", path)).endless()).await
    }

    /// Removes a file or a directory with everything in it.
    pub async fn remove_tree(&self, id: &SandboxId, path: &str) -> Result<Answer<StatusReply>> {
        let target = files(id).query("path", path).query("recursive", "true");
        self.ask(Call::new(Method::DELETE, target).endless()).await
    }

    /// The entries of a directory.
    pub async fn list_files(&self, id: &SandboxId, path: &str) -> Result<Answer<Vec<FileInfo>>> {
        self.ask(Call::get(files(id).segment("list").query("path", path))).await
    }

    /// One file or directory.
    pub async fn stat_file(&self, id: &SandboxId, path: &str) -> Result<Answer<FileInfo>> {
        self.ask(Call::get(files(id).segment("stat").query("path", path))).await
    }

    /// The paths that match a pattern.
    pub async fn glob_files(&self, id: &SandboxId, pattern: &str) -> Result<Answer<Vec<String>>> {
        self.ask(Call::get(files(id).segment("glob").query("pattern", pattern))).await
    }

    /// Renames a file or directory.
    pub async fn move_file(
        &self,
        id: &SandboxId,
        from: &str,
        to: &str,
    ) -> Result<Answer<StatusReply>> {
        let request = MoveRequest { old_path: from.to_owned(), new_path: to.to_owned() };
        self.ask(Call::new(Method::POST, files(id).segment("move")).json(&request)?).await
    }

    /// Sets permission bits, given as octal text.
    pub async fn chmod_file(
        &self,
        id: &SandboxId,
        path: &str,
        mode: &str,
    ) -> Result<Answer<StatusReply>> {
        let request = ChmodRequest { path: path.to_owned(), mode: mode.to_owned() };
        let target = files(id).segment("chmod");
        self.ask(Call::new(Method::POST, target).json(&request)?.repeatable()).await
    }
}
