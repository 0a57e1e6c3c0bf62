//! Logs: one line an event on stderr, for people or for programs; and traces, where somebody collects them.
//!
//! Deliberately absent: what is counted, which is in `metrics`.

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

/// Text that is not a filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is not a log filter ({why}): expected error, warn, info, debug or trace, or several as in info,ovl::volumes=debug"
)]
pub struct FilterError {
    text: String,
    why: String,
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(why) => Err(FilterError { text: text.to_owned(), why: why.to_string() }),
        }
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people; in colour on a terminal.
    #[default]
    Text,
    /// For programs: a JSON object, with the fields of the event at its top and those of the call in `span`.
    Json,
}

/// From now on every event goes to stderr, and every span to `traces`. For `main` to call, once; a second call changes nothing.
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
    // The only error is that somebody listens already: a test, or the first call.
    let _ = registry.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_checked_before_it_is_used() {
        for good in ["info", "warn,ovl::csi=trace", "off", "ovl[call{volume=csi-1}]=debug"] {
            assert!(good.parse::<Filter>().is_ok(), "{good:?}");
        }
        for bad in ["ovl=loud", "info,=,"] {
            let error = bad.parse::<Filter>().unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }
}
