//! Requests over connections that are kept: limits on waiting, and bounded, harmless retries.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Answer, Error, Result, Server, Upload, error, server::Target, upload::Progress};

/// What an answer that is read as a whole may hold.
const MAX_ANSWER: usize = 64 << 20;
const MAX_TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The body of a request: whole and repeatable, or flowing once.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// How a client reaches its server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server.
    pub server: Server,
    /// Sent as `X-API-Key`.
    pub api_key: Option<String>,
    /// Sent as `X-User-ID`: the owner in whose name requests are made.
    pub user: Option<String>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the server may take to begin its answer. Commands that are waited for, streams
    /// and uploads that move are not limited by it.
    pub first_byte_timeout: Duration,
    /// How long a stream whose connection broke tries to go on before it fails.
    pub reconnect_timeout: Duration,
}

impl Settings {
    /// Settings for a server: connect within 5 s, first byte within 30 s, broken
    /// streams tried again for 30 s, no key.
    pub const fn new(server: Server) -> Self {
        Self {
            server,
            api_key: None,
            user: None,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(30),
            reconnect_timeout: Duration::from_secs(30),
        }
    }
}

/// How long the first byte of an answer may take.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// The usual limit.
    Short,
    /// No limit: the answer comes when a command ends or a launch is done.
    Endless,
}

/// A client of one server. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<HttpConnector, Body>,
    pub(crate) settings: Settings,
    pub(crate) headers: HeaderMap,
}

/// A request that can be sent more than once.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) body: Option<Bytes>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) patience: Patience,
    /// Whether sending it twice is the same as sending it once.
    pub(crate) repeatable: bool,
}

impl Call {
    pub(crate) fn new(method: Method, target: Target) -> Self {
        let repeatable = method.is_idempotent();
        let (body, headers, patience) = (None, Vec::new(), Patience::Short);
        Self { method, target, body, headers, patience, repeatable }
    }

    pub(crate) fn get(target: Target) -> Self {
        Self::new(Method::GET, target)
    }

    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(body)
            .map_err(|e| Error::Invalid(format!("the request cannot be written as JSON: {e}")))?;
        self.body = Some(body.into());
        self.headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        Ok(self)
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Marks a call that names its effect, so that the server recognises the second one.
    pub(crate) const fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    pub(crate) const fn endless(mut self) -> Self {
        self.patience = Patience::Endless;
        self
    }
}

impl Client {
    /// A client with these settings. Connects when it is first used.
    pub fn new(settings: Settings) -> Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(settings.connect_timeout));
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .build(connector);
        let mut headers = HeaderMap::new();
        let user_agent = concat!("stacyvm/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(user_agent));
        let credentials = [
            (HeaderName::from_static("x-api-key"), &settings.api_key, true),
            (HeaderName::from_static("x-user-id"), &settings.user, false),
        ];
        for (name, value, sensitive) in credentials {
            let Some(value) = value else { continue };
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                Error::Invalid(format!("{name} holds characters that a header cannot carry"))
            })?;
            value.set_sensitive(sensitive);
            headers.insert(name, value);
        }
        Ok(Self { pool, settings, headers })
    }

    /// The server this client talks to.
    pub const fn server(&self) -> &Server {
        &self.settings.server
    }

    /// Sends a call, again where that is harmless, and turns refusals into errors.
    pub(crate) async fn send(&self, call: Call) -> Result<Response<Incoming>> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let error = match self.send_once(&call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let harmless = error.never_sent() || call.repeatable;
            if MAX_TRIES <= tries || !harmless || !error.is_worth_retrying_soon() {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause *= 4;
            tries += 1;
        }
    }

    async fn send_once(&self, call: &Call) -> Result<Response<Incoming>> {
        self.accept(self.exchange(call).await?).await
    }

    async fn exchange(&self, call: &Call) -> Result<Response<Incoming>> {
        let body = Full::new(call.body.clone().unwrap_or_default());
        let body = body.map_err(|never: Infallible| match never {}).boxed_unsync();
        let mut request = self.request(call.method.clone(), &call.target, body)?;
        request.headers_mut().extend(call.headers.iter().cloned());
        let answer = self.pool.request(request);
        let answer = match call.patience {
            Patience::Endless => answer.await,
            Patience::Short => {
                let limit = self.settings.first_byte_timeout;
                match tokio::time::timeout(limit, answer).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(Error::NoAnswer(limit)),
                }
            }
        };
        answer.map_err(|e| error::from_pool(&e, &self.settings))
    }

    /// Sends a flowing body, once. Its limit is on standing still: neither the body nor the answer
    /// moved for as long as a first byte may take.
    pub(crate) async fn upload(
        &self,
        method: Method,
        target: &Target,
        headers: Vec<(HeaderName, HeaderValue)>,
        upload: Upload,
    ) -> Result<Response<Incoming>> {
        let progress = Progress::start();
        let body = upload.into_body(progress.clone());
        let mut request = self.request(method, target, body)?;
        request.headers_mut().extend(headers);
        let mut answer = std::pin::pin!(self.pool.request(request));
        let limit = self.settings.first_byte_timeout;
        let answer = loop {
            let until = progress.last() + limit;
            match tokio::time::timeout_at(until, &mut answer).await {
                Ok(answer) => break answer,
                Err(_) if until < progress.last() + limit => {}
                Err(_) => return Err(Error::NoAnswer(limit)),
            }
        };
        let answer = match answer {
            Ok(answer) => self.accept(answer).await,
            Err(error) => Err(error::from_pool(&error, &self.settings)),
        };
        match answer {
            Err(error) => Err(progress.take_source_error().map_or(error, Error::Source)),
            answer => answer,
        }
    }

    fn request(&self, method: Method, target: &Target, body: Body) -> Result<Request<Body>> {
        let uri =
            self.settings.server.uri("http", target).map_err(|e| {
                Error::Invalid(format!("the request's address is not possible: {e}"))
            })?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    /// Turns a refusal into an error.
    async fn accept(&self, answer: Response<Incoming>) -> Result<Response<Incoming>> {
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, 64 << 10).collect();
        let body = tokio::time::timeout(self.settings.first_byte_timeout, body).await;
        let text = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        Err(error::from_answer(head.status, &head.headers, &text))
    }

    /// Sends a call and reads its whole answer as JSON.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<Answer<T>> {
        let answer = self.send(call).await?;
        Answer::parse(self.whole(answer).await?)
    }

    /// Sends a call once and reads its whole answer, whatever its status.
    pub(crate) async fn read_any(&self, call: Call) -> Result<(StatusCode, Bytes)> {
        let answer = self.exchange(&call).await?;
        Ok((answer.status(), self.whole(answer).await?))
    }

    /// Reads a whole, bounded answer.
    pub(crate) async fn whole(&self, answer: Response<Incoming>) -> Result<Bytes> {
        let limit = self.settings.first_byte_timeout * 4;
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect();
        match tokio::time::timeout(limit, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(Error::Broken(error)),
            Err(_) => Err(Error::NoAnswer(limit)),
        }
    }
}

/// The bytes of a body that flows.
pub(crate) fn flowing(body: Incoming) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    body.into_data_stream().map_err(|e| Error::Broken(e.into()))
}
