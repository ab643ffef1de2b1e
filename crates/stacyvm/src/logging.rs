//! What the program does, on standard error, and as traces where the operator wants them.

use stacyvm_config::LogFormat;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, filter::Targets, fmt, layer::SubscriberExt as _,
    registry::LookupSpan, reload, util::SubscriberInitExt as _,
};

use crate::telemetry::Traces;

/// Changes what is logged while the program runs.
pub(crate) struct Levels(reload::Handle<EnvFilter, Registry>);

impl Levels {
    /// From now on this is logged, such as `debug` or `stacyvm_control=debug,warn`.
    pub(crate) fn change(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
        self.0.reload(filter).map_err(|e| e.to_string())
    }
}

/// Starts logging with a filter such as `debug` or `stacyvm_control=debug,warn`. What is traced
/// does not depend on it.
pub(crate) fn start(format: LogFormat, filter: &str, traces: Option<&Traces>) -> Levels {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = lines(format).with_filter(filter);
    let spans = traces.map(|traces| {
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer())
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            // Libraries speak of their own affairs, among them the sending of spans.
            .with_filter(Targets::new().with_target("stacyvm", LevelFilter::DEBUG))
    });
    // A second subscriber cannot be there: this is called once, by a command that needs it.
    let _ = tracing_subscriber::registry().with(lines).with(spans).try_init();
    Levels(handle)
}

fn lines<S>(format: LogFormat) -> Box<dyn tracing_subscriber::Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'l> LookupSpan<'l>,
{
    let lines = fmt::layer().with_ansi(false).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => lines.json().boxed(),
        LogFormat::Text => lines.boxed(),
    }
}

/// Starts logging for a command of a moment: errors, or what `STACYVM_LOG` says.
pub(crate) fn errors_only() {
    let filter = std::env::var("STACYVM_LOG").unwrap_or_else(|_| "error".to_owned());
    start(LogFormat::Text, &filter, None);
}
