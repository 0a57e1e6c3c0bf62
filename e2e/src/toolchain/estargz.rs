//! A small Go program of ours that packs layers with stargz-snapshotter's module. Its own programs are not published as modules.
//!
//! Deliberately absent: anything that the module does not do itself.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::golang::go;
use super::versions;
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::progress::seconds;

const SOURCE: &str = include_str!("../../assets/estargz.go");

/// Builds the program if it is missing, and returns its directory.
///
/// # Errors
/// There is no Go, or the module cannot be downloaded.
pub fn ensure(h: &Harness) -> Result<PathBuf> {
    let (major, minor) = versions::GO;
    let module = format!(
        "module ovl.invalid/estargz\n\ngo {major}.{minor}\n\nrequire github.com/containerd/stargz-snapshotter/estargz {}\n",
        versions::ESTARGZ
    );
    let inputs = [SOURCE, module.as_str()];
    let recipe = Recipe { name: "estargz", version: versions::ESTARGZ, inputs: &inputs };
    if let Some(place) = h.cache.find(&recipe) {
        return Ok(place);
    }
    h.progress.step("compiling estargz", seconds(5), |log| {
        h.cache.product(&recipe, |out| {
            let source = h.cache.scratch("estargz.source")?;
            fs::write(source.join("main.go"), SOURCE).context("writing main.go")?;
            fs::write(source.join("go.mod"), &module).context("writing a go.mod")?;
            go(h)?.dir(&source).args(["mod", "tidy"]).log(log).run()?;
            let build = go(h)?.dir(&source).env("CGO_ENABLED", "0");
            build.args(["build", "-o"]).arg(out.join("estargz")).arg(".").log(log).run()
        })
    })
}
