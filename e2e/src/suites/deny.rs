//! The dependencies checked by cargo-deny: bans, licences, sources, and advisories where they can
//! be fetched.
//!
//! Deliberately absent: a copy of the advisories. An old copy is of little use.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::context::SuiteContext;
use crate::driver::CrateProgram;
use crate::machine::process::Cmd;
use crate::machine::progress::minutes;
use crate::report::Report;
use crate::toolchain::versions;

/// cargo-deny.
const CARGO_DENY: CrateProgram = CrateProgram {
    name: "cargo-deny",
    version: versions::CARGO_DENY,
    args: &[],
    usual: minutes(5),
};

/// The longest that the fetch of the advisories may take.
const FETCH: Duration = Duration::from_secs(60);

/// Runs each check by itself: each counts.
pub fn run(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    let deny = CARGO_DENY.ensure(ctx.h, ctx.repo)?;
    let deny = |args: &[&str]| {
        // As `cargo deny` does. By its path, because it is in no directory of PATH.
        let cmd = Cmd::new(&deny).dir(ctx.repo).arg("--locked").args(args);
        cmd.env("CARGO_TARGET_DIR", ctx.h.cache.cargo_target()).log(log)
    };
    let mut checks = vec!["bans", "licenses", "sources"];
    if deny(&["fetch", "db"]).limit(FETCH).run().is_ok() {
        checks.push("advisories");
    } else {
        ctx.h
            .progress
            .say("  NOT checked: advisories, because their database cannot be fetched here");
    }
    let mut report = Report::default();
    for check in checks {
        report.count(check, deny(&["check", "--hide-inclusion-graph", check]).run());
    }
    Ok(report)
}
