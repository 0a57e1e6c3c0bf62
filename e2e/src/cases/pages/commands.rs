//! The commands of the README and of `docs/` run, and print what the pages show ([`crate::pages`]).
//!
//! The pages have the names of a cluster of `cargo xtask try`. Names of this cluster replace them: nodes, the registry,
//! and the namespace of the case for `default`. Deliberately absent: commands of the pages in this file.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::machine::process::Cmd;
use crate::pages::blocks::{self, Block, Command, Usage};
use crate::pages::{self, WITHOUT_CLUSTER};

/// See the module.
pub const CASE: Case = Case {
    name: "pages",
    what: "the commands of the pages do what the pages say",
    concurrency: Concurrency::Parallel,
    run,
};

/// What the objects of one page may be. They are deleted after it.
const KINDS: &str = "deployments,statefulsets,cronjobs,jobs,pods,volumesnapshots";

/// The kubectl plugin. Its commands are in the driver's program too.
const PLUGIN: &str = "kubectl-ovl";

/// A directory of the sources that commands name.
const CHARTS: &str = "charts";

/// Another one, whose files have names of a cluster.
const EXAMPLES: &str = "deploy/examples";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let mut with_commands = 0;
    for page in with_cluster(&ns.env.repo)? {
        let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        let blocks = blocks::blocks(&text);
        if !blocks.iter().any(|block| block.usage == Usage::Run) {
            continue;
        }
        with_commands += 1;
        let shell = Shell::new(ns, page.file_stem().unwrap_or_default().as_ref())?;
        for block in &blocks {
            let place = || format!("{}:{}", page.display(), block.line);
            shell.run(block).with_context(place)?;
        }
        // A shell as the first process ignores signals.
        let soon = ["--all", "--wait", "--grace-period=1", "--timeout=180s"];
        ns.kubectl(&[&["delete", KINDS], &soon[..]].concat())?;
    }
    ensure!(with_commands > 1, "only {with_commands} pages have commands that run");
    Ok(())
}

/// The pages that may have commands for a cluster.
fn with_cluster(repo: &Path) -> Result<Vec<PathBuf>> {
    let docs = fs::read_dir(repo.join("docs")).context("reading docs")?;
    let docs = docs.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut pages: Vec<_> =
        docs.into_iter().filter(|p| p.extension().is_some_and(|e| e == "md")).collect();
    pages.retain(|page| !WITHOUT_CLUSTER.iter().any(|other| page.ends_with(other)));
    pages.sort();
    pages.insert(0, repo.join("README.md"));
    Ok(pages)
}

/// Where a reader types the commands of one page.
struct Shell<'a> {
    ns: &'a TestNamespace<'a>,
    dir: PathBuf,
    path: String,
}

impl<'a> Shell<'a> {
    /// A directory with the sources that commands name, kubectl with the plugin, and a kubeconfig with the namespace.
    fn new(ns: &'a TestNamespace<'a>, page: &Path) -> Result<Self> {
        let dir = ns.env.programs()?.scratch.join("pages").join(page);
        let bin = dir.join("bin");
        fs::create_dir_all(&bin).with_context(|| format!("making {}", bin.display()))?;
        let link = |from: &Path, to: PathBuf| {
            symlink(from, &to).with_context(|| format!("linking {}", to.display()))
        };
        link(&ns.env.repo.join(CHARTS), dir.join(CHARTS))?;
        let prerequisites = &ns.cluster().prerequisites;
        link(&absolute(&prerequisites.kubectl)?, bin.join("kubectl"))?;
        let (plugin, program) = (bin.join(PLUGIN), absolute(&ns.env.program)?);
        fs::write(&plugin, format!("#!/bin/sh\nexec {} kubectl \"$@\"\n", program.display()))
            .and_then(|()| fs::set_permissions(&plugin, Permissions::from_mode(0o755)))
            .with_context(|| format!("writing {}", plugin.display()))?;
        let kubeconfig = dir.join("kubeconfig");
        fs::copy(&ns.cluster().kubeconfig, &kubeconfig)
            .with_context(|| format!("writing {}", kubeconfig.display()))?;
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let shell = Self { ns, dir, path };
        let set = format!("kubectl config set-context --current --namespace={}", ns.namespace);
        shell.cmd(&set).output()?;
        shell.copy_examples()?;
        Ok(shell)
    }

    fn copy_examples(&self) -> Result<()> {
        let (from, to) = (self.ns.env.repo.join(EXAMPLES), self.dir.join(EXAMPLES));
        fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
        for entry in fs::read_dir(&from).with_context(|| format!("reading {EXAMPLES}"))? {
            let path = entry.with_context(|| format!("reading {EXAMPLES}"))?.path();
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let copy = to.join(path.file_name().unwrap_or_default());
            fs::write(&copy, self.with_names(&text))
                .with_context(|| format!("writing {}", copy.display()))?;
        }
        Ok(())
    }

    fn cmd(&self, command: &str) -> Cmd {
        let shell = Cmd::new("sh").args(["-c", command]).dir(&self.dir);
        shell.env("PATH", &self.path).env("KUBECONFIG", self.dir.join("kubeconfig"))
    }

    /// Does what the page says about a block.
    fn run(&self, block: &Block) -> Result<()> {
        let text = self.with_names(&block.text);
        match (&block.usage, block.language.as_str()) {
            (Usage::NotRun(_) | Usage::Unmarked, _) => Ok(()),
            (Usage::Run, "console") => {
                blocks::commands(&text).iter().try_for_each(|command| self.expect(command))
            }
            (Usage::Run, "yaml") => {
                self.ns.apply(&text)?;
                if text.contains("kind: Pod\n") {
                    let wait = ["wait", "--for=condition=Ready", "--timeout=120s", "pods", "--all"];
                    self.ns.kubectl(&wait)?;
                }
                Ok(())
            }
            (Usage::File(name), "yaml") => {
                fs::write(self.dir.join(name), text).with_context(|| format!("writing {name}"))
            }
            (_, language) => bail!("a block of `{language}` cannot be run"),
        }
    }

    /// Runs a command. It must succeed, and print what the page shows, if the page shows anything.
    fn expect(&self, command: &Command) -> Result<()> {
        let Command { line, output } = command;
        let wanted: Vec<String> =
            output.iter().map(|line| line.replace("default", self.ns.namespace)).collect();
        pages::expect(self.cmd(line), line, (!output.is_empty()).then_some(&wanted)).map(drop)
    }

    /// Text of a page with the names of this cluster.
    fn with_names(&self, text: &str) -> String {
        let env = self.ns.env;
        let registry = format!("{}/", env.registry.host);
        text.replace("registry.example/", &registry)
            .replace("ovl-registry:5000/", &registry)
            .replace("ovl-worker", &env.worker().name)
            .replace("ovl-control-plane", &env.cluster.nodes[0])
    }
}

/// The path of a program that may be in `PATH`.
fn absolute(program: &Path) -> Result<PathBuf> {
    if program.is_absolute() {
        return Ok(program.to_owned());
    }
    let name = program.display().to_string();
    let found = Cmd::new("sh").args(["-c", &format!("command -v {name}")]).output()?;
    Ok(PathBuf::from(found))
}
