//! Tests of publish and unpublish on the real kernel, with a registry on loopback, real layers and real mounts.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;

use super::{fake_snapshot_lookup::FakeSnapshots, *};
use crate::{
    digest::Digest,
    image::{Keyring, fake::FakeRegistry},
    layers::Store,
    overlay::{KernelFeatures, Options},
    reference::Reference,
    sys::mounts::{LinuxMounts, Mount, Mounts},
};

/// A node on this machine. Dropped, it unmounts what a failed test left.
pub(super) struct Node {
    pub(super) dir: TempDir,
    pub(super) volumes: Volumes,
    pub(super) snapshots: Arc<FakeSnapshots>,
}

impl Node {
    pub(super) fn new(registry: &FakeRegistry) -> Self {
        Self::beneath(&std::env::temp_dir(), registry)
    }

    /// A node whose directory is below `place`, on that disk.
    pub(super) fn beneath(place: &Path, registry: &FakeRegistry) -> Self {
        let dir = TempDir::new_in(place).unwrap();
        fs::create_dir_all(dir.path().join("kubelet/pods/pod-1")).unwrap();
        let snapshots = Arc::default();
        let volumes = open(dir.path(), registry, &snapshots);
        Self { dir, volumes, snapshots }
    }

    pub(super) fn target(&self, name: &str) -> PathBuf {
        self.dir.path().join("kubelet/pods/pod-1").join(name)
    }

    pub(super) fn request(&self, id: &str, spec: VolumeSpec) -> PublishRequest {
        PublishRequest {
            id: id.parse().unwrap(),
            target: self.target(id).try_into().unwrap(),
            pod: Pod {
                namespace: "default".to_owned(),
                name: "one".to_owned(),
                uid: "pod-1".parse().unwrap(),
            },
            spec,
            keyring: Keyring::default(),
            deadline: None,
        }
    }

    pub(super) async fn publish(
        &self,
        id: &str,
        images: &[Reference],
        volatile: bool,
        read_only: bool,
    ) {
        let spec = VolumeSpec {
            images: images.to_vec(),
            read_only,
            options: Options { volatile, ..Options::default() },
            ..VolumeSpec::default()
        };
        self.volumes.publish(self.request(id, spec)).await.unwrap();
    }

    /// Restarts the driver: the process ends, and a new one opens the same store.
    pub(super) async fn restart(&mut self, registry: &FakeRegistry) {
        self.restart_after(registry, || {}).await;
    }

    /// Restarts the driver, and calls `between` after the old process has ended.
    pub(super) async fn restart_after(&mut self, registry: &FakeRegistry, between: impl FnOnce()) {
        // Lets the last pull release the store.
        tokio::task::yield_now().await;
        let empty = TempDir::new().unwrap();
        // The old process must release the store before the new one opens it.
        drop(std::mem::replace(&mut self.volumes, open(empty.path(), registry, &self.snapshots)));
        between();
        self.volumes = open(self.dir.path(), registry, &self.snapshots);
        self.volumes.recover(Duration::ZERO).unwrap();
    }

    pub(super) async fn unpublish(&self, id: &str) {
        let target = self.target(id).try_into().unwrap();
        self.volumes.unpublish(&id.parse().unwrap(), &target).await.unwrap();
    }

    /// The mounts beneath this node's directory, without the layers that an older kernel needs attached.
    pub(super) fn mounts(&self) -> Vec<Mount> {
        let mut table = self.all_mounts();
        table.retain(|mount| !mount.target.starts_with(self.dir.path().join("lowers")));
        table
    }

    fn all_mounts(&self) -> Vec<Mount> {
        let mut table = LinuxMounts.table().unwrap();
        table.retain(|mount| mount.target.starts_with(self.dir.path()));
        table
    }

    /// The name of each layer, with the digest of its EROFS image.
    fn layers(&self) -> Vec<(String, Digest)> {
        let entries = fs::read_dir(self.dir.path().join("store/layers")).unwrap();
        let mut digests: Vec<_> = entries
            .map(|entry| {
                let dir = entry.unwrap();
                let image = fs::read(dir.path().join("layer.erofs")).unwrap();
                (dir.file_name().into_string().unwrap(), Digest::of(&image))
            })
            .collect();
        digests.sort();
        digests
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for mount in self.all_mounts().into_iter().rev() {
            let _ = LinuxMounts.unmount(&mount.target);
        }
    }
}

fn open(dir: &Path, registry: &FakeRegistry, snapshots: &Arc<FakeSnapshots>) -> Volumes {
    // As in `ovl node`: these tests also run on kernels that need the older way to pass layers.
    let features = KernelFeatures::probe(&LinuxMounts, &dir.join("probe")).unwrap();
    let kernel = features.mounts(&dir.join("lowers")).unwrap();
    let store = Arc::new(Store::open(&dir.join("store"), kernel.clone()).unwrap());
    let parts = Parts {
        snapshots: snapshots.clone(),
        ..Parts::new(store, registry.registries(), kernel, features)
    };
    Volumes::open(parts, Settings::new(dir.join("kubelet"))).unwrap()
}

pub(super) fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_uid(1000);
        header.set_gid(2000);
        header.set_mtime(1_234_567_890);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(super) async fn registry() -> (FakeRegistry, Vec<Reference>) {
    let registry = FakeRegistry::start().await;
    let base = tar(&[("dir/kept", "base"), ("dir/gone", "base"), ("dir/covered", "base")]);
    let change = tar(&[("dir/.wh.gone", ""), ("dir/covered", "top")]);
    // Real images repeat layers, most often the empty one.
    registry.push_image("base", "1", &[base.clone(), change, tar(&[]), tar(&[])], true);
    registry.push_image("tools", "1", &[tar(&[("dir/kept", "tools"), ("tool", "t")])], false);
    let references = vec![registry.reference("base", "1"), registry.reference("tools", "1")];
    (registry, references)
}

pub(super) fn read(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_volumes_share_layers_and_keep_their_writes_separate() {
    let (registry, images) = registry().await;
    let node = Node::new(&registry);
    node.publish("mine", &images[..1], false, false).await;
    let before = node.layers();
    let (a, b) = (node.target("mine"), node.target("b"));
    assert_eq!(read(a.join("dir/kept")), "base");
    assert_eq!(read(a.join("dir/covered")), "top");
    assert!(!a.join("dir/gone").exists());
    let meta = fs::metadata(a.join("dir/kept")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 2000, 0o640));
    assert_eq!(meta.mtime(), 1_234_567_890);

    node.publish("b", &images[..1], false, false).await;
    fs::write(a.join("dir/kept"), "mine").unwrap();
    fs::write(a.join("new"), "mine").unwrap();
    fs::remove_file(a.join("dir/covered")).unwrap();
    assert_eq!(read(b.join("dir/kept")), "base");
    assert_eq!(read(b.join("dir/covered")), "top");
    assert!(!b.join("new").exists());
    assert_eq!(node.layers(), before, "a layer changed");
    assert_eq!(node.mounts().len(), 2, "one mount for each volume: {:?}", node.mounts());

    node.unpublish("mine").await;
    node.unpublish("b").await;
    assert!(node.mounts().is_empty());
    assert!(!a.exists() && !b.exists());
    assert_eq!(fs::read_dir(node.dir.path().join("store/volumes")).unwrap().count(), 0);
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_later_images_cover_earlier_ones() {
    let (registry, images) = registry().await;
    let node = Node::new(&registry);
    node.publish("later", &images, false, false).await;
    assert_eq!(read(node.target("later").join("dir/kept")), "tools");
    assert_eq!(read(node.target("later").join("tool")), "t");
    assert_eq!(read(node.target("later").join("dir/covered")), "top");
    node.unpublish("later").await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_options_reach_the_mount() {
    let (registry, images) = registry().await;
    let node = Node::new(&registry);
    for (id, volatile, read_only) in
        [("v", true, false), ("r", false, true), ("empty", false, false), ("empty-r", false, true)]
    {
        let images = if id.starts_with("empty") { &[] } else { &images[1..] };
        node.publish(id, images, volatile, read_only).await;
        let [mount] = &node.mounts()[..] else { panic!("{:?}", node.mounts()) };
        let shown = format!("{:?} {:?}", mount.options, mount.super_options);
        assert_eq!(shown.contains("volatile"), volatile, "{shown}");
        assert!(shown.contains("nosuid") && shown.contains("nodev"), "{shown}");
        let written = fs::write(node.target(id).join("new"), "x");
        let refused = written.err().map(|e| e.kind());
        assert_eq!(refused, read_only.then_some(io::ErrorKind::ReadOnlyFilesystem));
        node.publish(id, images, volatile, read_only).await;
        assert_eq!(node.mounts().len(), 1, "the second publish mounts nothing");
        node.unpublish(id).await;
        assert!(node.mounts().is_empty());
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_volumes_survive_a_driver_restart() {
    let (registry, images) = registry().await;
    let mut node = Node::new(&registry);
    node.publish("outlives", &images, true, false).await;
    fs::write(node.target("outlives").join("new"), "before").unwrap();

    node.restart(&registry).await;
    assert_eq!(read(node.target("outlives").join("new")), "before");
    assert_eq!(read(node.target("outlives").join("tool")), "t");
    node.publish("outlives", &images, true, false).await;
    assert_eq!(node.mounts().len(), 1);

    // As if the container of the node plugin was replaced: the mount is gone, the boot is the same, and the kernel's
    // marker exists.
    LinuxMounts.unmount(&node.target("outlives")).unwrap();
    node.publish("outlives", &images, true, false).await;
    assert_eq!(read(node.target("outlives").join("new")), "before");
    node.unpublish("outlives").await;
    assert!(node.mounts().is_empty());
}

/// The root of the volume is the root of the upper. If its mode were closed, only the user root could enter the
/// volume.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_the_volume_root_has_the_attributes_of_the_image_root() {
    let registry = FakeRegistry::start().await;
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1770);
    header.set_uid(1000);
    header.set_gid(2000);
    header.set_size(0);
    layer.append_data(&mut header, "./", io::empty()).unwrap();
    registry.push_image("rooted", "1", &[layer.into_inner().unwrap()], true);
    registry.push_image("rootless", "1", &[tar(&[("file", "x")])], true);
    let node = Node::new(&registry);
    for (id, image, owner, mode) in [
        ("rooted", Some("rooted"), (1000, 2000), 0o1770),
        ("rootless", Some("rootless"), (0, 0), 0o755),
        ("none", None, (0, 0), 0o777),
    ] {
        let images: Vec<_> = image.map(|name| registry.reference(name, "1")).into_iter().collect();
        node.publish(id, &images, false, false).await;
        let root = fs::metadata(node.target(id)).unwrap();
        assert_eq!(((root.uid(), root.gid()), root.mode() & 0o7777), (owner, mode), "{id}");
        node.unpublish(id).await;
    }
}

/// The kubelet bind-mounts a subPath of a volume elsewhere beneath its directory: the same overlay, but not the
/// volume.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_bind_mount_of_a_subdirectory_is_not_the_volume() {
    let (registry, images) = registry().await;
    let node = Node::new(&registry);
    node.publish("whole", &images, false, false).await;
    let part = node.target("part");
    fs::create_dir(&part).unwrap();
    let bound = std::process::Command::new("mount")
        .arg("--bind")
        .args([node.target("whole").join("dir"), part.clone()])
        .status();
    assert!(bound.unwrap().success());
    LinuxMounts.unmount(&node.target("whole")).unwrap();
    let request = node.request("whole", VolumeSpec { images, ..VolumeSpec::default() });
    let error = node.volumes.publish(request).await.unwrap_err();
    assert!(error.to_string().contains(part.to_str().unwrap()), "{error}");
    LinuxMounts.unmount(&part).unwrap();
    node.unpublish("whole").await;
}
