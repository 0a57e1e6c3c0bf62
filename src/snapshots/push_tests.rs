//! Pushes snapshots of real volumes to registries on loopback, and restores them on other nodes.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde_json::{Value, json};

use super::{testing::request, *};
use crate::{
    digest::{BlobDigest, DiffId},
    error::Class,
    image::{
        Keyring,
        fake::{ALWAYS, FakeRegistry, Fault, OCI_MANIFEST, descriptor, gzipped, registries},
    },
    layers::SnapshotRecord,
    media_type::{Compression, Format},
    overlay::KernelFeatures,
    owner::Owner,
    reference::{Reference, Repository},
    sys::{
        durable,
        mounts::{LinuxMounts, Mounts as _},
        test_dir::{Disk, TestDir},
    },
    volumes::{
        FoundSnapshot, Lookup, LookupError, Parts as VolumeParts, Pod, PublishRequest, Settings,
        SnapshotLookup, Target, VolumeSpec,
    },
};

const OWNER: Owner = Owner { uid: 1000, gid: 100 };

/// The snapshots of a cluster, by name.
#[derive(Debug, Clone, Default)]
struct FakeCluster(Arc<Mutex<HashMap<String, FoundSnapshot>>>);

impl SnapshotLookup for FakeCluster {
    fn find<'a>(&'a self, namespace: &'a str, name: &'a str) -> Lookup<'a> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let found = self.0.lock().unwrap().get(&name).cloned();
        Box::pin(async move { found.ok_or(LookupError::Absent { namespace, name }) })
    }
}

/// A node on this machine. Its drop unmounts all volumes that a failed test left mounted.
struct Node {
    store: Arc<Store>,
    volumes: Volumes,
    snapshots: Snapshots,
    cluster: FakeCluster,
    scratch: TestDir,
}

fn ci_pod() -> Pod {
    Pod { namespace: "ci".into(), name: "build".into(), uid: "pod-1".parse().unwrap() }
}

impl Node {
    fn new(reachable: &[&FakeRegistry], cluster: &FakeCluster) -> Self {
        Self::on(TestDir::new(), reachable, cluster)
    }

    fn on(scratch: TestDir, reachable: &[&FakeRegistry], cluster: &FakeCluster) -> Self {
        let (root, probe) = (scratch.dir("node"), scratch.dir("probe"));
        scratch.dir("kubelet/pods/pod-1");
        let features = KernelFeatures::probe(&LinuxMounts, &probe).unwrap();
        durable::remove_tree(&probe).unwrap();
        let kernel = features.mounts(&root.join("lowers")).unwrap();
        let store = Arc::new(Store::open(&root.join("store"), kernel.clone()).unwrap());
        let hosts: Vec<_> = (reachable.iter())
            .map(|r| (r.host(), format!("server = \"http://{}\"", r.host())))
            .collect();
        let hosts: Vec<_> = hosts.iter().map(|(h, text)| (h.as_str(), text.as_str())).collect();
        let registries = Arc::new(registries(&hosts));
        let mut parts = VolumeParts::new(store.clone(), registries.clone(), kernel, features);
        parts.snapshots = Arc::new(cluster.clone());
        let settings = Settings::new(scratch.path().join("kubelet"));
        let volumes = Volumes::open(parts, settings).unwrap();
        let snapshots = Snapshots::open(Parts {
            store: store.clone(),
            volumes: volumes.clone(),
            registries,
            freezer: Freezer::new("/sys/fs/cgroup".into(), "/proc".into()),
            metrics: Metrics::default(),
        })
        .unwrap();
        Self { store, volumes, snapshots, cluster: cluster.clone(), scratch }
    }

    fn target(&self, id: &str) -> PathBuf {
        self.scratch.path().join("kubelet/pods/pod-1").join(id)
    }

    async fn publish(&self, id: &str, spec: VolumeSpec) -> PathBuf {
        let target: Target = self.target(id).try_into().unwrap();
        let pod = ci_pod();
        let (keyring, deadline) = (Keyring::default(), None);
        let id = id.parse().unwrap();
        let request = PublishRequest { id, target: target.clone(), pod, spec, keyring, deadline };
        self.volumes.publish(request).await.unwrap();
        target.as_path().to_owned()
    }

    /// Captures a volume, and adds the snapshot to the cluster.
    async fn capture(&self, id: &str, volume: &str) -> SnapshotRecord {
        let request = request(id, volume.parse().unwrap(), "pod-1");
        let request = CaptureRequest { pod: Some(ci_pod()), ..request };
        let record = self.snapshots.capture(request).await.unwrap();
        self.add_to_cluster(&record, None);
        record
    }

    fn add_to_cluster(&self, record: &SnapshotRecord, image: Option<&str>) {
        let found = FoundSnapshot {
            id: record.id.clone(),
            node: "node-1".into(),
            image: image.map(|image| image.parse().unwrap()),
            if_lost: String::new(),
            snapshot_layers: record.own_layers,
            owner: record.owner,
        };
        self.cluster.0.lock().unwrap().insert(record.id.to_string(), found);
    }

    async fn push(&self, request: &PushRequest) -> Pushed {
        let pushed = self.snapshots.push(request, &Progress::default()).await.unwrap();
        self.add_to_cluster(&self.store.snapshots.get(&request.id).unwrap(), Some(&pushed.image));
        assert_eq!(self.staged(), 0);
        pushed
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.store.root().join("staging")).unwrap().count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for mount in LinuxMounts.table().unwrap_or_default().into_iter().rev() {
            if mount.target.starts_with(self.scratch.path().join("kubelet")) {
                let _ = LinuxMounts.unmount(&mount.target);
            }
        }
    }
}

/// A repository with an image of one layer.
struct Base {
    image: Reference,
    layer: BlobDigest,
}

async fn base(registry: &FakeRegistry) -> Base {
    let mut tar = tar::Builder::new(Vec::new());
    for name in ["kept", "gone", "mode", "dir/one", "dir/two", "covered/old"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        header.set_mtime(1_234_567_890);
        tar.append_data(&mut header, name, &b"base\n"[..]).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let blob = gzipped(&tar);
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["A=1"], "Entrypoint": ["/run"] },
        "history": [{ "created_by": "from" }, { "created_by": "env", "empty_layer": true }],
        "rootfs": { "type": "layers", "diff_ids": [DiffId::of(&tar)] },
    });
    let config = config.to_string().into_bytes();
    // The media type of Docker, which most images have.
    let layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor(layer, &blob)],
    });
    let to: Repository = format!("{}/base", registry.host()).parse().unwrap();
    let client = registry.registries();
    for bytes in [&blob, &config] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let (digest, size) = (BlobDigest::of(bytes), bytes.len() as u64);
        client.push_blob(&to, &digest, size, &file, &Keyring::default(), &|_| ()).await.unwrap();
    }
    let manifest = manifest.to_string();
    let (text, keyring) = (manifest.as_bytes(), Keyring::default());
    client.push_manifest(&to, "1", OCI_MANIFEST, text, &keyring).await.unwrap();
    Base { image: registry.reference("base", "1"), layer: BlobDigest::of(&blob) }
}

fn spec(image: &Reference, owner: Option<Owner>) -> VolumeSpec {
    let mut spec = VolumeSpec { images: vec![image.clone()], owner, ..VolumeSpec::default() };
    (spec.options.metacopy, spec.options.redirect_dir) = (true, true);
    spec
}

fn of(snapshot: &str, owner: Option<Owner>) -> VolumeSpec {
    let mut spec = VolumeSpec { snapshot: Some(snapshot.into()), owner, ..VolumeSpec::default() };
    (spec.options.metacopy, spec.options.redirect_dir) = (true, true);
    spec
}

fn push_request(id: &str, registry: &FakeRegistry, format: Format) -> PushRequest {
    PushRequest {
        id: id.parse().unwrap(),
        volume: "ws".into(),
        to: format!("{}/ws", registry.host()).parse().unwrap(),
        format,
        compression: Compression::Zstd,
        keyring: Keyring::default(),
    }
}

/// Changes a volume as a pod does.
fn change(at: &Path) {
    fs::remove_file(at.join("gone")).unwrap();
    fs::set_permissions(at.join("mode"), Permissions::from_mode(0o4755)).unwrap();
    fs::rename(at.join("dir"), at.join("renamed")).unwrap();
    fs::write(at.join("renamed/new"), "new").unwrap();
    fs::remove_dir_all(at.join("covered")).unwrap();
    fs::create_dir(at.join("covered")).unwrap();
    fs::write(at.join("covered/young"), "young").unwrap();
    fs::write(at.join("one"), "linked").unwrap();
    fs::hard_link(at.join("one"), at.join("other")).unwrap();
    symlink("kept", at.join("link")).unwrap();
    fs::write(at.join("owned"), "another user's").unwrap();
    chown(at.join("owned"), Some(7), Some(8)).unwrap();
    File::create(at.join("sparse")).unwrap().set_len(4 << 20).unwrap();
}

/// Everything below a path, as a pod sees it.
fn tree(at: &Path) -> BTreeMap<PathBuf, String> {
    let (mut tree, mut dirs) = (BTreeMap::new(), vec![at.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let is = fs::symlink_metadata(&path).unwrap();
            let mut shown = format!("{:o} {}:{}", is.mode(), is.uid(), is.gid());
            if is.is_dir() {
                dirs.push(path.clone());
            } else if is.is_symlink() {
                shown += &format!(" -> {}", fs::read_link(&path).unwrap().display());
            } else {
                shown += &format!(" {} links, {} bytes", is.nlink(), is.len());
                shown += &format!(", {}.{}", is.mtime(), is.mtime_nsec());
                if is.len() < 1 << 20 {
                    shown += &format!(": {}", fs::read_to_string(&path).unwrap());
                }
            }
            tree.insert(path.strip_prefix(at).unwrap().to_owned(), shown);
        }
    }
    tree
}

fn document(registry: &FakeRegistry, name: &str) -> (Value, Value) {
    let (kind, manifest) = registry.manifest("ws", name).unwrap();
    assert_eq!(kind, OCI_MANIFEST);
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
    let config = BlobDigest::new(config);
    let config = registry.blob("ws", &config).unwrap();
    (manifest, serde_json::from_slice(&config).unwrap())
}

fn media_types(manifest: &Value) -> Vec<&str> {
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| layer["mediaType"].as_str().unwrap().rsplit("layer.v1.").next().unwrap())
        .collect()
}

/// The number of blobs that were uploaded to the repository.
fn uploads(registry: &FakeRegistry) -> usize {
    registry
        .requests_to("/v2/ws/blobs/uploads/")
        .iter()
        .filter(|request| request.method == "PUT")
        .count()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_another_node_restores_a_pushed_snapshot() {
    for (format, owner) in [
        (Format::Portable, None),
        (Format::Portable, Some(OWNER)),
        (Format::Native, None),
        (Format::Native, Some(OWNER)),
    ] {
        let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
        let base = base(&registry).await;
        let (one, two) = (Node::new(&[&registry], &cluster), Node::new(&[&registry], &cluster));
        let at = one.publish("v", spec(&base.image, owner)).await;
        change(&at);
        let captured = tree(&at);
        one.capture("snap-1", "v").await;
        fs::write(at.join("kept"), "written after the capture").unwrap();

        let request = push_request("snap-1", &registry, format);
        let pushed = one.push(&request).await;
        assert!(registry.blob("ws", &base.layer).is_some());
        assert_eq!(uploads(&registry), 2, "the layer and the config; the base is mounted");
        let restored = two.publish("r", of("snap-1", owner)).await;
        assert_eq!(tree(&restored), captured, "{format:?} {owner:?}");

        let (manifest, config) = document(&registry, "snap-1");
        let kinds = media_types(&manifest);
        match format {
            Format::Portable => assert_eq!(kinds, ["tar+gzip", "tar+zstd"]),
            Format::Native => assert_eq!(kinds, ["tar+gzip", "native.tar+zstd"]),
        }
        assert_eq!(config["config"]["Entrypoint"], json!(["/run"]));
        let history = config["history"].as_array().unwrap();
        assert_eq!(history.len(), 3);
        assert_eq!(history[2]["created_by"], "ovl-csi snapshot ci/build/ws");
        let annotations = &manifest["annotations"];
        assert_eq!(annotations["org.opencontainers.image.base.name"], base.image.to_string());
        assert_eq!(annotations["dev.csi.ovl.pod"], "build");

        // A snapshot of the restored volume on the second node is restored on the first.
        fs::write(restored.join("second"), "2").unwrap();
        fs::remove_file(restored.join("renamed/one")).unwrap();
        let captured = tree(&restored);
        two.capture("snap-2", "r").await;
        let before = uploads(&registry);
        two.push(&push_request("snap-2", &registry, format)).await;
        assert_eq!(uploads(&registry) - before, 2, "its own layer and its config");
        let (manifest, config) = document(&registry, "snap-2");
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);
        assert_eq!(manifest["annotations"]["dev.csi.ovl.parent"], "snap-1");
        assert_eq!(config["history"].as_array().unwrap().len(), 4);
        let back = one.publish("back", of("snap-2", owner)).await;
        assert_eq!(tree(&back), captured, "{format:?} {owner:?}");

        // A repeated push sends nothing.
        let before = uploads(&registry);
        let again = one.push(&request).await;
        assert_eq!((&again.image, again.own_bytes), (&pushed.image, pushed.own_bytes));
        assert_eq!(uploads(&registry), before);
        let record = one.store.snapshots.get(&request.id).unwrap();
        assert_eq!(record.pushed.as_deref(), Some(&*pushed.image));
    }
}

/// A VolumeSnapshotContent that an administrator writes can give a pod the snapshot of another namespace. It gives the
/// content, but not the names of the images and repositories of that namespace.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_push_does_not_reveal_image_names_of_another_namespace() {
    let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
    let base = base(&registry).await;
    let node = Node::new(&[&registry], &cluster);
    change(&node.publish("v", spec(&base.image, None)).await);
    node.capture("snap-1", "v").await;
    let pushed = node.push(&push_request("snap-1", &registry, Format::Portable)).await;
    for (n, whose) in ["ci", "another"].into_iter().enumerate() {
        let mut record = node.store.snapshots.get(&"snap-1".parse().unwrap()).unwrap();
        record.source.namespace = whose.to_owned();
        node.store.snapshots.put(record).unwrap();
        let (volume, id) = (format!("r{n}"), format!("of-{whose}"));
        let at = node.publish(&volume, of("snap-1", None)).await;
        fs::write(at.join("own"), whose).unwrap();
        let captured = node.capture(&id, &volume).await;
        assert_eq!(captured.base, (whose == "ci").then(|| base.image.to_string()), "{whose}");
        node.push(&push_request(&id, &registry, Format::Portable)).await;
        let (manifest, config) = document(&registry, &id);
        let pushed_text = format!("{manifest} {config}");
        for secret in [base.image.to_string(), pushed.image.clone()] {
            assert_eq!(
                pushed_text.contains(&secret),
                whose == "ci",
                "{whose}: {secret} in {pushed_text}"
            );
        }
        assert_eq!(manifest["annotations"]["dev.csi.ovl.namespace"], "ci");
        assert_eq!(manifest["annotations"]["dev.csi.ovl.parent"], "snap-1");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_base_is_streamed_from_its_source_or_else_packed() {
    let cluster = FakeCluster::default();
    let (source, to) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let base = base(&source).await;
    let (one, two) = (Node::new(&[&source, &to], &cluster), Node::new(&[&to], &cluster));
    let at = one.publish("v", spec(&base.image, Some(OWNER))).await;
    change(&at);
    let captured = tree(&at);
    one.capture("snap-1", "v").await;
    // The source serves other bytes now, and these are not passed on.
    source.inject(format!("/blobs/{}", base.layer), ALWAYS, Fault::Flip);
    let pushed = one.push(&push_request("snap-1", &to, Format::Portable)).await;
    assert!(to.blob("ws", &base.layer).is_none());
    let restored = two.publish("packed", of("snap-1", Some(OWNER))).await;
    assert_eq!(tree(&restored), captured);

    let source_2 = FakeRegistry::start().await;
    let base = self::base(&source_2).await;
    let one = Node::new(&[&source_2, &to], &cluster);
    one.publish("v", spec(&base.image, Some(OWNER))).await;
    change(&one.target("v"));
    let captured = tree(&one.target("v"));
    one.capture("snap-2", "v").await;
    let streamed = one.push(&push_request("snap-2", &to, Format::Portable)).await;
    assert!(to.blob("ws", &base.layer).is_some(), "the layer was not packed again");
    assert_ne!(streamed.image, pushed.image);
    let restored = two.publish("streamed", of("snap-2", Some(OWNER))).await;
    assert_eq!(tree(&restored), captured);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_an_interrupted_push_continues() {
    let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
    let base = base(&registry).await;
    let one = Node::new(&[&registry], &cluster);
    change(&one.publish("v", spec(&base.image, None)).await);
    one.capture("snap-1", "v").await;
    let request = push_request("snap-1", &registry, Format::Portable);
    let respond = |status| Fault::Respond(status, Vec::new());
    // At each step: at the first request, at the layer, at the config, at the manifest.
    let parts = ["/v2/ws/blobs/sha256", "/v2/ws/blobs/uploads/", "/v2/ws/manifests/"];
    for (part, class) in parts.iter().flat_map(|p| [(p, Class::Unavailable), (p, Class::Denied)]) {
        let status = if class == Class::Denied { 403 } else { 503 };
        let registry_2 = FakeRegistry::start().await;
        let request = PushRequest {
            to: format!("{}/ws", registry_2.host()).parse().unwrap(),
            ..request.clone()
        };
        let node = Node::new(&[&registry, &registry_2], &cluster);
        change(&node.publish("v", spec(&base.image, None)).await);
        node.capture("snap-1", "v").await;
        registry_2.inject(*part, ALWAYS, respond(status));
        let error = node.snapshots.push(&request, &Progress::default()).await.unwrap_err();
        assert_eq!(error.class(), class, "{part}: {error}");
        assert!(error.to_string().contains("snap-1"), "{error}");
        assert_eq!(node.staged(), 0, "{part}");
        assert_eq!(node.store.snapshots.get(&request.id).unwrap().pushed, None);
    }
    // The registry works again: blobs that it has are not sent again.
    registry.inject("/v2/ws/manifests/", 20, respond(503));
    let error = one.snapshots.push(&request, &Progress::default()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    let before = uploads(&registry);
    while one.snapshots.push(&request, &Progress::default()).await.is_err() {}
    assert_eq!(uploads(&registry), before);
    assert!(registry.manifest("ws", "snap-1").is_some());

    // The manifest is deleted, whether the caller knows the image or not.
    let image = one.store.snapshots.get(&request.id).unwrap().pushed.unwrap().parse().unwrap();
    for image in [None, Some(&image)] {
        let PushRequest { id, to, keyring, .. } = &request;
        one.snapshots.push(&request, &Progress::default()).await.unwrap();
        assert!(one.snapshots.delete_manifest(id, to, image, keyring).await.unwrap());
        assert!(registry.manifest("ws", "snap-1").is_none());
        assert!(one.snapshots.delete_manifest(id, to, image, keyring).await.unwrap(), "twice");
    }

    // In a registry that deletes only the digest, the tag is deleted too. A registry without support for that makes it
    // return false.
    for (refusal, gone) in [(None, true), (Some(405), false)] {
        one.snapshots.push(&request, &Progress::default()).await.unwrap();
        registry.inject("DELETE /v2/ws/manifests/sha256", 1, Fault::KeepTag);
        if let Some(status) = refusal {
            registry.inject("DELETE /v2/ws/manifests/snap-1", 1, respond(status));
        }
        let PushRequest { id, to, keyring, .. } = &request;
        assert_eq!(
            one.snapshots.delete_manifest(id, to, Some(&image), keyring).await.unwrap(),
            gone
        );
        assert_eq!(registry.manifest("ws", "snap-1").is_none(), gone);
    }
    let gone = one
        .snapshots
        .push(&push_request("snap-9", &registry, Format::Native), &Progress::default())
        .await;
    assert_eq!(gone.unwrap_err().class(), Class::NotFound);
}

/// No node refuses a layer as a decompression bomb only because it compresses well.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_layer_that_compresses_very_well_is_pushed_and_restored() {
    let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
    let base = base(&registry).await;
    let (one, two) = (Node::new(&[&registry], &cluster), Node::new(&[&registry], &cluster));
    let at = one.publish("v", spec(&base.image, None)).await;
    fs::write(at.join("repeats"), "same line\n".repeat(9 << 20)).unwrap();
    one.capture("snap-1", "v").await;
    let request = push_request("snap-1", &registry, Format::Portable);
    assert_eq!(request.compression, Compression::Zstd);
    one.push(&request).await;
    let manifest: Value =
        serde_json::from_slice(&registry.manifest("ws", "snap-1").unwrap().1).unwrap();
    let layer = manifest["layers"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    assert!(layer["size"].as_u64().unwrap() < 1 << 20, "{layer}");
    assert_eq!(one.staged(), 0);
    let restored = two.publish("there", of("snap-1", None)).await;
    assert_eq!(fs::metadata(restored.join("repeats")).unwrap().len(), 10 * (9 << 20));
}

/// A snapshot is deleted during the push of its manifest: the manifest that arrives later is deleted too.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_manifest_that_is_being_pushed_is_deleted_after_it_arrives() {
    let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
    let base = base(&registry).await;
    let node = Node::new(&[&registry], &cluster);
    change(&node.publish("v", spec(&base.image, None)).await);
    node.capture("snap-1", "v").await;
    let request = push_request("snap-1", &registry, Format::Portable);
    registry.inject("/v2/ws/manifests/", 1, Fault::Hold);
    let push = tokio::spawn({
        let (snapshots, request) = (node.snapshots.clone(), request.clone());
        async move { snapshots.push(&request, &Progress::default()).await }
    });
    while registry.requests_to("/v2/ws/manifests/").is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    push.abort();
    assert!(push.await.unwrap_err().is_cancelled());
    let PushRequest { id, to, keyring, .. } = &request;
    let early = node.snapshots.delete_manifest(id, to, None, keyring).await.unwrap_err();
    assert_eq!(early.class(), Class::Busy, "{early}");
    registry.release();
    while node.snapshots.delete_manifest(id, to, None, keyring).await.is_err() {}
    assert!(registry.manifest("ws", "snap-1").is_none());
    assert!(
        registry.requests_to("/v2/ws/manifests/").iter().any(|request| request.method == "PUT")
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_push_whose_layers_are_replaced_meanwhile_can_be_repeated() {
    let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
    let base = base(&registry).await;
    let node = Node::new(&[&registry], &cluster);
    change(&node.publish("v", spec(&base.image, None)).await);
    let record = node.capture("snap-1", "v").await;
    let request = push_request("snap-1", &registry, Format::Portable);
    registry.inject("/v2/ws/blobs/", 1, Fault::Hold);
    let push = tokio::spawn({
        let (snapshots, request) = (node.snapshots.clone(), request.clone());
        async move { snapshots.push(&request, &Progress::default()).await }
    });
    while registry.requests_to("/v2/ws/blobs/").is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let mut replaced = record.clone();
    replaced.stack.reverse();
    node.store.snapshots.put(replaced).unwrap();
    registry.release();
    let error = push.await.unwrap().unwrap_err();
    assert_eq!(error.class(), Class::Busy, "{error}");
    assert!(error.to_string().contains("snap-1 were replaced"), "{error}");
    node.store.snapshots.put(record).unwrap();
    node.push(&request).await;
    let unknown = push_request("snap-2", &registry, Format::Portable);
    let error = node.snapshots.push(&unknown, &Progress::default()).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_squash_makes_one_layer_that_shows_the_same_files() {
    for owner in [None, Some(OWNER)] {
        let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
        let base = base(&registry).await;
        let (one, two) = (Node::new(&[&registry], &cluster), Node::new(&[&registry], &cluster));
        let mut at = one.publish("v0", spec(&base.image, owner)).await;
        change(&at);
        one.capture("snap-0", "v0").await;
        for n in 1..4 {
            let snapshot = format!("snap-{}", n - 1);
            at = one.publish(&format!("v{n}"), of(&snapshot, owner)).await;
            fs::write(at.join(format!("new-{n}")), "new").unwrap();
            fs::rename(at.join("renamed"), at.join("between")).unwrap();
            fs::rename(at.join("between"), at.join("renamed")).unwrap();
            let _ = fs::remove_file(at.join(format!("new-{}", n - 1)));
            fs::write(at.join("mode"), format!("{n}")).unwrap();
            one.capture(&format!("snap-{n}"), &format!("v{n}")).await;
        }
        let captured = tree(&at);
        let id = "snap-3".parse().unwrap();
        assert_eq!(one.store.snapshots.get(&id).unwrap().own_layers, 4);
        let request = push_request("snap-3", &registry, Format::Native);
        one.snapshots.squash(&id, Some(&request)).await.unwrap();
        let record = one.store.snapshots.get(&id).unwrap();
        assert_eq!((record.own_layers, record.stack.len()), (1, 2));
        assert_eq!(one.staged(), 0);
        one.add_to_cluster(&record, None);
        let here = one.publish("here", of("snap-3", owner)).await;
        assert_eq!(tree(&here), captured, "{owner:?}");
        one.snapshots.squash(&id, None).await.unwrap();
        assert_eq!(one.store.snapshots.get(&id).unwrap(), record, "a single layer is not squashed");

        let before = uploads(&registry);
        one.push(&request).await;
        assert_eq!(
            uploads(&registry) - before,
            1,
            "only the config; the squash has sent the layer"
        );
        let there = two.publish("there", of("snap-3", owner)).await;
        assert_eq!(tree(&there), captured, "{owner:?}");
        let (_, config) = document(&registry, "snap-3");
        assert_eq!(config["history"].as_array().unwrap().len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_native_layer_is_packed_again_for_a_portable_push() {
    let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
    let base = base(&registry).await;
    let (one, two) = (Node::new(&[&registry], &cluster), Node::new(&[&registry], &cluster));
    change(&one.publish("v", spec(&base.image, None)).await);
    one.capture("snap-1", "v").await;
    one.push(&push_request("snap-1", &registry, Format::Native)).await;
    let at = two.publish("r", of("snap-1", None)).await;
    fs::write(at.join("second"), "2").unwrap();
    let captured = tree(&at);
    two.capture("snap-2", "r").await;
    two.push(&push_request("snap-2", &registry, Format::Portable)).await;
    let (manifest, _) = document(&registry, "snap-2");
    assert_eq!(media_types(&manifest), ["tar+gzip", "tar+zstd", "tar+zstd"]);
    let back = one.publish("back", of("snap-2", None)).await;
    // On the node of the parent, which did not capture this snapshot: restored as any image.
    assert_eq!(tree(&back), captured);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts"]
async fn privileged_a_push_fails_cleanly_on_a_full_disk_and_succeeds_later() {
    let (registry, cluster) = (FakeRegistry::start().await, FakeCluster::default());
    let base = base(&registry).await;
    let scratch = TestDir::new();
    let at = scratch.dir("node");
    let _disk = Disk::new(&scratch, "ext4", &at);
    let node = Node::on(scratch, &[&registry], &cluster);
    let volume = node.publish("v", spec(&base.image, None)).await;
    // Bytes that do not compress.
    let mut seed = 1_u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as u8
    };
    let bytes: Vec<u8> = (0..40 << 20).map(|_| noise()).collect();
    fs::write(volume.join("large"), &bytes).unwrap();
    node.capture("snap-1", "v").await;
    let filler = at.join("filler");
    let mut fill = File::create(&filler).unwrap();
    while fill.write_all(&bytes[..1 << 20]).is_ok() {}
    fill.set_len(fill.metadata().unwrap().len() - (20 << 20)).unwrap();
    fill.sync_all().unwrap();
    drop(fill);

    let request = push_request("snap-1", &registry, Format::Portable);
    let error = node.snapshots.push(&request, &Progress::default()).await.unwrap_err();
    assert_eq!(error.class(), Class::Exhausted, "{error}");
    assert!(error.to_string().contains(&at.display().to_string()), "{error}");
    // The disk can also become full during the packing.
    let file = node.store.staging.unnamed_file().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut out = packing::CancellableWriter::new(&file, node.store.root(), stop.clone());
    let error = out.write_all(&bytes).unwrap_err();
    assert_eq!(Class::of_disk(&error), Class::Exhausted, "{error}");
    assert!(error.to_string().contains("delete files on that disk"), "{error}");
    drop(out);
    drop(file);
    assert_eq!(node.staged(), 0);
    fs::remove_file(&filler).unwrap();
    node.push(&request).await;
    stop.cancel();
}

#[path = "diff_tests.rs"]
mod diff_tests;
