//! Runs one command in namespaces of its own, on a tree or on the tree of the host.
//!
//! ```text
//! ovl               waits; passes signals on, and the terminal
//! └─ process 1      makes the mounts; reaps orphans; dies with `ovl`
//!    └─ command     as its user
//! ```
//!
//! Process 1 stays root, so that the kernel kills it with `ovl` whatever the user of the command is. When it ends, the
//! kernel kills every process of the PID namespace, and the mounts end with the last of them.
//!
//! In a tree ([`Root::Tree`]) the command sees:
//!
//! | path | what |
//! |---|---|
//! | `/` | the tree |
//! | `/proc` | of the own PID namespace |
//! | `/sys` | read-only |
//! | `/dev` | a tmpfs with a few devices, own terminals (`/dev/pts`) and `/dev/shm` |
//! | `/run` | an empty tmpfs |
//! | `/etc/resolv.conf`, `/etc/hosts` | those of the host, read-only, if it has the network of the host |
//!
//! In a copy ([`Root::Host`]) it sees the tree of the host with some mounts of its own, and an own `/proc`.
//!
//! Nothing is made in a tree: [`mount_points()`] lists what it must have, and [`skeleton`] makes that as a layer.
//!
//! Deliberately absent: workspaces, and any promise that the command cannot get out. It is root of the machine if it
//! is root.

mod bind;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod init;
mod mount_points;
mod prepare;
mod relay;
mod report;
mod run;
mod spec;
mod supervise;
mod users;

pub use bind::{Bind, BindError};
pub use error::ContainerError;
pub use mount_points::{MountPoint, mount_points, skeleton};
pub use run::{Exit, run};
pub use spec::{Attach, Container, Net, Root, Stdio, User, directory_in};
pub use users::{Account, UserError, account, account_of_owner, shell};
