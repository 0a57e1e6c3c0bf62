//! Names by which `clean` finds what the harness put into an engine.

/// The label of every container of the harness, except kind's own. `clean` finds containers by it:
/// `docker run --label dev.ovl.e2e …`.
pub const LABEL: &str = "dev.ovl.e2e";

/// The engine's network for the nodes. Containers on it find each other by name.
pub const NETWORK: &str = "ovl-csi";

/// That network's bridge on the host.
pub const BRIDGE: &str = "ovl-csi0";

/// The repository of every image that the harness makes in the engine.
pub const REPOSITORY: &str = "ovl-csi-e2e";

/// Files that live as long as an engine or a cluster. `clean` removes them.
pub const RUN_DIR: &str = "/run/ovl-csi-e2e";
