//! The inside of a runtime of a worker at a distance.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use stacyvm_provider::{
    ByteStream, Duplex, Exec, ExecSpec, FileInfo, FileRead, Guest, Result, Stats, WriteOptions,
};
use stacyvm_types::{ExecId, Generation, SandboxId};

use super::{call::Call, exec, files, link::Link};
use crate::wire::{
    AttachParams, DialParams, ExecParams, FileList, FileParams, FileResult, LogLines, LogsParams,
    Matches, StatsResult, Target, method, mode_text,
};

/// Every call carries the generation that the guest was asked for with.
pub(super) struct RemoteGuest {
    pub(super) link: Arc<Link>,
    pub(super) provider: String,
    pub(super) sandbox: SandboxId,
    pub(super) generation: Generation,
}

impl RemoteGuest {
    fn call<P: Serialize>(&self, method: &'static str, params: &P) -> Result<Call> {
        self.link.call(method, Some((&self.sandbox, self.generation)), params)
    }

    async fn ask<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<R> {
        self.link.ask(self.call(method, params)?).await
    }

    fn files(&self) -> FileParams {
        FileParams {
            sandbox_id: self.sandbox.to_string(),
            provider: self.provider.clone(),
            ..FileParams::default()
        }
    }

    fn at(&self, path: &str) -> FileParams {
        FileParams { path: path.to_owned(), ..self.files() }
    }
}

#[async_trait]
impl Guest for RemoteGuest {
    async fn exec(&self, spec: ExecSpec) -> Result<Exec> {
        let params = ExecParams::new(self.sandbox.as_str(), &self.provider, &spec);
        let call = self.call(method::EXEC_STREAM, &params)?;
        exec::follow(&self.link, call, spec.id, spec.deadline).await
    }

    async fn attach(&self, exec: &ExecId, offset: u64) -> Result<Exec> {
        let params = AttachParams {
            sandbox_id: self.sandbox.to_string(),
            provider: self.provider.clone(),
            exec_id: exec.to_string(),
            offset,
        };
        let call = self.call(method::EXEC_ATTACH, &params)?;
        exec::follow(&self.link, call, exec.clone(), None).await
    }

    async fn read(&self, path: &str, range: Option<Range<u64>>) -> Result<FileRead> {
        let (start, end) = files::bounds(range)?;
        let params = FileParams { start, end, ..self.at(path) };
        files::read(&self.link, self.call(method::FILE_READ, &params)?).await
    }

    async fn write(&self, path: &str, options: WriteOptions, body: ByteStream) -> Result<FileInfo> {
        let params = FileParams { mode: options.mode.map(mode_text), ..self.at(path) };
        files::write(&self.link, self.call(method::FILE_WRITE, &params)?, body).await
    }

    async fn list(&self, path: &str) -> Result<Vec<FileInfo>> {
        let list: FileList = self.ask(method::FILE_LIST, &self.at(path)).await?;
        list.files.into_iter().map(|file| file.info()).collect()
    }

    async fn stat(&self, path: &str) -> Result<FileInfo> {
        let found: FileResult = self.ask(method::FILE_STAT, &self.at(path)).await?;
        found.file.info()
    }

    async fn glob(&self, pattern: &str) -> Result<Vec<String>> {
        let params = FileParams { pattern: pattern.to_owned(), ..self.files() };
        let found: Matches = self.ask(method::FILE_GLOB, &params).await?;
        Ok(found.matches)
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (old_path, new_path) = (from.to_owned(), to.to_owned());
        let params = FileParams { old_path, new_path, ..self.files() };
        self.ask(method::FILE_MOVE, &params).await
    }

    async fn chmod(&self, path: &str, mode: u32) -> Result<()> {
        let params = FileParams { mode: Some(mode_text(mode)), ..self.at(path) };
        self.ask(method::FILE_CHMOD, &params).await
    }

    async fn remove(&self, path: &str, recursive: bool) -> Result<()> {
        let params = FileParams { recursive, ..self.at(path) };
        self.ask(method::FILE_DELETE, &params).await
    }

    async fn dial(&self, port: u16) -> Result<Box<dyn Duplex>> {
        let params = DialParams {
            sandbox_id: self.sandbox.to_string(),
            provider: self.provider.clone(),
            port,
        };
        files::dial(&self.link, self.call(method::DIAL, &params)?).await
    }

    async fn stats(&self) -> Result<Stats> {
        let sandbox_id = self.sandbox.to_string();
        let params = Target { sandbox_id, provider: self.provider.clone() };
        let stats: StatsResult = self.ask(method::STATS, &params).await?;
        Ok(stats.into())
    }

    async fn logs(&self, lines: usize) -> Result<Vec<String>> {
        let params = LogsParams {
            sandbox_id: self.sandbox.to_string(),
            provider: self.provider.clone(),
            lines: u32::try_from(lines).unwrap_or(u32::MAX),
        };
        let found: LogLines = self.ask(method::LOGS, &params).await?;
        Ok(found.lines)
    }
}
