//! Programs for Windows, run by wine.
//!
//! Deliberately absent: windows on a screen. The programs are for a terminal.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{apt, versions, zig};
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;

/// Where Debian's package has its programs.
const PLACE: &str = "/usr/lib/wine";

/// Without the parts that install browsers and that write to the menu of the user's desktop.
const LEFT_OUT: &str = "mscoree,mshtml,winemenubuilder.exe=";

/// A library of Windows that Debian's wine does not have.
const LIBRARY: &str = include_str!("../../assets/bcryptprimitives.c");

/// The output of a program, without the end of its last line.
///
/// # Errors
/// wine cannot be installed, or the program failed.
pub fn output(h: &Harness, program: &Path, args: &[&str]) -> Result<String> {
    apt::ensure(h, &["wine64"])?;
    let library = library(h)?;
    // Its own home directory: the registry of Windows, and drive C.
    let home = h.cache.scratch("wine")?;
    let command = |name: &str| {
        let command = Cmd::new(Path::new(PLACE).join(name)).env("WINEPREFIX", &home);
        let command = command.env("WINEPATH", &library).env("WINEDLLOVERRIDES", LEFT_OUT);
        command.env("WINEDEBUG", "-all").env_remove("DISPLAY")
    };
    let printed = command("wine64").arg(program).args(args).outcome();
    // The services of Windows run on until then.
    command("wineserver64").arg("--kill").outcome()?;
    let printed = printed?;
    ensure!(printed.status.success(), "{}: {}", printed.status, printed.stderr);
    Ok(printed.stdout.trim_end().to_owned())
}

/// The directory of the library. zig compiles it.
fn library(h: &Harness) -> Result<PathBuf> {
    let zig = zig::ensure(h)?;
    let recipe = Recipe { name: "wine-library", version: versions::ZIG, inputs: &[LIBRARY] };
    h.cache.product(&recipe, |place| {
        let source = place.join("bcryptprimitives.c");
        fs::write(&source, LIBRARY).context("writing the library for wine")?;
        let compile = Cmd::new(zig).args(["cc", "-target", "x86_64-windows-gnu", "-shared", "-o"]);
        let compile = compile.arg(place.join("bcryptprimitives.dll")).arg(source).arg("-ladvapi32");
        compile.env("ZIG_GLOBAL_CACHE_DIR", h.cache.zig()).output().map(drop)
    })
}
