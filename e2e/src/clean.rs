//! Takes away everything that the harness put on the machine.
//!
//! Deliberately absent: anything found by a guess. What goes is known by our names, our label,
//! our folders or a recorded process.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use serde_json::Value;

use crate::cluster::Purpose;
use crate::engine::{BRIDGE, Engine, LABEL, NETWORK, REPOSITORY, RUN_DIR, daemon};
use crate::harness::Harness;
use crate::process::Cmd;
use crate::progress::seconds;
use crate::tools;

/// The label by which kind knows its nodes; the value is the cluster's name.
const KIND_LABEL: &str = "io.x-k8s.kind.cluster";

/// Removes the clusters, containers, networks, the engine if it is ours, mounts and loop devices.
/// Twice is once.
///
/// # Errors
/// Something of ours could not be removed; the error says what.
pub fn all(h: &Harness) -> Result<()> {
    h.progress.step("removing clusters, containers and networks", seconds(10), |_| {
        if daemon::was_lost() {
            daemon::start(h)?;
        }
        if let Some(engine) = Engine::find() {
            remove_clusters(h, &engine)?;
            remove_labelled(&engine)?;
        }
        if let Some(daemon) = daemon::find() {
            daemon.stop()?;
        }
        detach_loops(h)?;
        let (engine, half_made) = (h.cache.root().join("docker"), h.cache.root().join("tmp"));
        unmount_below(&[&engine, &half_made, Path::new(RUN_DIR)])?;
        remove(Path::new(RUN_DIR))
    })
}

/// Looks whether anything of a cluster, or of an engine of ours, is still there.
///
/// # Errors
/// Something is; the error says what.
pub fn look(h: &Harness, engine: &Engine, purpose: Purpose) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    let tmp = h.cache.root().join("tmp");
    let mut folders = vec![tmp.as_path()];
    if daemon::find().is_none() && engine.ours {
        ensure!(!Path::new("/sys/class/net").join(BRIDGE).exists(), "the bridge {BRIDGE} is there");
        ensure!(!Path::new(RUN_DIR).exists(), "{RUN_DIR} is there");
        folders.push(Path::new(RUN_DIR));
    } else {
        let filter = format!("label={KIND_LABEL}={}", purpose.cluster());
        let nodes = engine.docker(["ps", "--all", "--quiet", "--filter", &filter]).output()?;
        ensure!(nodes.is_empty(), "nodes of {} are there: {nodes}", purpose.cluster());
    }
    let mounts = mounts_below(&table, &folders);
    ensure!(mounts.is_empty(), "mounts are there: {mounts:?}");
    let loops = Cmd::new("losetup").args(["--json", "--list"]).output().unwrap_or_default();
    let loops = loops_below(&loops, h.cache.root());
    ensure!(loops.is_empty(), "loop devices are there: {loops:?}");
    Ok(())
}

/// Removes the cache as well, and our images from an engine that is not ours. For after [`all`].
///
/// # Errors
/// A file or an image cannot be removed.
pub fn cache(h: &Harness) -> Result<()> {
    if let Some(engine) = Engine::find() {
        let ours = format!("{REPOSITORY}/*");
        let images = engine.docker(["images", "--quiet", "--filter", &format!("reference={ours}")]);
        remove_each(&engine, &["rmi", "--force"], &images.output()?)?;
    }
    h.progress.step("removing the cache", seconds(10), |_| {
        for part in ["products", "tmp", "logs", "go", "go-build", "target", "docker"] {
            remove(&h.cache.root().join(part))?;
        }
        // That of the demonstration, which takes everything else away itself.
        fs::remove_file(h.cache.root().join("demo.lock")).unwrap_or_default();
        // Only if nobody keeps anything else there.
        fs::remove_dir(h.cache.root()).unwrap_or_default();
        Ok(())
    })
}

/// Removes both clusters, by kind where it is here (it takes the kubeconfig's entries along) and
/// by the nodes' label in any case.
fn remove_clusters(h: &Harness, engine: &Engine) -> Result<()> {
    let built = tools::kind().have(h).map(|place| place.join("kind"));
    let kind = built.unwrap_or_else(|| PathBuf::from("kind"));
    for purpose in [Purpose::Try, Purpose::Test] {
        let name = purpose.cluster();
        let delete = engine.aim(Cmd::new(&kind)).args(["delete", "cluster", "--name", name]);
        if !delete.succeeds() {
            let filter = format!("label={KIND_LABEL}={name}");
            remove_containers(engine, &filter)?;
        }
    }
    Ok(())
}

fn remove_labelled(engine: &Engine) -> Result<()> {
    remove_containers(engine, &format!("label={LABEL}"))?;
    let networks =
        engine.docker(["network", "ls", "--quiet", "--filter", &format!("name=^{NETWORK}$")]);
    remove_each(engine, &["network", "rm"], &networks.output()?)
}

fn remove_containers(engine: &Engine, filter: &str) -> Result<()> {
    let list = engine.docker(["ps", "--all", "--quiet", "--filter", filter]).output()?;
    remove_each(engine, &["rm", "--force", "--volumes"], &list)
}

/// Runs a docker command on every line of a list.
fn remove_each(engine: &Engine, command: &[&str], list: &str) -> Result<()> {
    match list.lines().collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        ids => engine.docker(command).args(ids).output().map(drop),
    }
}

/// Detaches loop devices whose files lie in the cache, where a container's files are.
fn detach_loops(h: &Harness) -> Result<()> {
    let Ok(list) = Cmd::new("losetup").args(["--json", "--list"]).output() else { return Ok(()) };
    for device in loops_below(&list, h.cache.root()) {
        Cmd::new("losetup").args(["--detach", &device]).output()?;
    }
    Ok(())
}

fn loops_below(losetup: &str, folder: &Path) -> Vec<String> {
    let list: Value = serde_json::from_str(losetup).unwrap_or_default();
    let devices = list.get("loopdevices").and_then(Value::as_array).into_iter().flatten();
    let word =
        |device: &Value, key: &str| device.get(key).and_then(Value::as_str).map(str::to_owned);
    let ours =
        devices.filter(|d| word(d, "back-file").is_some_and(|f| Path::new(&f).starts_with(folder)));
    ours.filter_map(|device| word(device, "name")).collect()
}

/// Unmounts everything mounted below these folders, the innermost first.
pub fn unmount_below(folders: &[&Path]) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    for mount in mounts_below(&table, folders) {
        match umount2(&mount, MntFlags::MNT_DETACH) {
            // Gone since the table was read: an engine that ends unmounts some of its own.
            Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
            failed => failed.with_context(|| format!("unmounting {}", mount.display()))?,
        }
    }
    Ok(())
}

/// Mount points below the folders in a mountinfo table, later ones first. A folder that is itself
/// a mount point is somebody's choice, unless it is bound onto itself: a killed engine's data is.
fn mounts_below(table: &str, folders: &[&Path]) -> Vec<PathBuf> {
    let ours = |line: &str| {
        // proc(5): the fourth field is what of the file system is mounted, the fifth is where,
        // with spaces as `\040`.
        let mut fields = line.split(' ').skip(3).map(|field| field.replace("\\040", " "));
        let (what, place) = (fields.next()?, PathBuf::from(fields.next()?));
        let onto_itself = what != "/" && place.ends_with(what.trim_start_matches('/'));
        let below =
            |folder: &&Path| place.starts_with(folder) && (place != **folder || onto_itself);
        folders.iter().any(below).then_some(place)
    };
    let mut mounts: Vec<PathBuf> = table.lines().filter_map(ours).collect();
    mounts.reverse();
    mounts
}

/// Removes a folder with everything in it; fine if it is not there.
pub fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_our_folders_go_innermost_first() {
        let table = "1 0 8:1 / / rw - ext4 x rw\n2 1 0:3 / /c/a rw - tmpfs t rw\n\
                     3 2 0:4 / /c/a/b\\040c rw - tmpfs t rw\n4 1 0:5 / /cc rw - tmpfs t rw\n";
        let mounts = mounts_below(table, &[Path::new("/c")]);
        assert_eq!(mounts, [PathBuf::from("/c/a/b c"), PathBuf::from("/c/a")]);
    }

    #[test]
    fn a_folder_of_ours_goes_only_if_bound_onto_itself() {
        let mounts = |table| mounts_below(table, &[Path::new("/v/c")]);
        assert!(mounts("1 0 8:1 / /v/c rw - ext4 x rw\n").is_empty());
        assert!(mounts("1 0 8:1 /other /v/c rw - ext4 x rw\n").is_empty());
        assert_eq!(mounts("1 0 8:1 /v/c /v/c rw - ext4 x rw\n"), [PathBuf::from("/v/c")]);
        assert_eq!(mounts("1 0 8:1 /c /v/c rw - ext4 x rw\n"), [PathBuf::from("/v/c")]);
    }

    #[test]
    fn only_loops_on_our_files_go() {
        let list = r#"{"loopdevices":[{"name":"/dev/loop0","back-file":"/c/x.img"},
                       {"name":"/dev/loop1","back-file":"/home/y.img"}]}"#;
        assert_eq!(loops_below(list, Path::new("/c")), ["/dev/loop0"]);
        assert!(loops_below("", Path::new("/c")).is_empty());
    }
}
