//! The hunks of a unified patch.
//!
//! Deliberately absent: names and modes.

use std::{
    io::{self, Write},
    ops::Range,
};

use imara_diff::{Algorithm, Diff, InternedInput};

/// Unchanged lines around each change.
const CONTEXT: u32 = 3;

/// Lines that change together: ranges of lines before and after.
type Change = (Range<u32>, Range<u32>);

/// Writes the hunks that lead from one text to another.
pub(super) fn write(before: &[u8], after: &[u8], out: &mut dyn Write) -> io::Result<()> {
    let (old, new) = (lines(before), lines(after));
    let mut input: InternedInput<&[u8]> = InternedInput::default();
    input.update_before(old.iter().copied());
    input.update_after(new.iter().copied());
    let mut diff = Diff::compute(Algorithm::Histogram, &input);
    diff.postprocess_lines(&input);
    let changes: Vec<Change> = diff.hunks().map(|hunk| (hunk.before, hunk.after)).collect();
    let mut rest = &changes[..];
    while !rest.is_empty() {
        // Changes whose context would touch are one hunk.
        let near = |pair: &[Change]| pair[1].0.start - pair[0].0.end <= 2 * CONTEXT;
        let count = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
        hunk(&old, &new, &rest[..count], out)?;
        rest = &rest[count..];
    }
    Ok(())
}

/// The lines of a text, with their ends.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

fn hunk(old: &[&[u8]], new: &[&[u8]], changes: &[Change], out: &mut dyn Write) -> io::Result<()> {
    let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return Ok(()) };
    let lead = first.0.start.min(CONTEXT);
    let trail = (old.len() as u32 - last.0.end).min(CONTEXT);
    let before = first.0.start - lead..last.0.end + trail;
    let after = first.1.start - lead..last.1.end + trail;
    writeln!(out, "@@ -{} +{} @@", numbers(&before), numbers(&after))?;
    let mut at = before.start;
    for (from, to) in changes {
        each(b' ', old, at..from.start, out)?;
        each(b'-', old, from.clone(), out)?;
        each(b'+', new, to.clone(), out)?;
        at = from.end;
    }
    each(b' ', old, at..before.end, out)
}

/// The first line, counted from 1, and the number of lines. An empty range follows its line.
fn numbers(range: &Range<u32>) -> String {
    format!("{},{}", range.start + u32::from(!range.is_empty()), range.len())
}

fn each(sign: u8, lines: &[&[u8]], range: Range<u32>, out: &mut dyn Write) -> io::Result<()> {
    for line in lines.get(range.start as usize..range.end as usize).unwrap_or_default() {
        out.write_all(&[sign])?;
        out.write_all(line)?;
        if !line.ends_with(b"\n") {
            out.write_all(b"\n\\ No newline at end of file\n")?;
        }
    }
    Ok(())
}
