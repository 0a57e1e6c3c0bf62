//! Tests of each volume attribute on the real kernel.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

// All tests share the kernel and the names in its mount table, so each test uses its own volume names.
use super::{
    privileged_tests::{Node, read, registry, tar},
    *,
};
use crate::{
    error::Class,
    image::fake::FakeRegistry,
    overlay::{Options, Xino},
    owner::Owner,
    reference::Reference,
    sys::{
        durable,
        mounts::{LinuxMounts, Mounts as _},
        quota,
    },
};

fn in_memory(images: Vec<Reference>) -> VolumeSpec {
    VolumeSpec {
        images,
        medium: Medium::Memory,
        limits: Limits { size: Some(1 << 20), inodes: Some(50), by_default: false },
        ..VolumeSpec::default()
    }
}

/// Whether a shell line succeeds as user and group 1000 with the supplementary groups `groups`. `$D` is `dir`.
fn user_can(line: &str, dir: &Path, groups: &str) -> bool {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1000", "--regid=1000", "--groups", groups, "sh", "-c", line]);
    command.current_dir("/").env("D", dir).process_group(0).status().unwrap().success()
}

/// A node whose directory all users can enter.
fn open_node(registry: &FakeRegistry) -> Node {
    let node = Node::new(registry);
    fs::set_permissions(node.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    node
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_memory_volume_is_limited_and_survives_a_driver_restart() {
    let (registry, images) = registry().await;
    let mut node = Node::new(&registry);
    let request = node.request("in-memory", in_memory(images));
    node.volumes.publish(request.clone()).await.unwrap();
    assert_eq!(node.mounts().len(), 2, "two mounts: {:?}", node.mounts());
    let at = node.target("in-memory");
    assert_eq!(read(at.join("tool")), "t");
    fs::write(at.join("dir/kept"), "mine").unwrap();
    let full = fs::write(at.join("big"), vec![1; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    let target = at.clone().try_into().unwrap();
    let stats = node.volumes.stats(&request.id, &target).await.unwrap();
    assert_eq!(stats.bytes.total, 1 << 20);
    assert!(stats.bytes.used > 900_000 && stats.bytes.available < 100_000, "{stats:?}");
    fs::remove_file(at.join("big")).unwrap();
    let created = (0..100).take_while(|n| fs::write(at.join(format!("f{n}")), "").is_ok()).count();
    assert!((40..=55).contains(&created), "{created} files where 50 are allowed");

    for n in 0..created {
        fs::remove_file(at.join(format!("f{n}"))).unwrap();
    }
    node.restart(&registry).await;
    assert_eq!(read(at.join("dir/kept")), "mine");
    node.volumes.publish(request.clone()).await.unwrap();
    assert_eq!(node.mounts().len(), 2);

    // First only the overlay is unmounted, then the tmpfs too, as after a reboot.
    LinuxMounts.unmount(&at).unwrap();
    node.volumes.publish(request.clone()).await.unwrap();
    assert_eq!(read(at.join("dir/kept")), "mine");
    LinuxMounts.unmount(&at).unwrap();
    LinuxMounts.unmount(&node.dir.path().join("store/volumes/in-memory/memory")).unwrap();
    node.volumes.publish(request).await.unwrap();
    assert_eq!(read(at.join("dir/kept")), "tools");

    node.unpublish("in-memory").await;
    assert!(node.mounts().is_empty(), "{:?}", node.mounts());
    assert_eq!(fs::read_dir(node.dir.path().join("store/volumes")).unwrap().count(), 0);
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_the_owner_owns_the_volume_root() {
    let registry = FakeRegistry::start().await;
    let node = open_node(&registry);
    let owner = Some(Owner { uid: 1000, gid: 1000 });
    let spec = VolumeSpec { owner, ..VolumeSpec::default() };
    node.volumes.publish(node.request("owned-root", spec)).await.unwrap();
    let root = fs::metadata(node.target("owned-root")).unwrap();
    assert_eq!((root.uid(), root.gid()), (1000, 1000));
    assert!(user_can("echo mine > $D/new && chmod 700 $D", &node.target("owned-root"), "1000"));
    node.unpublish("owned-root").await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_the_owner_may_write_files_of_root() {
    let registry = FakeRegistry::start().await;
    let mut layer = tar::Builder::new(Vec::new());
    for (name, uid, mode) in [("roots", 0, 0o600), ("others", 7, 0o600)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(uid);
        layer.append_data(&mut header, name, &b"x"[..]).unwrap();
    }
    registry.push_image("owned", "1", &[layer.into_inner().unwrap()], true);
    let node = open_node(&registry);
    let spec = VolumeSpec {
        images: vec![registry.reference("owned", "1")],
        owner: Some(Owner { uid: 1000, gid: 1000 }),
        ..VolumeSpec::default()
    };
    node.volumes.publish(node.request("owned", spec)).await.unwrap();
    let at = node.target("owned");
    assert_eq!(fs::metadata(at.join("others")).unwrap().uid(), 7);
    assert!(!user_can("cat $D/others", &at, "1000"));
    assert!(user_can("echo mine > $D/roots && echo mine > $D/new", &at, "1000"));
    assert_eq!(read(at.join("roots")), "mine\n");
    let upper = node.dir.path().join("store/volumes/owned/upper");
    assert!(!upper.join("others").exists(), "only written files are copied up");
    node.unpublish("owned").await;
}

/// docs/hazards.md, 25: setting a group by a walk copies the whole tree up.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_the_group_may_write_and_nothing_is_copied_up() {
    let (registry, images) = registry().await;
    let node = open_node(&registry);
    let spec = VolumeSpec { images, group: Some(5000), ..VolumeSpec::default() };
    node.volumes.publish(node.request("grouped", spec)).await.unwrap();
    let at = node.target("grouped");
    let root = fs::metadata(&at).unwrap();
    assert_eq!((root.gid(), root.mode() & 0o7777), (5000, 0o2775));
    assert!(!user_can("echo mine > $D/new", &at, "1000"));
    assert!(user_can("echo mine > $D/new", &at, "5000"));
    assert_eq!(
        fs::metadata(at.join("new")).unwrap().gid(),
        5000,
        "a new file belongs to the group"
    );
    let upper = fs::read_dir(node.dir.path().join("store/volumes/grouped/upper")).unwrap();
    let names: Vec<_> = upper.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["new"]);
    node.unpublish("grouped").await;
}

/// `privileged_behaviour_tests` covers what a mapping sees.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_files_in_pre_copy_up_are_in_the_upper_after_publish() {
    let (registry, images) = registry().await;
    let node = Node::new(&registry);
    let spec = |path: &str| VolumeSpec {
        images: images.clone(),
        pre_copy_up: vec![path.into()],
        ..VolumeSpec::default()
    };
    for wrong in ["dir", "none", "dir/kept/none"] {
        let error = node.volumes.publish(node.request("copied", spec(wrong))).await.unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{error}");
        assert!(error.to_string().contains(wrong), "{error}");
        assert!(node.mounts().is_empty());
    }
    node.volumes.publish(node.request("copied", spec("dir/kept"))).await.unwrap();
    let upper = node.dir.path().join("store/volumes/copied/upper");
    assert!(upper.join("dir/kept").is_file() && !upper.join("dir/covered").exists());
    let path = node.target("copied").join("dir/kept");
    assert_eq!(fs::metadata(&path).unwrap().mtime(), 1_234_567_890);

    // The pod may have removed the file from a volume that was in use.
    fs::remove_file(&path).unwrap();
    LinuxMounts.unmount(&node.target("copied")).unwrap();
    node.volumes.publish(node.request("copied", spec("dir/kept"))).await.unwrap();
    assert!(!path.exists());
    node.unpublish("copied").await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_every_option_is_shown_in_the_mount_table() {
    let (registry, images) = registry().await;
    let node = Node::new(&registry);
    let options = Options {
        metacopy: false,
        redirect_dir: false,
        xino: Xino::On,
        nosuid: false,
        noexec: true,
        ..Options::default()
    };
    let spec = VolumeSpec { images, options, ..VolumeSpec::default() };
    node.volumes.publish(node.request("switched", spec)).await.unwrap();
    let [mount] = &node.mounts()[..] else { panic!("{:?}", node.mounts()) };
    let has = |name: &str| mount.options.iter().any(|option| option == name);
    assert!(has("noexec") && has("nodev") && !has("nosuid"), "{:?}", mount.options);
    let is_on = |key| mount.super_option(key).is_some_and(|value| value == "on");
    assert!(is_on("xino"), "{:?}", mount.super_options);
    assert!(!is_on("metacopy") && !is_on("redirect_dir"), "{:?}", mount.super_options);
    node.unpublish("switched").await;
}

/// docs/hazards.md, 1: the kernel's own marker of a volatile overlay is not reliable. The driver's record is.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_volatile_volume_of_another_boot_is_emptied() {
    let (registry, images) = registry().await;
    let node = Node::new(&registry);
    let options = Options { volatile: true, ..Options::default() };
    let spec = VolumeSpec { images, options, ..VolumeSpec::default() };
    node.volumes.publish(node.request("torn", spec.clone())).await.unwrap();
    fs::write(node.target("torn").join("new"), "torn").unwrap();
    LinuxMounts.unmount(&node.target("torn")).unwrap();
    let boot = durable::boot_id().unwrap();
    let change = |record: String| record.replace(&boot, "another boot");
    node.volumes.0.records.change(&"torn".parse().unwrap(), change);
    node.volumes.publish(node.request("torn", spec)).await.unwrap();
    assert!(!node.target("torn").join("new").exists());
    assert_eq!(read(node.target("torn").join("tool")), "t");
    node.unpublish("torn").await;
}

/// docs/hazards.md, 20: concurrent calls lose no record, no mount and no layer.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn privileged_a_hundred_volumes_are_published_and_unpublished_at_once() {
    let registry = FakeRegistry::start().await;
    registry.push_image("a", "1", &[tar(&[("file", "x")])], true);
    let node = Node::new(&registry);
    let image = registry.reference("a", "1");
    let publish = |name: String| {
        let spec = VolumeSpec { images: vec![image.clone()], ..VolumeSpec::default() };
        let request = node.request(&name, spec);
        async { node.volumes.publish(request).await.unwrap() }
    };
    futures::future::join_all((0..100).map(|n| publish(format!("v{n}")))).await;
    assert_eq!(node.mounts().len(), 100);
    let names: Vec<_> = (0..100).map(|n| format!("v{n}")).collect();
    let unpublishes = names.iter().map(|name| node.unpublish(name));
    let publishes = (0..50).map(|n| publish(format!("w{n}")));
    let both = futures::future::join_all(unpublishes);
    futures::future::join(both, futures::future::join_all(publishes)).await;
    assert_eq!(node.mounts().len(), 50);
    for n in 0..50 {
        assert_eq!(read(node.target(&format!("w{n}")).join("file")), "x");
    }
    let names: Vec<_> = (0..50).map(|n| format!("w{n}")).collect();
    futures::future::join_all(names.iter().map(|name| node.unpublish(name))).await;
    assert!(node.mounts().is_empty());
    assert_eq!(fs::read_dir(node.dir.path().join("store/volumes")).unwrap().count(), 0);
}

/// `OVL_EXT4` and `OVL_XFS` are directories on file systems with project quotas. The harness sets them on its
/// emulated machines.
#[tokio::test]
#[ignore = "needs root and file systems with project quotas"]
async fn emulated_a_volume_is_limited_to_its_size_and_others_are_not() {
    for place in ["OVL_EXT4", "OVL_XFS"] {
        let place = std::env::var_os(place).expect(place);
        let (registry, images) = registry().await;
        let node = Node::beneath(place.as_ref(), &registry);
        let limits = Limits { size: Some(4 << 20), inodes: Some(50), by_default: false };
        for (id, limits) in [("small", limits), ("free", Limits::default())] {
            let spec = VolumeSpec { images: images.clone(), limits, ..VolumeSpec::default() };
            node.volumes.publish(node.request(id, spec)).await.unwrap();
        }
        let (small, free) = (node.target("small"), node.target("free"));
        let assert_full = |error: io::Error| {
            let errno = error.raw_os_error();
            assert!(matches!(errno, Some(libc::EDQUOT | libc::ENOSPC)), "{place:?}: {error}");
        };
        fs::write(small.join("one"), vec![1; 1 << 20]).unwrap();
        assert_full(fs::write(small.join("two"), vec![1; 8 << 20]).unwrap_err());
        fs::remove_file(small.join("two")).unwrap();
        let mut created = (0..100).map(|n| fs::write(small.join(n.to_string()), b""));
        assert_full(created.find_map(Result::err).expect("more files than the limit"));
        fs::write(free.join("two"), vec![1; 8 << 20]).unwrap();

        let small: Target = small.try_into().unwrap();
        let stats = node.volumes.stats(&"small".parse().unwrap(), &small).await.unwrap();
        assert_eq!((stats.bytes.total, stats.inodes.total), (4 << 20, 50), "{stats:?}");
        assert!(stats.bytes.used >= 1 << 20 && stats.bytes.available < 3 << 20, "{stats:?}");
        // A directory in another project passes the limit, because the quota guards against accidents only. It is
        // still counted.
        let id = "small".parse().unwrap();
        let upper = node.dir.path().join("store/volumes/small/upper");
        let moved = small.as_path().join("moved");
        // XFS frees the inodes of removed files in the background, and the quota with them. And the driver still counts
        // the files, and keeps the inode that it looks at.
        for n in 0..4 {
            fs::remove_file(small.as_path().join(n.to_string())).unwrap();
        }
        let removed = Instant::now();
        while let Err(error) = fs::create_dir(&moved) {
            assert_full(error);
            assert!(removed.elapsed() < Duration::from_secs(60), "{place:?}: no inode is freed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        quota::Projects::probe(&upper).unwrap().assign(&upper.join("moved"), 7).unwrap();
        fs::write(moved.join("large"), vec![1; 8 << 20]).unwrap();
        node.volumes.0.counts.forget(&id);
        let started = Instant::now();
        while node.volumes.stats(&id, &small).await.unwrap().bytes.used < 8 << 20 {
            assert!(started.elapsed() < Duration::from_secs(60), "{place:?}: it is not counted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        node.unpublish("small").await;
        node.unpublish("free").await;
        assert!(node.mounts().is_empty(), "{:?}", node.mounts());
    }
}
