//! Why a command of `ovl` failed, and how people read it:
//!
//! ```text
//! error: cannot clean workspace tree
//!   why: it is mounted at /mnt/tree
//!   fix: unmount it first with `ovl umount tree`
//! ```
//!
//! A line is missing where there is nothing to say.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};

use crate::{error::Explained, kubectl};

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Exit code 2.
    Unusable(anyhow::Error),
    /// Exit code 1.
    Failed(anyhow::Error),
    /// Exit code 3.
    Busy(anyhow::Error),
    /// This exit code.
    Code(anyhow::Error, u8),
}

impl Failure {
    /// Adds what failed to an error that only has a reason.
    pub(super) fn about(mut self, what: impl FnOnce() -> String) -> Self {
        let (Self::Unusable(error)
        | Self::Failed(error)
        | Self::Busy(error)
        | Self::Code(error, _)) = &mut self;
        if let Some(explained) = error.downcast_mut::<Explained>() {
            explained.what.get_or_insert_with(what);
        }
        self
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Writes an error to stderr, with colours on a terminal. If stderr is closed, the exit code says enough.
pub(super) fn report(error: &anyhow::Error) {
    let mut stderr = anstream::stderr().lock();
    let parts = parts(error);
    // Without a caller that says what failed, the reason is all there is.
    let (what, why) = match parts.what {
        None => (parts.why, None),
        what => (what, parts.why),
    };
    let lines = [
        ("error", AnsiColor::Red.on_default().bold(), what),
        ("  why", Style::new().bold(), why),
        ("  fix", Style::new().bold(), parts.fix),
    ];
    for (label, style, text) in lines {
        let Some(text) = text else { continue };
        let text = kubectl::clean(&text).replace('\n', "\n       ");
        let _ = writeln!(stderr, "{style}{label}:{style:#} {text}");
    }
}

/// The parts of an error. Of a chain of causes, the first is what failed.
fn parts(error: &anyhow::Error) -> Explained {
    if let Some(explained) = error.downcast_ref::<Explained>() {
        return explained.clone();
    }
    let why: Vec<_> = error.chain().skip(1).map(ToString::to_string).collect();
    let what = Explained::new(error.to_string());
    if why.is_empty() { what } else { what.why(why.join(": ")) }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn what_failed_is_added_only_where_it_is_missing() {
        let of = |error: Explained| match Failure::Failed(error.into()).about(|| "it".to_owned()) {
            Failure::Failed(error) => parts(&error),
            other => panic!("{other:?}"),
        };
        assert_eq!(of(Explained::because("no")), Explained::new("it").why("no"));
        assert_eq!(of(Explained::new("this")), Explained::new("this"));
    }

    #[test]
    fn the_first_of_a_chain_is_what_failed() {
        let error = Err::<(), _>(anyhow!("c")).context("b").context("a").unwrap_err();
        assert_eq!(parts(&error), Explained::new("a").why("b: c"));
        assert_eq!(parts(&anyhow!("alone")), Explained::new("alone"));
    }
}
