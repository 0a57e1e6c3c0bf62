//! The commands of `docs/shell.md` and `docs/layers.md` run on this machine, without a cluster, and print what the page
//! shows. Each page has directories of its own.
//!
//! ```text
//! <scratch>/home/       where they run: `/home/me` in the page
//! <scratch>/store/      the store: `/var/lib/ovl` in the page
//! <scratch>/bin/ovl     the program
//! ```
//!
//! What a command prints to its standard error counts too, as a terminal shows both. A command without output in the
//! page prints nothing.
//!
//! Deliberately absent: commands. The page has them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::context::SuiteContext;
use crate::machine::mounts;
use crate::machine::process::Cmd;
use crate::pages::blocks::{self, Block, Usage};
use crate::pages::{self, WITHOUT_CLUSTER};
use crate::report::Report;
use crate::toolchain::apt;

/// Packages that the commands call. A C compiler is there: the harness needs one.
const PACKAGES: &[&str] = &["busybox-static", "git", "make"];

/// Who commits.
const GIT_CONFIG: &str = "[user]\nname = Me\nemail = me@example.com\n";

/// Variables that change what `make` prints.
const OF_MAKE: [&str; 6] = ["CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "MAKEFLAGS", "MAKELEVEL"];

/// Runs the pages, and checks that they leave nothing.
pub fn run(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    apt::ensure(ctx.h, PACKAGES)?;
    let program = ctx.program()?;
    let (mut report, mut said) = (Report::default(), String::new());
    for page in WITHOUT_CLUSTER {
        let path = ctx.repo.join("docs").join(page);
        of_page(&path, &program, &ctx.h.cache.scratch("shell")?, &mut report, &mut said)?;
    }
    fs::write(log, said).with_context(|| format!("writing {}", log.display()))?;
    Ok(report)
}

/// The blocks of a page, one check each, up to the first that fails.
fn of_page(
    page: &Path,
    program: &Path,
    scratch: &Path,
    report: &mut Report,
    said: &mut String,
) -> Result<()> {
    let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let shell = Shell::new(scratch, program)?;
    let blocks = blocks::blocks(&text).into_iter().filter(|block| block.usage == Usage::Run);
    let failed_before = report.failures.len();
    for block in blocks {
        let place = format!("{}:{}", page.display(), block.line);
        report.count(&place, shell.run(&block, said));
        if report.failures.len() > failed_before {
            break;
        }
    }
    // A failed command may leave its workspace mounted. At the end of a page nothing may be.
    if report.failures.len() == failed_before {
        report.count("the commands leave no mount", shell.nothing_mounted());
    }
    report.count("the page leaves nothing", shell.clear());
    Ok(())
}

/// Where a reader types the commands.
struct Shell {
    scratch: PathBuf,
    path: String,
}

impl Shell {
    /// Makes the directories. `ovl` prints paths without symlinks.
    fn new(scratch: &Path, program: &Path) -> Result<Self> {
        let real = |path: &Path| path.canonicalize().with_context(|| path.display().to_string());
        let (scratch, program) = (real(scratch)?, real(program)?);
        let (bin, home) = (scratch.join("bin"), scratch.join("home"));
        for dir in [&bin, &home] {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        symlink(program, bin.join("ovl")).context("linking the program")?;
        fs::write(home.join(".gitconfig"), GIT_CONFIG).context("writing .gitconfig")?;
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        Ok(Self { scratch, path })
    }

    /// Runs the commands of a block, and notes what they print.
    fn run(&self, block: &Block, said: &mut String) -> Result<()> {
        if block.language != "console" {
            bail!("a block of `{}` cannot be run", block.language);
        }
        for command in blocks::commands(&self.with_paths(&block.text)) {
            let printed =
                pages::expect(self.cmd(&command.line), &command.line, Some(&command.output))?;
            said.push_str(&format!("$ {}\n{printed}\n", command.line));
        }
        Ok(())
    }

    fn cmd(&self, command: &str) -> Cmd {
        let both = format!("exec 2>&1\n{command}");
        let home = self.scratch.join("home");
        let shell = Cmd::new("sh").args(["-c", &both]).dir(&home).env("HOME", &home);
        let shell = shell.env("PATH", &self.path).env("OVL_ROOT", self.scratch.join("store"));
        let shell = shell.env("LC_ALL", "C.UTF-8").env("GIT_CONFIG_NOSYSTEM", "1");
        OF_MAKE.iter().fold(shell, Cmd::env_remove)
    }

    /// Text of the page with the paths of this run.
    fn with_paths(&self, text: &str) -> String {
        let path = |part: &str| self.scratch.join(part).display().to_string();
        text.replace("/home/me", &path("home")).replace("/var/lib/ovl", &path("store"))
    }

    /// Checks that no process sees a mount of the run, in any mount namespace.
    fn nothing_mounted(&self) -> Result<()> {
        let mut left = Vec::new();
        for process in fs::read_dir("/proc").context("listing the processes")? {
            let process = process.context("listing the processes")?.path();
            // Other directories have no such file, and a process may have ended.
            let Ok(table) = fs::read_to_string(process.join("mountinfo")) else { continue };
            let lines = of_run(&table, &self.scratch);
            left.extend(lines.map(|line| format!("{}: {line}", process.display())));
        }
        ensure!(left.is_empty(), "mounts are left:\n{}", left.join("\n"));
        Ok(())
    }

    /// Unmounts what a failed command has left, and removes the directories.
    fn clear(&self) -> Result<()> {
        mounts::unmount_below(&[&self.scratch])?;
        self.nothing_mounted()?;
        mounts::remove(&self.scratch)
    }
}

/// The lines of a mount table that name the directory of the run. The root of a tree does so in its options.
fn of_run<'t>(table: &'t str, scratch: &Path) -> impl Iterator<Item = &'t str> {
    let ours = scratch.display().to_string().replace(' ', "\\040");
    table.lines().filter(move |line| line.contains(&ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_the_run_is_found_by_its_place_or_its_options() {
        let scratch = Path::new("/c/tmp/a b");
        let copy = "2 1 0:3 / /c/tmp/a\\040b/home/project rw - overlay box rw";
        let tree = "3 1 0:4 / / rw - overlay tree rw,upperdir=/c/tmp/a\\040b/store/u";
        let table = format!("1 0 8:1 / / rw - ext4 x rw\n{copy}\n{tree}\n");
        assert_eq!(of_run(&table, scratch).collect::<Vec<_>>(), [copy, tree]);
    }
}
