//! Starts a process in namespaces of its own: the system calls of a container, one function each.
//!
//! A container has two processes of this program, and the command:
//!
//! ```text
//! caller           outside; waits
//! └─ process 1     in the new namespaces, as root; makes the mounts, reaps orphans
//!    └─ command    as its user
//! ```
//!
//! When process 1 ends, the kernel kills all other processes of its PID namespace, and the mount namespace ends with
//! the last of them (pid_namespaces(7)).
//!
//! Deliberately absent: which mounts, which user and which command. The caller of this module decides that.

mod attach;
mod namespaces;
mod poll;
mod process;
mod program;
mod signals;
mod target;
mod terminal;

pub use attach::{
    attach, clone_path, make_device, open_dir_in, open_in, open_regular_in, set_read_only,
};
pub use namespaces::{bring_loopback_up, enter_root, separate, set_hostname};
pub use poll::{Interest, poll};
pub use process::{
    Child, close_copy, close_descriptors, die_with_parent, fork, fork_as_init, fork_as_init_in,
    reap,
};
pub use program::{
    ExecError, become_user, exec, own_standard_pipes, set_stdin, set_stdout_to_stderr, set_umask,
};
pub use signals::{Received, Signals};
pub use target::{Kind, find_target};
pub use terminal::{OuterPty, Pty, RawInput};
