//! Who has a volume while it is cut, and what can be cut at all.

use std::fs;

use super::{tests::Node, *};
use crate::error::Class;

async fn published(change: impl FnOnce(&mut VolumeSpec)) -> Node {
    let node = Node::new();
    let mut request = node.request("a", "t");
    change(&mut request.spec);
    node.volumes.publish(request).await.unwrap();
    node
}

fn id() -> VolumeId {
    "a".parse().unwrap()
}

fn pod() -> Pod {
    Node::new().request("a", "t").pod
}

/// HAZARDS 37: either the cut has all of the volume, or there is none to cut.
#[tokio::test]
async fn a_volume_that_is_held_does_not_go_and_one_that_goes_is_not_held() {
    let node = published(|_| {}).await;
    let held = node.volumes.hold(&id(), Some(&pod())).unwrap();
    assert_eq!((held.id(), held.pod().name.as_str()), (&id(), "one"));
    assert_eq!(held.upper(), node.volume("a").join("upper"));
    assert!(held.is_mounted() && held.parent().is_none() && held.owner().is_none());
    assert_eq!((held.stack().len(), held.snapshot_layers(), held.manifests().len()), (0, 0, 0));
    assert_eq!(node.volumes.hold(&id(), Some(&pod())).unwrap_err().class(), Class::Busy);
    assert_eq!(node.unpublish("a", "t").await.unwrap_err().class(), Class::Busy);
    let again = node.volumes.publish(node.request("a", "t2")).await;
    assert_eq!(again.unwrap_err().class(), Class::Busy);
    node.volumes.recover(Duration::ZERO).unwrap();
    assert_eq!(node.mounted().len(), 1);
    drop(held);
    node.unpublish("a", "t").await.unwrap();
    let error = node.volumes.hold(&id(), Some(&pod())).unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_volume_whose_pod_has_ended_can_be_held() {
    let node = published(|_| {}).await.rebooted();
    let held = node.volumes.hold(&id(), Some(&pod())).unwrap();
    assert!(!held.is_mounted());
}

/// Whoever asks names the pod; what is in the record is true.
#[tokio::test]
async fn a_volume_is_held_for_its_own_pod_alone() {
    let node = published(|_| {}).await;
    for other in [
        Pod { namespace: "theirs".to_owned(), ..pod() },
        Pod { uid: "pod-2".parse().unwrap(), ..pod() },
    ] {
        let error = node.volumes.hold(&id(), Some(&other)).unwrap_err();
        assert_eq!(error.class(), Class::Denied, "{error}");
    }
    assert!(node.volumes.hold(&id(), Some(&Pod { name: "any".to_owned(), ..pod() })).is_ok());
}

#[tokio::test]
async fn whoever_holds_a_volume_sees_that_it_is_to_be_unpublished() {
    let node = published(|_| {}).await;
    let held = node.volumes.hold(&id(), Some(&pod())).unwrap();
    node.volumes.recover(Duration::ZERO).unwrap();
    assert!(!held.is_wanted());
    assert_eq!(node.unpublish("a", "t").await.unwrap_err().class(), Class::Busy);
    assert!(held.is_wanted());
    drop(held);
    node.unpublish("a", "t").await.unwrap();
}

#[tokio::test]
async fn what_has_nothing_of_its_own_is_not_held() {
    let node = published(|spec| spec.read_only = true).await;
    let error = node.volumes.hold(&id(), Some(&pod())).unwrap_err();
    assert_eq!(error.class(), Class::Precondition, "{error}");
}

/// HAZARDS 2: what a crash may have torn is nobody's snapshot.
#[tokio::test]
async fn what_a_crash_took_is_not_held_before_it_is_published_again() {
    let volatile: fn(&mut VolumeSpec) = |spec| spec.options.volatile = true;
    let memory: fn(&mut VolumeSpec) = |spec| {
        spec.medium = Medium::Memory;
        spec.limits.size = Some(1 << 20);
    };
    for change in [volatile, memory] {
        let node = published(change).await;
        assert!(node.volumes.hold(&id(), Some(&pod())).is_ok());
        let node = node.rebooted();
        let error = node.volumes.hold(&id(), Some(&pod())).unwrap_err();
        assert_eq!(error.class(), Class::Precondition, "{error}");
        let mut request = node.request("a", "t");
        change(&mut request.spec);
        node.volumes.publish(request).await.unwrap();
        assert!(node.volumes.hold(&id(), Some(&pod())).is_ok());
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_told() {
    let node = published(|_| {}).await;
    fs::write(node.volume("a").join("record.json"), "{").unwrap();
    let error = node.volumes.hold(&id(), Some(&pod())).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt);
    assert!(error.to_string().contains("record.json"), "{error}");
}
