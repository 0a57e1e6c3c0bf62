//! A node image built from nothing but Debian packages and Go modules, in two halves: the system
//! (`system`: Debian, then kind's own base on it) and the programs (`assemble`).
//!
//! Deliberately absent: a shorter way for machines that can pull one; `provision` decides that.

mod assemble;
mod system;

use std::path::PathBuf;

pub use assemble::assemble;
pub use system::{debian, node_base};

/// Folders with the built programs, by what they hold.
pub struct Programs {
    /// kubelet, kubeadm, kubectl and the control plane.
    pub kubernetes: PathBuf,
    /// containerd, its shim and ctr.
    pub containerd: PathBuf,
    /// runc.
    pub runc: PathBuf,
    /// CNI plugins.
    pub cni_plugins: PathBuf,
    /// crictl.
    pub crictl: PathBuf,
    /// etcd.
    pub etcd: PathBuf,
    /// CoreDNS.
    pub coredns: PathBuf,
    /// pause.
    pub pause: PathBuf,
    /// The snapshot controller and the side-car beside drivers.
    pub snapshotter: PathBuf,
}
