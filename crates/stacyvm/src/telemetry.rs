//! Traces, sent to a collector as OTLP over HTTP. Off unless the operator names a collector.
//!
//! Spans wait in a bounded queue that a thread of its own empties; a collector that is slow or away
//! costs spans and holds up nothing.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::{
    KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use stacyvm_cli::Failure;
use stacyvm_config::Telemetry;
use tokio::{runtime::Handle, time::timeout};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{chain, failed};

/// The longest try to hand over spans.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of the program waits for the last spans to be taken.
const LAST: Duration = Duration::from_secs(2);
/// What is read of a collector's answer.
const MAX_ANSWER: usize = 64 << 10;
/// What one span can hold; a request cannot make more of it.
const PER_SPAN: u32 = 64;

/// The header of a caller's context.
const TRACEPARENT: &str = "traceparent";

/// The way to the collector.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    runtime: Arc<OnceLock<Handle>>,
}

impl Traces {
    /// As the operator says; `None` when no collector is named.
    pub(crate) fn of(settings: &Telemetry) -> Result<Option<Self>, Failure> {
        let Some(collector) = &settings.otlp_endpoint else { return Ok(None) };
        let runtime = Arc::<OnceLock<Handle>>::default();
        let sender = Sender {
            client: Client::builder(TokioExecutor::new()).build_http(),
            headers: headers(settings)?,
            runtime: runtime.clone(),
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(sender)
            .with_headers(HashMap::new())
            .with_endpoint(collector.traces())
            .with_protocol(Protocol::HttpJson)
            .with_timeout(PATIENCE)
            .build()
            .map_err(|error| failed(format!("traces cannot be sent: {}", chain(&error))))?;
        let resource = Resource::builder_empty()
            .with_service_name("stacyvm")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let share = Sampler::TraceIdRatioBased(settings.sample_ratio.ratio());
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(share)))
            .with_max_attributes_per_span(PER_SPAN)
            .with_max_events_per_span(PER_SPAN)
            .with_resource(resource)
            .build();
        Ok(Some(Self { provider, runtime }))
    }

    /// What makes spans.
    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("stacyvm")
    }

    /// From now on spans are sent, on this runtime.
    pub(crate) fn send_on(&self, runtime: &Handle) {
        // Set once: this is called once, after the runtime was made.
        let _ = self.runtime.set(runtime.clone());
    }

    /// Hands over the last spans. Blocks, and needs the runtime.
    pub(crate) fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST) {
            tracing::warn!(%error, "the last spans were not handed over");
        }
    }
}

/// Makes a request's span part of the trace that its caller is in, and tells the trace's id.
pub(crate) fn join(span: &Span, headers: &HeaderMap) -> Option<String> {
    let caller = TraceContextPropagator::new().extract(&Parent(headers));
    if caller.span().span_context().is_valid() {
        // It fails where nobody makes spans, and then there is nothing to join.
        let _ = span.set_parent(caller);
    }
    let context = span.context();
    let here = context.span().span_context().clone();
    here.is_valid().then(|| here.trace_id().to_string())
}

/// What is believed of a caller's context: its ids and whether it is kept. The list of other
/// systems' states beside them may be long, and every span would carry it.
struct Parent<'h>(&'h HeaderMap);

impl Extractor for Parent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        if key != TRACEPARENT {
            return None;
        }
        self.0.get(TRACEPARENT)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

fn headers(settings: &Telemetry) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in settings.otlp_headers.iter() {
        let wrong = || failed(format!("telemetry.otlp_headers: {name} is no header"));
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, value);
    }
    Ok(headers)
}

/// Sends on the server's runtime what the exporter's thread hands it.
struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    headers: HeaderMap,
    runtime: Arc<OnceLock<Handle>>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let runtime = self.runtime.get().ok_or("the server has not started yet")?;
        request.headers_mut().extend(self.headers.clone());
        let client = self.client.clone();
        let send = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        // The exporter's thread waits for it, without a clock of its own.
        let sent = runtime.spawn(async { timeout(PATIENCE, send).await });
        sent.await??
    }
}
