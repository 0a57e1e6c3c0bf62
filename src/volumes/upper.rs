//! The upper and work directories of a volume: makes them, sets quota and root attributes, and prepares them for
//! another mount.
//!
//! An upper gets its final name only when it has the attributes of the volume's root. An upper without that name is
//! made again.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    path::Path,
};

use super::{
    Limits, Medium, OnUnclean, PodEvent, PodEventType, PublishError, VolumeId, VolumeSpec,
    error::PublishCause, lock::VolumeLock, record::Record, state::Inner,
};
use crate::{
    overlay::{self, Lower},
    sys::{
        attributes, durable,
        mounts::{Attrs, Detached, Mount, MountError, Param, Request},
        quota::Quota,
    },
};

/// The inodes of the tmpfs that the pod does not make: its root, upper and work, and the kernel's files in the work
/// directory.
const OWN_INODES: u64 = 8;

/// The mode bits that `group` adds to the upper's root: write for the group, and set-group-id, so that new files get
/// the group.
const GROUP_MODE: u32 = 0o2070;

impl Inner {
    /// Allocates the project of a new volume, if its limits need one. `None` also if this node cannot enforce a
    /// default limit; [`Inner::record_unenforced_limit`] then reports that.
    pub(super) fn project_for(
        &self,
        id: &VolumeId,
        spec: &VolumeSpec,
    ) -> Result<Option<u32>, PublishError> {
        if !needs_project(spec) || self.projects.lacking().is_some() {
            return Ok(None);
        }
        self.projects.take().map(Some).map_err(upper_error(id))
    }

    /// Why this node cannot enforce the limits of a volume. `None` if it can, or if there are no limits.
    pub(super) fn unenforceable(&self, spec: &VolumeSpec) -> Option<&str> {
        needs_project(spec).then(|| self.projects.lacking()).flatten()
    }

    /// Makes those parts of the volume's upper and work that do not exist. Returns whether the upper is new.
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
        let pair = self.records.upper_and_work(id, spec.medium);
        let new_upper = pair.upper().with_extension("new");
        let is_new = !pair.upper().exists();
        // The kernel empties an existing work directory. After a crash it may be missing, because it is not synced.
        let missing = (is_new || !pair.work().exists()).then(|| pair.work());
        for directory in missing.into_iter().chain(is_new.then_some(&*new_upper)) {
            remove_any(directory)
                .and_then(|()| fs::create_dir(directory))
                .map_err(upper_error(id))?;
            if let Some(project) = record.project {
                let Limits { size: bytes, inodes, .. } = spec.limits;
                let limited = self.projects.limit(directory, project, Quota { bytes, inodes });
                limited.map_err(upper_error(id))?;
            }
        }
        if !is_new {
            return Ok(false);
        }
        // No sync: `records.rs` explains why these names and the record reach the disk in time.
        set_root_attributes(&new_upper, spec, lowers)
            .and_then(|()| fs::rename(&new_upper, pair.upper()))
            .map_err(upper_error(id))?;
        Ok(true)
    }

    /// Prepares the upper of a volume that is not mounted for another mount. Returns whether the upper is new.
    ///
    /// An upper that is not volatile is used as the disk has it. A volatile upper was never synced. After another boot
    /// its files may be torn, which cannot be detected (the kernel's own marker is not durable either), so it is
    /// emptied, or the publish fails (`onUnclean`). In the same boot all writes are still in the page cache. When they
    /// are synced without an error, the upper is complete, and the kernel's marker (`work/incompat/volatile` in the
    /// work directory, kernel doc overlayfs.rst, "Volatile mount") is removed.
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
            // If the tmpfs is gone, so is its upper, and there is nothing to remove.
            let pair = self.records.upper_and_work(id, spec.medium);
            remove_any(pair.upper()).map_err(upper_error(id))?;
        }
        let new = self.make_upper(record, lowers, table)?;
        if let Some(why) = lost {
            tracing::warn!(volume = %id, why, "volume emptied");
            let message = format!("volume {} was emptied, because {why}", record.name());
            self.record_event(record, PodEventType::Warning, "VolumeEmptied", message);
        } else if !record.targets.is_empty() {
            let message = format!("volume {} was mounted again; no data was lost", record.name());
            self.record_event(record, PodEventType::Normal, "VolumeRemounted", message);
        }
        record.boot_id.clone_from(&self.boot_id);
        Ok(new)
    }

    /// Why the data of a volume that is not mounted are lost or may be torn. `None` if they are complete. May sync the
    /// upper.
    fn unclean_reason(
        &self,
        record: &Record,
        table: &[Mount],
    ) -> Result<Option<&'static str>, PublishError> {
        let Record { id, spec, .. } = record;
        let pair = self.records.upper_and_work(id, spec.medium);
        let known = self.crash_reason(record, table);
        if known.is_some() || spec.read_only || !spec.options.volatile || !pair.upper().exists() {
            return Ok(known);
        }
        let synced = overlay::clear_volatile_marker(&pair).map_err(upper_error(id))?;
        Ok((!synced).then_some("its data could not be written to the disk"))
    }

    /// The part of [`Inner::unclean_reason`] that needs no sync.
    pub(super) fn crash_reason(&self, record: &Record, table: &[Mount]) -> Option<&'static str> {
        let Record { id, spec, .. } = record;
        let was_written = || self.records.upper_and_work(id, spec.medium).upper().exists();
        let another_boot = spec.options.volatile && record.boot_id != self.boot_id;
        match spec.medium {
            _ if spec.read_only => None,
            Medium::Memory if !self.has_memory(id, table) => Some(
                "the tmpfs that held it does not exist any more, as after a restart of the node",
            ),
            Medium::Disk if another_boot && was_written() => {
                Some("the node went down after the volume was mounted")
            }
            _ => None,
        }
    }

    /// Whether the volume's tmpfs is mounted.
    pub(super) fn has_memory(&self, id: &VolumeId, table: &[Mount]) -> bool {
        let directory = self.records.memory(id);
        table.iter().any(|mount| is_memory(mount, &directory))
    }

    /// Mounts a tmpfs in the volume's directory.
    fn make_memory(&self, id: &VolumeId, limits: Limits) -> Result<(), PublishError> {
        let directory = self.records.memory(id);
        remove_any(&directory)
            .and_then(|()| fs::create_dir(&directory))
            .map_err(upper_error(id))?;
        let attached = self
            .mounts
            .create(&tmpfs(limits))
            .and_then(|tmpfs| self.mounts.attach(tmpfs, &directory));
        attached.map_err(PublishError::of(id))
    }

    /// Unmounts the volume's tmpfs. `mounts_to_drop` gets a clone of the mount, because the release of its memory takes a while.
    pub(super) fn remove_memory(
        &self,
        id: &VolumeId,
        table: &[Mount],
        mounts_to_drop: &mut Vec<Detached>,
    ) -> Result<(), MountError> {
        if self.has_memory(id, table) {
            let memory = self.records.memory(id);
            mounts_to_drop.extend(self.mounts.clone_of(&memory).ok());
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
        self.events.record(&record.pod, PodEvent { kind, reason, message });
    }

    /// Reports that this node cannot enforce the default limits of a new volume, whose name in its pod is `name`.
    pub(super) fn record_unenforced_limit(&self, record: &Record, name: &str) {
        let Some(why) = self.unenforceable(&record.spec) else { return };
        let id = &record.id;
        tracing::warn!(volume = %id, why, "published without the default limit");
        let message = format!(
            "volume {name} has no limit, because this node cannot enforce the default `size` and `inodes`: {why}"
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
    // To the kernel a size of zero means no limit.
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

/// Sets the attributes of an upper's root, which the overlay shows as the volume's root: owner, mode and xattrs of the
/// topmost layer's root, or those of an emptyDir without a layer; then `owner` and `group` of the spec.
fn set_root_attributes(directory: &Path, spec: &VolumeSpec, lowers: &[Lower]) -> io::Result<()> {
    match lowers.last() {
        Some(top) => attributes::copy(&top.dir, directory)?,
        None => attributes::set_mode(directory, 0o777)?,
    }
    let is = fs::symlink_metadata(directory)?;
    // The root of a snapshot layer already has the owner that the volume showed.
    let mapped = lowers.last().is_none_or(|top| top.mapped);
    let (uid, mut gid) = match spec.owner.filter(|_| mapped) {
        Some(owner) => (owner.user(is.uid()), owner.group(is.gid())),
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

/// Removes what a kill may have left at `path`.
fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(_) => durable::remove_tree(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn upper_error(id: &VolumeId) -> impl FnOnce(io::Error) -> PublishError {
    move |error| PublishError::of(id)(PublishCause::Upper(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_zero_is_not_unlimited() {
        let request = tmpfs(Limits { size: Some(0), inodes: Some(0), by_default: false });
        let texts: Vec<_> = request.params.iter().map(|param| format!("{param:?}")).collect();
        assert!(texts[1].contains("\"1\"") && texts[2].contains("\"8\""), "{texts:?}");
    }
}
