//! What is made before process 1 exists: the mounts of a container, still detached.
//!
//! Deliberately absent: `/proc` and `/sys`, which show the namespaces of the process that makes them.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use super::{
    error::{ContainerError, cannot},
    spec::{Container, Net, Root},
};
use crate::sys::{
    container::{Kind, Pty, clone_path, make_device, set_read_only},
    mounts::{Attrs, Detached, LinuxMounts, Mounts as _, Param, Request},
};

/// The devices of a container: name, major and minor number (Documentation/admin-guide/devices.txt of the kernel).
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// The symlinks in `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The files of the host that programs need for its network.
pub(super) const NETWORK_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// What process 1 needs, besides the [`Container`].
pub(super) struct Prepared {
    /// The mounts to be attached after `/proc` and `/sys`, in this order.
    pub(super) steps: Vec<Step>,
    /// The device numbers of the file systems that belong to this container alone.
    pub(super) own: Vec<u64>,
    /// What a command without an input reads.
    pub(super) null: File,
    /// The terminal of the command.
    pub(super) pty: Option<Pty>,
}

/// A mount to be attached.
pub(super) struct Step {
    mount: Source,
    pub(super) target: PathBuf,
    pub(super) kind: Kind,
    /// Whether the container is run without it if the mount point is missing.
    pub(super) is_optional: bool,
}

enum Source {
    /// Made for this container.
    Own(Detached),
    /// The number of one of the mounts of the container: first those of its root, then the others.
    Given(usize),
}

impl Prepared {
    pub(super) fn new(container: &Container) -> Result<Self, ContainerError> {
        let null = File::open("/dev/null").map_err(cannot("open /dev/null"))?;
        let mut prepared = Self { steps: Vec::new(), own: Vec::new(), null, pty: None };
        let of_root = match &container.root {
            Root::Tree(tree) => {
                if container.read_only {
                    set_read_only(tree, true).map_err(cannot("make the tree read-only"))?;
                }
                prepared.add_system_mounts(container)?;
                0
            }
            Root::Host(mounts) => {
                for (number, attach) in mounts.iter().enumerate() {
                    if container.read_only {
                        let what = format!("make {} read-only", attach.target.display());
                        set_read_only(&attach.mount, true).map_err(cannot(what))?;
                    }
                    prepared.add(Source::Given(number), &attach.target, Kind::Directory);
                }
                if container.stdio.terminal {
                    prepared.add_terminals(true)?;
                }
                mounts.len()
            }
        };
        let first = prepared.steps.len();
        if container.root.is_tree() && container.net == Net::Host {
            prepared.add_network_files()?;
        }
        for (number, attach) in container.mounts.iter().enumerate() {
            prepared.add(Source::Given(of_root + number), &attach.target, Kind::Directory);
        }
        for bind in &container.binds {
            let what = || format!("bind {} of the host", bind.source.display());
            let mount = clone_path(&bind.source).map_err(cannot(what()))?;
            if bind.read_only {
                set_read_only(&mount, true).map_err(cannot(what()))?;
            }
            let kind = bind.kind().map_err(cannot(what()))?;
            prepared.add(Source::Own(mount), &bind.target, kind);
        }
        // A directory before what is mounted in it. At one place, that of the caller hides that of the host.
        prepared.steps[first..].sort_by_key(|step| step.target.components().count());
        match prepared.steps.iter().find(|step| step.target.parent().is_none()) {
            Some(_) => Err(ContainerError::SetUp("nothing can be mounted at /".to_owned())),
            None => Ok(prepared),
        }
    }

    /// The mount of a step.
    pub(super) fn mount<'a>(&'a self, step: &'a Step, container: &'a Container) -> &'a Detached {
        match &step.mount {
            Source::Own(mount) => mount,
            Source::Given(number) => container.given(*number),
        }
    }

    fn add(&mut self, mount: Source, target: impl AsRef<Path>, kind: Kind) {
        let target = target.as_ref().to_owned();
        self.steps.push(Step { mount, target, kind, is_optional: false });
    }

    fn add_system_mounts(&mut self, container: &Container) -> Result<(), ContainerError> {
        let no_exec = Attrs { nosuid: true, noexec: true, ..Attrs::default() };
        let dev = LinuxMounts.create(&tmpfs("dev", "0755", no_exec))?;
        fill_dev(&dev.path()).map_err(cannot("make the devices of the container"))?;
        self.add_own(dev, "/dev")?;
        self.add_terminals(container.stdio.terminal)?;
        let no_dev = Attrs { nosuid: true, nodev: true, ..Attrs::default() };
        let shm = tmpfs("shm", "1777", Attrs { noexec: true, ..no_dev });
        self.add_own(LinuxMounts.create(&shm)?, "/dev/shm")?;
        self.add_own(LinuxMounts.create(&tmpfs("run", "0755", no_dev))?, "/run")?;
        Ok(())
    }

    /// Adds a `/dev/pts` of its own, with a terminal for the command if `wanted`.
    fn add_terminals(&mut self, wanted: bool) -> Result<(), ContainerError> {
        let devpts = LinuxMounts.create(&devpts())?;
        if wanted {
            self.pty = Some(Pty::new(&devpts).map_err(cannot("make a terminal"))?);
        }
        self.add(Source::Own(devpts), "/dev/pts", Kind::Directory);
        Ok(())
    }

    /// Adds a file system in which mount points may be made.
    fn add_own(&mut self, mount: Detached, target: &str) -> Result<(), ContainerError> {
        let metadata = fs::metadata(mount.path()).map_err(cannot(format!("stat {target}")))?;
        self.own.push(metadata.dev());
        self.add(Source::Own(mount), target, Kind::Directory);
        Ok(())
    }

    /// The host may have no such file. A symlink of the tree may lead to a directory that does not exist: then the file
    /// is missing for every program, and the container is run without it.
    fn add_network_files(&mut self) -> Result<(), ContainerError> {
        for file in NETWORK_FILES {
            let mount = match clone_path(file.as_ref()) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                mount => mount.map_err(cannot(format!("bind {file} of the host")))?,
            };
            set_read_only(&mount, true).map_err(cannot(format!("bind {file} of the host")))?;
            let target = file.into();
            let mount = Source::Own(mount);
            self.steps.push(Step { mount, target, kind: Kind::File, is_optional: true });
        }
        Ok(())
    }
}

impl Container {
    /// The mount with this number: first those of the root, then the others.
    fn given(&self, number: usize) -> &Detached {
        let of_root: &[_] = match &self.root {
            Root::Tree(_) => &[],
            Root::Host(mounts) => mounts,
        };
        match of_root.get(number) {
            Some(attach) => &attach.mount,
            None => &self.mounts[number - of_root.len()].mount,
        }
    }
}

fn tmpfs(source: &str, mode: &str, attrs: Attrs) -> Request {
    let params = vec![Param::Text("mode", mode.to_owned())];
    Request { fs_type: "tmpfs", source: source.to_owned(), params, attrs }
}

/// New terminals. The group 5 is `tty` on every distribution; programs may open all terminals that are theirs.
fn devpts() -> Request {
    let params = [("gid", "5"), ("mode", "620"), ("ptmxmode", "666")];
    let params = params.map(|(key, value)| Param::Text(key, value.to_owned())).to_vec();
    let attrs = Attrs { nosuid: true, noexec: true, ..Attrs::default() };
    Request { fs_type: "devpts", source: "devpts".to_owned(), params, attrs }
}

fn fill_dev(dev: &Path) -> io::Result<()> {
    for (name, major, minor) in DEVICES {
        make_device(&dev.join(name), major, minor)?;
    }
    for (name, to) in LINKS {
        symlink(to, dev.join(name))?;
    }
    for name in ["pts", "shm"] {
        fs::create_dir(dev.join(name))?;
        fs::set_permissions(dev.join(name), Permissions::from_mode(0o755))?;
    }
    Ok(())
}
