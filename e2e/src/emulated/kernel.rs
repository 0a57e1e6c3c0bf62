//! Kernels from Debian packages.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::arch::Arch;
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::minutes;
use crate::toolchain::apt::Packages;

/// A kernel and its modules, extracted.
pub struct Kernel {
    arch: Arch,
    series: &'static str,
    release: String,
    place: PathBuf,
}

impl Kernel {
    /// The newest kernel on which the package `meta` of this Debian depends, such as
    /// `linux-image-cloud-amd64`.
    ///
    /// # Errors
    /// There is no such package here, or it cannot be downloaded and extracted.
    pub fn of(h: &Harness, arch: Arch, series: &'static str, meta: &str) -> Result<Self> {
        let packages = Packages::of(h, arch.debian())?;
        let package = packages.first_dependency(meta).or_else(|_| {
            packages.update(h)?;
            packages.first_dependency(meta)
        })?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        let recipe = Recipe { name: "kernel", version: &release, inputs: &[] };
        let place = match h.cache.find(&recipe) {
            Some(place) => place,
            None => h.progress.step(&format!("fetching Linux {release}"), minutes(1), |log| {
                h.cache.product(&recipe, |place| {
                    packages.fetch(h, &package, place, log)?;
                    prepare(&release, place, log)
                })
            })?,
        };
        Ok(Self { arch, series, release, place })
    }

    /// Its architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The name of the series, for file names.
    pub fn series(&self) -> &str {
        self.series
    }

    /// Its release, as from `uname -r`.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The file to boot.
    pub fn image(&self) -> PathBuf {
        self.place.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The directory of its modules, with their indexes.
    pub fn modules(&self) -> PathBuf {
        self.place.join("lib/modules").join(&self.release)
    }
}

/// Makes modules usable for busybox.
fn prepare(release: &str, place: &Path, log: &Path) -> Result<()> {
    // Its modprobe does not support xz.
    let modules = place.join("lib/modules").join(release);
    let find = Cmd::new("find").arg(&modules).args(["-name", "*.ko.xz", "-exec", "xz", "-d"]);
    find.args(["{}", "+"]).log(log).run()?;
    Cmd::new("depmod").arg("-b").arg(place).arg(release).log(log).run()
}
