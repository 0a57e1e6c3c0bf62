//! The tree of snapshots.

use jiff::Timestamp;
use serde_json::json;

use super::*;

const DRIVER: &str = "ovl.csi.dev";

/// A snapshot whose uid is `uid-NAME`, and whose parent has this name and uid.
fn snapshot(name: &str, parent: Option<(&str, &str)>) -> Snapshot {
    let mut annotations = json!({ "ovl.csi.dev/source": "dev-0/ws" });
    if let Some((parent, uid)) = parent {
        annotations["ovl.csi.dev/parent"] = parent.into();
        annotations["ovl.csi.dev/parent-uid"] = uid.into();
    }
    let metadata = json!({ "name": name, "namespace": "ci", "uid": format!("uid-{name}"),
        "creationTimestamp": Timestamp::UNIX_EPOCH.to_string(), "annotations": annotations });
    let object = json!({ "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": metadata, "spec": { "source": {} } });
    Snapshot::of(&serde_json::from_value(object).unwrap(), DRIVER).unwrap()
}

/// Snapshots, each with the name of its parent.
fn snapshots(of: &[(&str, Option<&str>)]) -> Vec<Snapshot> {
    let with_uid = of.iter().map(|(name, parent)| {
        let uid = parent.map(|parent| format!("uid-{parent}"));
        snapshot(name, parent.zip(uid.as_deref()))
    });
    with_uid.collect()
}

fn drawn(snapshots: &[Snapshot]) -> Vec<String> {
    let name = |node: Node<'_>| match node {
        Node::Snapshot(snapshot) => snapshot.name.clone(),
        Node::Missing(_, name) => format!("({name})"),
    };
    tree(snapshots).into_iter().map(|(branch, node)| branch + &name(node)).collect()
}

#[test]
fn each_snapshot_is_below_its_parent() {
    let drawn = drawn(&snapshots(&[
        ("a", None),
        ("a1", Some("a")),
        ("a11", Some("a1")),
        ("a12", Some("a1")),
        ("a2", Some("a")),
        ("a21", Some("a2")),
        ("b", Some("gone")),
        ("b1", Some("b")),
        ("c", Some("gone")),
    ]));
    let want = [
        "a",
        "├─ a1",
        "│  ├─ a11",
        "│  └─ a12",
        "└─ a2",
        "   └─ a21",
        "(gone)",
        "├─ b",
        "│  └─ b1",
        "└─ c",
    ];
    assert_eq!(drawn, want);
}

/// A new snapshot gets the name of one that was deleted.
#[test]
fn a_parent_is_found_by_its_uid_and_never_by_its_name() {
    let all = [snapshot("ws-1", None), snapshot("ws-2", Some(("ws-1", "uid-of-the-first")))];
    assert_eq!(drawn(&all), ["ws-1", "(ws-1)", "└─ ws-2"]);
    let found = ancestors(&all[1], &all);
    assert_eq!(found, [Ancestor { name: "ws-1".to_owned(), deleted: true }]);
    assert_eq!(found[0].text(), "(ws-1, deleted)");
    assert_eq!(children(&all[0], &all).count(), 0);
    // A controller of an earlier version wrote the name alone.
    let former = Snapshot { parent_uid: None, ..all[1].clone() };
    assert_eq!(ancestors(&former, &all)[0].text(), "ws-1");
    assert_eq!(drawn(&[all[0].clone(), former]), ["ws-1", "ws-2"]);
}

#[test]
fn ancestors_are_listed_up_to_the_first_deleted_one() {
    let all = snapshots(&[("b", Some("a")), ("c", Some("b")), ("d", Some("c"))]);
    let names: Vec<_> = ancestors(&all[2], &all).iter().map(Ancestor::text).collect();
    assert_eq!(names, ["c", "b", "(a, deleted)"]);
    let children: Vec<_> = children(&all[0], &all).map(|one| one.name.as_str()).collect();
    assert_eq!(children, ["c"]);
    let ring = snapshots(&[("a", Some("b")), ("b", Some("a"))]);
    assert_eq!(ancestors(&ring[0], &ring).len(), 2);
}

#[test]
fn a_ring_and_a_deep_tree_are_drawn() {
    let ring = snapshots(&[("a", Some("b")), ("b", Some("a")), ("c", Some("c"))]);
    assert_eq!(drawn(&ring), ["a", "└─ b", "c"]);
    let names: Vec<_> = (0..3_000).map(|i| format!("s-{i}")).collect();
    let deep: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(i, name)| (name.as_str(), i.checked_sub(1).map(|i| names[i].as_str())))
        .collect();
    assert_eq!(tree(&snapshots(&deep)).len(), 3_000);
}

#[test]
fn snapshots_of_two_namespaces_are_not_mixed_up() {
    let mut other = snapshot("a1", Some(("a", "uid-a")));
    other.namespace = "other".into();
    let all = [snapshot("a", None), snapshot("a1", Some(("a", "uid-a"))), other];
    assert_eq!(drawn(&all), ["a", "└─ a1", "(a)", "└─ a1"]);
}
