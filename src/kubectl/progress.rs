//! Shows progress on stderr: on a terminal as one line that changes, elsewhere as one line per change.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::print;

/// How often the line on a terminal is drawn.
const TICK: Duration = Duration::from_millis(120);

/// The display of progress.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    shown: String,
}

impl Progress {
    /// A display on stderr. It draws a changing line only if stderr is a terminal.
    pub(crate) fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, shown: String::new() }
    }

    /// Shows a line if it differs from the last one.
    pub(crate) fn show(&mut self, line: &str) {
        if self.shown == line {
            return;
        }
        line.clone_into(&mut self.shown);
        match &self.bar {
            Some(bar) => bar.set_message(print::clean(line).replace('\n', " ")),
            None => print::note(line),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
