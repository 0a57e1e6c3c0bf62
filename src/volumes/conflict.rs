//! The comparison of a publish request with the existing volume of the same id.

use super::{PublishRequest, record::Record};
use crate::overlay::Options;

/// The attribute in which a request differs from the existing volume. `None` if the two agree.
///
/// An attribute with a default is compared only if the pod wrote it, now or when the volume was made. An attribute
/// that the pod did not write had a default, which may be different today (a later version, other settings of the
/// node). The volume stays as it was made. A record of a version that did not record the written attributes counts as
/// one without any. The pull policy is not compared.
pub(super) fn difference(record: &Record, request: &PublishRequest) -> Option<&'static str> {
    let (a, b) = (&record.spec, &request.spec);
    let (x, y) = (&a.options, &b.options);
    let of_the_mount = |o: &Options| (o.nosuid, o.nodev, o.noexec, o.noatime);
    let with_defaults = [
        (x.volatile != y.volatile, "volatile"),
        (a.medium != b.medium, "medium"),
        (a.limits.size != b.limits.size, "size"),
        (a.limits.inodes != b.limits.inodes, "inodes"),
        (a.on_unclean != b.on_unclean, "onUnclean"),
        (x.metacopy != y.metacopy, "metacopy"),
        (x.redirect_dir != y.redirect_dir, "redirectDir"),
        (x.index != y.index, "index"),
        (x.nfs_export != y.nfs_export, "nfsExport"),
        (x.xino != y.xino, "xino"),
        (of_the_mount(x) != of_the_mount(y), "mountOptions"),
    ];
    let others = [
        (a.images != b.images, "images"),
        (a.snapshot != b.snapshot, "snapshot"),
        (a.read_only != b.read_only, "readOnly"),
        (a.owner != b.owner, "owner"),
        // The first version of records had no group, and a pod's group never changes.
        (a.group.is_some() && a.group != b.group, "fsGroup"),
        (a.pre_copy_up != b.pre_copy_up, "preCopyUp"),
        (x.context != y.context, "SELinux context"),
        (record.pod.uid != request.pod.uid, "pod"),
    ];
    let is_written = |key: &str| a.written.contains(key) || b.written.contains(key);
    let with_defaults = with_defaults.into_iter().filter(|(_, key)| is_written(key));
    with_defaults.chain(others).find(|(differs, _)| *differs).map(|(_, what)| what)
}
