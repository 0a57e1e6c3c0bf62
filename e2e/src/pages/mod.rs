//! The commands that the pages of the repository show: finds them, runs them, and compares what they print.
//!
//! Deliberately absent: the places where they run. The commands of most pages need a cluster (`cases`), those of two
//! pages need none (`suites`).
//!
//! May use: machine

pub mod blocks;
mod output;

use anyhow::{Result, bail, ensure};

use crate::machine::process::Cmd;

/// The pages of `docs/` whose commands run on this machine, without a cluster.
pub const WITHOUT_CLUSTER: [&str; 2] = ["shell.md", "layers.md"];

/// Runs a command of a page, which must succeed. Its standard output must be these lines, as the header of `output`
/// explains it; `None` compares nothing. Returns all that it printed.
///
/// # Errors
/// The command cannot be started, fails, or prints something else.
pub fn expect(cmd: Cmd, line: &str, wanted: Option<&[String]>) -> Result<String> {
    let done = cmd.outcome()?;
    let said = format!("{}\n{}", done.stdout.trim_end(), done.stderr.trim_end());
    ensure!(done.status.success(), "`{line}` ends with {}:\n{said}", done.status);
    let Some(wanted) = wanted else { return Ok(said) };
    let printed: Vec<&str> = done.stdout.trim_end().lines().collect();
    if !output::matches(wanted, &printed) {
        bail!("`{line}` prints:\n{said}\nand the page shows:\n{}", wanted.join("\n"));
    }
    Ok(said)
}
