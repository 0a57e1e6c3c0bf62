//! The names of snapshots and volumes, and the keys of the annotations that only controllers read.

use std::str::FromStr;

use crate::{
    digest::Digest,
    dns_name::{is_label, is_subdomain},
};

/// On a content: without it, csi-snapshotter does not delete the content, because it waits for the VolumeSnapshot, which
/// is gone. The snapshot-controller sets it, unless the VolumeSnapshot was deleted before it was bound.
pub(super) const BEING_DELETED: &str =
    "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";

/// On an OverlaySnapshot: the last known deletion policy of its content. Absent if it was always `Delete`, or there was
/// no content yet.
pub(super) const POLICY: &str = "ovl.csi.dev/deletion-policy";
/// On an OverlaySnapshot: the phase for which Events were last recorded.
pub(super) const REPORTED_PHASE: &str = "ovl.csi.dev/reported-phase";
/// The name of [`REPORTED_PHASE`] in an earlier version. It is read, and removed when the new one is written.
pub(super) const FORMER_REPORTED_PHASE: &str = "ovl.csi.dev/told";
/// On an OverlaySnapshot: the name that its VolumeSnapshot requested for the content.
pub(super) const CONTENT: &str = "ovl.csi.dev/content";
/// On an OverlaySnapshot: the name of the VolumeSnapshot of its parent, which may be gone later. Empty if that is in
/// another namespace, or there is none.
pub(super) const PARENT_NAME: &str = "ovl.csi.dev/parent-name";
/// On an OverlaySnapshot: the time at which its removal was requested, RFC 3339.
pub(super) const DELETED_AT: &str = "ovl.csi.dev/deleted-at";

/// The CSI handle that the kubelet gives an inline volume (`pkg/volume/csi`, `makeVolumeHandle`).
pub fn volume_handle(pod_uid: &str, volume: &str) -> String {
    format!("csi-{}", Digest::of(format!("{pod_uid}{volume}").as_bytes()).hex())
}

/// The start of the name of an OverlaySnapshot that a VolumeSnapshot requested.
const ID_PREFIX: &str = "snap-";

/// The name of the OverlaySnapshot for the VolumeSnapshot of this uid.
pub fn id_of(uid: &str) -> String {
    format!("{ID_PREFIX}{uid}")
}

/// The uid of the VolumeSnapshot in the name of its OverlaySnapshot.
pub(super) fn uid_of(id: &str) -> Option<&str> {
    id.strip_prefix(ID_PREFIX)
}

/// The name of the OverlaySnapshot for a CreateSnapshot call with this name: the name itself if it is a DNS label, else
/// a hash.
pub(super) fn id_of_csi(name: &str) -> String {
    if is_label(name) {
        return name.to_owned();
    }
    format!("snap-{}", &Digest::of(name.as_bytes()).hex()[..40])
}

/// The part before the first dot of a content's name, if it is not the namespace of the VolumeSnapshot. A content gets the
/// name `NAMESPACE.NAME` if its VolumeSnapshot names none, so no other namespace may take such a name, also not before
/// there is a namespace of this name.
pub(super) fn other_namespace<'a>(content: &'a str, namespace: &str) -> Option<&'a str> {
    let (prefix, _) = content.split_once('.')?;
    (prefix != namespace).then_some(prefix)
}

/// The volume that the annotation [`SOURCE`](crate::cluster::annotation_keys::SOURCE) selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) pod: String,
    pub(super) volume: String,
}

impl FromStr for Source {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pod, volume) = text.split_once('/').ok_or(())?;
        // Kubernetes limits the length of a pod's whole name, not of the parts between its dots.
        match is_subdomain(pod) && is_label(volume) {
            true => Ok(Self { pod: pod.to_owned(), volume: volume.to_owned() }),
            false => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_handle_is_the_one_that_the_kubelet_generates() {
        let hash = "739ff6e30e0f1d763579023ff053f6d9822f52c59c013de711f779be95375e21";
        assert_eq!(volume_handle("u-1", "ws"), format!("csi-{hash}"));
    }

    #[test]
    fn a_name_that_is_a_label_is_kept_and_others_are_hashed() {
        assert_eq!(id_of_csi("snapshot-0b6f"), "snapshot-0b6f");
        let longest = "a".repeat(63);
        assert_eq!(id_of_csi(&longest), longest);
        for odd in ["", "A", "a.b", "a_b", "-a", "a-", "ä", "a/../b", &"a".repeat(64)] {
            let id = id_of_csi(odd);
            assert!(id.len() == 45 && is_label(&id), "{odd:?}: {id}");
        }
        assert_ne!(id_of_csi("A"), id_of_csi("B"));
    }

    #[test]
    fn a_content_name_with_a_dot_begins_with_its_own_namespace() {
        for (content, expected) in [
            ("ci.ws-1", None),
            ("ci.ws.1", None),
            ("ws-1", None),
            ("ci-ws-1", None),
            ("prod.ws-1", Some("prod")),
            ("c.i.ws-1", Some("c")),
            ("ci2.ws-1", Some("ci2")),
        ] {
            assert_eq!(other_namespace(content, "ci"), expected, "{content}");
        }
    }

    #[test]
    fn a_source_is_a_pod_and_a_volume() {
        let source = |pod: &str, volume: &str| Source { pod: pod.into(), volume: volume.into() };
        assert_eq!("dev-0/ws".parse(), Ok(source("dev-0", "ws")));
        assert_eq!("a.b/ws".parse(), Ok(source("a.b", "ws")));
        let longest = "p".repeat(253);
        assert_eq!(format!("{longest}/ws").parse(), Ok(source(&longest, "ws")));
        assert_eq!(format!("{longest}p/ws").parse::<Source>(), Err(()));
        for bad in [
            "",
            "ws",
            "/ws",
            "dev-0/",
            "ns/dev-0/ws",
            "Dev/ws",
            "dev /ws",
            "a..b/ws",
            "../ws",
            "dev-0/a.b",
        ] {
            assert_eq!(bad.parse::<Source>(), Err(()), "{bad:?}");
        }
    }
}
