//! Tests of the guard that a capture has of its volume, and of which volumes can be captured.

use std::{fs, time::Duration};

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

/// docs/hazards.md, 37: a capture has the whole volume, or it fails because there is none.
#[tokio::test]
async fn a_guarded_volume_is_not_unpublished_and_an_unpublished_one_has_no_guard() {
    let node = published(|_| {}).await;
    let guard = node.volumes.guard(&id(), Some(&pod())).unwrap();
    assert_eq!((guard.id(), guard.pod().name.as_str()), (&id(), "one"));
    assert_eq!(guard.upper(), node.volume("a").join("upper"));
    assert!(guard.is_mounted() && guard.parent().is_none() && guard.owner().is_none());
    assert_eq!((guard.stack().len(), guard.snapshot_layers(), guard.manifests().len()), (0, 0, 0));
    assert_eq!(node.volumes.guard(&id(), Some(&pod())).unwrap_err().class(), Class::Busy);
    assert_eq!(node.unpublish("a", "t").await.unwrap_err().class(), Class::Busy);
    let again = node.volumes.publish(node.request("a", "t2")).await;
    assert_eq!(again.unwrap_err().class(), Class::Busy);
    node.volumes.recover(Duration::ZERO).unwrap();
    assert_eq!(node.mounted().len(), 1);
    drop(guard);
    node.unpublish("a", "t").await.unwrap();
    let error = node.volumes.guard(&id(), Some(&pod())).unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_volume_whose_pod_has_ended_can_be_guarded() {
    let node = published(|_| {}).await.rebooted();
    let guard = node.volumes.guard(&id(), Some(&pod())).unwrap();
    assert!(!guard.is_mounted());
}

/// The request names the pod, but the record decides.
#[tokio::test]
async fn a_volume_is_guarded_for_its_own_pod_only() {
    let node = published(|_| {}).await;
    for other in [
        Pod { namespace: "theirs".to_owned(), ..pod() },
        Pod { uid: "pod-2".parse().unwrap(), ..pod() },
    ] {
        let error = node.volumes.guard(&id(), Some(&other)).unwrap_err();
        assert_eq!(error.class(), Class::Denied, "{error}");
    }
    assert!(node.volumes.guard(&id(), Some(&Pod { name: "any".to_owned(), ..pod() })).is_ok());
}

#[tokio::test]
async fn a_guard_shows_that_an_unpublish_waits() {
    let node = published(|_| {}).await;
    let guard = node.volumes.guard(&id(), Some(&pod())).unwrap();
    node.volumes.recover(Duration::ZERO).unwrap();
    assert!(!guard.is_unpublish_requested());
    assert_eq!(node.unpublish("a", "t").await.unwrap_err().class(), Class::Busy);
    assert!(guard.is_unpublish_requested());
    drop(guard);
    node.unpublish("a", "t").await.unwrap();
}

#[tokio::test]
async fn a_read_only_volume_cannot_be_guarded() {
    let node = published(|spec| spec.read_only = true).await;
    let error = node.volumes.guard(&id(), Some(&pod())).unwrap_err();
    assert_eq!(error.class(), Class::Precondition, "{error}");
}

/// docs/hazards.md, 2: files that a crash may have torn must not become a snapshot.
#[tokio::test]
async fn a_volume_that_lost_writes_in_a_crash_cannot_be_guarded_before_a_new_publish() {
    let volatile: fn(&mut VolumeSpec) = |spec| spec.options.volatile = true;
    let memory: fn(&mut VolumeSpec) = |spec| {
        spec.medium = Medium::Memory;
        spec.limits.size = Some(1 << 20);
    };
    for change in [volatile, memory] {
        let node = published(change).await;
        assert!(node.volumes.guard(&id(), Some(&pod())).is_ok());
        let node = node.rebooted();
        let error = node.volumes.guard(&id(), Some(&pod())).unwrap_err();
        assert_eq!(error.class(), Class::Precondition, "{error}");
        let mut request = node.request("a", "t");
        change(&mut request.spec);
        node.volumes.publish(request).await.unwrap();
        assert!(node.volumes.guard(&id(), Some(&pod())).is_ok());
    }
}

#[tokio::test]
async fn the_error_of_an_unreadable_record_names_its_file() {
    let node = published(|_| {}).await;
    fs::write(node.volume("a").join("record.json"), "{").unwrap();
    let error = node.volumes.guard(&id(), Some(&pod())).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt);
    assert!(error.to_string().contains("record.json"), "{error}");
}
