//! Whether a request asks for the volume that is there.

use super::{Limits, Options, PublishRequest, record::Record};

/// In what a request differs from the volume that is there; `None` where it asks for the same. When registries are asked is
/// no matter any more, and a default may have changed with the node's settings: after a reboot a pod asks again with today's.
pub(super) fn difference(record: &Record, request: &PublishRequest) -> Option<&'static str> {
    let (a, b) = (&record.spec, &request.spec);
    let (x, y) = (&a.options, &b.options);
    let wish = |of: Limits| if of.by_default { Limits::default() } else { of };
    let (wished, wishes) = (wish(a.limits), wish(b.limits));
    let wished_volatile = !a.volatile_by_default && !b.volatile_by_default;
    let others = Options { volatile: x.volatile, ..y.clone() };
    let attributes = [
        (a.images != b.images, "images"),
        (a.snapshot != b.snapshot, "snapshot"),
        (wished_volatile && x.volatile != y.volatile, "volatile"),
        (a.read_only != b.read_only, "readOnly"),
        (a.medium != b.medium, "medium"),
        (wished.size != wishes.size, "size"),
        (wished.inodes != wishes.inodes, "inodes"),
        (a.owner != b.owner, "owner"),
        // The first version of records knew no group, and a pod's never changes.
        (a.group.is_some() && a.group != b.group, "fsGroup"),
        (a.on_unclean != b.on_unclean, "onUnclean"),
        (a.pre_copy_up != b.pre_copy_up, "preCopyUp"),
        (x.metacopy != y.metacopy, "metacopy"),
        (x.redirect_dir != y.redirect_dir, "redirectDir"),
        (x.index != y.index, "index"),
        (x.nfs_export != y.nfs_export, "nfsExport"),
        (x.xino != y.xino, "xino"),
        (x.context != y.context, "SELinux context"),
        // Whatever else there is to an overlay, the pod says it here.
        (*x != others, "mountOptions"),
        (record.pod.uid != request.pod.uid, "pod"),
    ];
    attributes.into_iter().find(|(differs, _)| *differs).map(|(_, what)| what)
}
