//! What is run, and where: the values that describe a container.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::bind::Bind;
use crate::sys::{container::open_dir_in, freezer::OwnGroup, mounts::Detached};

/// What is run, and where.
#[derive(Debug)]
pub struct Container {
    /// What `/` is.
    pub root: Root,
    /// Refuses writes to the tree, or to the mounts of [`Root::Host`].
    pub read_only: bool,
    /// More mounts, for example an overlay over one directory. The paths are in the container.
    pub mounts: Vec<Attach>,
    /// Directories and files of the host.
    pub binds: Vec<Bind>,
    /// The program and its arguments. A program without `/` in its name is searched in `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The whole environment. `HOME` is added if it is missing, and `TERM` for a terminal.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, in the container.
    pub workdir: PathBuf,
    /// Who the command is run as.
    pub user: User,
    /// The network.
    pub net: Net,
    /// The host name, at most 64 bytes. `None`: that of the host.
    pub hostname: Option<OsString>,
    /// Standard input and output.
    pub stdio: Stdio,
    /// The cgroup of all processes in the container. `None`: that of this process.
    pub cgroup: Option<OwnGroup>,
    /// When all processes of the container are killed, counted from when its mounts are attached.
    pub timeout: Option<Duration>,
}

/// What the container's `/` is.
#[derive(Debug)]
pub enum Root {
    /// A tree.
    Tree(Detached),
    /// The tree of the host, with each of these mounts attached at its path.
    Host(Vec<Attach>),
}

/// A mount, and where it is attached in the container.
#[derive(Debug)]
pub struct Attach {
    /// The mount of a directory.
    pub mount: Detached,
    /// An absolute path, not `/`. Symlinks in it are followed in the container.
    pub target: PathBuf,
}

/// The user of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user id. The command has all capabilities if it is 0.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// `HOME`, if the environment has none.
    pub home: PathBuf,
}

/// The network of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// That of the host.
    Host,
    /// Only the interface `lo`.
    None,
}

/// Standard input and output of a command, as with `podman run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stdio {
    /// The command reads what this process would read from its standard input. Otherwise it reads `/dev/null`, or from
    /// a terminal without a keyboard.
    pub interactive: bool,
    /// The command has a terminal of its own.
    pub terminal: bool,
    /// What the command writes to its standard output goes to the standard error of this process.
    pub output_on_stderr: bool,
}

impl Root {
    /// Whether it is a tree of its own.
    pub(super) fn is_tree(&self) -> bool {
        matches!(self, Self::Tree(_))
    }
}

/// Opens the directory that `path` leads to in a tree, without following symlinks out of it, as a layer of an overlay.
///
/// # Errors
/// `NotFound`, `NotADirectory`.
pub fn directory_in(tree: &Detached, path: &Path) -> io::Result<Detached> {
    open_dir_in(tree.descriptor(), if path.as_os_str().is_empty() { Path::new(".") } else { path })
}
