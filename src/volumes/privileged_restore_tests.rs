//! Tests of volumes that start from snapshots, on the real kernel.
//!
//! The tests capture a volume by hand: they unmount it and move its upper into a layer.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use super::{
    fake_snapshot_lookup::{found, record, snapshot_layer},
    privileged_tests::{Node, read, registry},
    *,
};
use crate::{
    error::Class,
    image::fake::FakeRegistry,
    layers::{LayerKey, SnapshotRecord},
    overlay::Options,
    owner::Owner,
    reference::Reference,
    sys::{
        attributes,
        mounts::{LinuxMounts, Mounts as _},
    },
};

/// A node whose volume names begin with `prefix`, because all tests share the kernel's mount table.
struct Bench {
    node: Node,
    images: Vec<Reference>,
    prefix: &'static str,
    registry: FakeRegistry,
}

impl Bench {
    async fn new(prefix: &'static str) -> Self {
        let (registry, images) = registry().await;
        let node = Node::new(&registry);
        fs::set_permissions(node.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { node, images, prefix, registry }
    }

    fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    async fn publish(&self, name: &str, spec: VolumeSpec) -> Result<(), PublishError> {
        self.node.volumes.publish(self.node.request(&self.id(name), spec)).await
    }

    fn at(&self, name: &str) -> PathBuf {
        self.node.target(&self.id(name))
    }

    /// Captures a volume as the snapshot of this name. The volume is not mounted from then on.
    fn capture(&self, name: &str, snapshot: &str) -> SnapshotRecord {
        self.capture_with(name, snapshot, (true, true))
    }

    /// Captures a volume whose upper has these features (metacopy, redirect).
    fn capture_with(&self, name: &str, snapshot: &str, features: (bool, bool)) -> SnapshotRecord {
        LinuxMounts.unmount(&self.at(name)).unwrap();
        let (id, pod) =
            (self.id(name), self.node.request(&self.id(name), VolumeSpec::default()).pod);
        let guard = self.node.volumes.guard(&id.parse().unwrap(), Some(&pod)).unwrap();
        assert!(!guard.is_mounted());
        let upper = guard.upper().to_owned();
        let layer = snapshot_layer(&self.node.volumes.0.store, snapshot, features, |diff| {
            fs::rename(upper, diff).unwrap();
        });
        let stack: Vec<LayerKey> = guard.stack().iter().copied().chain([layer]).collect();
        let captured = SnapshotRecord {
            own_layers: guard.snapshot_layers() + 1,
            parent: guard.parent().cloned(),
            owner: guard.owner(),
            ..record(snapshot, stack, guard.manifests().to_vec())
        };
        self.node.volumes.0.store.snapshots.put(captured.clone()).unwrap();
        self.node.snapshots.respond(snapshot, [Ok(found(snapshot))]);
        captured
    }
}

fn of(snapshot: &str) -> VolumeSpec {
    VolumeSpec { snapshot: Some(snapshot.to_owned()), ..VolumeSpec::default() }
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

/// Makes a change for each kind of mark that overlay writes.
fn write_all(at: &Path) {
    fs::write(at.join("dir/kept"), "written").unwrap();
    fs::remove_file(at.join("dir/covered")).unwrap();
    fs::rename(at.join("dir"), at.join("renamed")).unwrap();
    fs::set_permissions(at.join("tool"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(at.join("new"), "new").unwrap();
}

fn assert_all(at: &Path) {
    assert_eq!(read(at.join("renamed/kept")), "written");
    assert!(!at.join("renamed/covered").exists() && !at.join("dir").exists());
    assert_eq!((read(at.join("tool")), read(at.join("new"))), ("t".to_owned(), "new".to_owned()));
    assert_eq!(fs::metadata(at.join("tool")).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_ten_forks_start_with_the_captured_files_and_write_separately() {
    let bench = Bench::new("fork").await;
    let spec = VolumeSpec { images: bench.images.clone(), ..VolumeSpec::default() };
    bench.publish("dev", spec.clone()).await.unwrap();
    write_all(&bench.at("dev"));
    bench.capture("dev", "ws-1");
    let layers = || fs::read_dir(bench.node.dir.path().join("store/layers")).unwrap().count();
    let before = layers();
    for n in 0..10 {
        bench.publish(&n.to_string(), of("ws-1")).await.unwrap();
    }
    for n in 0..10 {
        let at = bench.at(&n.to_string());
        assert_all(&at);
        fs::write(at.join("new"), n.to_string()).unwrap();
    }
    for n in 0..10 {
        assert_eq!(read(bench.at(&n.to_string()).join("new")), n.to_string());
    }
    assert_eq!(layers(), before);
    assert_eq!(bench.node.mounts().len(), 10, "one mount for each volume");
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_snapshots_of_snapshots_and_snapshots_on_other_images() {
    let bench = Bench::new("deep").await;
    let spec = VolumeSpec { images: bench.images[..1].to_vec(), ..VolumeSpec::default() };
    bench.publish("0", spec).await.unwrap();
    for n in 0..10 {
        let at = bench.at(&n.to_string());
        fs::write(at.join("last"), n.to_string()).unwrap();
        fs::write(at.join(format!("of-{n}")), "x").unwrap();
        let moved = |n: i32| at.join(if n == 0 { "dir".to_owned() } else { format!("dir-{n}") });
        fs::rename(moved(n), moved(n + 1)).unwrap();
        let captured = bench.capture(&n.to_string(), &format!("ws-{n}"));
        assert_eq!((captured.own_layers, captured.manifests.len()), (n as usize + 1, 1));
        let parent = (n > 0).then(|| format!("ws-{}", n - 1).parse().unwrap());
        assert_eq!(captured.parent, parent);
        bench.publish(&(n + 1).to_string(), of(&format!("ws-{n}"))).await.unwrap();
    }
    let at = bench.at("10");
    assert_eq!((read(at.join("last")), read(at.join("dir-10/kept"))), ("9".into(), "base".into()));
    assert!((0..10).all(|n| at.join(format!("of-{n}")).exists()));
    assert!(!at.join("dir").exists());

    let others = |snapshot| VolumeSpec { images: bench.images[1..].to_vec(), ..of(snapshot) };
    let error = bench.publish("mixed", others("ws-9")).await.unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("ws-9"),
        "the renamed directory's files are the first image's: {message}"
    );

    let spec = VolumeSpec { images: bench.images[..1].to_vec(), ..VolumeSpec::default() };
    bench.publish("plain", spec).await.unwrap();
    fs::write(bench.at("plain").join("last"), "plain").unwrap();
    bench.capture_with("plain", "ws-plain", (false, false));
    bench.publish("mixed", others("ws-plain")).await.unwrap();
    let at = bench.at("mixed");
    assert_eq!((read(at.join("last")), read(at.join("tool"))), ("plain".into(), "t".into()));
    assert_eq!(read(at.join("dir/kept")), "tools");
}

/// `owner` maps the files of an image. Files that the pod wrote keep the owner that it saw.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_restored_volume_shows_the_same_owners() {
    let bench = Bench::new("owned").await;
    let mut images = tar::Builder::new(Vec::new());
    for name in ["roots", "changed"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        images.append_data(&mut header, name, &b"x"[..]).unwrap();
    }
    bench.registry.push_image("roots", "1", &[images.into_inner().unwrap()], true);
    let with_owner = |spec| VolumeSpec { owner: Some(Owner { uid: 1000, gid: 2000 }), ..spec };
    let image = vec![bench.registry.reference("roots", "1")];
    let spec = with_owner(VolumeSpec { images: image, group: Some(3000), ..VolumeSpec::default() });
    bench.publish("dev", spec).await.unwrap();
    let at = bench.at("dev");
    // Only its metadata is copied up: its data stays in the mapped layer.
    fs::set_permissions(at.join("changed"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(at.join("of-root"), "").unwrap();
    fs::write(at.join("of-owner"), "").unwrap();
    chown(at.join("of-root"), Some(0), Some(0)).unwrap();
    chown(at.join("of-owner"), Some(1000), Some(2000)).unwrap();
    let names = ["", "roots", "changed", "of-root", "of-owner"];
    let owners = |at: &Path| names.map(|name| owner(&at.join(name)));
    let shown = owners(&at);
    assert_eq!(shown[1..3], [(1000, 2000), (1000, 2000)]);
    bench.capture("dev", "owned-1");

    bench.publish("fork", with_owner(of("owned-1"))).await.unwrap();
    let fork = bench.at("fork");
    assert_eq!(owners(&fork), shown);
    assert_eq!(read(fork.join("changed")), "x");
    let mode = |at: &Path| fs::metadata(at).unwrap().mode() & 0o7777;
    assert_eq!(mode(&fork) & 0o2070, 0o2070, "the root has the mode bits of the volume's group");
    let error = bench.publish("other", of("owned-1")).await.unwrap_err();
    assert_eq!(error.class(), Class::Precondition, "{error}");
}

/// docs/hazards.md, 7, with the error of the kernel.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_mark_that_overlay_would_not_follow_is_refused_before_the_pod_gets_eperm() {
    let bench = Bench::new("marked").await;
    let spec = VolumeSpec { images: bench.images.clone(), ..VolumeSpec::default() };
    bench.publish("dev", spec).await.unwrap();
    write_all(&bench.at("dev"));
    let captured = bench.capture("dev", "marked-1");
    let options = Options { metacopy: false, ..Options::default() };
    let spec = VolumeSpec { options: options.clone(), ..of("marked-1") };
    let error = bench.publish("fork", spec).await.unwrap_err();
    assert_eq!(error.class(), Class::Precondition, "{error}");
    assert!(error.to_string().contains("remove `metacopy: off`"), "{error}");
    assert!(bench.node.mounts().is_empty());

    // Without the check: the metadata of this layer does not name the features that it needs.
    let store = &bench.node.volumes.0.store;
    let (marked, below) = captured.stack.split_last().unwrap();
    let dir = bench.node.dir.path().join("store/layers").join(marked.dir_name());
    let undeclared = snapshot_layer(store, "undeclared", (false, false), |diff| {
        fs::rename(dir.join("diff"), diff).unwrap();
    });
    let stack = [below, &[undeclared]].concat();
    store.snapshots.put(record("undeclared", stack, Vec::new())).unwrap();
    bench.node.snapshots.respond("undeclared", [Ok(found("undeclared"))]);
    bench.publish("fork", VolumeSpec { options, ..of("undeclared") }).await.unwrap();
    let denied = fs::read(bench.at("fork").join("tool")).unwrap_err();
    assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_view_shows_what_a_pod_would_see_and_is_read_only() {
    let bench = Bench::new("viewed").await;
    let spec = VolumeSpec { images: bench.images.clone(), ..VolumeSpec::default() };
    bench.publish("dev", spec).await.unwrap();
    write_all(&bench.at("dev"));
    let captured = bench.capture("dev", "viewed-1");
    let view = bench.node.volumes.view(&captured.stack, None).unwrap();
    assert_all(&view.path());
    let error = fs::write(view.path().join("more"), "").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);

    let volumes = &bench.node.volumes;
    let owner_of = |stack: &[LayerKey], name: &str| {
        let given = Some(Owner { uid: 1000, gid: 2000 });
        owner(&volumes.view(stack, given).unwrap().path().join(name))
    };
    // The image's file is 1000:2000, which this owner maps to root. The snapshot's file is not mapped.
    assert_eq!(owner_of(&captured.stack[..1], "dir/kept"), (0, 0));
    assert_eq!(owner_of(&captured.stack, "renamed/kept"), (1000, 2000));
    let one = volumes.view(&captured.stack[captured.stack.len() - 1..], None).unwrap();
    assert_eq!(read(one.path().join("new")), "new");
    let none = volumes.view(&[], None).unwrap();
    assert_eq!(fs::read_dir(none.path()).unwrap().count(), 0);
    assert!(bench.node.mounts().is_empty(), "a view is attached nowhere");
    let error = volumes.view(&[LayerKey::of(b"nothing")], None).unwrap_err();
    assert!(matches!(error, ViewError::Lower(_)), "{error}");
    drop((view, one, none));

    let closed = snapshot_layer(&volumes.0.store, "closed", (false, false), |diff| {
        attributes::set_mode(diff, 0o700).unwrap();
    });
    let view = volumes.view(&[captured.stack[0], closed], None).unwrap();
    assert_eq!(fs::metadata(view.path()).unwrap().mode() & 0o777, 0o700);
    assert_eq!(read(view.path().join("dir/kept")), "base");
}
