//! pause, which holds the namespaces of a pod. It is the only program in C.
//!
//! Deliberately absent: a second C program.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;

const SOURCE: &str = include_str!("../../assets/pause.c");

/// The directory with the program. Compiles it if it is missing.
///
/// # Errors
/// There is no C compiler, or none that links statically.
pub fn ensure(h: &Harness) -> Result<PathBuf> {
    let recipe = Recipe { name: "pause", version: "1", inputs: &[SOURCE] };
    if let Some(place) = h.cache.find(&recipe) {
        return Ok(place);
    }
    let Some(cc) =
        ["cc", "gcc", "clang"].into_iter().find(|cc| Cmd::new(cc).arg("--version").succeeds())
    else {
        bail!("there is no C compiler: install one (on Debian: apt-get install gcc libc6-dev)");
    };
    h.progress.step("compiling pause", seconds(1), |log| {
        h.cache.product(&recipe, |dir| {
            let source = h.cache.scratch("pause.source")?.join("pause.c");
            std::fs::write(&source, SOURCE).context("writing pause.c")?;
            let cc = Cmd::new(cc).args(["-static", "-s", "-Os", "-o"]).arg(dir.join("pause"));
            cc.arg(source).log(log).run()
        })
    })
}
