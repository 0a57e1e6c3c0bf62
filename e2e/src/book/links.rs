//! The links of the finished book: each file and each place in a file exists.
//!
//! Deliberately absent: links to other hosts. A test that needs their servers would fail without a fault of ours.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// A page for servers, with links from the root of a site.
const NOT_FOUND: &str = "404.html";

/// Checks each `href` and `src` of each page.
///
/// # Errors
/// A link leads nowhere. The error has all of them.
pub fn check(book: &Path) -> Result<()> {
    let (mut broken, mut pages) = (Vec::new(), 0);
    for entry in fs::read_dir(book).with_context(|| format!("reading {}", book.display()))? {
        let path = entry.with_context(|| format!("reading {}", book.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.ends_with(".html") || name == NOT_FOUND {
            continue;
        }
        pages += 1;
        let html = fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
        for target in targets(&html) {
            if !leads_somewhere(book, &html, target) {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    ensure!(pages > 10, "the book has only {pages} pages");
    if !broken.is_empty() {
        bail!("links of the book that lead nowhere:\n{}", broken.join("\n"));
    }
    Ok(())
}

/// The values of the attributes `href` and `src`.
fn targets(html: &str) -> impl Iterator<Item = &str> {
    let starts = ["href=\"", "src=\""].into_iter();
    starts.flat_map(|start| html.split(start).skip(1)).filter_map(|rest| rest.split('"').next())
}

fn leads_somewhere(book: &Path, html: &str, target: &str) -> bool {
    if target.contains("://") || target.starts_with("data:") {
        return true;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let has = |html: &str| anchor.is_empty() || html.contains(&format!("id=\"{anchor}\""));
    match path {
        "" => has(html),
        path if anchor.is_empty() => book.join(path).exists(),
        path => fs::read_to_string(book.join(path)).is_ok_and(|html| has(&html)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_those_of_both_attributes() {
        let html = "<a href=\"a.html#b\">x</a><img src=\"c.svg\"><p id=\"b\">";
        assert_eq!(targets(html).collect::<Vec<_>>(), ["a.html#b", "c.svg"]);
        let nowhere = Path::new("/nonexistent");
        assert!(
            leads_somewhere(nowhere, html, "#b") && leads_somewhere(nowhere, html, "https://a")
        );
        assert!(!leads_somewhere(nowhere, html, "#c") && !leads_somewhere(nowhere, html, "a.html"));
    }
}
