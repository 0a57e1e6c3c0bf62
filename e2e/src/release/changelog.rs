//! The notes of a release: its section of CHANGELOG.md (Keep a Changelog).
//!
//! Deliberately absent: notes from commits. Users read what changed for them.

use anyhow::{Context, Result, ensure};

/// The name of the file with the notes.
pub const NOTES: &str = "NOTES.md";

/// The name of the section for what is not released yet.
pub const UNRELEASED: &str = "Unreleased";

/// The text of the section of a version, without its heading.
///
/// # Errors
/// The changelog has no such section, or it is empty.
pub fn section(changelog: &str, version: &str) -> Result<String> {
    let is_its = |line: &str| heading(line) == Some(version);
    let mut lines = changelog.lines().skip_while(|line| !is_its(line));
    lines.next().with_context(|| {
        format!(
            "CHANGELOG.md has no section {version}: rename `## {UNRELEASED}` to `## {version} - DATE`, or add --unreleased for a trial"
        )
    })?;
    let text: Vec<_> = lines.take_while(|line| heading(line).is_none()).collect();
    let text = text.join("\n").trim().to_owned();
    ensure!(!text.is_empty(), "the section {version} of CHANGELOG.md is empty");
    Ok(text)
}

/// The text of a release on the forge: what changed, and the image.
pub fn notes(changes: &str, image: &str) -> String {
    format!(
        "{changes}\n\n### Image\n\n`{image}`\n\nIt is for amd64 and arm64. `SHA256SUMS` has the checksums of all files.\n"
    )
}

/// The version in a heading of the second level: `## [1.2.3] - 2026-01-31` or `## 1.2.3`.
fn heading(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("## ")?;
    rest.split_whitespace().next().map(|word| word.trim_matches(['[', ']']))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Changelog\n\n## Unreleased\n\n## [1.1.0] - 2026-01-31\n\n### Added\n\n- A.\n\n\
                        ### Fixed\n\n- B.\n\n## 1.0.0\n\n- C.\n";

    #[test]
    fn a_section_ends_at_the_next_version() -> Result<()> {
        assert_eq!(section(TEXT, "1.1.0")?, "### Added\n\n- A.\n\n### Fixed\n\n- B.");
        assert_eq!(section(TEXT, "1.0.0")?, "- C.");
        Ok(())
    }

    #[test]
    fn a_missing_or_empty_section_is_an_error_with_advice() {
        let error = |version| section(TEXT, version).err().map(|error| error.to_string());
        let missing = error("2.0.0").unwrap_or_default();
        assert!(
            missing.contains("no section 2.0.0") && missing.contains("--unreleased"),
            "{missing}"
        );
        // A part of a version is another version.
        assert!(error("1.1").is_some() && error("1.0.0-rc.1").is_some());
        assert!(error(UNRELEASED).unwrap_or_default().contains("is empty"));
    }

    #[test]
    fn our_changelog_begins_with_a_section() -> Result<()> {
        let ours = include_str!("../../../CHANGELOG.md");
        let first = ours.lines().find_map(heading).context("no heading")?;
        assert!(section(ours, first)?.contains("\n- "));
        Ok(())
    }
}
