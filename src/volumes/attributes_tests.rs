//! Tests of each volume attribute with the in-memory fake of the kernel.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    time::Duration,
};

use super::{tests::Node, *};
use crate::{
    error::Class,
    image::PullPolicy,
    overlay::Xino,
    owner::Owner,
    sys::{
        Errno,
        mounts::{Call, Mounts},
    },
};

/// A publish request for volume `id` whose spec is changed by `change`.
fn with(node: &Node, id: &str, change: impl FnOnce(&mut VolumeSpec)) -> PublishRequest {
    let mut request = node.request(id, id);
    change(&mut request.spec);
    request
}

fn in_memory(node: &Node, id: &str) -> PublishRequest {
    with(node, id, |spec| {
        spec.medium = Medium::Memory;
        spec.limits = Limits { size: Some(1 << 20), inodes: Some(100), by_default: false };
    })
}

#[tokio::test]
async fn a_memory_volume_has_two_mounts_and_unpublish_removes_both() {
    let node = Node::new();
    node.volumes.publish(in_memory(&node, "a")).await.unwrap();
    node.volumes.publish(in_memory(&node, "a")).await.unwrap();
    assert_eq!(node.mounted(), [node.volume("a").join("memory"), node.target("a").into()]);
    let tmpfs = node.kernel.requests().into_iter().find(|r| r.contains("ovl-csi-memory")).unwrap();
    assert!(tmpfs.contains("size=1048576") && tmpfs.contains("nr_inodes=108"), "{tmpfs}");
    assert!(node.volume("a").join("memory/upper").is_dir());
    node.volumes.recover(Duration::ZERO).unwrap();
    assert_eq!(node.mounted().len(), 2);
    node.unpublish("a", "a").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_memory_volume_survives_a_driver_restart_but_not_a_reboot() {
    let node = Node::new();
    node.volumes.publish(in_memory(&node, "a")).await.unwrap();
    let data = node.volume("a").join("memory/upper/data");
    fs::write(&data, "kept").unwrap();
    let node = node.restarted();
    node.volumes.publish(in_memory(&node, "a")).await.unwrap();
    assert_eq!(node.mounted().len(), 2);
    assert!(data.exists() && node.events().is_empty(), "{:?}", node.events());

    node.kernel.unmount(node.target("a").as_path()).unwrap();
    node.volumes.publish(in_memory(&node, "a")).await.unwrap();
    assert!(data.exists(), "only the overlay was unmounted");
    assert_eq!(node.events(), ["VolumeRemounted"]);

    let node = node.rebooted();
    node.volumes.publish(in_memory(&node, "a")).await.unwrap();
    assert!(!data.exists());
    assert_eq!(node.events(), ["VolumeEmptied"]);
    assert_eq!(node.mounted().len(), 2);
    node.unpublish("a", "a").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_memory_volume_that_fails_at_any_step_leaves_nothing() {
    for (call, nth) in [
        (Call::Create, 1),
        (Call::Create, 2),
        (Call::Create, 3),
        (Call::Attach, 1),
        (Call::Attach, 2),
    ] {
        let node = Node::new();
        node.kernel.fail(call, nth, Errno::ENOMEM);
        assert!(node.volumes.publish(in_memory(&node, "a")).await.is_err());
        node.assert_nothing_left();
        node.volumes.publish(in_memory(&node, "a")).await.unwrap();
        for nth in [1, 2] {
            node.kernel.fail(Call::Unmount, nth, Errno::EBUSY);
            assert!(node.unpublish("a", "a").await.is_err());
            node.volumes.publish(in_memory(&node, "a")).await.unwrap();
        }
        node.unpublish("a", "a").await.unwrap();
        node.assert_nothing_left();
    }
}

/// docs/hazards.md, 15: a kill between any two steps.
#[tokio::test]
async fn a_memory_volume_left_incomplete_by_a_kill_is_completed_or_removed() {
    // Killed before the record is written: the volume is incomplete, and its tmpfs is attached.
    let node = Node::new();
    node.volumes.publish(in_memory(&node, "a")).await.unwrap();
    node.kernel.unmount(node.target("a").as_path()).unwrap();
    fs::remove_dir(node.target("a").as_path()).unwrap();
    node.records().lose(&"a".parse().unwrap());
    let node = node.restarted();
    node.assert_nothing_left();

    // Killed before the upper is renamed to its final name.
    node.volumes.publish(in_memory(&node, "a")).await.unwrap();
    node.kernel.unmount(node.target("a").as_path()).unwrap();
    let memory = node.volume("a").join("memory");
    fs::rename(memory.join("upper"), memory.join("upper.new")).unwrap();
    let node = node.restarted();
    node.volumes.publish(in_memory(&node, "a")).await.unwrap();
    assert!(memory.join("upper").is_dir() && !memory.join("upper.new").exists());

    // Killed after the tmpfs is unmounted and before the record is removed.
    node.kernel.unmount(node.target("a").as_path()).unwrap();
    node.kernel.unmount(&memory).unwrap();
    let node = node.restarted();
    node.unpublish("a", "a").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_plain_upper_that_a_kill_left_without_its_final_name_is_made() {
    for volatile in [false, true] {
        let node = Node::new();
        let request = || with(&node, "a", |spec| spec.options.volatile = volatile);
        node.volumes.publish(request()).await.unwrap();
        node.kernel.unmount(node.target("a").as_path()).unwrap();
        fs::remove_dir(node.volume("a").join("upper")).unwrap();
        fs::create_dir(node.volume("a").join("upper.new")).unwrap();
        node.volumes.publish(request()).await.unwrap();
        let root = fs::metadata(node.volume("a").join("upper")).unwrap();
        assert_eq!(root.permissions().mode() & 0o7777, 0o777);
    }
}

#[tokio::test]
async fn an_unclean_volume_is_emptied_or_refused() {
    for on_unclean in [OnUnclean::Discard, OnUnclean::Fail] {
        let request = |node: &Node| {
            with(node, "a", |spec| {
                spec.options.volatile = true;
                spec.on_unclean = on_unclean;
            })
        };
        let node = Node::new();
        node.volumes.publish(request(&node)).await.unwrap();
        fs::write(node.volume("a").join("upper/data"), "torn").unwrap();
        let node = node.rebooted();
        let again = node.volumes.publish(request(&node)).await;
        if on_unclean == OnUnclean::Discard {
            again.unwrap();
            assert!(!node.volume("a").join("upper/data").exists());
            assert_eq!(node.events(), ["VolumeEmptied"]);
        } else {
            let error = again.unwrap_err();
            assert_eq!(error.class(), Class::Precondition);
            assert!(error.to_string().contains("the node went down"), "{error}");
            assert!(node.volume("a").join("upper/data").exists(), "the volume may not be emptied");
            assert_eq!(node.mounted().len(), 0);
        }
    }
}

#[tokio::test]
async fn a_limit_that_cannot_be_enforced_is_refused_or_reported() {
    let node = Node::new();
    let sized = |by_default| {
        with(&node, "a", |spec| {
            spec.limits = Limits { size: Some(1 << 20), inodes: None, by_default }
        })
    };
    // With project quotas on this machine the limit is enforced, and no Event is expected.
    if node.volumes.0.projects.lacking().is_none() {
        return;
    }
    let error = node.volumes.publish(sized(false)).await.unwrap_err();
    assert_eq!(error.class(), Class::Precondition);
    assert!(error.to_string().contains("medium: Memory"), "{error}");
    node.assert_nothing_left();
    node.volumes.publish(sized(true)).await.unwrap();
    node.volumes.publish(sized(true)).await.unwrap();
    assert_eq!(node.events(), ["LimitNotEnforced"]);
    let counted = node.volumes.0.metrics.text().unwrap();
    assert!(counted.contains("ovl_unenforced_limits_total 1"), "{counted}");
}

type Change = fn(&mut VolumeSpec);

/// Attributes that have a default, each with a change to another value.
const WITH_DEFAULTS: [(&str, Change); 9] = [
    ("volatile", |s| s.options.volatile = true),
    ("size", |s| s.limits = Limits { size: Some(1), inodes: None, by_default: true }),
    ("inodes", |s| s.limits = Limits { size: None, inodes: Some(1), by_default: true }),
    ("onUnclean", |s| s.on_unclean = OnUnclean::Fail),
    ("metacopy", |s| s.options.metacopy = false),
    ("redirectDir", |s| (s.options.redirect_dir, s.options.metacopy) = (false, false)),
    ("index", |s| s.options.index = true),
    ("xino", |s| s.options.xino = Xino::Off),
    ("mountOptions", |s| s.options.noatime = true),
];

#[tokio::test]
async fn a_changed_default_is_no_conflict() {
    for (key, change) in WITH_DEFAULTS {
        for before in [true, false] {
            let node = Node::new();
            let request = |changed: bool| {
                with(&node, "a", |spec| {
                    if changed {
                        change(spec)
                    }
                })
            };
            node.volumes.publish(request(before)).await.unwrap();
            let again = node.volumes.publish(request(!before)).await;
            assert!(again.is_ok(), "{key}: {again:?}");
            assert_eq!(node.mounted().len(), 1, "{key}");
        }
    }
}

/// The driver is upgraded to a version with other defaults while a pod runs. Then the kubelet restarts, then the node
/// reboots.
#[tokio::test]
async fn a_volume_keeps_its_options_when_a_default_changes() {
    let off = |node: &Node| with(node, "a", |spec| spec.options.xino = Xino::Off);
    let auto = |node: &Node| node.request("a", "a");
    let mount = |node: &Node| node.kernel.requests().pop().unwrap();
    let node = Node::new();
    node.volumes.publish(off(&node)).await.unwrap();
    assert!(mount(&node).contains("xino=off"), "{}", mount(&node));
    let node = node.restarted();
    for _ in 0..2 {
        node.volumes.publish(auto(&node)).await.unwrap();
        assert_eq!(node.mounted(), [node.target("a").as_path()]);
    }
    let node = node.rebooted();
    node.volumes.publish(auto(&node)).await.unwrap();
    assert!(mount(&node).contains("xino=off"), "{}", mount(&node));
    node.volumes.publish(node.request("new", "new")).await.unwrap();
    assert!(mount(&node).contains("xino=auto"), "{}", mount(&node));
}

/// The first version of the driver recorded no group. After an upgrade and a reboot such a volume is published again.
#[tokio::test]
async fn a_group_that_the_record_does_not_have_is_no_conflict() {
    let node = Node::new();
    let of_group = |group| with(&node, "a", |spec| spec.group = group);
    node.volumes.publish(of_group(None)).await.unwrap();
    node.volumes.publish(of_group(Some(7))).await.unwrap();
    let other = with(&node, "b", |spec| spec.group = Some(7));
    node.volumes.publish(other).await.unwrap();
    let error = node.volumes.publish(node.request("b", "b")).await.unwrap_err();
    assert!(error.to_string().contains("differs from the existing volume in fsGroup;"), "{error}");
}

#[tokio::test]
async fn a_conflict_names_the_attribute_that_differs() {
    let changes: [(&str, Change); 6] = [
        ("images", |s| s.images = vec!["a/b:1".parse().unwrap()]),
        ("readOnly", |s| s.read_only = true),
        ("medium", |s| s.medium = Medium::Memory),
        ("owner", |s| s.owner = Some(Owner { uid: 1, gid: 1 })),
        ("preCopyUp", |s| s.pre_copy_up = vec!["a".into()]),
        ("SELinux context", |s| s.options.context = Some("x".to_owned())),
    ];
    let node = Node::new();
    node.volumes.publish(node.request("a", "a")).await.unwrap();
    for (name, change) in changes.into_iter().chain(WITH_DEFAULTS) {
        let request = with(&node, "a", |spec| {
            change(spec);
            (spec.limits.by_default, spec.written) = (false, [name.to_owned()].into());
        });
        let error = node.volumes.publish(request).await.unwrap_err();
        assert!(
            error.to_string().contains(&format!("differs from the existing volume in {name};"))
                || name == "readOnly" && error.to_string().contains(name),
            "{name}: {error}"
        );
    }
    let mut policy = node.request("a", "a");
    policy.spec.pull_policy = Some(PullPolicy::Never);
    node.volumes.publish(policy).await.unwrap();
}

#[tokio::test]
async fn a_read_only_volume_has_no_upper_also_with_default_limits() {
    let node = Node::new();
    let only_reads = with(&node, "a", |spec| {
        spec.read_only = true;
        spec.limits = Limits { size: Some(1), inodes: None, by_default: true };
    });
    node.volumes.publish(only_reads).await.unwrap();
    assert!(!node.volume("a").join("upper").exists());
    node.unpublish("a", "a").await.unwrap();
    node.assert_nothing_left();
}

/// docs/hazards.md, 25: setting a group by a walk copies the whole tree up. The driver sets it on the root directory
/// only.
#[tokio::test]
async fn the_group_is_set_on_the_volume_root() {
    let node = Node::new();
    let myself = fs::metadata(node.dir.path()).unwrap().gid();
    let request = with(&node, "a", |spec| spec.group = Some(myself));
    node.volumes.publish(request).await.unwrap();
    let root = fs::metadata(node.volume("a").join("upper")).unwrap();
    assert_eq!((root.gid(), root.mode() & 0o7777), (myself, 0o2777));
}

#[tokio::test]
async fn a_missing_pre_copy_up_file_is_named_and_nothing_is_left() {
    let node = Node::new();
    let request = with(&node, "a", |s| s.pre_copy_up = vec!["no/such/file".into()]);
    let error = node.volumes.publish(request).await.unwrap_err();
    assert_eq!(error.class(), Class::Invalid);
    assert!(error.to_string().contains("no/such/file"), "{error}");
    node.assert_nothing_left();
}

#[tokio::test]
async fn an_image_outside_of_the_policy_is_refused_without_a_request() {
    let registry = crate::image::fake::FakeRegistry::start().await;
    registry.push_image("a", "1", &[vec![0; 1_024]], false);
    let policy = ImagePolicy::new(&["registry.example/*".to_owned()], &Default::default()).unwrap();
    let node = Node::with_settings(registry.registries(), |settings| settings.policy = policy);
    let mut request = node.request("a", "a");
    request.spec.images = vec![registry.reference("a", "1")];
    let error = node.volumes.publish(request).await.unwrap_err();
    assert_eq!(error.class(), Class::Denied);
    let sentence = error.to_string();
    for part in
        [registry.reference("a", "1").to_string().as_str(), "default", "policy.allowedImages"]
    {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert!(registry.requests_to("").is_empty(), "the registry got a request");
    node.assert_nothing_left();
}

#[tokio::test]
async fn stats_need_the_volume_and_its_target() {
    let node = Node::new();
    let (a, target, other_target) =
        ("a".parse().unwrap(), node.target("a"), node.target("elsewhere"));
    node.volumes.publish(node.request("a", "a")).await.unwrap();
    for (id, published_at) in [("b", &target), ("a", &other_target)] {
        let error = node.volumes.stats(&id.parse().unwrap(), published_at).await.unwrap_err();
        assert_eq!(error.class(), Class::NotFound, "{error}");
    }
    fs::write(node.volume("a").join("upper/data"), vec![1; 100_000]).unwrap();
    let first = node.volumes.stats(&a, &target).await.unwrap();
    assert!(
        first.bytes.total > 0 && first.bytes.used == 0,
        "the first count is not done yet: {first:?}"
    );
    // The first call starts the count, which runs in the background.
    let counted = loop {
        let stats = node.volumes.stats(&a, &target).await.unwrap();
        if stats.inodes.used > 0 {
            break stats;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(counted.inodes.used, 1);
    assert!((100_000..300_000).contains(&counted.bytes.used), "{counted:?}");
    fs::write(node.volume("a").join("upper/more"), "x").unwrap();
    let again = node.volumes.stats(&a, &target).await.unwrap();
    assert_eq!(again.inodes.used, 1, "not counted again so soon");
}

#[tokio::test]
async fn a_metric_counts_the_volumes() {
    let node = Node::new();
    node.volumes.publish(node.request("a", "a")).await.unwrap();
    node.volumes.recover(Duration::ZERO).unwrap();
    let text = node.volumes.0.metrics.text().unwrap();
    assert!(text.contains("ovl_volumes 1"), "{text}");
}
