//! `cargo xtask test`: every suite, one after the other, and the line that counts everything.
//!
//! Deliberately absent: a stop at the first failure, and skipped suites. A run reports everything
//! that is wrong. A suite that cannot run has failed.
//!
//! May use: machine, toolchain, oci, pages, driver, book, report, cluster, env, cases, emulated, demo

mod arm64;
mod book;
mod cargo;
mod chart;
mod cluster;
mod context;
mod demo;
mod deny;
mod emulated;
mod plugin;
mod proto;
mod sanity;
mod shell;
pub mod soak;

pub use context::SuiteContext;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::machine::progress::{minutes, seconds};
use crate::report::{Report, SuiteResult, summary};

/// One suite.
struct Suite {
    name: &'static str,
    what: &'static str,
    usual: Duration,
    /// Runs it with the path of its log. An error means that the suite did not finish.
    run: fn(&SuiteContext<'_>, &Path) -> Result<Report>,
}

/// All suites, the quick ones first.
const SUITES: &[Suite] = &[
    Suite { name: "format", what: "cargo fmt", usual: seconds(2), run: cargo::format },
    Suite { name: "clippy", what: "clippy", usual: seconds(40), run: cargo::clippy },
    Suite {
        name: "plugin",
        what: "the plugin for other systems",
        usual: seconds(20),
        run: plugin::run,
    },
    Suite { name: "deny", what: "cargo deny", usual: seconds(5), run: deny::run },
    Suite { name: "book", what: "the book of docs/", usual: seconds(5), run: book::run },
    Suite { name: "chart", what: "chart checks", usual: seconds(25), run: chart::run },
    Suite { name: "unit", what: "unit and property tests", usual: minutes(2), run: cargo::unit },
    Suite { name: "proto", what: "published protocols", usual: seconds(5), run: proto::run },
    Suite {
        name: "privileged",
        what: "tests on real mounts",
        usual: seconds(30),
        run: cargo::privileged,
    },
    Suite {
        name: "shell",
        what: "the commands of docs/shell.md",
        usual: seconds(10),
        run: shell::run,
    },
    Suite { name: "demo", what: "the first command", usual: minutes(1), run: demo::run },
    Suite { name: "sanity", what: "csi-sanity", usual: minutes(1), run: sanity::run },
    Suite {
        name: "emulated",
        what: "tests on other kernels",
        usual: minutes(3),
        run: emulated::run,
    },
    Suite { name: "cluster", what: "cluster cases", usual: minutes(12), run: cluster::run },
];

/// Suites that `--quick` leaves out: they take long even when everything is built.
const SLOW: &[&str] = &["emulated", "cluster"];

/// The names of the quick suites.
pub fn quick() -> Vec<&'static str> {
    SUITES.iter().map(|suite| suite.name).filter(|name| !SLOW.contains(name)).collect()
}

/// Runs the named suites, or all of them if none is named. Prints the report and returns whether
/// everything passed.
///
/// # Errors
/// A name that no suite has.
pub fn run(ctx: &SuiteContext<'_>, names: &[&str]) -> Result<bool> {
    if let Some(unknown) = names.iter().find(|name| SUITES.iter().all(|s| s.name != **name)) {
        let known: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
        bail!("no suite is called {unknown}; there are: {}", known.join(", "));
    }
    let chosen = SUITES.iter().filter(|suite| names.is_empty() || names.contains(&suite.name));
    let rows: Vec<SuiteResult> = chosen.map(|suite| row(ctx, suite)).collect();
    println!("\n{}", summary(&rows).trim_end());
    Ok(rows.iter().all(|row| row.report.failures.is_empty()))
}

fn row(ctx: &SuiteContext<'_>, suite: &Suite) -> SuiteResult {
    let start = Instant::now();
    let ran = ctx.h.progress.step(suite.what, suite.usual, |log| match (suite.run)(ctx, log)? {
        // No result means that nothing was checked: a filter that matches no test, or a changed
        // output format.
        Report { passed: 0, failures } if failures.is_empty() => bail!("it ran no check"),
        report => Ok(report),
    });
    let report = ran.unwrap_or_else(|error| {
        // Printed here as well as in the report: the run can go on for minutes.
        ctx.h.progress.say(&format!("  {error:#}"));
        Report { passed: 0, failures: vec![format!("{error:#}")] }
    });
    ctx.h.progress.say(&format!("  {}: {}", suite.what, report.counts()));
    SuiteResult { suite: suite.name, report, took: start.elapsed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_suites_are_all_but_the_slow_ones() {
        assert!(SLOW.iter().all(|slow| SUITES.iter().any(|suite| suite.name == *slow)));
        assert_eq!(quick().len(), SUITES.len() - SLOW.len());
        assert!(quick().contains(&"demo"));
    }
}
