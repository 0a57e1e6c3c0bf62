//! `cargo xtask test`: every suite, one after the other, and the line that counts everything.
//!
//! Deliberately absent: stopping at the first failure, and skipping. A run says all that is wrong,
//! and a suite that cannot run has failed.

pub mod cargo;
mod chart;
mod cluster;
mod demo;
mod deny;
mod emulated;
pub mod ginkgo;
mod libtest;
mod proto;
mod sanity;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::harness::Harness;
use crate::progress::{minutes, seconds};
use crate::tally::{Row, Tally, report};

/// What every suite has in hand.
pub struct Bench<'a> {
    /// The harness.
    pub h: &'a Harness,
    /// The sources.
    pub repo: &'a Path,
}

/// One suite.
struct Suite {
    name: &'static str,
    what: &'static str,
    usual: Duration,
    /// Runs it with the path of its log. An error means that it did not get to its end.
    run: fn(&Bench<'_>, &Path) -> Result<Tally>,
}

/// All of them, the quick ones first.
const SUITES: &[Suite] = &[
    Suite { name: "format", what: "cargo fmt", usual: seconds(2), run: cargo::format },
    Suite { name: "clippy", what: "clippy", usual: seconds(40), run: cargo::clippy },
    Suite { name: "deny", what: "cargo deny", usual: seconds(5), run: deny::run },
    Suite { name: "chart", what: "chart checks", usual: seconds(25), run: chart::run },
    Suite { name: "unit", what: "unit and property tests", usual: minutes(2), run: cargo::unit },
    Suite { name: "proto", what: "published protocols", usual: seconds(5), run: proto::run },
    Suite {
        name: "privileged",
        what: "tests on real mounts",
        usual: seconds(30),
        run: cargo::privileged,
    },
    Suite { name: "demo", what: "the first command", usual: minutes(1), run: demo::run },
    Suite {
        name: "emulated",
        what: "tests on other kernels",
        usual: minutes(3),
        run: emulated::run,
    },
    Suite { name: "sanity", what: "csi-sanity", usual: minutes(1), run: sanity::run },
    Suite { name: "cluster", what: "cluster cases", usual: minutes(12), run: cluster::run },
];

/// Those that everyday use does without: what takes long on a machine that has everything already.
const SLOW: &[&str] = &["emulated", "cluster"];

/// The names of the suites for everyday use.
pub fn quick() -> Vec<&'static str> {
    SUITES.iter().map(|suite| suite.name).filter(|name| !SLOW.contains(name)).collect()
}

/// Runs the named suites, or all of them if none is named, prints the report and returns whether
/// everything passed.
///
/// # Errors
/// A name that no suite has.
pub fn run(bench: &Bench<'_>, names: &[&str]) -> Result<bool> {
    if let Some(unknown) = names.iter().find(|name| SUITES.iter().all(|s| s.name != **name)) {
        let known: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
        bail!("no suite is called {unknown}; there are: {}", known.join(", "));
    }
    let chosen = SUITES.iter().filter(|suite| names.is_empty() || names.contains(&suite.name));
    let rows: Vec<Row> = chosen.map(|suite| row(bench, suite)).collect();
    println!("\n{}", report(&rows).trim_end());
    Ok(rows.iter().all(|row| row.tally.failures.is_empty()))
}

fn row(bench: &Bench<'_>, suite: &Suite) -> Row {
    let start = Instant::now();
    let ran =
        bench.h.progress.step(suite.what, suite.usual, |log| match (suite.run)(bench, log)? {
            // Nothing found is nothing checked: a filter that fits no test, a format that changed.
            Tally { passed: 0, failures } if failures.is_empty() => bail!("it ran no check at all"),
            tally => Ok(tally),
        });
    let tally = ran.unwrap_or_else(|error| {
        // Told where it happened as well as in the report: a run goes on for minutes from here.
        bench.h.progress.say(&format!("  {error:#}"));
        Tally { passed: 0, failures: vec![format!("{error:#}")] }
    });
    bench.h.progress.say(&format!("  {}: {}", suite.what, tally.words()));
    Row { suite: suite.name, tally, took: start.elapsed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_ones_are_all_but_the_slow_ones() {
        assert!(SLOW.iter().all(|slow| SUITES.iter().any(|suite| suite.name == *slow)));
        assert_eq!(quick().len(), SUITES.len() - SLOW.len());
        assert!(quick().contains(&"demo"));
    }
}
