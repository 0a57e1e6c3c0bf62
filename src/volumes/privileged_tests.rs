//! The whole path on the real kernel: a registry on loopback, real layers, real mounts.

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
    image::fake::FakeRegistry,
    sys::mounts::{LinuxMounts, Mounts},
};

/// A node on this machine. Dropped, it unmounts what a failed test left.
pub(super) struct Node {
    pub(super) dir: TempDir,
    pub(super) volumes: Volumes,
    pub(super) known: Arc<FakeSnapshots>,
}

impl Node {
    pub(super) fn new(registry: &FakeRegistry) -> Self {
        Self::beneath(&std::env::temp_dir(), registry)
    }

    /// One whose disk is that of `place`.
    pub(super) fn beneath(place: &Path, registry: &FakeRegistry) -> Self {
        let dir = TempDir::new_in(place).unwrap();
        fs::create_dir_all(dir.path().join("kubelet/pods/pod-1")).unwrap();
        let known = Arc::default();
        let volumes = open(dir.path(), registry, &known);
        Self { dir, volumes, known }
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

    /// The process ends and another one starts on what it left.
    pub(super) async fn restart(&mut self, registry: &FakeRegistry) {
        self.restart_after(registry, || {}).await;
    }

    /// So too, and meanwhile something happens.
    pub(super) async fn restart_after(&mut self, registry: &FakeRegistry, happens: impl FnOnce()) {
        // What was pulled last lets go of the store.
        tokio::task::yield_now().await;
        let empty = TempDir::new().unwrap();
        // The old process must be gone before the new one may have the store.
        drop(std::mem::replace(&mut self.volumes, open(empty.path(), registry, &self.known)));
        happens();
        self.volumes = open(self.dir.path(), registry, &self.known);
        self.volumes.recover(Duration::ZERO).unwrap();
    }

    pub(super) async fn unpublish(&self, id: &str) {
        let target = self.target(id).try_into().unwrap();
        self.volumes.unpublish(&id.parse().unwrap(), &target).await.unwrap();
    }

    /// The mounts beneath this node's directory, without the layers that an older kernel wants attached.
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

    /// One digest of every byte of every layer.
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

fn open(dir: &Path, registry: &FakeRegistry, known: &Arc<FakeSnapshots>) -> Volumes {
    // As `ovl node` does: these tests also run on kernels that want layers handed over in an older way.
    let features = Features::probe(&LinuxMounts, &dir.join("trial")).unwrap();
    let kernel = features.mounts(&dir.join("lowers")).unwrap();
    let store = Arc::new(Store::open(&dir.join("store"), kernel.clone()).unwrap());
    let parts = Parts {
        snapshots: known.clone(),
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
async fn privileged_layers_are_read_and_writes_are_ones_own() {
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
    assert_eq!(node.mounts().len(), 2, "one mount a volume: {:?}", node.mounts());

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
        assert_eq!(node.mounts().len(), 1, "again is once");
        node.unpublish(id).await;
        assert!(node.mounts().is_empty());
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn privileged_volumes_outlive_the_process() {
    let (registry, images) = registry().await;
    let mut node = Node::new(&registry);
    node.publish("outlives", &images, true, false).await;
    fs::write(node.target("outlives").join("new"), "before").unwrap();

    node.restart(&registry).await;
    assert_eq!(read(node.target("outlives").join("new")), "before");
    assert_eq!(read(node.target("outlives").join("tool")), "t");
    node.publish("outlives", &images, true, false).await;
    assert_eq!(node.mounts().len(), 1);

    // The node's container was replaced: the mount is gone, the boot is the same, the kernel's mark is there.
    LinuxMounts.unmount(&node.target("outlives")).unwrap();
    node.publish("outlives", &images, true, false).await;
    assert_eq!(read(node.target("outlives").join("new")), "before");
    node.unpublish("outlives").await;
    assert!(node.mounts().is_empty());
}

/// The volume's root is the upper's root: were it closed, only root could enter.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_volumes_root_is_the_images_root() {
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

/// The kubelet binds a subPath of a volume elsewhere beneath its directory: the same overlay, and not the volume.
#[tokio::test]
#[ignore = "needs root"]
async fn privileged_a_part_of_a_volume_is_not_taken_for_it() {
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
