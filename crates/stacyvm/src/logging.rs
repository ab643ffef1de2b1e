//! What the program does, on standard error.

use stacyvm_config::LogFormat;
use tracing_subscriber::EnvFilter;

/// Changes what is logged while the program runs.
pub(crate) struct Levels(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send>);

impl Levels {
    /// From now on this is logged, such as `debug` or `stacyvm_control=debug,warn`.
    pub(crate) fn change(&self, filter: &str) -> Result<(), String> {
        (self.0)(EnvFilter::try_new(filter).map_err(|e| e.to_string())?)
    }
}

/// Starts logging with a filter such as `debug` or `stacyvm_control=debug,warn`.
pub(crate) fn start(format: LogFormat, filter: &str) -> Levels {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr);
    // A second subscriber cannot be there: this is called once, by a command that needs it.
    match format {
        LogFormat::Json => {
            let builder = builder.json().with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Levels(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
        LogFormat::Text => {
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Levels(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
    }
}

/// Starts logging for a command of a moment: errors, or what `STACYVM_LOG` says.
pub(crate) fn errors_only() {
    let filter = std::env::var("STACYVM_LOG").unwrap_or_else(|_| "error".to_owned());
    start(LogFormat::Text, &filter);
}
