//! The dependencies judged by cargo-deny: bans, licences, sources, and advisories where they can
//! be fetched.
//!
//! Deliberately absent: a copy of the advisories. An old one says little.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Bench;
use crate::cache::Recipe;
use crate::driver;
use crate::process::Cmd;
use crate::progress::minutes;
use crate::tally::Tally;
use crate::versions;

/// How long the advisories may take to come.
const FETCH: Duration = Duration::from_secs(60);

/// Every check by itself, so that each counts.
pub fn run(bench: &Bench<'_>, log: &Path) -> Result<Tally> {
    let deny = program(bench)?;
    let deny = |args: &[&str]| {
        // As `cargo deny` does; by its path, because it is in no folder of PATH.
        let cmd = Cmd::new(&deny).dir(bench.repo).arg("--locked").args(args);
        cmd.env("CARGO_TARGET_DIR", bench.h.cache.cargo_target()).log(log)
    };
    let mut checks = vec!["bans", "licenses", "sources"];
    if deny(&["fetch", "db"]).limit(FETCH).run().is_ok() {
        checks.push("advisories");
    } else {
        bench.h.progress.say("  NOT checked: advisories, their database cannot be fetched here");
    }
    let mut tally = Tally::default();
    for check in checks {
        tally.count(check, deny(&["check", "--hide-inclusion-graph", check]).run());
    }
    Ok(tally)
}

fn program(bench: &Bench<'_>) -> Result<std::path::PathBuf> {
    let (h, version) = (bench.h, versions::CARGO_DENY);
    let recipe = Recipe { name: "cargo-deny", version, inputs: &[] };
    let place = match h.cache.have(&recipe) {
        Some(place) => place,
        None => h.progress.step(&format!("building cargo-deny {version}"), minutes(5), |log| {
            let aside = h.cache.scratch("cargo-deny.target")?;
            let place = h.cache.product(&recipe, |root| {
                let install = driver::cargo(h, bench.repo).args(["install", "cargo-deny"]);
                let install = install.args(["--version", version, "--locked", "--root"]).arg(root);
                install.env("CARGO_TARGET_DIR", &aside).log(log).run()
            });
            // Half a gigabyte that nothing needs again.
            std::fs::remove_dir_all(&aside)?;
            place
        })?,
    };
    Ok(place.join("bin/cargo-deny"))
}
