//! Tests of volumes on disks that lose power.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::Duration,
};

use super::{
    privileged_tests::{Node, read, registry, tar},
    tests::wait_for_removal,
};
use crate::{
    error::Class,
    sys::{
        mounts::{LinuxMounts, Mounts as _},
        test_dir::{Disk, TestDir},
    },
};

/// docs/hazards.md, 16.
#[tokio::test]
#[ignore = "needs root: mounts file systems on loop devices"]
async fn privileged_a_published_volume_survives_a_power_cut() {
    for fs_type in ["xfs", "ext4"] {
        let (registry, images) = registry().await;
        let scratch = TestDir::new();
        let at = scratch.dir("disk");
        let disk = Disk::new(&scratch, fs_type, &at);
        let mut node = Node::beneath(&at, &registry);
        let id = format!("power-{fs_type}");
        node.publish(&id, &images, false, false).await;
        let target = node.target(&id);
        let mut synced = File::create(target.join("synced")).unwrap();
        synced.write_all(b"kept").unwrap();
        synced.sync_all().unwrap();
        drop(synced);
        fs::write(target.join("not-synced"), "lost").unwrap();
        let requests = registry.requests();

        disk.cut_power();
        LinuxMounts.unmount(&target).unwrap();
        node.restart_after(&registry, || disk.boot()).await;
        assert!(node.mounts().is_empty(), "{fs_type}: {:?}", node.mounts());
        node.publish(&id, &images, false, false).await;
        assert_eq!(registry.requests(), requests, "{fs_type}: a layer was downloaded again");
        assert_eq!(read(target.join("synced")), "kept", "{fs_type}");
        assert_ne!(fs::read(target.join("not-synced")).ok(), Some(b"lost".into()), "{fs_type}");
        assert_eq!(read(target.join("tool")), "t", "{fs_type}");
        assert_eq!(read(target.join("dir/covered")), "top", "{fs_type}");
        node.unpublish(&id).await;
        assert_eq!(fs::read_dir(node.dir.path().join("store/volumes")).unwrap().count(), 0);
    }
}

/// The disk below accepts no writes. A call that syncs anything, or that waits for a sync of another process, would
/// block too.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts file systems on loop devices"]
async fn privileged_publish_and_unpublish_do_not_wait_for_the_disk() {
    for fs_type in ["ext4", "xfs"] {
        let (registry, images) = registry().await;
        let scratch = TestDir::new();
        let outer = Disk::new(&scratch, "ext4", &scratch.dir("below"));
        let at = scratch.dir("disk");
        let disk = outer.beneath(&scratch, fs_type, &at);
        let mut node = Node::beneath(&at, &registry);
        let node_root = node.dir.path().to_owned();
        // Downloads the layers once.
        node.publish("first", &images, false, false).await;
        node.unpublish("first").await;
        wait_for_removal(&node.volumes);
        // A use in a later hour has to be recorded, but not now.
        node.restart_after(&registry, || make_images_old(&node_root)).await;
        disk.sync();
        for (id, volatile) in [("synced", false), ("volatile", true)] {
            let frozen = outer.freeze();
            let calls = async {
                node.publish(id, &images, volatile, false).await;
                fs::write(node.target(id).join("new"), vec![7; 1 << 20]).unwrap();
                node.unpublish(id).await;
            };
            let done = tokio::time::timeout(Duration::from_secs(20), calls).await;
            assert!(done.is_ok(), "{fs_type}, {id}: a call waits for the disk");
            assert!(node.mounts().is_empty(), "{fs_type}, {id}: {:?}", node.mounts());
            drop(frozen);
            wait_for_removal(&node.volumes);
        }
        assert_eq!(fs::read_dir(node.dir.path().join("store/staging")).unwrap().count(), 0);
        drop(node);
        disk.boot();
    }
}

/// Sets the last use of each image to an earlier hour.
fn make_images_old(node: &Path) {
    for entry in fs::read_dir(node.join("store/images")).unwrap() {
        let path = entry.unwrap().path();
        let mut record: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["resolved"] = "2020-01-01T00:00:00Z".into();
        record["used"] = serde_json::Value::Null;
        fs::write(&path, record.to_string()).unwrap();
    }
}

/// No call waits for the disk. A file that the pod syncs takes the record of its volume to the disk with it.
#[tokio::test]
#[ignore = "needs root: mounts file systems on loop devices"]
async fn privileged_a_synced_file_and_its_volume_survive_an_immediate_power_cut() {
    for fs_type in ["ext4", "xfs", "btrfs"] {
        let (registry, mut images) = registry().await;
        for deep in [false, true] {
            let case = format!("{fs_type}, deep: {deep}");
            let scratch = TestDir::new();
            let at = scratch.dir("disk");
            let disk = Disk::new(&scratch, fs_type, &at);
            let mut node = Node::beneath(&at, &registry);
            if deep {
                // A record of many layers does not fit into one xattr.
                let layers: Vec<_> =
                    (0..60).map(|n: u8| tar(&[("file", &n.to_string())])).collect();
                registry.push_image("deep", "1", &layers, true);
                images = vec![registry.reference("deep", "1")];
            }
            // The layers are in the store, and on the disk.
            node.publish("first", &images, false, false).await;
            node.unpublish("first").await;
            wait_for_removal(&node.volumes);
            disk.sync();
            node.publish("synced", &images, false, false).await;
            node.publish("not-synced", &images, false, false).await;
            let target = node.target("synced");
            let mut file = File::create(target.join("synced")).unwrap();
            file.write_all(b"kept").unwrap();
            file.sync_all().unwrap();
            let copy = disk.copy_image();
            drop(file);
            let requests = registry.requests();

            for id in ["synced", "not-synced"] {
                LinuxMounts.unmount(&node.target(id)).unwrap();
            }
            node.restart_after(&registry, || disk.boot_from(&copy)).await;
            // The pod's directory may be lost, because no process syncs it either. Then the kubelet makes it.
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            node.publish("synced", &images, false, false).await;
            assert_eq!(registry.requests(), requests, "{case}: a layer was downloaded again");
            assert_eq!(read(target.join("synced")), "kept", "{case}");
            node.publish("not-synced", &images, false, false).await;
            for id in ["synced", "not-synced"] {
                node.unpublish(id).await;
            }
            wait_for_removal(&node.volumes);
            assert_eq!(fs::read_dir(node.dir.path().join("store/volumes")).unwrap().count(), 0);
        }
    }
}

/// The power is lost after an unpublish, before any of it is on the disk: the volume is back, and it is removed when
/// its pod is gone.
#[tokio::test]
#[ignore = "needs root: mounts file systems on loop devices"]
async fn privileged_a_volume_that_a_power_cut_brings_back_is_removed_with_its_pod() {
    for fs_type in ["ext4", "xfs", "btrfs"] {
        let (registry, images) = registry().await;
        let scratch = TestDir::new();
        let at = scratch.dir("disk");
        let disk = Disk::new(&scratch, fs_type, &at);
        let mut node = Node::beneath(&at, &registry);
        node.publish("back", &images, false, false).await;
        fs::write(node.target("back").join("new"), "mine").unwrap();
        disk.sync();
        node.unpublish("back").await;
        let copy = disk.copy_image();
        wait_for_removal(&node.volumes);
        node.restart_after(&registry, || disk.boot_from(&copy)).await;
        let volumes = node.dir.path().join("store/volumes");
        let count = fs::read_dir(&volumes).unwrap().count();
        assert!(count <= 1, "{fs_type}");
        fs::remove_dir_all(node.dir.path().join("kubelet/pods/pod-1")).unwrap();
        node.volumes.recover(Duration::ZERO).unwrap();
        assert_eq!(fs::read_dir(&volumes).unwrap().count(), 0, "{fs_type}");
        wait_for_removal(&node.volumes);
        assert_eq!(fs::read_dir(node.dir.path().join("store/staging")).unwrap().count(), 0);
    }
}

/// The kernel writes out a whole file system when the last mount of an overlay on it is unmounted.
#[tokio::test]
#[ignore = "needs root: mounts file systems on loop devices"]
async fn privileged_the_data_of_a_removed_volume_is_not_written_to_the_disk() {
    const WRITTEN: usize = 60 << 20;
    for fs_type in ["ext4", "xfs", "btrfs"] {
        let (registry, images) = registry().await;
        let scratch = TestDir::new();
        let at = scratch.dir("disk");
        let disk = Disk::new(&scratch, fs_type, &at);
        let node = Node::beneath(&at, &registry);
        node.publish("full", &images, false, false).await;
        disk.sync();
        let before = disk.written();
        fs::write(node.target("full").join("large"), vec![7; WRITTEN]).unwrap();
        node.unpublish("full").await;
        assert!(!node.target("full").exists() && node.mounts().is_empty(), "{fs_type}");
        wait_for_removal(&node.volumes);
        let written = disk.written() - before;
        assert!(written < WRITTEN as u64 / 20, "{fs_type}: {written} bytes");
        assert!(!fs::read_dir(node.dir.path().join("store/staging")).unwrap().any(|_| true));
        // Nothing keeps the file system busy any more, so the disk can be unmounted.
        drop(node);
        disk.boot();
    }
}

/// docs/hazards.md, 18: the disk of the kubelet's directory is dead, the disk of the store is not.
#[tokio::test]
#[ignore = "needs root: mounts file systems on loop devices"]
async fn privileged_unpublish_of_a_target_on_a_dead_disk_fails_and_keeps_the_data() {
    let (registry, images) = registry().await;
    let scratch = TestDir::new();
    let node = Node::beneath(scratch.path(), &registry);
    let kubelet = node.dir.path().join("kubelet");
    let disk = Disk::new(&scratch, "ext4", &kubelet);
    let pod = kubelet.join("pods/pod-1");
    fs::create_dir_all(&pod).unwrap();
    File::open(&pod).unwrap().sync_all().unwrap();
    for id in ["on-dead-1", "on-dead-2"] {
        node.publish(id, &images, false, false).await;
        fs::write(node.target(id).join("new"), "mine").unwrap();
    }
    disk.cut_power();

    let volume = |id: &str| node.dir.path().join("store/volumes").join(id);
    for id in ["on-dead-1", "on-dead-2", "on-dead-1"] {
        let (id, target) = (id.parse().unwrap(), node.target(id).try_into().unwrap());
        let unpublish = node.volumes.unpublish(&id, &target);
        let result = tokio::time::timeout(Duration::from_secs(20), unpublish).await;
        let error = result.expect("a response within 20 s").unwrap_err();
        assert_eq!(error.class(), Class::Precondition, "{error}");
        assert!(error.to_string().contains("on-dead"), "{error}");
    }
    for id in ["on-dead-1", "on-dead-2"] {
        let record = node.volumes.0.records.read(&id.parse().unwrap()).unwrap();
        assert!(record.is_some(), "{id}: its record is gone");
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
