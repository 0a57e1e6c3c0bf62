//! The book: mdBook accepts every page, and no link of the result leads nowhere.
//!
//! Deliberately absent: what the pages say. `tests/pages.rs` and the cluster cases compare that with the code.

use std::path::Path;

use anyhow::Result;

use super::context::SuiteContext;
use crate::book;
use crate::report::Report;

/// Makes the book.
pub fn run(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    Ok(Report::of("the book of docs/", book::build(ctx.h, ctx.repo, log).map(drop)))
}
