//! Calls that are one question and one answer.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::value::RawValue;
use stacyvm_fleet::wire::{
    self, DeadlineParams, ExpectParams, FileEntry, FileList, FileParams, FileResult, ImageEntry,
    ImageList, ImageParams, LogLines, LogsParams, Matches, ProviderEntry, ProviderList,
    RuntimeEntry, RuntimeList, SpawnParams, StatsResult, Status, Target, method, mode_of,
};
use stacyvm_provider::{Error, ErrorKind, Result, WriteOptions};
use stacyvm_types::SandboxId;

use super::{Call, raw};

/// The largest file that travels inside of an envelope.
const MAX_CONTENT: usize = 4 << 20;

/// Does what is asked and answers with its result.
pub(super) async fn call(call: &Call) -> Result<Option<Box<RawValue>>> {
    let (worker, envelope) = (call.rpc.worker(), &call.envelope);
    match &*envelope.method {
        method::SPAWN => {
            let params: SpawnParams = envelope.params()?;
            let provider = params.provider.clone();
            let id = SandboxId::parse(&params.sandbox_id)
                .map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
            let spec = params.spec(call.right(&id)?)?;
            let runtime = worker.spawn(&provider, &spec).await?;
            raw(&Status::new(call.rpc.name(), &provider, &runtime))
        }
        method::EXPECT => {
            let params: ExpectParams = envelope.params()?;
            worker.expect(&params.provider, &params.image, &params.limits());
            Ok(None)
        }
        method::DESTROY => {
            let target: Target = envelope.params()?;
            let id = target.id()?;
            worker.destroy(&target.provider, &id, call.right(&id)?).await?;
            Ok(None)
        }
        method::STATUS => {
            let target: Target = envelope.params()?;
            let runtime = worker.status(&target.provider, &target.id()?).await?;
            raw(&Status::new(call.rpc.name(), &target.provider, &runtime))
        }
        method::RUNTIMES => {
            let (runtimes, silent) = worker.runtimes().await;
            let runtimes =
                runtimes.iter().map(|(provider, runtime)| RuntimeEntry::new(provider, runtime));
            let silent = silent.iter().map(ToString::to_string).collect();
            raw(&RuntimeList { runtimes: runtimes.collect(), silent })
        }
        method::PROVIDERS => {
            let providers = worker.providers().await.iter().map(ProviderEntry::new).collect();
            raw(&ProviderList { providers })
        }
        method::IMAGES => {
            let target: Target = envelope.params()?;
            let images = worker.images(&target.provider)?.list().await?;
            raw(&ImageList { images: images.iter().map(ImageEntry::new).collect() })
        }
        method::IMAGE_IMPORT => {
            let message = "an image is imported from a raw body";
            Err(Error::new(ErrorKind::Invalid, message))
        }
        method::IMAGE_REMOVE => {
            let params: ImageParams = envelope.params()?;
            worker.images(&params.provider)?.remove(&params.name).await?;
            Ok(None)
        }
        method::SET_DEADLINE => {
            let params: DeadlineParams = envelope.params()?;
            let id = SandboxId::parse(&params.sandbox_id)
                .map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
            let remaining = Duration::from_micros(params.remaining_us);
            let generation = call.right(&id)?;
            worker.set_deadline(&params.provider, &id, generation, remaining).await?;
            Ok(None)
        }
        method::SHUTDOWN => worker.drain().await.map(|()| None),
        method::UNDRAIN => worker.undrain().await.map(|()| None),
        method::FILE_READ
        | method::FILE_WRITE
        | method::FILE_LIST
        | method::FILE_STAT
        | method::FILE_GLOB
        | method::FILE_MOVE
        | method::FILE_CHMOD
        | method::FILE_DELETE
        | method::LOGS
        | method::STATS => inside(call).await,
        // Known, and not done here: leases are renewed by the worker's own heartbeats.
        name => {
            let message = format!("this worker does not do {name}");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}

/// The same, of calls that reach into a sandbox.
async fn inside(call: &Call) -> Result<Option<Box<RawValue>>> {
    let envelope = &call.envelope;
    let name = &*envelope.method;
    if name == method::LOGS {
        let params: LogsParams = envelope.params()?;
        let lines = usize::try_from(params.lines).unwrap_or(usize::MAX);
        let lines = call.guest().await?.logs(lines).await?;
        return raw(&LogLines { sandbox_id: params.sandbox_id, lines });
    }
    if name == method::STATS {
        return raw(&StatsResult::from(call.guest().await?.stats().await?));
    }
    let params: FileParams = envelope.params()?;
    let sandbox_id = params.sandbox_id.clone();
    match name {
        method::FILE_LIST => {
            let files = call.guest().await?.list(&params.path).await?;
            raw(&FileList { sandbox_id, files: files.iter().map(FileEntry::new).collect() })
        }
        method::FILE_STAT => {
            let file = FileEntry::new(&call.guest().await?.stat(&params.path).await?);
            raw(&FileResult { sandbox_id, file, content: None })
        }
        method::FILE_GLOB => {
            let matches = call.guest().await?.glob(&params.pattern).await?;
            raw(&Matches { sandbox_id, matches })
        }
        method::FILE_MOVE => {
            call.guest().await?.rename(&params.old_path, &params.new_path).await?;
            Ok(None)
        }
        method::FILE_CHMOD => {
            let mode = mode_of(params.mode.as_deref().unwrap_or_default())?;
            call.guest().await?.chmod(&params.path, mode).await?;
            Ok(None)
        }
        method::FILE_DELETE => {
            call.guest().await?.remove(&params.path, params.recursive).await?;
            Ok(None)
        }
        method::FILE_WRITE => write(call, params).await,
        _ => read(call, params).await,
    }
}

/// A small file whose content is in the envelope.
async fn write(call: &Call, params: FileParams) -> Result<Option<Box<RawValue>>> {
    let content = BASE64_STANDARD
        .decode(params.content.unwrap_or_default())
        .map_err(|_| Error::new(ErrorKind::Invalid, "the content is not base64"))?;
    let mode = params.mode.as_deref().map(mode_of).transpose()?;
    let body = stream::iter([Ok(Bytes::from(content))]).boxed();
    let guest = call.guest().await?;
    let info = guest.write(&params.path, WriteOptions { mode }, body).await?;
    let file = FileEntry::new(&info);
    raw(&FileResult { sandbox_id: params.sandbox_id, file, content: None })
}

async fn read(call: &Call, params: FileParams) -> Result<Option<Box<RawValue>>> {
    let guest = call.guest().await?;
    let mut read = guest.read(&params.path, range(&params)).await?;
    let mut content = Vec::new();
    while let Some(piece) = read.body.next().await {
        let piece = piece?;
        if MAX_CONTENT < content.len() + piece.len() {
            let message = "the file is too large for an envelope; ask for it as a raw body";
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        content.extend_from_slice(&piece);
    }
    let (file, content) = (FileEntry::new(&read.info), Some(BASE64_STANDARD.encode(content)));
    raw(&FileResult { sandbox_id: params.sandbox_id, file, content })
}

/// The part of a file that is asked for.
pub(super) fn range(params: &wire::FileParams) -> Option<std::ops::Range<u64>> {
    match (params.start, params.end) {
        (None, None) => None,
        (start, end) => Some(start.unwrap_or(0)..end.unwrap_or(u64::MAX)),
    }
}
