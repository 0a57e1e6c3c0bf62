//! The publish operation: pulls a volume's layers, makes its upper, and mounts the overlay at the target.

use std::{io, path::Path, sync::Arc};

use super::{
    Medium, PublishError, PublishRequest, Target, VolumeId, VolumeSpec, Volumes,
    conflict::difference,
    error::{OutsideKubelet, PublishCause},
    lock::VolumeLock,
    mount_name::mount_name,
    pull::Requester,
    pull_jobs::{PullHandle, PullOutcome},
    record::Record,
    state::Inner,
    volume_layers::VolumeLayers,
};
use crate::{
    image::Keyring,
    layers::LayerKey,
    overlay::{self, Lower, Plan, Spec, Stack},
    sys::{
        blocking::blocking,
        copy_up::copy_up,
        mount_target,
        mounts::{Detached, Mount},
    },
};

impl Volumes {
    /// Publishes the volume at the target. The same request again changes nothing.
    ///
    /// The pull of slow layers goes on after the request's deadline. Some seconds before the deadline this call then
    /// returns [`PublishCause::Pulling`]. The same request again joins the pull. An unpublish of the volume ends the
    /// pull.
    ///
    /// # Errors
    /// [`PublishError`]. A first publish that fails is rolled back, and only the layers stay. If that fails too, an
    /// unpublish or the recovery removes the rest.
    pub async fn publish(&self, request: PublishRequest) -> Result<(), PublishError> {
        let inner = &self.0;
        inner.check(&request)?;
        let lock = inner.lock(&request.id)?;
        let (lock, request, done) = inner.clone().publish_here(lock, request).await?;
        if done {
            return Ok(());
        }
        let mut waiting = inner.pull(&lock, &request);
        drop(lock);
        let pulled = match waiting.end(request.deadline, inner.timeouts).await {
            PullOutcome::Ended(Ok(pulled)) => pulled,
            PullOutcome::Ended(Err(error)) => {
                inner.pull_jobs.consume(&waiting);
                return Err(PublishError::Pull(error));
            }
            PullOutcome::Cancelled => {
                return Err(PublishError::of(&request.id)(PublishCause::Cancelled));
            }
            PullOutcome::Slow(progress) => {
                return Err(PublishError::of(&request.id)(PublishCause::Pulling { progress }));
            }
        };
        let lock = inner.lock(&request.id)?;
        inner.clone().publish_pulled(lock, request, waiting, pulled).await
    }
}

impl Inner {
    /// Refuses a request that is wrong in itself, without a look at the volume.
    fn check(&self, request: &PublishRequest) -> Result<(), PublishError> {
        let PublishRequest { target, pod, .. } = request;
        self.check_target(target)?;
        // Without podInfoOnMount a pod's author can write the attributes that name the pod. That is found here.
        let pods = target.as_path().strip_prefix(self.settings.kubelet.join("pods"));
        let whose = pods.ok().and_then(|rest| rest.iter().next());
        if whose.is_some_and(|whose| whose != pod.uid.as_str()) {
            return Err(PublishError::OtherPod { target: target.clone(), uid: pod.uid.clone() });
        }
        Ok(())
    }

    /// Refuses images that the pod may not use.
    fn check_images(&self, request: &PublishRequest) -> Result<(), PublishError> {
        let PublishRequest { pod, spec, .. } = request;
        let policy = &self.settings.policy;
        match spec.images.iter().find(|image| !policy.allows(&pod.namespace, image)) {
            Some(image) => {
                let (image, namespace) = (image.clone(), pod.namespace.clone());
                Err(PublishError::NotAllowed { image, namespace })
            }
            None => Ok(()),
        }
    }

    /// Refuses a new volume that may not be made.
    fn check_new(&self, request: &PublishRequest) -> Result<(), PublishError> {
        let PublishRequest { id, spec, .. } = request;
        self.check_images(request)?;
        match self.unenforceable(spec) {
            Some(why) if !spec.limits.by_default => {
                Err(PublishError::of(id)(PublishCause::Unenforceable { why: why.to_owned() }))
            }
            _ => Ok(()),
        }
    }

    /// Publishes the volume if that needs no pull. Returns whether it did, with the lock and the request for the pull.
    pub(super) async fn publish_here(
        self: Arc<Self>,
        lock: VolumeLock,
        request: PublishRequest,
    ) -> Result<(VolumeLock, PublishRequest, bool), PublishError> {
        blocking(move || {
            let done = match self.records.read(&request.id)? {
                Some(record) => {
                    if let Some(what) = difference(&record, &request) {
                        return Err(PublishError::of(&request.id)(PublishCause::Conflict { what }));
                    }
                    let is_complete = record.stack.iter().all(|layer| self.store.layers.has(layer));
                    if is_complete {
                        self.republish(&lock, record, &request)?;
                    } else {
                        self.check_images(&request)?;
                    }
                    is_complete
                }
                None => {
                    self.check_new(&request)?;
                    match self.at_once(&lock, &request) {
                        Some(pulled) => {
                            self.publish_first(&lock, &request, &pulled)?;
                            true
                        }
                        None => false,
                    }
                }
            };
            Ok((lock, request, done))
        })
        .await
    }

    /// The layers of a volume that needs no pull and no wait.
    fn at_once(&self, lock: &VolumeLock, request: &PublishRequest) -> Option<VolumeLayers> {
        if request.spec.snapshot.is_some() || self.pull_jobs.has(lock) {
            return None;
        }
        let (spec, keyring) = (&request.spec, self.keyring(request));
        let requester = Requester { namespace: &request.pod.namespace, keyring: &keyring };
        let pulled = self.puller.local(&spec.images, spec.pull_policy, requester);
        pulled.map(VolumeLayers::from)
    }

    /// The pod's credentials, followed by the node's.
    pub(super) fn keyring(&self, request: &PublishRequest) -> Keyring {
        request.keyring.clone().and(&self.settings.keyring)
    }

    /// Joins the pull of the volume's layers, or starts it.
    fn pull(self: &Arc<Self>, lock: &VolumeLock, request: &PublishRequest) -> PullHandle {
        self.pull_jobs.join(lock, request, |progress| {
            let (inner, request) = (self.clone(), request.clone());
            async move { inner.pull_layers(&request, &progress).await }
        })
    }

    /// Publishes the volume with the pulled layers.
    async fn publish_pulled(
        self: Arc<Self>,
        lock: VolumeLock,
        request: PublishRequest,
        waiting: PullHandle,
        pulled: Arc<VolumeLayers>,
    ) -> Result<(), PublishError> {
        blocking(move || {
            if waiting.is_cancelled(&lock) {
                return Err(PublishError::of(&request.id)(PublishCause::Cancelled));
            }
            // Another call may have made the volume meanwhile, so the record is read again.
            let done = match self.records.read(&request.id)? {
                Some(record) => self.republish(&lock, record, &request),
                None => self.publish_first(&lock, &request, &pulled),
            };
            self.pull_jobs.consume(&waiting);
            done
        })
        .await
    }

    fn lock(&self, id: &VolumeId) -> Result<VolumeLock, PublishError> {
        self.locks.try_lock(id).ok_or(PublishCause::Busy).map_err(PublishError::of(id))
    }

    /// Refuses a target that is not below the kubelet's directory.
    pub(super) fn check_target(&self, target: &Target) -> Result<(), OutsideKubelet> {
        let (path, kubelet) = (target.as_path(), &self.settings.kubelet);
        if path.starts_with(kubelet) && path != kubelet {
            return Ok(());
        }
        Err(OutsideKubelet { target: target.clone(), kubelet: kubelet.display().to_string() })
    }

    /// Publishes a volume without a record. If it cannot be mounted, everything is rolled back. The lease keeps the
    /// pulled layers until the record does.
    fn publish_first(
        &self,
        lock: &VolumeLock,
        request: &PublishRequest,
        pulled: &VolumeLayers,
    ) -> Result<(), PublishError> {
        let PublishRequest { id, target, spec, .. } = request;
        let lowers = self.lowers(id, &pulled.stack)?;
        // Removes what a kill left half made. Without a record nothing should be mounted from this directory. If
        // something is, `remove` fails, because a lost record must not cost the pod's data. Without a directory there
        // is nothing to check, and the mount table, which is long on a full node, is not read.
        if self.records.has_dir(id) {
            self.remove(lock, None, &mut Vec::new())?;
        }
        let mut record = Record::new(request, pulled, self.boot_id.clone());
        record.project = self.project_for(id, spec)?;
        let make = || {
            self.records.make(lock)?;
            self.make_upper(&record, &lowers, &[])?;
            self.mount_overlay(lock, record.clone(), lowers, target, true)
        };
        let done = make();
        match &done {
            Ok(()) => self.record_unenforced_limit(&record, request.name()),
            Err(_) => self.roll_back(lock, &record),
        }
        done
    }

    fn roll_back(&self, lock: &VolumeLock, record: &Record) {
        if let Err(error) = self.remove(lock, record.project, &mut Vec::new()) {
            let id = lock.id();
            tracing::warn!(volume = %id, %error, "cannot roll back a failed publish; unpublish or recovery removes the rest");
        }
    }

    /// Publishes a volume with a record. The request must agree with the record. Only the missing steps are done.
    fn republish(
        &self,
        lock: &VolumeLock,
        mut record: Record,
        request: &PublishRequest,
    ) -> Result<(), PublishError> {
        let id = &request.id;
        if let Some(what) = difference(&record, request) {
            return Err(PublishError::of(id)(PublishCause::Conflict { what }));
        }
        // A bind mount of a subPath is the same overlay, but its root is not the root of the volume.
        let whole = |mount: &&Mount| self.is_of(mount, id) && mount.root == Path::new("/");
        // The pod sees the topmost mount. Only that one is read: the kubelet repeats the call, and the table of a full
        // node is long.
        let top = self.mounts.topmost(request.target.as_path());
        if top.map_err(PublishError::of(id))?.is_some_and(|top| whole(&&top)) {
            return Ok(());
        }
        let table = self.mounts.table().map_err(PublishError::of(id))?;
        match table.iter().find(whole) {
            Some(elsewhere) => self.attach_recorded(lock, record, &request.target, || {
                self.mounts.clone_of(&elsewhere.target).map_err(PublishError::of(id))
            }),
            None => {
                self.ensure_unused(id, &table)?;
                let lowers = self.lowers(id, &record.stack)?;
                let new = self.refresh_upper(lock, &mut record, &lowers, &table)?;
                self.mount_overlay(lock, record, lowers, &request.target, new)
            }
        }
    }

    /// Mounts the overlay at the target. A missing file of `preCopyUp` is an error only in a new volume. In an older
    /// volume the pod may have removed it.
    fn mount_overlay(
        &self,
        lock: &VolumeLock,
        record: Record,
        lowers: Vec<Lower>,
        target: &Target,
        new: bool,
    ) -> Result<(), PublishError> {
        let (id, plan) = (lock.id(), self.plan(&record, lowers)?);
        let wanted = record.spec.pre_copy_up.clone();
        self.attach_recorded(lock, record, target, || {
            let mount = overlay::mount(&*self.mounts, &plan).map_err(PublishError::of(id))?;
            for path in wanted {
                match copy_up(&mount, &path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound && !new => {}
                    copied => copied
                        .map_err(|source| PublishCause::CopyUp { path, source })
                        .map_err(PublishError::of(id))?,
                }
            }
            Ok(mount)
        })
    }

    /// Records the target, makes the mount and attaches it there.
    fn attach_recorded(
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
        // Before the kernel makes any mount: after a kill the record says what was intended.
        self.records.write(lock, &record)?;
        let done = make().and_then(|mount| {
            self.sync_if_needed(lock, &record)?;
            self.attach_at(lock.id(), target, mount)
        });
        if done.is_err() && !known {
            // A target that was not published is not unpublished either.
            record.targets.retain(|t| t != target);
            self.records.write(lock, &record)?;
        }
        done
    }

    /// Syncs the record if a later fsync of the pod would not bring it to the disk (btrfs). Not needed for a volatile volume or one in memory, whose data do not survive a crash, nor for a
    /// read-only volume, which has no data.
    fn sync_if_needed(&self, lock: &VolumeLock, record: &Record) -> Result<(), PublishError> {
        let VolumeSpec { medium, read_only, options, .. } = &record.spec;
        if *medium == Medium::Memory || *read_only || options.volatile {
            return Ok(());
        }
        // The kernel makes this directory again for each overlay, so it is the newest.
        let newest = self.records.upper_and_work(lock.id(), *medium).work().join("work");
        Ok(self.records.sync_if_needed(lock, &newest)?)
    }

    fn attach_at(
        &self,
        id: &VolumeId,
        target: &Target,
        mount: Detached,
    ) -> Result<(), PublishError> {
        // The caller must make the parent (CSI spec, NodePublishVolume).
        let made = mount_target::make(target.as_path())
            .map_err(|source| PublishCause::MakeTarget { target: target.clone(), source })
            .map_err(PublishError::of(id))?;
        let attached = self.mounts.attach(mount, target.as_path());
        if attached.is_err() && made {
            // The directory is empty and made by this call. If the removal fails, the kubelet removes it with the pod.
            let _ = mount_target::remove(target.as_path());
        }
        attached.map_err(PublishError::of(id))
    }

    fn lowers(&self, id: &VolumeId, stack: &[LayerKey]) -> Result<Vec<Lower>, PublishError> {
        self.open_layers(stack).map_err(PublishError::of(id))
    }

    /// The plan of the volume's overlay mount.
    fn plan(&self, record: &Record, lowers: Vec<Lower>) -> Result<Plan, PublishError> {
        let id = &record.id;
        Plan::new(Spec {
            name: mount_name(&self.store, id),
            stack: Stack::new(lowers).map_err(PublishError::of(id))?,
            upper: (!record.spec.read_only)
                .then(|| self.records.upper_and_work(id, record.spec.medium)),
            owner: record.spec.owner,
            options: record.spec.options.clone(),
        })
        .and_then(|plan| plan.on(&self.features))
        .map_err(PublishError::of(id))
    }
}
