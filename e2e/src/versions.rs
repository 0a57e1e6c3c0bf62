//! Every version that the harness pins, in one place.
//!
//! Deliberately absent: "latest". What is built here is the same next year; what Debian's packages and image tags bring in is
//! what they are then.

/// Kubernetes where it is built, without the `v`.
pub const KUBERNETES: &str = "1.36.3";
/// Kubernetes' staging modules (k8s.io/api and its kin) of that release.
pub const KUBERNETES_STAGING: &str = "v0.36.3";
/// kind, which makes nodes out of containers.
pub const KIND: &str = "v0.33.0";
/// The node image that kind published with that release for the same minor Kubernetes; the digest
/// is what kind's release notes name, because its tags are rebuilt.
pub const NODE_IMAGE: &str = "kindest/node:v1.36.4@sha256:\
                              099e049362a1526b2db71494e1947aae99bd16290d7c895f2b7ea312e3cbfaed";
/// containerd on built nodes.
pub const CONTAINERD: &str = "v2.4.2";
/// runc on built nodes.
pub const RUNC: &str = "v1.4.3";
/// The basic CNI plugins.
pub const CNI_PLUGINS: &str = "v1.9.1";
/// crictl, which kubeadm and kind use.
pub const CRICTL: &str = "v1.36.0";
/// etcd.
pub const ETCD: &str = "v3.6.8";
/// CoreDNS.
pub const COREDNS: &str = "v1.14.2";
/// helm.
pub const HELM: &str = "v4.3.1";
/// kubeconform, which holds manifests against Kubernetes' own schemas.
pub const KUBECONFORM: &str = "v0.8.0";
/// Docker's build plugin. The last that `go install` builds.
pub const BUILDX: &str = "v0.19.3";
/// csi-test, the specification's own test suite (csi-sanity).
pub const CSI_TEST: &str = "v5.6.0";
/// The reference image registry.
pub const REGISTRY: &str = "v3.1.2";
/// go-containerregistry, whose registry pushes are tried with, and which changes images without an engine.
pub const CRANE: &str = "v0.22.1";
/// ko, which makes images of Go programs.
pub const KO: &str = "v0.19.1";
/// stargz-snapshotter's module that packs layers to be read lazily.
pub const ESTARGZ: &str = "v0.19.1";
/// Modules whose test data are archives and images, with their versions.
pub const ARCHIVES: &[(&str, &str, &str)] = &[
    ("OVL_TAR_SPLIT", "github.com/vbatts/tar-split", "v0.12.3"),
    ("OVL_GO_CONTAINERREGISTRY", "github.com/google/go-containerregistry", CRANE),
    ("OVL_STEREOSCOPE", "github.com/anchore/stereoscope", "v0.4.1"),
    ("OVL_FANAL", "github.com/aquasecurity/fanal", "v0.0.0-20220621143759-7f9185d5d01d"),
];
/// Kubernetes' snapshot controller, its kinds, and the side-car that drivers have beside them.
pub const EXTERNAL_SNAPSHOTTER: &str = "v8.6.0";
/// Kubernetes' modules of that release.
pub const EXTERNAL_SNAPSHOTTER_KUBERNETES: &str = "v0.36.1";
/// umoci, which unpacks images its own way.
pub const UMOCI: &str = "v0.6.0";
/// The Debian release that node images stand on: its systemd 252 boots on cgroup v1, the next
/// release's does not.
pub const DEBIAN: &str = "bookworm";
/// The least Go that builds all of the above.
pub const GO: (u32, u32) = (1, 26);
/// The CSI specification, whose published protocol ours is compared with.
pub const CSI_SPEC: &str = "v1.13.0";
/// The kubelet's interfaces, whose published registration protocol ours is compared with.
pub const KUBELET: &str = "v0.37.2";
/// Other kernels to try things on: what they are called here, Debian's package that stands for the newest of the series, and
/// the ways of handing over layers (`src/sys/mounts/older.rs`) whose own tests run there: they take options of Linux 6.6.
pub const KERNELS: &[(&str, &str, &[&str])] = &[
    ("6.1", "linux-image-cloud-amd64", &[]),
    ("6.12", "linux-image-6.12-cloud-amd64", &["attached", "classic"]),
];
/// cargo-deny, which judges the dependencies.
pub const CARGO_DENY: &str = "0.20.2";
