//! Compares what a command prints with what a page shows.
//!
//! What differs from run to run matches anything of its kind: a number with a unit (`4 entries, 46 B`: only the bytes), a
//! time, a digest, and text for which the page has `…`. At the end of a line it stands for the rest of the line, and a line with `…`
//! alone for any number of lines. The width of columns does not matter.

/// Units of time and of size, as the driver and kubectl print them.
const UNITS: [&str; 10] = ["us", "ms", "s", "m", "h", "d", "B", "KiB", "MiB", "GiB"];

/// How a digest begins.
const DIGEST: &str = "sha256:";

/// Whether the printed lines are those of the page.
pub fn matches(want: &[String], have: &[&str]) -> bool {
    match want {
        [] => have.is_empty(),
        [any, rest @ ..] if any.trim() == "…" => {
            (0..=have.len()).any(|skipped| matches(rest, &have[skipped..]))
        }
        [first, rest @ ..] => match have {
            [line, others @ ..] => line_matches(first, line) && matches(rest, others),
            [] => false,
        },
    }
}

fn line_matches(want: &str, have: &str) -> bool {
    let (want, have) = (words(want), words(have));
    let open = want.last().is_some_and(|last| last.ends_with('…'));
    (want.len() == have.len() || open && want.len() < have.len())
        && want.iter().zip(&have).all(|(want, have)| word_matches(want, have))
}

/// The words of a line, with `#` for each measure.
fn words(line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let next = words.iter().skip(1).map(Some).chain([None]);
    let is_unit = |word: Option<&&str>| word.is_some_and(|word| UNITS.contains(&bare(word)));
    let measured = |(word, next): (&&str, Option<&&str>)| match word {
        word if word.contains(DIGEST) => without_digest(word),
        word if is_measure(bare(word)) => word.replace(bare(word), "#"),
        word if is_number(word) && is_unit(next) => "#".to_owned(),
        word => (*word).to_owned(),
    };
    words.iter().zip(next).map(measured).collect()
}

/// A word with `#` for its digest, which pages shorten by `…`.
fn without_digest(word: &str) -> String {
    let (before, digest) = word.split_once(DIGEST).unwrap_or((word, ""));
    let after = digest.trim_start_matches(|c: char| c.is_ascii_hexdigit() || c == '…');
    format!("{before}{DIGEST}#{after}")
}

/// A word without the punctuation around it.
fn bare(word: &str) -> &str {
    word.trim_matches(|c| matches!(c, ',' | ';' | ':' | '.' | '(' | ')'))
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit()) && word.parse::<f64>().is_ok()
}

/// Whether it is a time such as `2026-11-21T19:46:35Z`, `2026-11-21` or `19:46`, or numbers with units such as `1.3ms`
/// and `4m5s`.
fn is_measure(word: &str) -> bool {
    if word.len() == 20 && word.contains('T') && word.ends_with('Z') {
        return true;
    }
    let shape = word.replace(|c: char| c.is_ascii_digit(), "0");
    if ["0000-00-00", "00:00"].contains(&&*shape) {
        return true;
    }
    let digit = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = word;
    while let Some(unit) = rest.strip_prefix(digit).map(|rest| rest.trim_start_matches(digit)) {
        rest = unit.trim_start_matches(|c: char| c.is_alphabetic());
        if !UNITS.contains(&&unit[..unit.len() - rest.len()]) {
            return false;
        }
    }
    rest.is_empty() && !word.is_empty()
}

fn word_matches(want: &str, have: &str) -> bool {
    match want.split_once('…') {
        Some((before, after)) => {
            let rest = have.strip_prefix(before);
            rest.is_some_and(|rest| rest.ends_with(after))
        }
        None => want == have,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(want: &str, have: &str) -> bool {
        let want: Vec<_> = want.lines().map(str::to_owned).collect();
        matches(&want, &have.lines().collect::<Vec<_>>())
    }

    #[test]
    fn measures_and_ellipses_match_anything_of_their_kind() {
        let want = "demo-1 is ready: 4 entries, 46 B, the pod was frozen for 0.3ms, pushed as r:5000/a@sha256:cd7d…";
        let have = "demo-1 is ready: 4 entries, 1.5 KiB, the pod was frozen for 12ms, pushed as r:5000/a@sha256:0123";
        assert!(!same(want, have), "another unit is another word");
        let have = have.replace("1.5 KiB", "51 B");
        assert!(same(want, &have));
        assert!(!same(want, &have.replace("@sha256:0123", "")), "there is no digest");
        assert!(!same(want, &have.replace("4 entries", "5 entries")), "a count is no measure");
        assert!(same(
            "Created: 2026-11-21T19:46:35Z (4m ago)",
            "Created:   2025-01-02T03:04:05Z (12s ago)"
        ));
        assert!(same("one  2026-11-21 19:46", "one 2025-01-02 03:04") && !same("19:46", "1:46"));
        assert!(same("a  4m5s", "a 3h") && !same("a 4m", "a 4x") && !same("4m", ""));
    }

    #[test]
    fn a_line_with_an_ellipsis_matches_any_lines() {
        assert!(same("a\n…\nd", "a\nb\nc\nd") && same("a\n…", "a") && !same("a\n…\nd", "a\nb"));
        assert!(
            same("pod deleted…", "pod deleted from x") && !same("pod deleted…", "pod is deleted")
        );
        assert!(!same("a", "a\nb") && same("└─ b  Ready", "└─ b Ready"));
    }
}
