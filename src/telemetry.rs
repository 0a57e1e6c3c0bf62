//! Logs (one line per event on stderr, as text or as JSON) and traces (sent to a collector by OTLP).
//!
//! Deliberately absent: metrics, which are in `metrics`.

mod traces;

use std::{io::IsTerminal as _, str::FromStr};

pub use traces::{Collector, CollectorError, Traces, TracesError, follow};
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Which lines are written: a level, or levels by module (`info,ovl::volumes=debug`), in the notation of
/// [`EnvFilter`](https://docs.rs/tracing-subscriber/latest/tracing_subscriber/filter/struct.EnvFilter.html#directives).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl Default for Filter {
    /// `info`.
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl Filter {
    /// `warn`, for commands that people run.
    pub fn warnings() -> Self {
        Self("warn".to_owned())
    }
}

/// The levels that a filter can name. [`EnvFilter`] takes any other word for the name of a module, whose lines it then
/// writes alone, so a mistyped level would turn the log off.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A text that is not a log filter, and the parser's reason.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is not a log filter ({why}); use off, error, warn, info, debug or trace, or levels by module as in info,ovl::volumes=debug"
)]
pub struct FilterError {
    text: String,
    why: String,
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let refused = |why: String| FilterError { text: text.to_owned(), why };
        let level = |part: &str| part.rsplit_once('=').map_or(part, |(_, level)| level).to_owned();
        let mut levels = text.split(',').filter(|_| !text.is_empty()).map(level);
        if let Some(level) = levels.find(|level| !LEVELS.contains(&level.as_str())) {
            return Err(refused(format!("{level:?} is not a level")));
        }
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(why) => Err(refused(why.to_string())),
        }
    }
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people; in colour on a terminal.
    #[default]
    Text,
    /// For programs: a JSON object, with the fields of the event at its top and those of the call in `span`.
    Json,
}

/// Writes every event to stderr from now on, and sends every span to `traces`. `main` calls it once; a second call
/// changes nothing.
pub fn init(filter: &Filter, format: Format, traces: Option<&Traces>) {
    let stderr = std::io::stderr;
    let lines = fmt::layer().with_writer(stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(stderr().is_terminal()).boxed(),
        Format::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let registry = tracing_subscriber::registry()
        .with(lines.with_filter(EnvFilter::new(&filter.0)))
        .with(traces.map(Traces::layer));
    // The only error is that a subscriber is set already: by a test, or by the first call.
    let _ = registry.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_parsed_is_refused_with_its_text() {
        for good in ["info", "warn,ovl::csi=trace", "off", "ovl[call{volume=csi-1}]=debug"] {
            assert!(good.parse::<Filter>().is_ok(), "{good:?}");
        }
        for bad in ["ovl=loud", "info,=,", "blah", "info,ovl::image", "ovl=", "info,", "INFO"] {
            let error = bad.parse::<Filter>().unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }
}
