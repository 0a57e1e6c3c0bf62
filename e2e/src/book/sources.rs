//! The source of the book in one directory: the pages that `docs/SUMMARY.md` names, wherever they are.
//!
//! Deliberately absent: a parser of Markdown. Links are found as `tests/pages.rs` finds them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// The directory of the pages and of the book's settings.
const DOCS: &str = "docs";

/// The list of chapters.
const SUMMARY: &str = "SUMMARY.md";

/// The chapters: paths below the sources, with their names in the book.
type Chapters = BTreeMap<PathBuf, String>;

/// Copies everything that mdBook needs into an empty directory.
///
/// # Errors
/// A file cannot be read or written.
pub fn assemble(repo: &Path, out: &Path) -> Result<()> {
    let docs = repo.join(DOCS);
    copy(&docs.join("book.toml"), &out.join("book.toml"))?;
    copy_pictures(&docs.join("pictures"), &out.join("pictures"))?;
    let summary = read(&docs.join(SUMMARY))?;
    let chapters = chapters(&summary);
    write(&out.join(SUMMARY), &relinked(&summary, DOCS.as_ref(), &chapters))?;
    for (path, name) in &chapters {
        let text = read(&repo.join(path))?;
        let dir = path.parent().unwrap_or(Path::new(""));
        write(&out.join(name), &relinked(&text, dir, &chapters))?;
    }
    Ok(())
}

/// The pages that a summary links to.
fn chapters(summary: &str) -> Chapters {
    let targets = summary.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let paths = targets.filter_map(|target| resolved(DOCS.as_ref(), target));
    paths.map(|path| (path.clone(), name(&path))).collect()
}

/// The name of a page in the book. mdBook would make a README the first page of its directory.
fn name(path: &Path) -> String {
    match path.file_name().unwrap_or_default().to_string_lossy() {
        name if name == "README.md" => "overview.md".to_owned(),
        name => name.into_owned(),
    }
}

/// A page of `dir` with links that work in the book. Links to files that are not in the book become text.
fn relinked(text: &str, dir: &Path, chapters: &Chapters) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_code = false;
    for line in text.split_inclusive('\n') {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        if in_code || is_fence {
            out.push_str(line);
        } else {
            out.push_str(&relinked_line(line, dir, chapters));
        }
    }
    out
}

fn relinked_line(line: &str, dir: &Path, chapters: &Chapters) -> String {
    let (mut out, mut rest) = (String::new(), line);
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, after)) = after.split_once(')') else { break };
        out.push_str(before);
        let (path, anchor) = target.split_at(target.find('#').unwrap_or(target.len()));
        let place = resolved(dir, path);
        let in_book = place.as_ref().and_then(|place| chapters.get(place).cloned());
        let picture = place.as_ref().and_then(|place| place.strip_prefix(DOCS).ok());
        let picture = picture.filter(|path| path.extension().is_some_and(|e| e == "svg"));
        match in_book.or_else(|| picture.map(|path| path.display().to_string())) {
            _ if path.is_empty() || target.contains("://") => out.push_str(&format!("]({target})")),
            Some(path) => out.push_str(&format!("]({path}{anchor})")),
            None => drop_bracket(&mut out),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Removes the `[` that begins the text of a link.
fn drop_bracket(text: &mut String) {
    if let Some(at) = text.rfind('[') {
        text.remove(at);
    }
}

/// A path that is relative to `dir`, without `..`. `None` where it leaves the sources.
fn resolved(dir: &Path, path: &str) -> Option<PathBuf> {
    let mut place = PathBuf::new();
    for part in dir.join(path).components() {
        match part {
            Component::ParentDir if place.pop() => {}
            Component::Normal(name) => place.push(name),
            _ => return None,
        }
    }
    Some(place)
}

fn copy_pictures(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry.with_context(|| format!("reading {}", from.display()))?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_work_in_the_book() {
        let summary =
            "- [Volumes](volumes.md)\n- [Security](../SECURITY.md)\n- [Rest](../README.md)\n";
        let chapters = chapters(summary);
        let in_docs = |text| relinked(text, DOCS.as_ref(), &chapters);
        let at_root = |text| relinked(text, "".as_ref(), &chapters);
        assert_eq!(
            in_docs("see [a](../README.md#b), [c](volumes.md)"),
            "see [a](overview.md#b), [c](volumes.md)"
        );
        assert_eq!(at_root("[a](docs/volumes.md#b) [c](#d)"), "[a](volumes.md#b) [c](#d)");
        assert_eq!(
            in_docs("[x](https://a.b/c) ![d](pictures/e.svg)"),
            "[x](https://a.b/c) ![d](pictures/e.svg)"
        );
        assert_eq!(at_root("![d](docs/pictures/e.svg)"), "![d](pictures/e.svg)");
        assert_eq!(
            at_root("the [values](charts/values.yaml), [all](docs/volumes.md)"),
            "the values, [all](volumes.md)"
        );
        assert_eq!(at_root("```\n[x](src/a.rs)\n```\n[x](src/a.rs)"), "```\n[x](src/a.rs)\n```\nx");
        assert_eq!(relinked(summary, DOCS.as_ref(), &chapters).matches("..").count(), 0);
    }
}
