//! A running command with its input, signals and terminal, over a WebSocket.

use std::{pin::Pin, task};

use bytes::Bytes;
use futures_util::{
    SinkExt, Stream, StreamExt,
    stream::{self, BoxStream, SplitSink, SplitStream},
};
use stacyvm_api_types::{ClientMessage, ControlMessage, ExecRequest, ServerMessage, Signal};
use stacyvm_types::{ExecId, SandboxId};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use crate::{
    Client, Error, Frame, Result, error,
    exec::{exec_id, with_id},
    frames::{Position, Step},
    server::Target,
};

/// What a running command is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionInput {
    /// Bytes for standard input.
    Data(Bytes),
    /// No more bytes.
    Eof,
    /// A signal by number, for the command's process group.
    Signal(i32),
    /// The terminal's new size.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
}

/// A running command. As a stream it gives frames and ends after [`Frame::Exit`]; reading it also
/// carries the input, so keep reading.
///
/// A broken connection is taken up again at the offset that was reached. Input that was under way
/// when it broke may be lost: with a terminal the person in front of it sees that, without one the
/// session fails rather than feed the command a stream with a hole. Dropping a session leaves the
/// command running.
pub struct Session {
    id: ExecId,
    input: mpsc::Sender<SessionInput>,
    frames: BoxStream<'static, Result<Frame>>,
}

impl Session {
    /// The command's id.
    pub const fn id(&self) -> &ExecId {
        &self.id
    }

    /// Where input goes. Bounded: sending waits while the command does not read.
    pub fn input(&self) -> mpsc::Sender<SessionInput> {
        self.input.clone()
    }
}

impl Stream for Session {
    type Item = Result<Frame>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Option<Self::Item>> {
        self.frames.poll_next_unpin(context)
    }
}

type Socket = WebSocketStream<TcpStream>;

impl Client {
    /// Starts a command that can be talked to. With `request.tty` its output is that of a
    /// terminal, byte for byte; without, output bytes that are not UTF-8 arrive as U+FFFD.
    pub async fn session(&self, sandbox: &SandboxId, request: &ExecRequest) -> Result<Session> {
        let mut request = with_id(request);
        request.binary = Some(request.tty.is_some());
        request.stream = None;
        let (input, receiver) = mpsc::channel(4);
        let mut running = Running {
            client: self.clone(),
            sandbox: sandbox.clone(),
            exec: exec_id(&request)?,
            request,
            position: Position::at(0, self.settings.reconnect_timeout),
            input: Some(receiver),
            connection: None,
            input_was_sent: false,
            ended: false,
        };
        let exec = running.exec.clone();
        running.connection = Some(running.start().await?);
        let frames = stream::try_unfold(running, |mut running| async move {
            Ok(running.next().await?.map(|frame| (frame, running)))
        });
        Ok(Session { id: exec, input, frames: frames.boxed() })
    }

    async fn upgrade(&self, target: &Target) -> Result<Socket> {
        let uri =
            self.settings.server.uri("ws", target).map_err(|e| {
                Error::Invalid(format!("the request's address is not possible: {e}"))
            })?;
        let mut request = tungstenite::client::ClientRequestBuilder::new(uri);
        for (name, value) in &self.headers {
            if let Ok(value) = value.to_str() {
                request = request.with_header(name.as_str(), value);
            }
        }
        let limit = self.settings.connect_timeout;
        let (host, port) = self.settings.server.socket_address();
        let stream = match timeout(limit, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(error::connect(&self.settings, error.into())),
            Err(_) => {
                let why = format!("no connection within {} s", limit.as_secs());
                return Err(error::connect(&self.settings, why.into()));
            }
        };
        stream.set_nodelay(true).map_err(|e| Error::Broken(e.into()))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(4 << 20))
            .max_frame_size(Some(4 << 20));
        let limit = self.settings.first_byte_timeout;
        match timeout(limit, client_async_with_config(request, stream, Some(config))).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(error)) => Err(broken(error)),
            Err(_) => Err(Error::NoAnswer(limit)),
        }
    }
}

fn broken(error: tungstenite::Error) -> Error {
    match error {
        tungstenite::Error::Http(answer) => {
            let body = answer.body().as_deref().unwrap_or_default();
            error::from_answer(answer.status(), answer.headers(), body)
        }
        error => Error::Broken(error.into()),
    }
}

/// One connection: its reading half, and the task that owns the writing half.
struct Connection {
    source: SplitStream<Socket>,
    outgoing: mpsc::Sender<Message>,
    /// Owns the writer; it ends with this struct.
    _writer: JoinSet<()>,
}

impl Connection {
    fn new(socket: Socket) -> Self {
        let (sink, source) = socket.split();
        let (outgoing, receiver) = mpsc::channel(1);
        let mut writer = JoinSet::new();
        writer.spawn(write(sink, receiver));
        Self { source, outgoing, _writer: writer }
    }
}

/// Writes until either end is gone. A failure shows on the reading half.
async fn write(mut sink: SplitSink<Socket, Message>, mut messages: mpsc::Receiver<Message>) {
    while let Some(message) = messages.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

struct Running {
    client: Client,
    sandbox: SandboxId,
    exec: ExecId,
    request: ExecRequest,
    position: Position,
    input: Option<mpsc::Receiver<SessionInput>>,
    connection: Option<Connection>,
    input_was_sent: bool,
    ended: bool,
}

impl Running {
    fn target(&self) -> Target {
        Target::new("/sandboxes").segment(self.sandbox.as_str()).segment("exec")
    }

    /// The first connection. The request names its id, so trying again starts nothing twice.
    async fn start(&mut self) -> Result<Connection> {
        let text = serde_json::to_string(&self.request)
            .map_err(|e| Error::Invalid(format!("the request cannot be written as JSON: {e}")))?;
        let mut tries = 1;
        loop {
            let trouble = match self.try_start(&text).await {
                Ok(connection) => return Ok(connection),
                Err(trouble) => trouble,
            };
            if 3 <= tries || !trouble.is_worth_retrying_soon() {
                return Err(trouble);
            }
            tries += 1;
            self.position.after(trouble).await?;
        }
    }

    async fn try_start(&mut self, text: &str) -> Result<Connection> {
        let mut socket = self.client.upgrade(&self.target().segment("ws")).await?;
        socket.send(Message::text(text)).await.map_err(broken)?;
        let limit = self.client.settings.first_byte_timeout;
        match timeout(limit, started(&mut socket)).await {
            Ok(seq) => self.position.offset = seq?,
            Err(_) => return Err(Error::NoAnswer(limit)),
        }
        Ok(Connection::new(socket))
    }

    async fn resume(&mut self) -> Result<Connection> {
        let binary = self.request.binary == Some(true);
        let target = self.target().segment(self.exec.as_str()).segment("ws");
        let target = target.query("offset", &self.position.offset.to_string());
        let target = target.query("binary", if binary { "true" } else { "false" });
        let mut socket = self.client.upgrade(&target).await?;
        let limit = self.client.settings.first_byte_timeout;
        match timeout(limit, started(&mut socket)).await {
            Ok(seq) => self.position.offset = seq?,
            Err(_) => return Err(Error::NoAnswer(limit)),
        }
        Ok(Connection::new(socket))
    }

    async fn next(&mut self) -> Result<Option<Frame>> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let trouble = match self.connection.take() {
                None => match self.resume().await {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        continue;
                    }
                    Err(error) => error,
                },
                Some(mut connection) => match self.step(&mut connection).await {
                    Ok(step) => {
                        self.connection = Some(connection);
                        match step {
                            Step::Give(frame) => {
                                self.ended = matches!(frame, Frame::Exit { .. });
                                return Ok(Some(frame));
                            }
                            Step::Skip => continue,
                            Step::Resume(why) => {
                                self.connection = None;
                                Error::Broken(why.into())
                            }
                        }
                    }
                    Err(error) => error,
                },
            };
            if self.input_was_sent && self.request.tty.is_none() {
                return Err(Error::Broken(
                    "input was on its way and may be lost; the command goes on".into(),
                ));
            }
            self.position.after(trouble).await?;
        }
    }

    /// Waits for a message or for input, whichever is first.
    async fn step(&mut self, connection: &mut Connection) -> Result<Step> {
        let input = async {
            match (connection.outgoing.reserve().await, &mut self.input) {
                (Ok(permit), Some(input)) => (permit, input.recv().await),
                (Err(_), _) | (_, None) => std::future::pending().await,
            }
        };
        tokio::select! {
            message = connection.source.next() => match message {
                Some(Ok(message)) => self.take(message),
                Some(Err(error)) => Err(broken(error)),
                None => Err(Error::Broken("the connection was closed".into())),
            },
            (permit, input) = input => {
                match input {
                    Some(input) => {
                        self.input_was_sent |= matches!(input, SessionInput::Data(_));
                        if let Some(message) = message(input)? {
                            permit.send(message);
                        }
                    }
                    None => self.input = None,
                }
                Ok(Step::Skip)
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<Step> {
        match message {
            Message::Text(text) => match parse(&text)? {
                ServerMessage::Frame(frame) => self.position.take(frame),
                ServerMessage::Control(ControlMessage::Error { message, .. }) => {
                    Err(Error::Unexpected(message))
                }
                ServerMessage::Control(_) => Ok(Step::Skip),
            },
            Message::Binary(data) => Ok(self.position.take_bytes(data)),
            Message::Close(_) => Err(Error::Broken("the server closed the connection".into())),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(Step::Skip),
        }
    }
}

fn parse(text: &str) -> Result<ServerMessage> {
    ServerMessage::parse(text)
        .map_err(|e| Error::Unexpected(format!("a message cannot be read: {e}")))
}

/// Waits for the word that the command runs, and the offset at which its output begins.
async fn started(socket: &mut Socket) -> Result<u64> {
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message.map_err(broken)? else { continue };
        match parse(&text)? {
            ServerMessage::Control(ControlMessage::Started { seq, .. }) => return Ok(seq),
            ServerMessage::Control(ControlMessage::Error { code, message, .. }) => {
                return Err(error::from_message(code, message));
            }
            ServerMessage::Control(_) | ServerMessage::Frame(_) => {}
        }
    }
    Err(Error::Broken("the connection was closed before the command started".into()))
}

fn message(input: SessionInput) -> Result<Option<Message>> {
    let message = match input {
        SessionInput::Data(data) => return Ok(Some(Message::Binary(data))),
        SessionInput::Eof => ClientMessage::StdinEof,
        SessionInput::Resize { rows, cols } => ClientMessage::Resize { rows, cols },
        SessionInput::Signal(number) => match Signal::from_number(number) {
            Ok(signal) => ClientMessage::Signal { signal },
            Err(_) => return Ok(None),
        },
    };
    match serde_json::to_string(&message) {
        Ok(text) => Ok(Some(Message::text(text))),
        Err(error) => Err(Error::Invalid(format!("a message cannot be written: {error}"))),
    }
}
