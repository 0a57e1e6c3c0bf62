//! The book: `docs/` and the pages at the root, as HTML, made by mdBook.
//!
//! ```text
//! docs/SUMMARY.md ─► chapters ─► copies with links that work in a book ─► mdbook ─► HTML ─► its links are checked
//! ```
//!
//! `docs/` is an mdBook by itself. But its pages link to pages at the root, where forges look for them, and mdBook reads
//! only below its own directory. So the book is made from copies in one directory. Deliberately absent: text. A page
//! is the same in the book as in the repository.
//!
//! May use: machine, toolchain, driver

mod links;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::driver::CrateProgram;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::minutes;
use crate::toolchain::versions;

/// Where the book is, below the sources.
const PLACE: &str = "target/book";

/// mdBook without its server.
const MDBOOK: CrateProgram = CrateProgram {
    name: "mdbook",
    version: versions::MDBOOK,
    args: &["--no-default-features", "--features", "search"],
    usual: minutes(2),
};

/// Makes the book and checks it. Returns the path of its first page.
///
/// # Errors
/// mdBook fails or warns, or a link of the book leads nowhere.
pub fn build(h: &Harness, repo: &Path, log: &Path) -> Result<PathBuf> {
    let mdbook = MDBOOK.ensure(h, repo)?;
    let (source, book) = (h.cache.scratch("book")?, repo.join(PLACE));
    sources::assemble(repo, &source)?;
    let done = Cmd::new(mdbook).args(["build", "--dest-dir"]).arg(&book).arg(&source).outcome()?;
    let output = format!("{}{}", done.stdout, done.stderr);
    fs::write(log, &output).with_context(|| format!("writing {}", log.display()))?;
    if !done.status.success() || output.contains("WARN") || output.contains("ERROR") {
        bail!("mdbook: {}:\n{}", done.status, output.trim_end());
    }
    links::check(&book)?;
    Ok(book.join("index.html"))
}
