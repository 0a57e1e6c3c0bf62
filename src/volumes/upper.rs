//! The writable pair of one volume: made, limited, dressed, and made fit to be mounted again.
//!
//! An upper has its name only when it looks like the volume's root; one without its name is made anew.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    path::Path,
};

use super::{
    Inner, Limits, Medium, OnUnclean, PodEvent, PodEventType, PublishError, VolumeId, VolumeSpec,
    lock::VolumeLock, record::Record,
};
use crate::{
    overlay::{self, Lower},
    sys::{
        attributes, durable,
        mounts::{Attrs, Detached, Mount, MountError, Param, Request},
        quota::Quota,
    },
};

/// Files and directories of the tmpfs that are not the pod's: its root, the pair, and what the kernel keeps in the work directory.
const OWN_INODES: u64 = 8;

/// What `group` adds to the mode of the upper's root: the group may write, and what is made there is the group's.
const GROUP_MODE: u32 = 0o2070;

impl Inner {
    /// The project that is going to limit a new volume, if one has to. Where a limit that nobody asked for cannot be had, the pod
    /// is told.
    pub(super) fn project_for(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
    ) -> Result<Option<u32>, PublishError> {
        if !needs_project(spec) || self.projects.lacking().is_some() {
            return Ok(None);
        }
        self.projects.take().map(Some).map_err(upper(id))
    }

    /// Why the limits of a volume cannot be had; `None` where they can, or where there are none.
    pub(super) fn unenforceable(&self, spec: &VolumeSpec) -> Option<&str> {
        needs_project(spec).then(|| self.projects.lacking()).flatten()
    }

    /// Makes the pair of a volume, whatever part of it is there already. Answers whether the upper is new.
    pub(super) fn make_upper(
        &self,
        record: &Record,
        lowers: &[Lower],
        table: &[Mount],
    ) -> Result<bool, PublishError> {
        let Record { id, spec, .. } = record;
        if spec.read_only {
            return Ok(false);
        }
        if spec.medium == Medium::Memory && !self.has_memory(id, table) {
            self.make_memory(id, spec.limits)?;
        }
        let pair = self.records.pair(id, spec.medium);
        let bare = pair.upper().with_extension("new");
        let is_new = !pair.upper().exists();
        // The kernel empties a work directory that is there. After a crash it may not be: nobody syncs it.
        let missing = (is_new || !pair.work().exists()).then(|| pair.work());
        for directory in missing.into_iter().chain(is_new.then_some(&*bare)) {
            remove_any(directory).and_then(|()| fs::create_dir(directory)).map_err(upper(id))?;
            if let Some(project) = record.project {
                let Limits { size: bytes, inodes, .. } = spec.limits;
                let limited = self.projects.limit(directory, project, Quota { bytes, inodes });
                limited.map_err(upper(id))?;
            }
        }
        if !is_new {
            return Ok(false);
        }
        // No sync: `records.rs` says why these names and the record are on the disk in time.
        set_root_attributes(&bare, spec, lowers)
            .and_then(|()| fs::rename(&bare, pair.upper()))
            .map_err(upper(id))?;
        Ok(true)
    }

    /// Makes the pair of a volume that is mounted nowhere fit to be mounted again. Answers whether the upper is new.
    ///
    /// A plain upper is as the disk has it. A volatile one was never synced: after another boot it may be torn in ways nobody
    /// can see (the kernel's own marker is not durable either), so it is emptied. In the same boot everything written is still
    /// in the page cache: once that is on disk without an error the upper is whole, and the kernel's marker
    /// (`work/incompat/volatile` beneath the work directory, kernel doc overlayfs.rst, "Volatile mount") can go.
    pub(super) fn refresh_upper(
        &self,
        lock: &VolumeLock,
        record: &mut Record,
        lowers: &[Lower],
        table: &[Mount],
    ) -> Result<bool, PublishError> {
        let id = lock.id();
        let lost = self.unclean_reason(record, table)?;
        if let Some(why) = lost {
            let Record { spec, .. } = &*record;
            if spec.on_unclean == OnUnclean::Fail && spec.medium == Medium::Disk {
                return Err(PublishError::Unclean { id: id.clone(), why });
            }
            // A tmpfs that is gone took its upper along.
            let pair = self.records.pair(id, spec.medium);
            remove_any(pair.upper()).map_err(upper(id))?;
        }
        let new = self.make_upper(record, lowers, table)?;
        if let Some(why) = lost {
            tracing::warn!(volume = %id, why, "volume emptied");
            let message = format!("volume {id} starts empty again, because {why}");
            self.record_event(record, PodEventType::Warning, "VolumeEmptied", message);
        } else if !record.targets.is_empty() {
            let message = format!("volume {id} was mounted nowhere; it is mounted again as it was");
            self.record_event(record, PodEventType::Normal, "VolumeRemounted", message);
        }
        record.boot_id.clone_from(&self.boot_id);
        Ok(new)
    }

    /// Why what was written to a volume that is mounted nowhere is worth nothing, if that is so.
    fn unclean_reason(
        &self,
        record: &Record,
        table: &[Mount],
    ) -> Result<Option<&'static str>, PublishError> {
        let Record { id, spec, .. } = record;
        let pair = self.records.pair(id, spec.medium);
        let known = self.went_down(record, table);
        if known.is_some() || spec.read_only || !spec.options.volatile || !pair.upper().exists() {
            return Ok(known);
        }
        let synced = overlay::forget_volatile(&pair).map_err(upper(id))?;
        Ok((!synced).then_some("its data did not reach the disk"))
    }

    /// What of [`Inner::lost`] is known without a sync.
    pub(super) fn went_down(&self, record: &Record, table: &[Mount]) -> Option<&'static str> {
        let Record { id, spec, .. } = record;
        let was_written = || self.records.pair(id, spec.medium).upper().exists();
        let another_boot = spec.options.volatile && record.boot_id != self.boot_id;
        match spec.medium {
            _ if spec.read_only => None,
            Medium::Memory if !self.has_memory(id, table) => {
                Some("the memory that held it went with what ran before on this node")
            }
            Medium::Disk if another_boot && was_written() => {
                Some("the node went down since it was mounted")
            }
            _ => None,
        }
    }

    /// Whether the volume's tmpfs is attached.
    pub(super) fn has_memory(&self, id: &VolumeId, table: &[Mount]) -> bool {
        let directory = self.records.memory(id);
        table.iter().any(|mount| is_memory(mount, &directory))
    }

    /// Attaches a tmpfs in the volume's directory.
    fn make_memory(&self, id: &VolumeId, limits: Limits) -> Result<(), PublishError> {
        let directory = self.records.memory(id);
        remove_any(&directory).and_then(|()| fs::create_dir(&directory)).map_err(upper(id))?;
        let attached = self
            .mounts
            .create(&tmpfs(limits))
            .and_then(|tmpfs| self.mounts.attach(tmpfs, &directory));
        attached.map_err(|e| PublishError::mount(id, e))
    }

    /// Takes the volume's tmpfs away with all that it holds. It is held by `kept`, because freeing its memory takes a while.
    pub(super) fn remove_memory(
        &self,
        id: &VolumeId,
        table: &[Mount],
        kept: &mut Vec<Detached>,
    ) -> Result<(), MountError> {
        if self.has_memory(id, table) {
            let memory = self.records.memory(id);
            kept.extend(self.mounts.clone_of(&memory).ok());
            self.mounts.unmount(&memory)?;
        }
        Ok(())
    }

    pub(super) fn record_event(
        &self,
        record: &Record,
        kind: PodEventType,
        reason: &'static str,
        message: String,
    ) {
        self.notices.record(&record.pod, PodEvent { kind, reason, message });
    }

    /// Says that the limits of a new volume hold nobody to anything.
    pub(super) fn record_unenforced_limit(&self, record: &Record) {
        let Some(why) = self.unenforceable(&record.spec) else { return };
        let id = &record.id;
        tracing::warn!(volume = %id, why, "published without the default limit");
        let message = format!(
            "volume {id} has no limit: the default size and inodes cannot be enforced here: {why}"
        );
        self.record_event(record, PodEventType::Warning, "LimitNotEnforced", message);
        self.metrics.unenforced();
    }
}

/// Whether a mount is a volume's tmpfs, attached to `directory`.
pub(super) fn is_memory(mount: &Mount, directory: &Path) -> bool {
    mount.fs_type == "tmpfs" && mount.target == directory
}

fn needs_project(spec: &VolumeSpec) -> bool {
    let Limits { size, inodes, .. } = spec.limits;
    (size.is_some() || inodes.is_some()) && spec.medium == Medium::Disk && !spec.read_only
}

fn tmpfs(limits: Limits) -> Request {
    let mut params = vec![Param::Text("mode", "0700".to_owned())];
    // Zero would be no limit to the kernel.
    params.extend(limits.size.map(|size| Param::Text("size", size.max(1).to_string())));
    params.extend(
        limits
            .inodes
            .map(|inodes| Param::Text("nr_inodes", inodes.saturating_add(OWN_INODES).to_string())),
    );
    Request {
        fs_type: "tmpfs",
        source: "ovl-csi-memory".to_owned(),
        params,
        attrs: Attrs { nosuid: true, nodev: true, ..Attrs::default() },
    }
}

/// Gives an upper's root what overlay shows as the volume's root: owner, mode and attributes of the topmost layer's, or of an
/// emptyDir where there is no layer; then what the pod asks for.
fn set_root_attributes(directory: &Path, spec: &VolumeSpec, lowers: &[Lower]) -> io::Result<()> {
    match lowers.last() {
        Some(top) => attributes::copy(&top.dir, directory)?,
        None => attributes::set_mode(directory, 0o777)?,
    }
    let is = fs::symlink_metadata(directory)?;
    // The root of a layer that an overlay wrote has the owner that it was shown with.
    let mapped = lowers.last().is_none_or(|top| top.mapped);
    let (uid, mut gid) = match spec.owner.filter(|_| mapped) {
        Some(owner) => owner.shows(is.uid(), is.gid()),
        None => (is.uid(), is.gid()),
    };
    gid = spec.group.unwrap_or(gid);
    if (uid, gid) != (is.uid(), is.gid()) {
        lchown(directory, Some(uid), Some(gid))?;
    }
    if spec.group.is_some() {
        attributes::set_mode(directory, is.permissions().mode() & 0o7777 | GROUP_MODE)?;
    }
    Ok(())
}

/// Removes what a kill may have left under a name that is needed.
fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(_) => durable::remove_tree(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn upper(id: &VolumeId) -> impl FnOnce(io::Error) -> PublishError {
    let id = id.clone();
    move |source| PublishError::Upper { id, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::Owner;

    #[test]
    fn root_and_the_owner_change_places() {
        let owner = Owner { uid: 1000, gid: 2000 };
        for (from, to) in [
            ((0, 0), (1000, 2000)),
            ((1000, 2000), (0, 0)),
            ((2000, 1000), (2000, 1000)),
            ((7, 0), (7, 2000)),
        ] {
            assert_eq!(owner.shows(from.0, from.1), to);
            assert_eq!(owner.shows(to.0, to.1), from);
        }
    }

    #[test]
    fn a_limit_of_nothing_is_not_taken_for_none() {
        let request = tmpfs(Limits { size: Some(0), inodes: Some(0), by_default: false });
        let texts: Vec<_> = request.params.iter().map(|param| format!("{param:?}")).collect();
        assert!(texts[1].contains("\"1\"") && texts[2].contains("\"8\""), "{texts:?}");
    }
}
