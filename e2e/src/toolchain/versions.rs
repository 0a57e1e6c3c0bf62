//! Every version that the harness pins, in one place.
//!
//! Deliberately absent: "latest". Builds give the same result next year. Debian packages and image
//! tags give their current state.

/// Kubernetes, where it is built, without the `v`.
pub const KUBERNETES: &str = "1.36.3";
/// The staging modules of that Kubernetes release (k8s.io/api and others).
pub const KUBERNETES_STAGING: &str = "v0.36.3";
/// kind, which runs nodes as containers.
pub const KIND: &str = "v0.33.0";
/// The node image that kind published with that release for the same minor version of Kubernetes.
/// The digest is from kind's release notes, because its tags are rebuilt.
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
/// kubeconform, which checks manifests against the schemas of Kubernetes.
pub const KUBECONFORM: &str = "v0.8.0";
/// The build plugin of Docker. The last version that `go install` builds.
pub const BUILDX: &str = "v0.19.3";
/// csi-test, the specification's own test suite (csi-sanity).
pub const CSI_TEST: &str = "v5.6.0";
/// The reference image registry.
pub const REGISTRY: &str = "v3.1.2";
/// go-containerregistry. Its registry tests pushes, and crane changes images without an engine.
pub const CRANE: &str = "v0.22.1";
/// ko makes images of Go programs.
pub const KO: &str = "v0.19.1";
/// The module of stargz-snapshotter that packs layers for lazy reading.
pub const ESTARGZ: &str = "v0.19.1";
/// Modules with archives and images as test data: variable, module, version.
pub const ARCHIVES: &[(&str, &str, &str)] = &[
    ("OVL_TAR_SPLIT", "github.com/vbatts/tar-split", "v0.12.3"),
    ("OVL_GO_CONTAINERREGISTRY", "github.com/google/go-containerregistry", CRANE),
    ("OVL_STEREOSCOPE", "github.com/anchore/stereoscope", "v0.4.1"),
    ("OVL_FANAL", "github.com/aquasecurity/fanal", "v0.0.0-20220621143759-7f9185d5d01d"),
];
/// The snapshot controller of Kubernetes, its kinds, and the sidecar for drivers.
pub const EXTERNAL_SNAPSHOTTER: &str = "v8.6.0";
/// Kubernetes' modules of that release.
pub const EXTERNAL_SNAPSHOTTER_KUBERNETES: &str = "v0.36.1";
/// umoci, another implementation of unpacking.
pub const UMOCI: &str = "v0.6.0";
/// The Debian release of node images. Its systemd 252 boots on cgroup v1, the next release's does
/// not.
pub const DEBIAN: &str = "bookworm";
/// The oldest Go that builds all of the above.
pub const GO: (u32, u32) = (1, 26);
/// The CSI specification. Our protocol is compared with its published one.
pub const CSI_SPEC: &str = "v1.13.0";
/// The kubelet's interfaces. Our registration protocol is compared with the published one.
pub const KUBELET: &str = "v0.37.2";
/// Other kernels to test on: the name of the series, the Debian package that depends on its newest
/// kernel, and the ways of handing over layers (`src/sys/mounts/legacy.rs`) whose own tests run
/// there. Those tests take options of Linux 6.6.
pub const KERNELS: &[(&str, &str, &[&str])] = &[
    ("6.1", "linux-image-cloud-amd64", &[]),
    ("6.12", "linux-image-6.12-cloud-amd64", &["attached", "classic"]),
];
/// The Debian package that depends on the newest kernel for the emulated arm64 machine.
pub const KERNEL_ARM64: (&str, &str) = ("6.1", "linux-image-cloud-arm64");
/// cargo-deny, which checks the dependencies.
pub const CARGO_DENY: &str = "0.20.2";
/// cargo-cyclonedx, which writes lists of dependencies (SBOM).
pub const CARGO_CYCLONEDX: &str = "0.5.9";
/// krew, the plugin manager of kubectl.
pub const KREW: &str = "v0.4.3";
/// mdBook, which makes the book of `docs/`.
pub const MDBOOK: &str = "0.5.4";
/// cargo-zigbuild, which runs cargo with zig as C compiler and linker.
pub const CARGO_ZIGBUILD: &str = "0.24.1";
/// The oldest macOS for the kubectl plugin. No older one runs on arm64.
pub const MACOS: &str = "11.0";
/// zig, as the package `ziglang` of PyPI.
pub const ZIG: &str = "0.17.1";
/// The SHA-256 of its archives for Linux: amd64, arm64.
pub const ZIG_DIGESTS: &[&str] = &[
    "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54",
    "b7c5f02fccd40f89b999ee16a1f5ddced56e6182370f8affe494bcf8a28cf07e",
];
