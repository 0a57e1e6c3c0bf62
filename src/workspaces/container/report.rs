//! How process 1 and the command report a failure to the caller: by a pipe, which a program that is started closes.

use std::{fmt, io};

/// A failure before the program was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) what: What,
    /// A sentence; of a command that cannot be run, the command, [`AFTER_COMMAND`], and a sentence.
    pub(super) text: String,
}

/// What stands between a command and the reason. No command has it.
pub(super) const AFTER_COMMAND: char = '\0';

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Absent,
    NotExecutable,
    SetUp,
}

impl Report {
    /// Writes it to the pipe. A reader that is dead needs no report.
    pub(super) fn send(&self, mut pipe: impl io::Write) {
        let what = match self.what {
            What::Absent => b'a',
            What::NotExecutable => b'x',
            What::SetUp => b's',
        };
        let _ = pipe.write_all(&[&[what], self.text.as_bytes()].concat());
    }

    /// Reads what was written to the pipe. `None` if that is nothing.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (what, text) = bytes.split_first()?;
        let what = match what {
            b'a' => What::Absent,
            b'x' => What::NotExecutable,
            _ => What::SetUp,
        };
        Some(Self { what, text: String::from_utf8_lossy(text).into_owned() })
    }
}

/// A failure to set up the container, as a `map_err` of the operation `what`, a verb phrase.
pub(super) fn failed<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Report {
    move |error| Report { what: What::SetUp, text: format!("cannot {what}: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        for what in [What::Absent, What::NotExecutable, What::SetUp] {
            let report = Report { what, text: "cannot do it: why".to_owned() };
            let mut pipe = Vec::new();
            report.send(&mut pipe);
            assert_eq!(Report::parse(&pipe), Some(report));
        }
        assert_eq!(Report::parse(b""), None);
    }
}
