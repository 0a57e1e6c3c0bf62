//! The features of the kernel and of the store's file system that overlay mounts use. Each one is probed.
//!
//! Deliberately absent: decisions by the kernel's release number. Distributions backport some features and leave others
//! out, so a release number is only part of the fix.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::feature::Feature;
use super::probe::{ProbeDir, message};
use crate::sys::{
    host,
    mounts::{LegacyMounts, LinuxMounts, MountApi, MountError, Mounts},
    private_mntns,
};

/// The features that this kernel and the store's file system have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFeatures {
    mount_api: MountApi,
    selinux: bool,
    /// False where the probe could not run at all.
    probed: bool,
    /// The missing features, each with the reason.
    missing: BTreeMap<Feature, String>,
}

impl KernelFeatures {
    /// Probes every feature in a new directory below `scratch`. `scratch` lies in the store, because its file system is
    /// the one that matters; it is made where it is missing.
    ///
    /// The mounts of the probe are in a private mount namespace. They end with the thread that makes them, also when
    /// this process is killed. In that case the directory stays, and the next process removes it with the rest of the
    /// staging directory while it serves.
    ///
    /// # Errors
    /// The directory cannot be made or removed. It is no error if this process does not run as root: then all features
    /// are missing.
    pub fn probe(mounts: &dyn Mounts, scratch: &Path) -> io::Result<Self> {
        let probe_dir = ProbeDir::new(scratch)?;
        let found = private_mntns::run(|| Self::find(mounts, &probe_dir));
        probe_dir.remove()?;
        Ok(found.unwrap_or_else(|error| {
            let why = format!("it could not be probed: {error}");
            let missing = Feature::ALL.map(|feature| (feature, why.clone()));
            Self { probed: false, ..Self::lacking(missing) }
        }))
    }

    fn find(mounts: &dyn Mounts, probe_dir: &ProbeDir) -> Self {
        let legacy =
            |api| LegacyMounts::new(api, &probe_dir.dir(&format!("{api:?}"))?).map_err(message);
        let detached = probe_dir.detached_layers(mounts);
        let attached = legacy(MountApi::Attached)
            .and_then(|legacy| probe_dir.writable(&legacy, "attached").map(|()| legacy));
        let (mount_api, outcomes) = match (&detached, &attached) {
            (Ok(()), _) => (MountApi::Detached, probe_dir.outcomes(mounts)),
            (Err(_), Ok(legacy)) => (MountApi::Attached, probe_dir.outcomes(legacy)),
            (Err(_), Err(_)) => match legacy(MountApi::Classic) {
                Ok(legacy) => (MountApi::Classic, probe_dir.outcomes(&legacy)),
                Err(_) => (MountApi::Classic, probe_dir.outcomes(mounts)),
            },
        };
        let api_outcomes =
            [(Feature::SingleLayers, attached.map(|_| ())), (Feature::DetachedLayers, detached)];
        let missing = outcomes.into_iter().chain(api_outcomes);
        let missing = missing.filter_map(|(feature, found)| Some((feature, found.err()?)));
        Self { mount_api, ..Self::lacking(missing) }
    }

    /// A kernel that has all features but these. Each comes with the reason why it is missing.
    pub fn lacking(missing: impl IntoIterator<Item = (Feature, String)>) -> Self {
        let missing = missing.into_iter().collect();
        Self { mount_api: MountApi::Detached, selinux: host::selinux(), probed: true, missing }
    }

    /// Whether this kernel has the feature.
    pub fn has(&self, feature: Feature) -> bool {
        !self.missing.contains_key(&feature)
    }

    /// `Ok` where this kernel has the feature, else the reason why it is missing.
    pub fn get(&self, feature: Feature) -> Result<(), String> {
        self.missing.get(&feature).map_or(Ok(()), |why| Err(why.clone()))
    }

    /// What an administrator can do about a missing feature.
    pub fn fix(&self, feature: Feature) -> &'static str {
        match self.probed {
            true => feature.needs(),
            false => "run it as root, in Kubernetes in a privileged container",
        }
    }

    /// Whether SELinux is enabled on this node.
    pub fn selinux(&self) -> bool {
        self.selinux
    }

    /// The mount API by which layers are given to this kernel.
    pub fn mount_api(&self) -> MountApi {
        self.mount_api
    }

    /// The [`Mounts`] for this kernel. `lowers` is a directory of the store; kernels that need attached layers have
    /// them there. On other kernels it is not even made.
    ///
    /// # Errors
    /// `lowers` cannot be made or mounted.
    pub fn mounts(&self, lowers: &Path) -> Result<Arc<dyn Mounts>, MountError> {
        Ok(match self.mount_api {
            MountApi::Detached => Arc::new(LinuxMounts),
            api => Arc::new(LegacyMounts::new(api, lowers)?),
        })
    }
}
