//! Tests on real mounts on the oldest supported kernel, and on one between it and this machine's: all
//! `emulated_*`, the privileged ones of `volumes` and of the states and programs of `workspaces`, and those of the
//! mount APIs that the kernel has (`KERNELS`).
//!
//! Deliberately absent: the newest kernel, which this machine runs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::context::SuiteContext;
use crate::driver;
use crate::emulated::{self, Arch, Job, Kernel};
use crate::machine::process::Cmd;
use crate::report::{Report, libtest};
use crate::toolchain::versions::KERNELS;

/// Builds the library's tests and runs those that fit on each kernel.
pub fn run(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    emulated::ensure_tools(ctx.h, Arch::Amd64)?;
    let program = tests(ctx)?;
    let mut all = Report::default();
    for (series, meta, ways) in KERNELS {
        let kernel = Kernel::of(ctx.h, Arch::Amd64, series, meta)?;
        let log = log.with_extension(format!("{series}.log"));
        let ways: Vec<_> = ways.iter().map(|way| format!("privileged_{way}::")).collect();
        let commands = format!(
            "/program --test-threads 2 --ignored emulated_ volumes::privileged workspaces::states \
             workspaces::model workspaces::programs {}",
            ways.join(" ")
        );
        let job = Job { program: &program, files: &[], commands: &commands };
        let printed = emulated::run(ctx.h, &kernel, &job, &log)?;
        let report = libtest::parse(&printed);
        ensure!(
            report.passed + report.failures.len() > 0,
            "Linux {}: no test ran; see {}",
            kernel.release(),
            log.display()
        );
        all.passed += report.passed;
        let on = |test| format!("Linux {}: {test}; see {}", kernel.release(), log.display());
        all.failures.extend(report.failures.into_iter().map(on));
    }
    Ok(all)
}

/// The test program of the library.
fn tests(ctx: &SuiteContext<'_>) -> Result<PathBuf> {
    // The workspace: what the unit tests compiled is used again.
    compiled(driver::cargo(ctx.h, ctx.repo).args(["test", "--workspace", "--lib", "--locked"]))
}

/// Compiles tests with a command of cargo, and returns the program of the last one.
///
/// # Errors
/// They do not compile.
pub fn compiled(test: Cmd) -> Result<PathBuf> {
    let output = test.args(["--no-run", "--message-format", "json-render-diagnostics"]).output()?;
    let mut programs = output.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    let program = programs.next_back().context("cargo named no test program")?;
    fs::metadata(&program).with_context(|| program.display().to_string())?;
    Ok(program)
}
