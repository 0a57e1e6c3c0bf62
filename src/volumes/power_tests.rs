//! Volumes on disks that lose their power.

use std::{
    fs::{self, File},
    io::Write as _,
    time::Duration,
};

use super::{
    privileged_tests::{Node, read, registry},
    *,
};
use crate::{
    fault::Class,
    sys::{
        mounts::LinuxMounts,
        scratch::{Disk, Scratch},
    },
};

/// HAZARDS 16.
#[tokio::test]
#[ignore = "needs root: mounts file systems on loop devices"]
async fn privileged_a_volume_that_was_published_is_there_after_a_power_cut() {
    for fs_type in ["xfs", "ext4"] {
        let (registry, images) = registry().await;
        let scratch = Scratch::new();
        let at = scratch.folder("disk");
        let disk = Disk::new(&scratch, fs_type, &at);
        let mut node = Node::beneath(&at, &registry);
        let id = format!("cut-{fs_type}");
        node.publish(&id, &images, false, false).await;
        let target = node.target(&id);
        let mut synced = File::create(target.join("synced")).unwrap();
        synced.write_all(b"kept").unwrap();
        synced.sync_all().unwrap();
        drop(synced);
        fs::write(target.join("not-synced"), "lost").unwrap();
        let asked = registry.requests();

        disk.cut_power();
        LinuxMounts.unmount(&target).unwrap();
        node.restart_after(&registry, || disk.boot()).await;
        assert!(node.mounts().is_empty(), "{fs_type}: {:?}", node.mounts());
        node.publish(&id, &images, false, false).await;
        assert_eq!(registry.requests(), asked, "{fs_type}: nothing had to be brought again");
        assert_eq!(read(target.join("synced")), "kept", "{fs_type}");
        assert_ne!(fs::read(target.join("not-synced")).ok(), Some(b"lost".into()), "{fs_type}");
        assert_eq!(read(target.join("tool")), "t", "{fs_type}");
        assert_eq!(read(target.join("dir/covered")), "top", "{fs_type}");
        node.unpublish(&id).await;
        assert_eq!(fs::read_dir(node.folder.path().join("store/volumes")).unwrap().count(), 0);
    }
}

/// HAZARDS 18: the kubelet's disk is dead, the store's is not.
#[tokio::test]
#[ignore = "needs root: mounts file systems on loop devices"]
async fn privileged_a_target_on_a_dead_disk_is_an_error_and_costs_nothing() {
    let (registry, images) = registry().await;
    let scratch = Scratch::new();
    let node = Node::beneath(scratch.path(), &registry);
    let kubelet = node.folder.path().join("kubelet");
    let disk = Disk::new(&scratch, "ext4", &kubelet);
    let pod = kubelet.join("pods/pod-1");
    fs::create_dir_all(&pod).unwrap();
    File::open(&pod).unwrap().sync_all().unwrap();
    for id in ["on-dead-1", "on-dead-2"] {
        node.publish(id, &images, false, false).await;
        fs::write(node.target(id).join("new"), "mine").unwrap();
    }
    disk.cut_power();

    let volume = |id: &str| node.folder.path().join("store/volumes").join(id);
    for id in ["on-dead-1", "on-dead-2", "on-dead-1"] {
        let (id, target) = (id.parse().unwrap(), node.target(id).try_into().unwrap());
        let going = node.volumes.unpublish(&id, &target);
        let gone = tokio::time::timeout(Duration::from_secs(20), going).await;
        let error = gone.expect("an answer").unwrap_err();
        assert_eq!(error.class(), Class::Precondition, "{error}");
        assert!(error.to_string().contains("on-dead"), "{error}");
    }
    for id in ["on-dead-1", "on-dead-2"] {
        assert!(volume(id).join("record.json").is_file(), "{id}: its record is gone");
        assert_eq!(read(volume(id).join("upper/new")), "mine");
    }
    disk.boot();
    for id in ["on-dead-1", "on-dead-2"] {
        node.unpublish(id).await;
        assert!(!volume(id).exists() && !node.target(id).exists(), "{id}");
    }
    LinuxMounts.unmount(&kubelet).unwrap();
    assert!(node.mounts().is_empty(), "{:?}", node.mounts());
}
