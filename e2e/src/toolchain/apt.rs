//! Installs the few Debian packages that have no substitute.
//!
//! Deliberately absent: removal. The packages stay on the machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;

/// The seconds that apt waits for another apt.
const LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=120";

/// Installs the missing packages.
///
/// # Errors
/// The machine is no Debian, or the installation failed. The error quotes the end of the log.
pub fn ensure(h: &Harness, packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|p| !installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    ensure!(
        Cmd::new("apt-get").arg("--version").succeeds(),
        "{list}: not here, and this system has no apt-get; install them by its own means"
    );
    h.progress.step(&format!("installing {list}"), seconds(20), |log| {
        // The package lists may be missing or too old. They are fetched only then.
        if install(&missing, log).is_ok() {
            return Ok(());
        }
        apt(log).arg("update").run()?;
        install(&missing, log)
    })
}

/// The files of a package of this Debian, in a directory of the cache. Downloads and extracts the package if it is
/// missing.
///
/// # Errors
/// The machine is no Debian, or the package cannot be downloaded.
pub fn extracted(h: &Harness, package: &str) -> Result<PathBuf> {
    let version = match candidate(package) {
        Ok(version) => version,
        Err(_) => {
            Packages::own().update(h)?;
            candidate(package)?
        }
    };
    let recipe = Recipe { name: package, version: &version, inputs: &[] };
    match h.cache.find(&recipe) {
        Some(place) => Ok(place),
        None => h.progress.step(&format!("fetching {package} {version}"), seconds(5), |log| {
            h.cache.product(&recipe, |place| Packages::own().fetch(h, package, place, log))
        }),
    }
}

/// The version of a package of this Debian, as in a file name.
fn candidate(package: &str) -> Result<String> {
    let policy = Cmd::new("apt-cache").args(["policy", package]).output()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    let version = version.with_context(|| format!("this system has no package {package}"))?;
    Ok(version.replace(['+', '~', ':'], "-"))
}

/// The Debian packages of one architecture, to read and to extract.
///
/// Those of another architecture than this machine's have lists of their own in the cache, so neither apt nor dpkg of
/// this machine learns of that architecture. Deliberately absent: their installation.
pub struct Packages {
    options: Vec<String>,
}

impl Packages {
    /// Those of this machine.
    pub fn own() -> Self {
        // apt's sandbox user cannot write to the directories of the harness.
        let options = [LOCK_TIMEOUT, "APT::Sandbox::User=root"];
        Self { options: options.map(String::from).into() }
    }

    /// Those of an architecture, as Debian names it.
    ///
    /// # Errors
    /// This machine has no dpkg, or a directory of the cache cannot be created.
    pub fn of(h: &Harness, architecture: &str) -> Result<Self> {
        let mut packages = Self::own();
        if Cmd::new("dpkg").arg("--print-architecture").output()? == architecture {
            return Ok(packages);
        }
        let place = h.cache.root().join("apt").join(architecture);
        let (lists, files) = (place.join("lists"), place.join("packages"));
        for dir in [lists.join("partial"), files.join("archives/partial")] {
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        packages.options.extend([
            format!("APT::Architecture={architecture}"),
            format!("APT::Architectures={architecture}"),
            format!("Dir::State::lists={}", lists.display()),
            format!("Dir::Cache={}", files.display()),
        ]);
        Ok(packages)
    }

    /// Updates the package lists.
    ///
    /// # Errors
    /// They cannot be fetched.
    pub fn update(&self, h: &Harness) -> Result<()> {
        let update = self.command("apt-get").arg("update");
        h.progress.step("updating the package lists", seconds(10), |log| update.log(log).run())
    }

    /// The first package that a package depends on.
    ///
    /// # Errors
    /// The lists have no such package, or it depends on none.
    pub fn first_dependency(&self, package: &str) -> Result<String> {
        let depends = self.command("apt-cache").args(["depends", package]).output()?;
        let first = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(first.with_context(|| format!("{package} depends on no package"))?.to_owned())
    }

    /// Downloads a package and extracts its files to the directory `place`, without an
    /// installation: none of its services starts. Updates the lists if they name a version that the servers have
    /// replaced.
    ///
    /// # Errors
    /// There is no such package, or it cannot be downloaded.
    pub fn fetch(&self, h: &Harness, package: &str, place: &Path, log: &Path) -> Result<()> {
        self.extract(package, place, log).or_else(|_| {
            self.update(h)?;
            self.extract(package, place, log)
        })
    }

    fn extract(&self, package: &str, place: &Path, log: &Path) -> Result<()> {
        self.command("apt-get").arg("download").arg(package).dir(place).log(log).run()?;
        let is_package = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb");
        let entries = fs::read_dir(place)?.collect::<Result<Vec<_>, _>>()?;
        let file = entries.iter().map(|entry| entry.path()).find(is_package);
        let file = file.with_context(|| format!("{package}: nothing was downloaded"))?;
        Cmd::new("dpkg-deb").arg("--extract").arg(&file).arg(place).log(log).run()?;
        Ok(fs::remove_file(&file)?)
    }

    fn command(&self, program: &str) -> Cmd {
        let cmd = Cmd::new(program).arg("-q");
        self.options.iter().fold(cmd, |cmd, option| cmd.args(["-o", option]))
    }
}

fn installed(package: &str) -> bool {
    let status = Cmd::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    status.is_ok_and(|status| status == "installed")
}

fn install(packages: &[&str], log: &Path) -> Result<()> {
    apt(log).args(["install", "--yes", "--no-install-recommends"]).args(packages).run()
}

fn apt(log: &Path) -> Cmd {
    let apt = Cmd::new("apt-get").args(["-q", "-o", LOCK_TIMEOUT]);
    apt.env("DEBIAN_FRONTEND", "noninteractive").log(log)
}
