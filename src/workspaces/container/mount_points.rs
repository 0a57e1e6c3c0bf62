//! The directories and files that a tree must have, so that something can be mounted there.
//!
//! They are not made in the tree, because they would be changes of the workspace. They are a layer at the bottom of it.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use super::{
    bind::Bind,
    error::{ContainerError, cannot},
    prepare::NETWORK_FILES,
    spec::Net,
};
use crate::sys::{
    container::Kind,
    mounts::{Attrs, Detached, Mounts, Param, Request},
};

/// The directories of a tree on which the container mounts a file system of its own.
const DIRECTORIES: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// A directory or a file that a tree must have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MountPoint {
    /// An absolute path without `..`.
    pub path: PathBuf,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// The mount points that a tree must have, sorted. Those in `/dev` and `/run` are made in the file systems there.
///
/// # Errors
/// The source of a bind cannot be read.
pub fn mount_points(net: Net, binds: &[Bind]) -> io::Result<Vec<MountPoint>> {
    let dir = |path: &str| MountPoint { path: path.into(), is_dir: true };
    let mut points: Vec<_> = DIRECTORIES.into_iter().map(dir).collect();
    if net == Net::Host {
        points.extend(NETWORK_FILES.map(|file| MountPoint { path: file.into(), is_dir: false }));
    }
    for bind in binds {
        if !DIRECTORIES.iter().any(|dir| bind.target.starts_with(dir)) {
            let is_dir = bind.kind()? == Kind::Directory;
            points.push(MountPoint { path: bind.target.clone(), is_dir });
        }
    }
    points.sort();
    points.dedup();
    Ok(points)
}

/// Makes a detached tmpfs with the mount points: directories of mode 0755 and empty files of mode 0644, of root. It is
/// the lowest layer of the tree.
///
/// # Errors
/// Two mount points contradict each other, or the kernel refuses the tmpfs.
pub fn skeleton(mounts: &dyn Mounts, points: &[MountPoint]) -> Result<Detached, ContainerError> {
    let request = Request {
        fs_type: "tmpfs",
        source: "ovl-mount-points".to_owned(),
        params: vec![Param::Text("mode", "0755".to_owned())],
        attrs: Attrs { nosuid: true, nodev: true, ..Attrs::default() },
    };
    let skeleton = mounts.create(&request)?;
    for point in points {
        make(&skeleton.path(), point)
            .map_err(cannot(format!("make the mount point {}", point.path.display())))?;
    }
    Ok(skeleton)
}

fn make(root: &Path, point: &MountPoint) -> io::Result<()> {
    let mut path = root.to_owned();
    let names: Vec<_> = point
        .path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    for (number, name) in names.iter().enumerate() {
        path.push(name);
        let is_last = number + 1 == names.len();
        let (made, mode) = match is_last && !point.is_dir {
            true => (File::create_new(&path).map(drop), 0o644),
            false => (fs::create_dir(&path), 0o755),
        };
        match made {
            Ok(()) => fs::set_permissions(&path, Permissions::from_mode(mode))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let is_dir = fs::symlink_metadata(&path)?.is_dir();
                if is_dir != (!is_last || point.is_dir) {
                    return Err(e);
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
