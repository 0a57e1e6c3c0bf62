//! The one program that is C: what holds a pod's namespaces.
//!
//! Deliberately absent: a second C program.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::cache::Recipe;
use crate::harness::Harness;
use crate::process::Cmd;
use crate::progress::seconds;

const SOURCE: &str = include_str!("../../assets/pause.c");

/// The folder with the program, compiled first unless it is there.
///
/// # Errors
/// There is no C compiler, or none that links statically.
pub fn ensure(h: &Harness) -> Result<PathBuf> {
    let recipe = Recipe { name: "pause", version: "1", inputs: &[SOURCE] };
    if let Some(place) = h.cache.have(&recipe) {
        return Ok(place);
    }
    let Some(cc) =
        ["cc", "gcc", "clang"].into_iter().find(|cc| Cmd::new(cc).arg("--version").succeeds())
    else {
        bail!("no C compiler here: install one (on Debian: apt-get install gcc libc6-dev)");
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
