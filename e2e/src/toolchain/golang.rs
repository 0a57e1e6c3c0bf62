//! Builds Go programs from their published modules, stripped, into the cache.
//!
//! Deliberately absent: clones of repositories. Only a module at a version is read, and Go checks
//! it against its checksum database.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::versions;
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;

/// Programs of one module.
#[derive(Clone, Debug)]
pub struct GoBuild {
    /// The name of the product.
    pub name: &'static str,
    /// The module that holds the programs.
    pub module: &'static str,
    /// The module's version, with its `v`.
    pub version: String,
    /// Main packages, as paths below the module; `""` is its root.
    pub packages: &'static [&'static str],
    /// How the dependencies are resolved.
    pub deps: Deps,
    /// `-X` settings for the linker: package path, dot, name, equals sign, value.
    pub set: Vec<String>,
    /// Build tags, separated by commas.
    pub tags: &'static str,
    /// Whether it needs C. It is then linked statically, to run on any node image.
    pub cgo: bool,
    /// How long it usually takes on two cores.
    pub usual: Duration,
}

/// How the dependencies of a build are resolved.
#[derive(Clone, Debug)]
pub enum Deps {
    /// By the module's own go.mod, with `go install module@version`.
    Theirs,
    /// By a go.mod of ours: `go install` refuses modules that replace dependencies.
    Ours,
    /// By a go.mod of ours that also gives this version to every dependency required at v0.0.0.
    /// Those are in the module's own tree and are published beside it.
    OursWithStaging(&'static str),
    /// By a go.mod of ours that repeats the replacements by published versions of the module's own
    /// go.mod, and pins these modules: those in the module's own tree, and those that `go mod tidy`
    /// would take from several releases.
    OursWithTheirs(&'static [(&'static str, &'static str)]),
}

impl GoBuild {
    /// The directory with the programs, if they are built.
    pub fn find(&self, h: &Harness) -> Option<PathBuf> {
        self.with_recipe(|recipe| h.cache.find(recipe))
    }

    /// The directory with the programs. Builds them if they are missing.
    ///
    /// # Errors
    /// There is no suitable Go, or the build failed. The error quotes the end of the log.
    pub fn ensure(&self, h: &Harness) -> Result<PathBuf> {
        if let Some(place) = self.find(h) {
            return Ok(place);
        }
        let what = format!("building {} {}", self.name, self.version);
        h.progress.step(&what, self.usual, |log| {
            let make = |out: &Path| match self.deps {
                Deps::Theirs => self.install(h, out, log),
                Deps::Ours => self.build(h, out, log, &self.go_mod(&[])),
                Deps::OursWithStaging(version) => {
                    let staging = required_at_zero(&their_go_mod(h, self.module, &self.version)?);
                    let with = |module| (module, version.to_owned());
                    let replaced: Vec<_> = staging.into_iter().map(with).collect();
                    self.build(h, out, log, &self.go_mod(&replaced))
                }
                Deps::OursWithTheirs(versions) => {
                    let theirs = their_go_mod(h, self.module, &self.version)?;
                    let own = |(module, version): &(&str, &str)| {
                        (String::from(*module), String::from(*version))
                    };
                    let mut replaced: Vec<_> = versions.iter().map(own).collect();
                    replaced.extend(replaced_by_versions(&theirs));
                    self.build(h, out, log, &self.go_mod(&replaced))
                }
            };
            self.with_recipe(|recipe| h.cache.product(recipe, make))
        })
    }

    /// Everything that determines the bytes of the programs, and nothing else.
    fn with_recipe<T>(&self, with: impl FnOnce(&Recipe<'_>) -> T) -> T {
        let (deps, flags) = (format!("{:?}", self.deps), self.flags().join(" "));
        let packages = self.paths().join(" ");
        let inputs = [packages.as_str(), &deps, &flags, self.cgo_enabled()];
        with(&Recipe { name: self.name, version: &self.version, inputs: &inputs })
    }

    fn install(&self, h: &Harness, out: &Path, log: &Path) -> Result<()> {
        let packages = self.paths().into_iter().map(|path| format!("{path}@{}", self.version));
        let go = go(h)?.env("GOBIN", out).env("CGO_ENABLED", self.cgo_enabled());
        go.arg("install").args(self.flags()).args(packages).log(log).run()
    }

    fn build(&self, h: &Harness, out: &Path, log: &Path, go_mod: &str) -> Result<()> {
        let module = h.cache.scratch(&format!("{}.module", self.name))?;
        fs::write(module.join("go.mod"), go_mod).context("writing a go.mod")?;
        go(h)?.dir(&module).args(["mod", "tidy"]).log(log).run()?;
        let place = match self.packages {
            // Go would name the root of a module after a directory of its path: etcd's is "server".
            [""] => out.join(self.name),
            // The empty part makes Go treat it as a directory even if there is only one program.
            _ => out.join(""),
        };
        let go = go(h)?.dir(&module).env("CGO_ENABLED", self.cgo_enabled());
        let go = go.args(["build", "-v", "-o"]).arg(place);
        go.args(self.flags()).args(self.paths()).log(log).run()
    }

    fn paths(&self) -> Vec<String> {
        let path = |package: &&str| match *package {
            "" => self.module.to_owned(),
            below => format!("{}/{below}", self.module),
        };
        self.packages.iter().map(path).collect()
    }

    fn cgo_enabled(&self) -> &'static str {
        if self.cgo { "1" } else { "0" }
    }

    fn flags(&self) -> Vec<String> {
        let mut linker = String::from("-s -w");
        if self.cgo {
            linker.push_str(" -linkmode=external -extldflags=-static");
        }
        for set in &self.set {
            linker.push_str(" -X ");
            linker.push_str(set);
        }
        vec!["-ldflags".into(), linker, "-tags".into(), self.tags.into()]
    }

    /// A go.mod whose tools are the programs, so `go mod tidy` keeps their dependencies.
    fn go_mod(&self, replaced: &[(String, String)]) -> String {
        let (major, minor) = versions::GO;
        let mut text = format!("module ovl.invalid/{}\n\ngo {major}.{minor}\n\n", self.name);
        text.push_str(&format!("require {} {}\n\n", self.module, self.version));
        for (module, version) in replaced {
            text.push_str(&format!("replace {module} => {module} {version}\n"));
        }
        for path in self.paths() {
            text.push_str(&format!("tool {path}\n"));
        }
        text
    }
}

/// The source directory of a published module.
///
/// # Errors
/// It cannot be downloaded.
pub fn module_dir(h: &Harness, module: &str, version: &str) -> Result<PathBuf> {
    Ok(downloaded(h, module, version)?.0)
}

fn their_go_mod(h: &Harness, module: &str, version: &str) -> Result<String> {
    let (_, go_mod) = downloaded(h, module, version)?;
    let text = fs::read_to_string(&go_mod);
    text.with_context(|| format!("reading {}", go_mod.display()))
}

/// The modules that a go.mod replaces with a version of themselves, with that version.
fn replaced_by_versions(go_mod: &str) -> Vec<(String, String)> {
    let replaced = |line: &str| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["replace", from, "=>", to, version] | [from, "=>", to, version] if from == to => {
            Some(((*from).to_owned(), (*version).to_owned()))
        }
        _ => None,
    };
    go_mod.lines().filter_map(replaced).collect()
}

/// The modules that a go.mod requires at v0.0.0, which is never published.
fn required_at_zero(go_mod: &str) -> Vec<String> {
    let words = go_mod.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let module = |words: Vec<&str>| match words.as_slice() {
        ["require", module, "v0.0.0", ..] | [module, "v0.0.0", ..] => Some((*module).to_owned()),
        _ => None,
    };
    words.filter_map(module).collect()
}

/// The directory of a downloaded module and its go.mod.
fn downloaded(h: &Harness, module: &str, version: &str) -> Result<(PathBuf, PathBuf)> {
    let wanted = format!("{module}@{version}");
    let json = go(h)?.dir(h.cache.root()).args(["mod", "download", "-json", &wanted]).output()?;
    let json: serde_json::Value = serde_json::from_str(&json).context("go mod download -json")?;
    let path = |key: &str| {
        let path = json.get(key).and_then(|v| v.as_str()).map(PathBuf::from);
        path.with_context(|| format!("go mod download {wanted} named no {key}"))
    };
    Ok((path("Dir")?, path("GoMod")?))
}

/// `go` with caches below ours, so it does not use those of the user.
pub(super) fn go(h: &Harness) -> Result<Cmd> {
    Ok(with_caches(h, Cmd::new(program()?)))
}

/// Sets these caches for a command that calls `go`.
pub fn with_caches(h: &Harness, cmd: Cmd) -> Cmd {
    let root = h.cache.root();
    cmd.env("GOPATH", root.join("go"))
        .env("GOMODCACHE", root.join("go/pkg/mod"))
        .env("GOCACHE", root.join("go-build"))
        .env("GOFLAGS", "-buildvcs=false -trimpath -modcacherw")
        .env("GOWORK", "off")
        .env("GOENV", "off")
        .env_remove("GOBIN")
}

/// A Go that is new enough: the one in `PATH`, or the one at the installer's default path.
fn program() -> Result<PathBuf> {
    let (major, minor) = versions::GO;
    let fix = format!("install Go {major}.{minor} or later (https://go.dev/dl) and add it to PATH");
    for place in ["go", "/usr/local/go/bin/go"] {
        let Ok(output) = Cmd::new(place).args(["env", "GOVERSION"]).output() else { continue };
        return match version(&output) {
            Some(found) if found >= versions::GO => Ok(place.into()),
            _ => bail!("{place} is {output}, too old to build Kubernetes: {fix}"),
        };
    }
    bail!("Go is missing, and is needed for builds: {fix}")
}

/// Major and minor of `go1.26.8`.
fn version(output: &str) -> Option<(u32, u32)> {
    let mut parts = output.strip_prefix("go")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_modules_are_those_at_zero() {
        let text = "module k\nrequire (\n\tk8s.io/api v0.0.0\n\tx.org/y v1.2.3\n\
                    \tk8s.io/kubelet v0.0.0 // indirect\n)\nrequire k8s.io/one v0.0.0\n";
        assert_eq!(required_at_zero(text), ["k8s.io/api", "k8s.io/kubelet", "k8s.io/one"]);
    }

    #[test]
    fn replacements_by_versions_are_repeated_and_those_by_dirs_are_not() {
        let text = "module k\nreplace k8s.io/kms => k8s.io/kms v0.1.2\n\
                    replace x.org/client => ./client\nreplace (\n\ta.org/b => a.org/b v1.0.0\n)\n";
        let pair = |module: &str, version: &str| (module.to_owned(), version.to_owned());
        let want = [pair("k8s.io/kms", "v0.1.2"), pair("a.org/b", "v1.0.0")];
        assert_eq!(replaced_by_versions(text), want);
    }

    #[test]
    fn go_versions_compare_as_numbers() {
        assert_eq!(version("go1.26.8"), Some((1, 26)));
        assert!(version("go1.9") < version("go1.26.8"));
        assert_eq!(version("devel"), None);
    }

    #[test]
    fn a_go_mod_of_ours_names_module_staging_and_programs() {
        let build = GoBuild {
            name: "k",
            module: "k8s.io/k",
            version: "v1.2.3".into(),
            packages: &["cmd/a", ""],
            deps: Deps::OursWithStaging("v0.2.3"),
            set: vec!["p.v=1".into()],
            tags: "",
            cgo: false,
            usual: Duration::ZERO,
        };
        let text = build.go_mod(&[("k8s.io/api".into(), "v0.2.3".into())]);
        for line in [
            "require k8s.io/k v1.2.3",
            "replace k8s.io/api => k8s.io/api v0.2.3",
            "tool k8s.io/k/cmd/a",
            "tool k8s.io/k",
        ] {
            assert!(text.lines().any(|have| have == line), "no `{line}` in:\n{text}");
        }
        assert_eq!(build.flags()[1], "-s -w -X p.v=1");
    }
}
