//! Prints results to stdout and notes to stderr, and formats ages. Styles are removed where colours are not
//! wanted.
//!
//! Text from the cluster or a registry is not trusted. Control characters in it could control the user's terminal, so
//! they are printed as escapes.

use std::io::{ErrorKind, Write as _};

use anstyle::AnsiColor;
use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;

/// Writes a result.
pub(super) fn out(text: &str) -> anyhow::Result<()> {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // The reader has enough, as `head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}

/// Writes a result as JSON.
pub(super) fn json(result: &impl Serialize) -> anyhow::Result<()> {
    out(&format!("{}\n", serde_json::to_string_pretty(result)?))
}

/// Writes a result as YAML.
pub(super) fn yaml(result: &impl Serialize) -> anyhow::Result<()> {
    out(&serde_saphyr::to_string(result).context("the result cannot be written as YAML")?)
}

/// Writes an error to stderr.
pub(super) fn error(text: &str) {
    let style = AnsiColor::Red.on_default().bold();
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {}", clean(text));
}

/// Writes a note, which is not a part of the result, to stderr.
pub(super) fn note(text: &str) {
    // If stderr is closed, notes are not wanted.
    let _ = writeln!(anstream::stderr(), "{}", clean(text));
}

/// The text with control characters as escapes, except newlines.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => clean.push(c),
            c if c.is_control() => clean.extend(c.escape_default()),
            c => clean.push(c),
        }
    }
    clean
}

/// The time since `since`, in the largest unit of which there are at least two, as in the output of kubectl.
pub(super) fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    let Some(since) = since else { return "-".to_owned() };
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (seconds, text) in
            [(-5, "0s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (900_000, "10d")]
        {
            let since = Timestamp::from_second(1_000_000 - seconds).unwrap();
            assert_eq!(age(Some(since), now), text);
        }
        assert_eq!(age(None, now), "-");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(clean("a\u{1b}[2Jb\nc\r"), "a\\u{1b}[2Jb\nc\\r");
    }
}
