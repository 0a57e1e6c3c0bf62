//! The programs of a node image.

use std::path::PathBuf;

/// Directories with the built programs.
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
    /// The snapshot controller and the sidecar for drivers.
    pub snapshotter: PathBuf,
}
