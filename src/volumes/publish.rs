//! A volume appears.

use std::{path::Path, sync::Arc};

use super::{
    Inner, PublishError, PublishRequest, Target, VolumeId, VolumeSpec, Volumes, blocking,
    lock::VolumeLock, mount_name, record::Record,
};
use crate::{
    digest::Digest,
    overlay::{self, Lower, Options, Plan, Spec, Stack},
    sys::{attributes, mounts::Detached, targets},
};

impl Volumes {
    /// Makes the volume appear at the target. The same request again changes nothing. An error of a volume that was not there
    /// before leaves nothing behind but layers. While layers are pulled the volume can be unpublished, which ends this.
    pub async fn publish(&self, request: PublishRequest) -> Result<(), PublishError> {
        let inner = self.0.clone();
        if !inner.beneath_kubelet(&request.target) {
            let kubelet = inner.kubelet.display().to_string();
            return Err(PublishError::Outside { target: request.target, kubelet });
        }
        let lock = inner.lock(&request.id)?;
        let waiting = inner.pending.wait(&lock);
        let known = inner.clone().read(lock).await?;
        let stack = match &known {
            Some(record) if inner.clone().has_all(&record.stack).await => Vec::new(),
            _ => {
                let VolumeSpec { images, pull_policy, .. } = &request.spec;
                tokio::select! {
                    stack = inner.pulls.stack(images, *pull_policy) => stack?,
                    () = waiting.called_off() => return Err(PublishError::CalledOff(request.id)),
                }
            }
        };
        let lock = inner.lock(&request.id)?;
        if waiting.is_called_off(&lock) {
            return Err(PublishError::CalledOff(request.id));
        }
        // Another call may have made the volume meanwhile, so the record is read again.
        blocking(move || match inner.records.read(&request.id)? {
            Some(record) => inner.publish_again(&lock, record, &request),
            None if known.is_some() => Err(PublishError::CalledOff(request.id)),
            None => inner.publish_first(&lock, &request, stack),
        })
        .await
    }
}

impl Inner {
    fn lock(&self, id: &VolumeId) -> Result<VolumeLock, PublishError> {
        self.locks.try_lock(id).ok_or_else(|| PublishError::Busy(id.clone()))
    }

    async fn read(self: Arc<Self>, lock: VolumeLock) -> Result<Option<Record>, PublishError> {
        Ok(blocking(move || self.records.read(lock.id())).await?)
    }

    async fn has_all(self: Arc<Self>, stack: &[Digest]) -> bool {
        let stack = stack.to_vec();
        blocking(move || stack.iter().all(|layer| self.store.has(layer))).await
    }

    pub(super) fn beneath_kubelet(&self, target: &Target) -> bool {
        target.as_path().starts_with(&self.kubelet) && target.as_path() != self.kubelet
    }

    /// A volume that has no record: everything it gets is taken back if it cannot be mounted.
    fn publish_first(
        &self,
        lock: &VolumeLock,
        request: &PublishRequest,
        stack: Vec<Digest>,
    ) -> Result<(), PublishError> {
        let PublishRequest { id, target, pod, spec } = request;
        // Without a record nothing may be mounted from here; should it be, a lost record must not cost the pod's data.
        self.ensure_unused(id)?;
        let lowers = self.lowers(id, &stack)?;
        self.discard(id)?;
        let make = || {
            self.records.make(lock)?;
            self.dress(id, &lowers)?;
            let record =
                Record::new(id.clone(), spec.clone(), pod.clone(), stack, self.boot_id.clone());
            self.appear(lock, record, lowers, target)
        };
        let done = make();
        if done.is_err()
            && let Err(error) = self.remove(lock)
        {
            tracing::warn!(volume = %id, %error, "what a failed publish made is left for unpublish");
        }
        done
    }

    /// A volume that has a record: the request must agree with it, and what is missing of it is done.
    fn publish_again(
        &self,
        lock: &VolumeLock,
        mut record: Record,
        request: &PublishRequest,
    ) -> Result<(), PublishError> {
        let id = &request.id;
        if let Some(what) = difference(&record, request) {
            return Err(PublishError::Conflict { id: id.clone(), what });
        }
        let ours = self.mounts_of(id).map_err(|e| PublishError::mount(id, e))?;
        // The kubelet binds a subPath from beneath the volume: the same overlay, and not the whole of it.
        let whole: Vec<_> = ours.iter().filter(|mount| mount.root == Path::new("/")).collect();
        let there = self.mounted_at(&request.target).map_err(|e| PublishError::mount(id, e))?;
        // What the pod sees is the topmost.
        if there.last().is_some_and(|top| whole.contains(&top)) {
            return Ok(());
        }
        match whole.first() {
            Some(elsewhere) => self.put_at(lock, record, &request.target, || {
                self.mounts.clone_of(&elsewhere.target).map_err(|e| PublishError::mount(id, e))
            }),
            None => {
                self.ensure_unused(id)?;
                let lowers = self.lowers(id, &record.stack)?;
                self.refresh_upper(lock, &mut record, &lowers)?;
                self.appear(lock, record, lowers, &request.target)
            }
        }
    }

    /// Makes the upper of a volume that is mounted nowhere fit to be mounted again.
    ///
    /// A plain upper is as the disk has it. A volatile one was never synced: after another boot it may be torn in ways nobody
    /// can see (the kernel's own marker is not durable either), so it is emptied. In the same boot everything written is still
    /// in the page cache: once that is on disk without an error the upper is whole, and the kernel's marker
    /// (`work/incompat/volatile` beneath the work folder, kernel doc overlayfs.rst, "Volatile mount") can go.
    fn refresh_upper(
        &self,
        lock: &VolumeLock,
        record: &mut Record,
        lowers: &[Lower],
    ) -> Result<(), PublishError> {
        let id = lock.id();
        if record.spec.volatile {
            let why = if record.boot_id != self.boot_id {
                Some("the node went down since it was mounted")
            } else {
                let told = overlay::forget_volatile(&self.upper(id));
                let synced =
                    told.map_err(|source| PublishError::Upper { id: id.clone(), source })?;
                (!synced).then_some("its data did not reach the disk")
            };
            if let Some(why) = why {
                tracing::warn!(volume = %id, why, "volatile volume emptied");
                self.records.empty(lock)?;
                self.dress(id, lowers)?;
            }
        }
        record.boot_id.clone_from(&self.boot_id);
        Ok(())
    }

    /// Gives the upper's root what overlay shows as the volume's root: owner, mode and attributes of the topmost layer's, or
    /// of an emptyDir where there is no layer.
    fn dress(&self, id: &VolumeId, lowers: &[Lower]) -> Result<(), PublishError> {
        let upper = self.records.upper(id);
        match lowers.last() {
            Some(top) => attributes::copy(&top.dir, &upper),
            None => attributes::set_mode(&upper, 0o777),
        }
        .map_err(|source| PublishError::Upper { id: id.clone(), source })
    }

    /// Mounts the overlay at the target.
    fn appear(
        &self,
        lock: &VolumeLock,
        record: Record,
        lowers: Vec<Lower>,
        target: &Target,
    ) -> Result<(), PublishError> {
        let plan = self.plan(&record, lowers)?;
        self.put_at(lock, record, target, || {
            overlay::mount(&*self.mounts, &plan)
                .map_err(|source| PublishError::Overlay { id: lock.id().clone(), source })
        })
    }

    /// Records the target, makes the mount and attaches it there.
    fn put_at(
        &self,
        lock: &VolumeLock,
        mut record: Record,
        target: &Target,
        make: impl FnOnce() -> Result<Detached, PublishError>,
    ) -> Result<(), PublishError> {
        let known = record.targets.contains(target);
        if !known {
            record.targets.push(target.clone());
        }
        // On disk before the kernel makes anything of it: from here on a crash finds what was meant.
        self.records.write(lock, &record)?;
        let done = make().and_then(|mount| self.attach_at(lock.id(), target, mount));
        if done.is_err() && !known {
            // Nobody will ask to unpublish a target that came to nothing.
            record.targets.retain(|t| t != target);
            self.records.write(lock, &record)?;
        }
        done
    }

    fn attach_at(
        &self,
        id: &VolumeId,
        target: &Target,
        mount: Detached,
    ) -> Result<(), PublishError> {
        // Its parent is the caller's to make (CSI spec, NodePublishVolume).
        let made = targets::make(target.as_path()).map_err(|source| PublishError::MakeTarget {
            id: id.clone(),
            target: target.clone(),
            source,
        })?;
        let attached = self.mounts.attach(mount, target.as_path());
        if attached.is_err() && made {
            // Empty and ours; should it fail, the kubelet removes it with the pod.
            let _ = targets::remove(target.as_path());
        }
        attached.map_err(|e| PublishError::mount(id, e))
    }

    /// The layers of a stack, open, bottom first; none that another one hides whole.
    fn lowers(&self, id: &VolumeId, stack: &[Digest]) -> Result<Vec<Lower>, PublishError> {
        let mut lowers = Vec::with_capacity(stack.len());
        for layer in stack {
            let lower = self
                .store
                .lower(layer)
                .map_err(|source| PublishError::Lower { id: id.clone(), source })?;
            if lower.opaque_root {
                lowers.clear();
            }
            lowers.push(Lower { id: layer.to_string(), dir: lower.tree });
        }
        Ok(lowers)
    }

    /// The mount this volume is, as a value.
    fn plan(&self, record: &Record, lowers: Vec<Lower>) -> Result<Plan, PublishError> {
        let id = &record.id;
        let broken = |source| PublishError::Plan { id: id.clone(), source };
        Plan::new(Spec {
            name: mount_name(id),
            stack: Stack::new(lowers).map_err(broken)?,
            upper: (!record.spec.read_only).then(|| self.upper(id)),
            options: Options { volatile: record.spec.volatile, ..Options::default() },
        })
        .map_err(broken)
    }
}

/// In what a request differs from the volume that is there; `None` where it asks for the same.
fn difference(record: &Record, request: &PublishRequest) -> Option<&'static str> {
    let (a, b) = (&record.spec, &request.spec);
    if a.images != b.images {
        Some("images")
    } else if a.volatile != b.volatile {
        Some("volatile")
    } else if a.read_only != b.read_only {
        Some("readOnly")
    } else if record.pod.uid != request.pod.uid {
        Some("pod")
    } else {
        None
    }
}

impl PublishError {
    fn mount(id: &VolumeId, source: crate::sys::mounts::MountError) -> Self {
        Self::Mount { id: id.clone(), source }
    }
}
