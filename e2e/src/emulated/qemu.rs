//! Boots a kernel and runs one program on it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::arch::Arch;
use super::initramfs::{self, Job};
use super::kernel::Kernel;
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::toolchain::apt::{self, Packages};

/// Tools for the initramfs and for the file systems of the disks.
const PACKAGES: &[&str] = &["busybox-static", "kmod", "cpio", "xz-utils", "e2fsprogs", "xfsprogs"];

/// How long a machine may take from power on to power off.
const LIMIT: Duration = Duration::from_secs(900);

/// Bytes of each disk. The files are sparse.
const DISK: u64 = 2 << 30;

/// Runs a job on a machine with that kernel. Returns its output.
///
/// Its temporary files are on ext4. `OVL_EXT4` and `OVL_XFS` are directories on file systems with
/// project quotas.
///
/// # Errors
/// The machine did not boot, or did not end by itself.
pub fn run(h: &Harness, kernel: &Kernel, job: &Job<'_>, log: &Path) -> Result<String> {
    let place =
        h.cache.scratch(&format!("emulated.{}.{}", kernel.arch().debian(), kernel.series()))?;
    let disk = |name: &str, make: &[&str]| -> Result<_> {
        let path = place.join(name);
        File::create(&path)?.set_len(DISK)?;
        Cmd::new(make[0]).args(&make[1..]).arg(&path).log(log).run()?;
        Ok(path)
    };
    let ext4 = disk("ext4", &["mkfs.ext4", "-q", "-O", "quota,project"])?;
    let xfs = disk("xfs", &["mkfs.xfs", "-q"])?;
    let busybox = busybox(h, kernel.arch(), log)?;
    let initramfs = initramfs::make(kernel, &busybox, job, &place, log)?;
    let drive = |path: &Path| format!("file={},if=virtio,format=raw,cache=unsafe", path.display());
    let (emulator, machine) = kernel.arch().qemu();
    let qemu = Cmd::new(emulator).args(machine);
    let qemu = qemu.args(["-m", "3G", "-smp", "2", "-display", "none"]);
    let qemu = qemu.args(["-no-reboot", "-nic", "none", "-serial", "stdio"]);
    let qemu = qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initramfs);
    let console = kernel.arch().console();
    let append = format!("console={console} panic=-1 quiet loglevel=0");
    let qemu = qemu.args(["-append", &append]);
    let qemu = qemu.args(["-drive", &drive(&ext4), "-drive", &drive(&xfs)]);
    let done = qemu.limit(LIMIT).outcome()?;
    let printed = done.stdout.replace('\r', "");
    fs::write(log, format!("{}\n{printed}", done.stderr))
        .with_context(|| format!("writing {}", log.display()))?;
    fs::remove_dir_all(&place)?;
    ensure!(
        printed.contains(initramfs::END),
        "the machine with Linux {} did not get to its end; see {}",
        kernel.release(),
        log.display()
    );
    Ok(printed)
}

/// A static busybox.
fn busybox(h: &Harness, arch: Arch, log: &Path) -> Result<PathBuf> {
    if arch == Arch::Amd64 {
        return Ok("/bin/busybox".into());
    }
    let recipe = Recipe { name: "busybox", version: arch.debian(), inputs: &[] };
    let place = h.cache.product(&recipe, |place| {
        Packages::of(h, arch.debian())?.fetch(h, "busybox-static", place, log)
    })?;
    Ok(place.join("bin/busybox"))
}

/// Installs the needed packages.
///
/// # Errors
/// As [`apt::ensure`].
pub fn ensure_tools(h: &Harness, arch: Arch) -> Result<()> {
    apt::ensure(h, &[PACKAGES, &[arch.package()]].concat())
}
