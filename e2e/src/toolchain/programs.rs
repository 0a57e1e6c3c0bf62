//! The Go programs of a cluster, and those that handle it.
//!
//! Deliberately absent: how they are built (`golang`).

use std::path::PathBuf;

use anyhow::Result;

use super::golang::{self, Deps, GoBuild};
use super::versions;
use crate::machine::harness::Harness;
use crate::machine::progress::{minutes, seconds};

/// All programs of Kubernetes on a node, and kubectl.
pub fn kubernetes() -> GoBuild {
    let version = format!("v{}", versions::KUBERNETES);
    let mut numbers = versions::KUBERNETES.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    // Servers and clients report the version of one of these packages each.
    let set = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];
    let set = set.iter().flat_map(|package| {
        [
            format!("{package}.gitVersion={version}"),
            format!("{package}.gitMajor={major}"),
            format!("{package}.gitMinor={minor}"),
            format!("{package}.gitTreeState=clean"),
        ]
    });
    GoBuild {
        name: "kubernetes",
        module: "k8s.io/kubernetes",
        packages: &[
            "cmd/kubelet",
            "cmd/kubeadm",
            "cmd/kubectl",
            "cmd/kube-apiserver",
            "cmd/kube-controller-manager",
            "cmd/kube-scheduler",
            "cmd/kube-proxy",
        ],
        deps: Deps::OursWithStaging(versions::KUBERNETES_STAGING),
        set: set.collect(),
        usual: minutes(9),
        ..plain("kubernetes", "k8s.io/kubernetes", &version, &[])
    }
}

/// containerd for the nodes.
pub fn containerd() -> GoBuild {
    let module = "github.com/containerd/containerd/v2";
    let programs = &["cmd/containerd", "cmd/ctr", "cmd/containerd-shim-runc-v2"];
    let version = versions::CONTAINERD;
    let set = vec![format!("{module}/version.Version={version}")];
    GoBuild { set, usual: minutes(2), ..plain("containerd", module, version, programs) }
}

/// runc for the nodes.
pub fn runc() -> GoBuild {
    let module = "github.com/opencontainers/runc";
    let set = vec![format!("main.version={}", versions::RUNC.trim_start_matches('v'))];
    GoBuild {
        deps: Deps::Ours,
        set,
        tags: "seccomp,netgo,osusergo",
        cgo: true,
        usual: seconds(20),
        ..plain("runc", module, versions::RUNC, &[""])
    }
}

/// The CNI plugins of the pod network.
pub fn cni_plugins() -> GoBuild {
    let module = "github.com/containernetworking/plugins";
    let plugins = &[
        "plugins/main/ptp",
        "plugins/main/loopback",
        "plugins/ipam/host-local",
        "plugins/meta/portmap",
    ];
    GoBuild { usual: seconds(20), ..plain("cni-plugins", module, versions::CNI_PLUGINS, plugins) }
}

/// crictl for the nodes.
pub fn crictl() -> GoBuild {
    let usual = seconds(60);
    GoBuild {
        usual,
        deps: Deps::Ours,
        ..plain("crictl", "sigs.k8s.io/cri-tools", versions::CRICTL, &["cmd/crictl"])
    }
}

/// etcd's server.
pub fn etcd() -> GoBuild {
    let module = "go.etcd.io/etcd/server/v3";
    GoBuild { deps: Deps::Ours, usual: seconds(30), ..plain("etcd", module, versions::ETCD, &[""]) }
}

/// CoreDNS.
pub fn coredns() -> GoBuild {
    let module = "github.com/coredns/coredns";
    GoBuild { usual: minutes(2), ..plain("coredns", module, versions::COREDNS, &[""]) }
}

/// kind.
pub fn kind() -> GoBuild {
    GoBuild { usual: seconds(40), ..plain("kind", "sigs.k8s.io/kind", versions::KIND, &[""]) }
}

/// helm.
pub fn helm() -> GoBuild {
    let module = "helm.sh/helm/v4";
    let set = vec![format!("{module}/internal/version.version={}", versions::HELM)];
    GoBuild { set, usual: minutes(2), ..plain("helm", module, versions::HELM, &["cmd/helm"]) }
}

/// kubeconform, which checks manifests against schemas.
pub fn kubeconform() -> GoBuild {
    let module = "github.com/yannh/kubeconform";
    plain("kubeconform", module, versions::KUBECONFORM, &["cmd/kubeconform"])
}

/// The build plugin of Docker.
pub fn buildx() -> GoBuild {
    let module = "github.com/docker/buildx";
    GoBuild { usual: minutes(3), ..plain("buildx", module, versions::BUILDX, &["cmd/buildx"]) }
}

/// The CSI specification's own test suite.
pub fn csi_sanity() -> GoBuild {
    let module = "github.com/kubernetes-csi/csi-test/v5";
    let programs = &["cmd/csi-sanity"];
    GoBuild { usual: seconds(30), ..plain("csi-sanity", module, versions::CSI_TEST, programs) }
}

/// The reference registry, one static program.
pub fn registry() -> GoBuild {
    let module = "github.com/distribution/distribution/v3";
    let programs = &["cmd/registry"];
    GoBuild { usual: minutes(1), ..plain("registry", module, versions::REGISTRY, programs) }
}

/// A registry that keeps everything in memory, and a tool that changes images in registries: one static program.
pub fn crane() -> GoBuild {
    let module = "github.com/google/go-containerregistry";
    plain("crane", module, versions::CRANE, &["cmd/crane"])
}

/// ko, which builds images of Go programs.
pub fn ko() -> GoBuild {
    GoBuild { usual: minutes(2), ..plain("ko", "github.com/google/ko", versions::KO, &[""]) }
}

/// krew, which installs plugins of kubectl, and its check of their manifests.
pub fn krew() -> GoBuild {
    let programs = &["cmd/krew", "cmd/validate-krew-manifest"];
    plain("krew", "sigs.k8s.io/krew", versions::KREW, programs)
}

/// The module of Kubernetes' snapshot controller.
const EXTERNAL_SNAPSHOTTER: &str = "github.com/kubernetes-csi/external-snapshotter/v8";

/// The module of its kinds.
const SNAPSHOT_CLIENT: &str = "github.com/kubernetes-csi/external-snapshotter/client/v8";

/// The snapshot controller of Kubernetes, and the sidecar for drivers.
pub fn external_snapshotter() -> GoBuild {
    const KUBERNETES: &str = versions::EXTERNAL_SNAPSHOTTER_KUBERNETES;
    let version = versions::EXTERNAL_SNAPSHOTTER;
    GoBuild {
        deps: Deps::OursWithTheirs(&[
            (SNAPSHOT_CLIENT, versions::EXTERNAL_SNAPSHOTTER),
            ("k8s.io/api", KUBERNETES),
            ("k8s.io/apimachinery", KUBERNETES),
            ("k8s.io/apiserver", KUBERNETES),
            ("k8s.io/client-go", KUBERNETES),
            ("k8s.io/component-base", KUBERNETES),
            ("k8s.io/component-helpers", KUBERNETES),
        ]),
        set: vec![format!("main.version={version}")],
        usual: minutes(3),
        ..plain(
            "external-snapshotter",
            EXTERNAL_SNAPSHOTTER,
            version,
            &["cmd/snapshot-controller", "cmd/csi-snapshotter"],
        )
    }
}

/// The published sources of the snapshot controller: its directory, and that of its kinds.
///
/// # Errors
/// They cannot be downloaded.
pub fn external_snapshotter_sources(h: &Harness) -> Result<(PathBuf, PathBuf)> {
    let version = versions::EXTERNAL_SNAPSHOTTER;
    let controller = golang::module_dir(h, EXTERNAL_SNAPSHOTTER, version)?;
    Ok((controller, golang::module_dir(h, SNAPSHOT_CLIENT, version)?))
}

/// umoci.
pub fn umoci() -> GoBuild {
    let module = "github.com/opencontainers/umoci";
    GoBuild { deps: Deps::Ours, ..plain("umoci", module, versions::UMOCI, &["cmd/umoci"]) }
}

fn plain(
    name: &'static str,
    module: &'static str,
    version: &str,
    packages: &'static [&'static str],
) -> GoBuild {
    GoBuild {
        name,
        module,
        version: version.to_owned(),
        packages,
        deps: Deps::Theirs,
        set: Vec::new(),
        tags: "",
        cgo: false,
        usual: seconds(30),
    }
}
