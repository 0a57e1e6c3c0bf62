//! Mounts and loop devices below the directories of the harness.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use serde_json::Value;

/// Unmounts everything that is mounted below these directories, the innermost first.
pub fn unmount_below(dirs: &[&Path]) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    for mount in mounts_below(&table, dirs) {
        match umount2(&mount, MntFlags::MNT_DETACH) {
            // Gone since the table was read: an engine that ends unmounts some of its own.
            Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
            failed => failed.with_context(|| format!("unmounting {}", mount.display()))?,
        }
    }
    Ok(())
}

/// The mount points below the directories in a mountinfo table, later ones first. A directory that
/// is itself a mount point belongs to the user, unless it is bound onto itself, as a killed engine
/// leaves its data.
pub fn mounts_below(table: &str, dirs: &[&Path]) -> Vec<PathBuf> {
    let ours = |line: &str| {
        // proc(5): the fourth field is the mounted part of the file system, the fifth is the mount
        // point, with spaces as `\040`.
        let mut fields = line.split(' ').skip(3).map(|field| field.replace("\\040", " "));
        let (what, place) = (fields.next()?, PathBuf::from(fields.next()?));
        let onto_itself = what != "/" && place.ends_with(what.trim_start_matches('/'));
        let below = |dir: &&Path| place.starts_with(dir) && (place != **dir || onto_itself);
        dirs.iter().any(below).then_some(place)
    };
    let mut mounts: Vec<PathBuf> = table.lines().filter_map(ours).collect();
    mounts.reverse();
    mounts
}

/// Removes a directory with its content. A missing directory is no error.
pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

pub fn loops_below(losetup: &str, dir: &Path) -> Vec<String> {
    let list: Value = serde_json::from_str(losetup).unwrap_or_default();
    let devices = list.get("loopdevices").and_then(Value::as_array).into_iter().flatten();
    let word =
        |device: &Value, key: &str| device.get(key).and_then(Value::as_str).map(str::to_owned);
    let ours =
        devices.filter(|d| word(d, "back-file").is_some_and(|f| Path::new(&f).starts_with(dir)));
    ours.filter_map(|device| word(device, "name")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_our_dirs_are_removed_innermost_first() {
        let table = "1 0 8:1 / / rw - ext4 x rw\n2 1 0:3 / /c/a rw - tmpfs t rw\n\
                     3 2 0:4 / /c/a/b\\040c rw - tmpfs t rw\n4 1 0:5 / /cc rw - tmpfs t rw\n";
        let mounts = mounts_below(table, &[Path::new("/c")]);
        assert_eq!(mounts, [PathBuf::from("/c/a/b c"), PathBuf::from("/c/a")]);
    }

    #[test]
    fn a_mounted_dir_of_ours_is_removed_only_if_bound_onto_itself() {
        let mounts = |table| mounts_below(table, &[Path::new("/v/c")]);
        assert!(mounts("1 0 8:1 / /v/c rw - ext4 x rw\n").is_empty());
        assert!(mounts("1 0 8:1 /other /v/c rw - ext4 x rw\n").is_empty());
        assert_eq!(mounts("1 0 8:1 /v/c /v/c rw - ext4 x rw\n"), [PathBuf::from("/v/c")]);
        assert_eq!(mounts("1 0 8:1 /c /v/c rw - ext4 x rw\n"), [PathBuf::from("/v/c")]);
    }

    #[test]
    fn only_loops_on_our_files_are_found() {
        let list = r#"{"loopdevices":[{"name":"/dev/loop0","back-file":"/c/x.img"},
                       {"name":"/dev/loop1","back-file":"/home/y.img"}]}"#;
        assert_eq!(loops_below(list, Path::new("/c")), ["/dev/loop0"]);
        assert!(loops_below("", Path::new("/c")).is_empty());
    }
}
