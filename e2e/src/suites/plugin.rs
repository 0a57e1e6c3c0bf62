//! The kubectl plugin for other systems: clippy compiles it, with warnings as errors.
//!
//! Deliberately absent: programs. `cargo xtask release` links them.

use std::path::Path;

use anyhow::{Result, ensure};

use super::context::SuiteContext;
use crate::driver;
use crate::machine::process::Cmd;
use crate::report::Report;

/// One target of each system. The crate ring compiles C for each of them, which zig does.
const TARGETS: &[&str] = &["aarch64-apple-darwin", "x86_64-pc-windows-gnu"];

/// The start of the message with which the driver does not compile for these targets.
const REFUSAL: &str = "`ovl` needs Linux";

/// Compiles it for each target.
pub fn run(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    let mut report = Report::default();
    for target in TARGETS {
        driver::ensure_target(ctx.h, ctx.repo, target)?;
        let plugin = clippy(ctx, target, "kubectl-ovl")?.args(["--", "--deny", "warnings"]);
        report.count(&format!("kubectl-ovl for {target}"), plugin.log(log).run());
        report.count(&format!("ovl for {target} is refused"), refused(clippy(ctx, target, "ovl")?));
    }
    Ok(report)
}

fn clippy(ctx: &SuiteContext<'_>, target: &str, program: &str) -> Result<Cmd> {
    let clippy = driver::cargo_zigbuild(ctx.h, ctx.repo)?.args(["clippy", "--locked"]);
    let clippy = clippy.args(["--package", "ovl-csi", "--lib", "--bin", program]);
    Ok(clippy.args(["--target", target]))
}

fn refused(clippy: Cmd) -> Result<()> {
    let done = clippy.outcome()?;
    ensure!(!done.status.success(), "it compiles");
    ensure!(done.stderr.contains(REFUSAL), "it has another error: {}", done.stderr);
    Ok(())
}
