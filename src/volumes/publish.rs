//! A volume appears.

use std::{io, path::Path, sync::Arc};

use super::{
    Inner, Keyring, Limits, Medium, PublishError, PublishRequest, Target, VolumeId, VolumeSpec,
    Volumes,
    authorization::Requester,
    blocking,
    conflict::difference,
    lock::VolumeLock,
    mount_name,
    pull_jobs::{PullHandle, PullOutcome},
    puller::PulledLayers,
    record::Record,
};
use crate::{
    digest::Digest,
    overlay::{self, Lower, Plan, Spec, Stack},
    sys::{
        copy_up::copy_up,
        mount_target,
        mounts::{Detached, Mount},
    },
};

impl Volumes {
    /// Makes the volume appear at the target. The same request again changes nothing. An error of a volume that was not there
    /// before leaves nothing behind but layers.
    ///
    /// Layers that are slow to come are pulled on beyond the request's deadline, some seconds before which the answer is
    /// [`PublishError::Pulling`]; the same request again joins the pull. Meanwhile the volume can be unpublished, which ends it.
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
        let pulled = match waiting.end(request.deadline, inner.pace).await {
            PullOutcome::Ended(Ok(pulled)) => pulled,
            PullOutcome::Ended(Err(error)) => {
                inner.pending.taken(&waiting);
                return Err(PublishError::Pull(error));
            }
            PullOutcome::CalledOff => return Err(PublishError::CalledOff(request.id)),
            PullOutcome::Slow(progress) => {
                return Err(PublishError::Pulling { id: request.id, progress });
            }
        };
        let lock = inner.lock(&request.id)?;
        inner.clone().publish_pulled(lock, request, waiting, pulled).await
    }
}

impl Inner {
    /// Refuses what can be known to be wrong before anything is looked at.
    fn check(&self, request: &PublishRequest) -> Result<(), PublishError> {
        let PublishRequest { id, target, spec, pod, .. } = request;
        if !self.beneath_kubelet(target) {
            let kubelet = self.settings.kubelet.display().to_string();
            return Err(PublishError::Outside { target: target.clone(), kubelet });
        }
        // What a pod's author writes in the place of what the kubelet should say is found here.
        let pods = target.as_path().strip_prefix(self.settings.kubelet.join("pods"));
        let whose = pods.ok().and_then(|rest| rest.iter().next());
        if whose.is_some_and(|whose| whose != pod.uid.as_str()) {
            return Err(PublishError::OtherPod { target: target.clone(), uid: pod.uid.clone() });
        }
        if !spec.read_only {
            return Ok(());
        }
        let Limits { size, inodes, by_default } = spec.limits;
        let about_writes = [
            (size.is_some() && !by_default, "size"),
            (inodes.is_some() && !by_default, "inodes"),
            (spec.medium == Medium::Memory, "medium"),
            (!spec.pre_copy_up.is_empty(), "preCopyUp"),
        ];
        match about_writes.into_iter().find(|(given, _)| *given) {
            Some((_, what)) => Err(PublishError::ReadOnly { id: id.clone(), what }),
            None => Ok(()),
        }
    }

    /// Refuses images that the pod may not have.
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

    /// Refuses a volume that is not there yet and may not be made.
    fn check_new(&self, request: &PublishRequest) -> Result<(), PublishError> {
        let PublishRequest { id, spec, .. } = request;
        self.check_images(request)?;
        match self.unenforceable(spec) {
            Some(why) if !spec.limits.by_default => {
                Err(PublishError::Unenforceable { id: id.clone(), why: why.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Does what needs no pull; answers whether that was all, and gives the lock back for the rest.
    pub(super) async fn publish_here(
        self: Arc<Self>,
        lock: VolumeLock,
        request: PublishRequest,
    ) -> Result<(VolumeLock, PublishRequest, bool), PublishError> {
        blocking(move || {
            let done = match self.records.read(&request.id)? {
                Some(record) => {
                    if let Some(what) = difference(&record, &request) {
                        return Err(PublishError::Conflict { id: request.id, what });
                    }
                    let here = record.stack.iter().all(|layer| self.store.has(layer));
                    if here {
                        self.republish(&lock, record, &request)?;
                    } else {
                        self.check_images(&request)?;
                    }
                    here
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

    /// The layers of a volume for which nothing has to be brought or waited for.
    fn at_once(&self, lock: &VolumeLock, request: &PublishRequest) -> Option<PulledLayers> {
        if request.spec.snapshot.is_some() || self.pending.has(lock) {
            return None;
        }
        let (spec, keyring) = (&request.spec, self.keyring(request));
        let asker = Requester { namespace: &request.pod.namespace, keyring: &keyring };
        self.pulls.here(&spec.images, spec.pull_policy, asker)
    }

    /// The pod's credentials, and then the node's.
    pub(super) fn keyring(&self, request: &PublishRequest) -> Keyring {
        request.keyring.clone().and(&self.settings.keyring)
    }

    /// Joins the pull of what the volume is made of, or begins it.
    fn pull(self: &Arc<Self>, lock: &VolumeLock, request: &PublishRequest) -> PullHandle {
        self.pending.join(lock, request, |progress| {
            let (inner, request) = (self.clone(), request.clone());
            async move { inner.bring(&request, &progress).await }
        })
    }

    /// Makes the volume out of what was pulled.
    async fn publish_pulled(
        self: Arc<Self>,
        lock: VolumeLock,
        request: PublishRequest,
        waiting: PullHandle,
        pulled: Arc<PulledLayers>,
    ) -> Result<(), PublishError> {
        blocking(move || {
            if waiting.is_called_off(&lock) {
                return Err(PublishError::CalledOff(request.id));
            }
            // Another call may have made the volume meanwhile, so the record is read again.
            let done = match self.records.read(&request.id)? {
                Some(record) => self.republish(&lock, record, &request),
                None => self.publish_first(&lock, &request, &pulled),
            };
            self.pending.taken(&waiting);
            done
        })
        .await
    }

    fn lock(&self, id: &VolumeId) -> Result<VolumeLock, PublishError> {
        self.locks.try_lock(id).ok_or_else(|| PublishError::Busy(id.clone()))
    }

    pub(super) fn beneath_kubelet(&self, target: &Target) -> bool {
        target.as_path().starts_with(&self.settings.kubelet)
            && target.as_path() != self.settings.kubelet
    }

    /// A volume that has no record: everything it gets is taken back if it cannot be mounted. What was pulled is kept by its
    /// lease until the record keeps it.
    fn publish_first(
        &self,
        lock: &VolumeLock,
        request: &PublishRequest,
        pulled: &PulledLayers,
    ) -> Result<(), PublishError> {
        let PublishRequest { id, target, spec, .. } = request;
        let lowers = self.lowers(id, &pulled.stack)?;
        // What a kill left half made. Without a record nothing may be mounted from here; should it be, a lost record must not
        // cost the pod's data. Where there is no directory nothing can be, and the table, long on a node full of pods, is not read.
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
            Ok(()) => self.record_unenforced_limit(&record),
            Err(_) => self.roll_back(lock, &record),
        }
        done
    }

    fn roll_back(&self, lock: &VolumeLock, record: &Record) {
        if let Err(error) = self.remove(lock, record.project, &mut Vec::new()) {
            let id = lock.id();
            tracing::warn!(volume = %id, %error, "what a failed publish made is left for unpublish");
        }
    }

    /// A volume that has a record: the request must agree with it, and what is missing of it is done.
    fn republish(
        &self,
        lock: &VolumeLock,
        mut record: Record,
        request: &PublishRequest,
    ) -> Result<(), PublishError> {
        let id = &request.id;
        if let Some(what) = difference(&record, request) {
            return Err(PublishError::Conflict { id: id.clone(), what });
        }
        // The kubelet binds a subPath from beneath the volume: the same overlay, and not the whole of it.
        let whole = |mount: &&Mount| self.is_of(mount, id) && mount.root == Path::new("/");
        // What the pod sees is the topmost. Asked for alone: the kubelet asks again and again, and the table of a full node is long.
        let there = self.mounts.top(request.target.as_path());
        if there.map_err(|e| PublishError::mount(id, e))?.is_some_and(|top| whole(&&top)) {
            return Ok(());
        }
        let table = self.mounts.table().map_err(|e| PublishError::mount(id, e))?;
        match table.iter().find(whole) {
            Some(elsewhere) => self.attach_recorded(lock, record, &request.target, || {
                self.mounts.clone_of(&elsewhere.target).map_err(|e| PublishError::mount(id, e))
            }),
            None => {
                self.ensure_unused(id, &table)?;
                let lowers = self.lowers(id, &record.stack)?;
                let new = self.refresh_upper(lock, &mut record, &lowers, &table)?;
                self.mount_overlay(lock, record, lowers, &request.target, new)
            }
        }
    }

    /// Mounts the overlay at the target. What is to be copied up and is not there is an error in a new volume; from an older one
    /// the pod may have removed it.
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
            let mount = overlay::mount(&*self.mounts, &plan)
                .map_err(|source| PublishError::Overlay { id: id.clone(), source })?;
            for path in wanted {
                match copy_up(&mount, &path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound && !new => {}
                    copied => copied.map_err(|source| PublishError::CopyUp {
                        id: id.clone(),
                        path,
                        source,
                    })?,
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
        // Before the kernel makes anything of it: from here on a kill finds what was meant.
        self.records.write(lock, &record)?;
        let done = make().and_then(|mount| {
            self.settle(lock, &record)?;
            self.attach_at(lock.id(), target, mount)
        });
        if done.is_err() && !known {
            // Nobody will ask to unpublish a target that came to nothing.
            record.targets.retain(|t| t != target);
            self.records.write(lock, &record)?;
        }
        done
    }

    /// Makes sure that a crash leaves no synced file of the pod without the record of its volume, before the pod can write one. A
    /// volatile volume is worth nothing after a crash, as is one in memory, and a read-only one holds nothing.
    fn settle(&self, lock: &VolumeLock, record: &Record) -> Result<(), PublishError> {
        let VolumeSpec { medium, read_only, options, .. } = &record.spec;
        if *medium == Medium::Memory || *read_only || options.volatile {
            return Ok(());
        }
        // The kernel makes it anew for each overlay.
        let newest = self.records.pair(lock.id(), *medium).work().join("work");
        Ok(self.records.settle(lock, &newest)?)
    }

    fn attach_at(
        &self,
        id: &VolumeId,
        target: &Target,
        mount: Detached,
    ) -> Result<(), PublishError> {
        // Its parent is the caller's to make (CSI spec, NodePublishVolume).
        let made = mount_target::make(target.as_path()).map_err(|source| {
            PublishError::MakeTarget { id: id.clone(), target: target.clone(), source }
        })?;
        let attached = self.mounts.attach(mount, target.as_path());
        if attached.is_err() && made {
            // Empty and ours; should it fail, the kubelet removes it with the pod.
            let _ = mount_target::remove(target.as_path());
        }
        attached.map_err(|e| PublishError::mount(id, e))
    }

    fn lowers(&self, id: &VolumeId, stack: &[Digest]) -> Result<Vec<Lower>, PublishError> {
        self.open_layers(stack).map_err(|source| PublishError::Lower { id: id.clone(), source })
    }

    /// The mount this volume is, as a value.
    fn plan(&self, record: &Record, lowers: Vec<Lower>) -> Result<Plan, PublishError> {
        let id = &record.id;
        let broken = |source| PublishError::Plan { id: id.clone(), source };
        Plan::new(Spec {
            name: mount_name(&self.store, id),
            stack: Stack::new(lowers).map_err(broken)?,
            upper: (!record.spec.read_only).then(|| self.records.pair(id, record.spec.medium)),
            owner: record.spec.owner,
            options: record.spec.options.clone(),
        })
        .and_then(|plan| plan.on(&self.features))
        .map_err(broken)
    }
}

impl PublishError {
    pub(super) fn mount(id: &VolumeId, source: crate::sys::mounts::MountError) -> Self {
        Self::Mount { id: id.clone(), source }
    }
}
