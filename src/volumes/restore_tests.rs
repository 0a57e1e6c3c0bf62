//! Tests of volumes that start from snapshots, with the fake of the kernel: where their layers come from, and which
//! pods may use them.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::{
    fake_snapshot_lookup::{found, record, snapshot_layer},
    privileged_tests::tar,
    pull_jobs_tests::impatient_node,
    tests::Node,
    *,
};
use crate::{
    digest::ManifestDigest,
    error::Class,
    image::fake::{ALWAYS, FakeRegistry, Fault, Pushed},
    layers::{LayerKey, SnapshotRecord, testing::keys},
    overlay::Options,
    owner::Owner,
    reference::Reference,
};

/// A layer of one file.
fn layer(content: &str) -> Vec<u8> {
    tar(&[("file", content)])
}

const LONG: Duration = Duration::from_secs(60);

/// A node with a volume `dev` and its snapshot `ws-1`, which was captured on this node.
struct Bench {
    registry: FakeRegistry,
    base: Pushed,
    captured: LayerKey,
    node: Node,
}

impl Bench {
    async fn new() -> Self {
        Self::on(|_| {}).await
    }

    async fn on(change: impl FnOnce(&mut Settings)) -> Self {
        let registry = FakeRegistry::start().await;
        let base = registry.push_image("base", "1", &[layer("base")], true);
        let node = Node::with_settings(registry.registries(), change);
        let mut request = node.request("dev", "dev");
        request.spec.images = vec![registry.reference("base", "1")];
        node.volumes.publish(request).await.unwrap();
        let captured = snapshot_layer(&node.volumes.0.store, "snap-1", (false, false), |_| {});
        let bench = Self { registry, base, captured, node };
        bench.put(|_| {});
        bench.node.snapshots.respond("ws-1", [Ok(found("snap-1"))]);
        bench
    }

    /// Records the snapshot with this change.
    fn put(&self, change: impl FnOnce(&mut SnapshotRecord)) {
        let stack = vec![keys(&self.base.diff_ids)[0], self.captured];
        let mut record = record("snap-1", stack, vec![self.base.manifest]);
        change(&mut record);
        self.node.volumes.0.store.snapshots.put(record).unwrap();
    }

    /// A request for a volume that starts from `ws-1`.
    fn request(&self, id: &str, change: impl FnOnce(&mut VolumeSpec)) -> PublishRequest {
        let mut request = self.node.request(id, id);
        request.spec.snapshot = Some("ws-1".to_owned());
        change(&mut request.spec);
        request
    }

    /// Publishes a volume that must be refused, and checks that it leaves nothing.
    async fn refused(&self, change: impl FnOnce(&mut VolumeSpec)) -> PublishError {
        let request = self.request("fork", change);
        let error = self.node.volumes.publish(request).await.unwrap_err();
        assert_eq!(self.node.recorded(), ["dev"], "{error}");
        assert_eq!(self.node.mounted().len(), 1, "{error}");
        assert!(self.node.volumes.0.pull_jobs.is_empty());
        error
    }

    fn assert_made_of(
        &self,
        id: &str,
        stack: &[LayerKey],
        snapshot_layers: usize,
        manifests: &[ManifestDigest],
    ) {
        let record = self.node.volumes.0.records.read(&id.parse().unwrap()).unwrap().unwrap();
        assert_eq!(record.stack, stack, "{id}");
        assert_eq!(
            (record.snapshot_layers, &*record.manifests),
            (snapshot_layers, manifests),
            "{id}"
        );
        assert_eq!(record.snapshot, Some("snap-1".parse().unwrap()), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_this_node_needs_no_registry_and_is_looked_up_once() {
    let bench = Bench::new().await;
    let (requests, tables) = (bench.registry.requests(), bench.node.kernel.tables_read());
    for n in 0..10 {
        let request = bench.request(&format!("fork-{n}"), |_| {});
        bench.node.volumes.publish(request).await.unwrap();
    }
    assert_eq!(bench.registry.requests(), requests);
    assert_eq!(bench.node.kernel.tables_read(), tables, "the mount table is not read");
    let stack = [keys(&bench.base.diff_ids)[0], bench.captured];
    bench.assert_made_of("fork-9", &stack, 1, &[bench.base.manifest]);
    let layer_dir = format!("/{}/diff", bench.captured.dir_name());
    let mounted = bench.node.kernel.requests().pop().unwrap();
    assert!(
        mounted.contains(&layer_dir) && mounted.contains("redirect_dir=on metacopy=on"),
        "{mounted}"
    );

    assert_eq!(bench.node.snapshots.requests(), 10);
    bench.node.volumes.publish(bench.request("fork-9", |_| {})).await.unwrap();
    assert_eq!(bench.node.snapshots.requests(), 10, "the record describes a volume that exists");
    let error = bench.node.volumes.publish(bench.node.request("fork-9", "fork-9")).await;
    assert_eq!(error.unwrap_err().to_string().matches("existing volume in snapshot").count(), 1);

    let request = bench.request("fork-9", |_| {});
    let node = bench.node.rebooted();
    node.volumes.publish(request).await.unwrap();
    assert_eq!((node.snapshots.requests(), node.mounted().len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_layers_go_on_top_of_the_images_of_the_request() {
    let bench = Bench::new().await;
    let newer = bench.registry.push_image("base", "2", &[layer("newer"), layer("more")], true);
    let images = vec![bench.registry.reference("base", "2")];
    let request = bench.request("fork", |spec| spec.images = images);
    bench.node.volumes.publish(request).await.unwrap();
    let stack = [keys(&newer.diff_ids), vec![bench.captured]].concat();
    bench.assert_made_of("fork", &stack, 1, &[newer.manifest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_with_metacopy_or_redirects_is_refused_on_other_images() {
    let bench = Bench::new().await;
    bench.registry.push_image("base", "2", &[layer("newer")], true);
    for (id, features) in [("metacopy", (true, false)), ("redirect", (false, true))] {
        let marked = snapshot_layer(&bench.node.volumes.0.store, id, features, |_| {});
        bench.put(|record| record.stack[1] = marked);
        let images = vec![bench.registry.reference("base", "2")];
        let error = bench.refused(|spec| spec.images = images).await;
        assert_eq!(error.class(), Class::Precondition);
        let sentence = error.to_string();
        assert!(sentence.contains("ws-1 can be used only with its own images"), "{sentence}");
        assert!(sentence.contains("remove `image` and `images`"), "{sentence}");
    }
    bench.node.volumes.publish(bench.request("fork", |_| {})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_layers_are_never_idmapped() {
    let bench = Bench::new().await;
    let owner = Some(Owner { uid: 1000, gid: 2000 });
    bench.put(|record| record.owner = Some(Owner { uid: 1000, gid: 2000 }));
    bench.node.volumes.publish(bench.request("fork", |spec| spec.owner = owner)).await.unwrap();
    let mounted = bench.node.kernel.requests().pop().unwrap();
    let layers: Vec<_> = mounted.split(' ').filter(|word| word.starts_with("lowerdir+=")).collect();
    assert!(layers[0].ends_with("/diff") && layers[1].ends_with(">@1000:2000"), "{layers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_different_owner_is_refused_and_both_are_named() {
    let bench = Bench::new().await;
    let owner = |uid, gid| Some(Owner { uid, gid });
    for (captured, wanted, words) in [
        (
            owner(1000, 1000),
            None,
            "a volume with owner 1000:1000, and this volume has no owner; set `owner: \"1000:1000\"`",
        ),
        (
            None,
            owner(0, 7),
            "a volume with no owner, and this volume has owner 0:7; remove `owner`",
        ),
        (owner(1000, 1000), owner(1000, 7), "owner 1000:1000, and this volume has owner 1000:7"),
    ] {
        bench.put(|record| record.owner = captured);
        let error = bench.refused(|spec| spec.owner = wanted).await;
        assert_eq!(error.class(), Class::Precondition);
        assert!(error.to_string().contains(words), "{error}");
    }
    // For a snapshot that has to be pulled, the cluster reports the owner.
    bench.node.volumes.0.store.snapshots.remove(&"snap-1".parse().unwrap()).unwrap();
    let pushed = FoundSnapshot {
        image: Some(bench.registry.reference("base", "1")),
        owner: owner(5, 5),
        ..found("snap-1")
    };
    bench.node.snapshots.respond("ws-1", [Ok(pushed)]);
    let error = bench.refused(|_| {}).await;
    assert!(error.to_string().contains("owner 5:5, and this volume has no owner"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpushed_snapshot_of_another_node_is_refused_with_its_node() {
    let bench = Bench::new().await;
    bench.node.snapshots.respond("ws-1", [Ok(found("snap-of-another"))]);
    let error = bench.refused(|_| {}).await;
    assert_eq!(error.class(), Class::Precondition);
    assert!(error.to_string().contains("ws-1 is only on node node-1; run the pod"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_snapshot_is_pulled_regardless_of_the_image_policy() {
    let policy = |settings: &mut Settings| {
        settings.policy = toml::from_str("default = ['127.0.0.1:*/base:*']").unwrap();
    };
    let bench = Bench::on(policy).await;
    let layers = [layer("base"), layer("written")];
    let pushed = bench.registry.push_image("snapshots/ws", "snap-1", &layers, true);
    bench.node.volumes.0.store.snapshots.remove(&"snap-1".parse().unwrap()).unwrap();
    let image = format!("{}/snapshots/ws@{}", bench.registry.host(), pushed.manifest);
    let image: Reference = image.parse().unwrap();
    let found = FoundSnapshot { image: Some(image.clone()), ..found("snap-1") };
    bench.node.snapshots.respond("ws-1", [Ok(found)]);
    bench.node.volumes.publish(bench.request("fork", |_| {})).await.unwrap();
    bench.assert_made_of("fork", &keys(&pushed.diff_ids), 1, &[pushed.manifest]);

    let images = vec![bench.registry.reference("base", "1")];
    let request = bench.request("mixed", |spec| spec.images = images);
    bench.node.volumes.publish(request).await.unwrap();
    bench.assert_made_of("mixed", &keys(&pushed.diff_ids), 1, &[bench.base.manifest]);

    let error = bench.node.volumes.publish(bench.request("not", |spec| spec.images = vec![image]));
    assert_eq!(error.await.unwrap_err().class(), Class::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_without_its_layers_is_pulled_or_refused() {
    let bench = Bench::new().await;
    let lost = bench.captured.dir_name();
    fs::remove_dir_all(bench.node.dir.path().join("store/layers").join(lost)).unwrap();
    let error = bench.refused(|_| {}).await;
    assert_eq!(error.class(), Class::Corrupt);
    assert!(
        error.to_string().contains("ws-1 is only on this node, and some of its layers are missing"),
        "{error}"
    );
    let image = Some(bench.registry.reference("base", "1"));
    bench.node.snapshots.respond("ws-1", [Ok(FoundSnapshot { image, ..found("snap-1") })]);
    bench.node.volumes.publish(bench.request("fork", |_| {})).await.unwrap();
    bench.assert_made_of("fork", &keys(&bench.base.diff_ids), 1, &[bench.base.manifest]);
}

/// The user has written the name of the snapshot, and no image.
#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_a_pull_names_the_snapshot() {
    let bench = Bench::new().await;
    bench.node.volumes.0.store.snapshots.remove(&"snap-1".parse().unwrap()).unwrap();
    let image = format!("{}/snapshots/ws@{}", bench.registry.host(), ManifestDigest::of(b"lost"));
    let found = FoundSnapshot { image: Some(image.parse().unwrap()), ..found("snap-1") };
    bench.node.snapshots.respond("ws-1", [Ok(found)]);
    let error = bench.refused(|_| {}).await;
    let want = format!(
        "snapshot ws-1: image {image} is not in the registry any more; take a new snapshot"
    );
    assert_eq!((error.class(), error.to_string()), (Class::NotFound, want));

    bench.registry.inject("snapshots/ws", ALWAYS, Fault::Respond(403, Vec::new()));
    let error = bench.refused(|_| {}).await;
    assert_eq!(error.class(), Class::Denied);
    assert!(error.to_string().starts_with(&format!("snapshot ws-1: image {image}: ")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_a_stack_too_deep_for_the_kernel_names_the_fix() {
    let bench = Bench::new().await;
    let stack: Vec<_> = (0..501).map(|n: i32| LayerKey::of(&n.to_le_bytes())).collect();
    for key in &stack {
        let dir = bench.node.dir.path().join("store/layers").join(key.dir_name());
        fs::create_dir(dir).unwrap();
    }
    bench.put(|record| (record.stack, record.own_layers) = (stack, 500));
    let error = bench.refused(|_| {}).await;
    assert_eq!(error.class(), Class::Precondition);
    let sentence = error.to_string();
    assert!(sentence.contains("501 different layers") && sentence.contains("squash"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_snapshot_lookup_fails_the_publish() {
    let bench = Bench::new().await;
    let (name, why) = ("ws-1".to_owned(), "it is bound to another namespace's".to_owned());
    for (failure, class) in [
        (LookupError::Denied { name: name.clone(), why: why.clone() }, Class::Denied),
        (LookupError::Failed { name: name.clone(), why }, Class::Precondition),
        (LookupError::Absent { namespace: "default".to_owned(), name }, Class::NotFound),
    ] {
        bench.node.snapshots.respond("ws-1", [Err(failure.clone())]);
        let error = bench.refused(|_| {}).await;
        assert_eq!((error.class(), error.to_string()), (class, failure.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_option_that_hides_captured_files_is_refused() {
    let bench = Bench::new().await;
    let marked = snapshot_layer(&bench.node.volumes.0.store, "marked", (true, true), |_| {});
    bench.put(|record| record.stack[1] = marked);
    for (metacopy, redirect_dir, words) in
        [(false, true, "remove `metacopy: off`"), (false, false, "remove `redirectDir: off`")]
    {
        let options = Options { metacopy, redirect_dir, ..Options::default() };
        let error = bench.refused(|spec| spec.options = options).await;
        assert_eq!(error.class(), Class::Precondition);
        let sentence = error.to_string();
        assert!(sentence.contains(words) && sentence.contains(&marked.to_string()), "{sentence}");
    }
    bench.node.volumes.publish(bench.request("fork", |_| {})).await.unwrap();
}

/// A node without a cluster has snapshots too, but no VolumeSnapshot. The messages name `ovl node-snapshot` as an
/// alternative to the class.
#[test]
fn no_error_message_calls_a_snapshot_a_volume_snapshot() {
    let (name, node) = ("ws-1".to_owned(), "node-1".to_owned());
    let (namespace, why) = ("ci".to_owned(), "so".to_owned());
    let lookups = [
        LookupError::Absent { namespace, name: name.clone() },
        LookupError::NotReady { name: name.clone(), why: why.clone() },
        LookupError::Failed { name: name.clone(), why: why.clone() },
        LookupError::Denied { name: name.clone(), why: why.clone() },
        LookupError::Unavailable { name: name.clone(), why },
    ];
    let (image, advice) = ("r.io/ws".to_owned(), "take a new snapshot".to_owned());
    let others = [
        RestoreError::NodeOnly { name: name.clone(), node },
        RestoreError::Lost { name: name.clone() },
        RestoreError::NotInRegistry { name: name.clone(), image, advice },
        RestoreError::OtherOwner { name: name.clone(), captured_for: None, wanted: None },
        RestoreError::OwnImages { name: name.clone() },
        RestoreError::TooDeep { name, count: 600 },
    ];
    for error in lookups.map(RestoreError::from).into_iter().chain(others) {
        let said = error.to_string();
        let plain = said.replace("VolumeSnapshotClass", "");
        assert!(said.contains("snapshot ws-1") && !plain.contains("VolumeSnapshot"), "{said}");
    }
    let node_only = RestoreError::NodeOnly { name: "ws-1".to_owned(), node: "node-1".to_owned() };
    assert!(node_only.to_string().contains("`ovl node-snapshot push`"), "{node_only}");
}

fn not_ready() -> Result<FoundSnapshot, LookupError> {
    Err(LookupError::NotReady { name: "ws-1".to_owned(), why: "it is being pushed".to_owned() })
}

fn unavailable() -> Result<FoundSnapshot, LookupError> {
    Err(LookupError::Unavailable { name: "ws-1".to_owned(), why: "a time-out".to_owned() })
}

/// The maximum number of lookups of one pull within `time`: one at once, then one after each pause. The pauses
/// double.
fn lookups_within(time: Duration) -> usize {
    let pauses = (0..20).map(|n| Duration::from_millis(250) * 2_u32.pow(n));
    let lookups = pauses.scan(Duration::ZERO, |at, pause| {
        *at += pause.min(Duration::from_secs(5));
        Some(*at)
    });
    1 + lookups.take_while(|at| *at <= time).count()
}

/// docs/hazards.md, 47: a response at once makes the kubelet's backoff grow.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_waits_for_a_snapshot_that_is_not_ready() {
    let registry = FakeRegistry::start().await;
    let node = impatient_node(registry.registries());
    let request = |patience| {
        let mut request = node.request("fork", "t");
        request.spec.snapshot = Some("ws-1".to_owned());
        request.deadline = Some(Instant::now() + patience);
        request
    };
    node.snapshots.respond("ws-1", [unavailable(), not_ready()]);
    let began = Instant::now();
    // Most calls have two lookups. On a busy machine the second one may come after the call.
    loop {
        let error = node.volumes.publish(request(Duration::from_millis(700))).await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
        node.assert_nothing_left();
        let said = error.to_string();
        if said.contains("volume fork: snapshot ws-1 is not ready yet: it is being pushed") {
            break;
        }
        // Or the first lookup has not ended.
        let earlier = ["looking up snapshot ws-1", "a time-out", "resolving the images"];
        assert!(earlier.iter().any(|words| said.contains(words)), "{said}");
    }

    let captured = snapshot_layer(&node.volumes.0.store, "snap-1", (false, false), |_| {});
    node.volumes.0.store.snapshots.put(record("snap-1", vec![captured], Vec::new())).unwrap();
    node.snapshots.respond("ws-1", [not_ready(), Ok(found("snap-1"))]);
    node.volumes.publish(request(LONG)).await.unwrap();
    assert_eq!(node.mounted().len(), 1);
    // A pull that each call starts anew would look the snapshot up at once, and soon again.
    let most = lookups_within(began.elapsed());
    assert!(
        node.snapshots.requests() <= most,
        "more than {most} lookups: the calls do not share one pull"
    );
    assert_eq!((node.events()[0], node.events().last()), ("Pulling", Some(&"Pulled")));
    assert!(node.volumes.0.pull_jobs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_waits_for_its_snapshot_can_be_unpublished() {
    let registry = FakeRegistry::start().await;
    let node = impatient_node(registry.registries());
    node.snapshots.respond("ws-1", [not_ready()]);
    let mut request = node.request("fork", "t");
    request.spec.snapshot = Some("ws-1".to_owned());
    let waiting = tokio::spawn({
        let volumes = node.volumes.clone();
        async move { volumes.publish(request).await }
    });
    let is_free = || node.volumes.0.locks.try_lock(&"fork".parse().unwrap()).is_some();
    while node.snapshots.requests() == 0 || !is_free() {
        tokio::task::yield_now().await;
    }
    node.unpublish("fork", "t").await.unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(error, PublishError::Failed { cause: PublishCause::Cancelled, .. }),
        "{error}"
    );
    node.assert_nothing_left();
    assert!(node.volumes.0.pull_jobs.is_empty());
}
