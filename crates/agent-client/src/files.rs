//! Bodies and lists that come or go in many messages.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use stacyvm_agent_proto::{Input, MAX_CHUNK, Reply, encode};
use stacyvm_provider::{ByteStream, Error, ErrorKind, FileInfo, FileRead, Result};

use crate::{
    reply,
    stream::{ANSWER, Messages, late, nonsense},
};

/// Entries of a list or matches of a pattern.
const MAX_ENTRIES: usize = 100_000;

/// Bytes of all their paths together.
const MAX_TEXT: usize = 64 << 20;

/// The head of a file, and its body as it comes.
pub(crate) async fn read(mut messages: Messages) -> Result<FileRead> {
    let (info, range) = messages
        .answer(|reply| match reply {
            Reply::File { entry, start, end } if start <= end && end <= entry.size => {
                Ok((reply::info(entry)?, start..end))
            }
            _ => Err(nonsense()),
        })
        .await?;
    let state = (messages, range.end - range.start, false);
    let body = stream::unfold(state, async |(mut messages, left, over)| {
        if over {
            return None;
        }
        let piece = messages
            .answer(|reply| match reply {
                Reply::Data(data) if !data.0.is_empty() && data.0.len() as u64 <= left => {
                    Ok(Some(Bytes::copy_from_slice(data.0)))
                }
                Reply::Done => Ok(None),
                _ => Err(nonsense()),
            })
            .await;
        match piece {
            Ok(Some(piece)) => {
                let left = left - piece.len() as u64;
                Some((Ok(piece), (messages, left, false)))
            }
            Ok(None) => None,
            Err(error) => Some((Err(error), (messages, left, true))),
        }
    });
    Ok(FileRead { info, range, body: body.boxed() })
}

/// Sends a body and its end. An error of the body itself leaves the old file: the stream is dropped
/// without an end.
pub(crate) async fn write(mut messages: Messages, mut body: ByteStream) -> Result<FileInfo> {
    messages
        .answer(|reply| matches!(reply, Reply::Ready).then_some(()).ok_or_else(nonsense))
        .await?;
    while let Some(piece) = body.next().await {
        let piece = piece?;
        for piece in piece.chunks(MAX_CHUNK) {
            say(&mut messages, &Input::Data(stacyvm_agent_proto::Bytes(piece))).await?;
        }
    }
    say(&mut messages, &Input::Eof).await?;
    messages
        .answer(|reply| match reply {
            Reply::Stat(entry) => reply::info(entry),
            _ => Err(nonsense()),
        })
        .await
}

/// Sends a part of a body. An agent that takes no more of it has said why, and is heard at once.
async fn say(messages: &mut Messages, input: &Input<'_>) -> Result<()> {
    let mut bytes = Vec::new();
    encode(input, &mut bytes);
    let line = messages.stream.line().clone();
    let sent = tokio::select! {
        biased;
        sent = tokio::time::timeout(ANSWER, line.send_all(&bytes)) => sent.map_err(|_| late())?,
        early = messages.answer(|_| Ok(())) => return early.and_then(|()| Err(nonsense())),
    };
    match sent {
        Ok(()) => Ok(()),
        Err(error) => Err(stopped(messages, error).await),
    }
}

async fn stopped(messages: &mut Messages, otherwise: Error) -> Error {
    match messages.answer(|_| Ok(())).await {
        Err(told) if told.kind != ErrorKind::Unavailable => told,
        Err(_) | Ok(()) => otherwise,
    }
}

/// All entries of a list, by path.
pub(crate) async fn entries(mut messages: Messages) -> Result<Vec<FileInfo>> {
    let mut all: Vec<FileInfo> = Vec::new();
    let mut text = 0;
    while let Some(some) = messages
        .answer(|reply| match reply {
            Reply::Entries(entries) => {
                entries.into_iter().map(reply::info).collect::<Result<Vec<_>>>().map(Some)
            }
            Reply::Done => Ok(None),
            _ => Err(nonsense()),
        })
        .await?
    {
        text += some.iter().map(|info| info.path.len()).sum::<usize>();
        all.extend(some);
        check_size(all.len(), text)?;
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// All matches of a pattern, sorted.
pub(crate) async fn paths(mut messages: Messages) -> Result<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    let mut text = 0;
    while let Some(some) = messages
        .answer(|reply| match reply {
            Reply::Paths(paths) => {
                paths.into_iter().map(reply::path).collect::<Result<Vec<_>>>().map(Some)
            }
            Reply::Done => Ok(None),
            _ => Err(nonsense()),
        })
        .await?
    {
        text += some.iter().map(String::len).sum::<usize>();
        all.extend(some);
        check_size(all.len(), text)?;
    }
    all.sort();
    all.dedup();
    Ok(all)
}

fn check_size(count: usize, text: usize) -> Result<()> {
    if MAX_ENTRIES < count || MAX_TEXT < text {
        let message = format!("there are more than {MAX_ENTRIES} entries; ask for fewer");
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    Ok(())
}
