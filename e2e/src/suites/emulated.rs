//! The tests on real mounts once more, on the oldest kernel that is promised and on one between it and this.
//!
//! Deliberately absent: the newest kernel, which is this machine's own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Bench, libtest};
use crate::driver;
use crate::emulated::{self, Kernel};
use crate::tally::Tally;
use crate::versions::KERNELS;

/// Builds the library's tests and runs the fitting ones on each kernel.
pub fn run(bench: &Bench<'_>, log: &Path) -> Result<Tally> {
    emulated::ensure_tools(bench.h)?;
    let program = tests(bench)?;
    let mut all = Tally::default();
    for (series, meta, ways) in KERNELS {
        let kernel = Kernel::of(bench.h, series, meta)?;
        let log = log.with_extension(format!("{series}.log"));
        let ways: Vec<_> = ways.iter().map(|way| format!("privileged_{way}::")).collect();
        let arguments =
            format!("--test-threads 2 --ignored emulated_ volumes::privileged {}", ways.join(" "));
        let printed = emulated::run(bench.h, &kernel, &program, &arguments, &log)?;
        let tally = libtest::tally(&printed);
        ensure!(
            tally.passed + tally.failures.len() > 0,
            "Linux {}: no test ran; see {}",
            kernel.release(),
            log.display()
        );
        all.passed += tally.passed;
        let on = |test| format!("Linux {}: {test}; see {}", kernel.release(), log.display());
        all.failures.extend(tally.failures.into_iter().map(on));
    }
    Ok(all)
}

/// The program with the library's tests.
fn tests(bench: &Bench<'_>) -> Result<PathBuf> {
    let build = driver::cargo(bench.h, bench.repo).args(["test", "--lib", "--locked", "--no-run"]);
    let said = build.args(["--message-format", "json-render-diagnostics"]).output()?;
    let mut programs = said.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    let program = programs.next_back().context("cargo named no test program")?;
    fs::metadata(&program).with_context(|| program.display().to_string())?;
    Ok(program)
}
