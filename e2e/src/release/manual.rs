//! The manual pages and completion scripts of `ovl`, which the program writes itself.
//!
//! Deliberately absent: those of the kubectl plugin, which kubectl completes.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::platform::{NODES, Platform};
use super::programs::{DRIVER, Programs};
use crate::machine::harness::Harness;
use crate::oci::files::Files;
use crate::toolchain::qemu_user;

/// The scripts, each with its shell. The names are those that the shells look for.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "completions/ovl.bash"),
    ("zsh", "completions/_ovl"),
    ("fish", "completions/ovl.fish"),
];

/// A page that must be there.
pub const PAGE: &str = "man/man1/ovl-create.1";

/// The files of the program for nodes. They are the same for each architecture, so the first one writes them.
///
/// # Errors
/// The program fails.
pub fn files(h: &Harness, programs: &Programs) -> Result<Files> {
    let platform: Platform = NODES[0];
    let place = h.cache.scratch("manual")?;
    let program = place.join(DRIVER);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::write(&program, programs.get(DRIVER, platform)?)
        .and_then(|()| fs::set_permissions(&program, mode))?;
    let mut files = Files::default();
    for (shell, path) in COMPLETIONS {
        let script = qemu_user::command(h, platform.target, &program)?;
        let script = script.args(["completion", shell]).output()?;
        ensure!(script.contains("rollback"), "the script for {shell} has no commands");
        files = files.with(path, format!("{script}\n"));
    }
    let pages = place.join("man");
    let man = qemu_user::command(h, platform.target, &program)?;
    man.args(["man", "--to"]).arg(&pages).run()?;
    for page in fs::read_dir(&pages).context("listing the manual pages")? {
        let page = page.context("listing the manual pages")?;
        let name = page.file_name().to_string_lossy().into_owned();
        files = files.with(&format!("man/man1/{name}"), fs::read(page.path())?);
    }
    Ok(files)
}
