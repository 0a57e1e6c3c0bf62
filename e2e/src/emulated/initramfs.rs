//! The initramfs of an emulated machine, which is its only root file system.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::arch::Arch;
use super::kernel::Kernel;
use crate::machine::process::Cmd;

/// The last line that the machine prints.
pub const END: &str = "the machine is done";

/// The program with which tests become another user. busybox's cannot do that.
const SETPRIV: &str = "/usr/bin/setpriv";

/// Modules for the mounts of the tests, and for their disks.
const MODULES: &[&str] =
    &["virtio_pci", "virtio_blk", "loop", "overlay", "erofs", "xfs", "quota_v2", "crc32c_generic"];

/// What a machine runs once.
pub struct Job<'a> {
    /// The program. It is at `/program`. One of another architecture must be static.
    pub program: &'a Path,
    /// More files: on this machine, and their paths there.
    pub files: &'a [(&'a Path, &'a str)],
    /// Commands of the shell that run the program.
    pub commands: &'a str,
}

/// Creates the archive of a system that runs a job once and powers off. `busybox` is a static one for its architecture.
///
/// # Errors
/// A file cannot be copied or packed.
pub fn make(
    kernel: &Kernel,
    busybox: &Path,
    job: &Job<'_>,
    place: &Path,
    log: &Path,
) -> Result<PathBuf> {
    let root = place.join("root");
    for dir in ["bin", "dev", "etc", "mnt/ext4", "mnt/xfs", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    copy(busybox, &root.join("bin/busybox"))?;
    copy(job.program, &root.join("program"))?;
    for (from, to) in job.files {
        copy(from, &root.join(to.trim_start_matches('/')))?;
    }
    // Programs of another architecture are static, and there is no package of its setpriv here.
    if kernel.arch() == Arch::Amd64 {
        let tool = Path::new(SETPRIV);
        copy(tool, &root.join("usr").join("bin").join("setpriv"))?;
        for library in libraries(job.program)?.into_iter().chain(libraries(tool)?) {
            copy(&library, &root.join(library.strip_prefix("/")?))?;
        }
    }
    modules(kernel, &root)?;
    let init = root.join("init");
    fs::write(&init, script(job.commands))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let archive = place.join("initramfs");
    let pack = "find . | cpio --create --format newc --quiet | gzip -1 > \"$0\"";
    Cmd::new("sh").args(["-ec", pack]).arg(&archive).dir(&root).log(log).run()?;
    fs::remove_dir_all(&root)?;
    Ok(archive)
}

fn script(commands: &str) -> String {
    let modules = MODULES.join(" ");
    // A built-in module has no file, and modprobe prints an error for it.
    format!(
        "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin TMPDIR=/mnt/ext4/tmp OVL_EXT4=/mnt/ext4 OVL_XFS=/mnt/xfs
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=1777 tmp /tmp
ip link set lo up
for module in {modules}; do modprobe $module; done
mount -t ext4 -o prjquota /dev/vda /mnt/ext4
mount -t xfs -o prjquota /dev/vdb /mnt/xfs
mkdir -m 1777 $TMPDIR
{commands}
echo \"{END}\"
poweroff -f
"
    )
}

/// The shared libraries of a program, and the loader, from `ldd`.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = Cmd::new("ldd").arg(program).output()?;
    let words = listed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

/// Copies the modules with their dependencies, and the indexes that find them.
fn modules(kernel: &Kernel, root: &Path) -> Result<()> {
    let (from, to) = (kernel.modules(), root.join("lib/modules").join(kernel.release()));
    fs::create_dir_all(&to)?;
    let index = fs::read_to_string(from.join("modules.dep"))?;
    for line in index.lines() {
        let (module, needs) = line.split_once(':').unwrap_or((line, ""));
        let name = Path::new(module).file_stem().and_then(|name| name.to_str());
        if name.is_some_and(|name| MODULES.contains(&name)) {
            for file in needs.split_whitespace().chain([module]) {
                copy(&from.join(file), &to.join(file))?;
            }
        }
    }
    for entry in fs::read_dir(&from)? {
        let path = entry?.path();
        if path.is_file() {
            copy(&path, &to.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    let what = || format!("copying {} to {}", from.display(), to.display());
    fs::copy(from, to).with_context(what)?;
    Ok(())
}
