//! Tests of the whole node service over its real sockets, with real clients and fake mounts.

mod controller;
pub(super) mod log;
mod traces;

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint as Dial},
};

use super::{
    Config, Defaults, ServeError,
    proto::{
        csi::{
            GetPluginInfoRequest, NodeGetCapabilitiesRequest, NodeGetInfoRequest,
            NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
            ProbeRequest, VolumeCapability,
            identity_client::IdentityClient,
            node_client::NodeClient,
            node_service_capability::{Rpc, Type as Kind, rpc::Type as Ability},
            volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
            volume_usage::Unit,
        },
        pluginregistration::{
            InfoRequest, RegistrationStatus, registration_client::RegistrationClient,
        },
    },
    role::Role,
    server::Listeners,
    socket::SocketError,
};
use crate::{
    image::{Hosts, Registries},
    layers::Store,
    metrics::Metrics,
    overlay::KernelFeatures,
    sys::mounts::{FakeMounts, Mounts},
    volumes::{Parts, Settings, Volumes},
};

/// A running driver with its own directory.
struct Driver {
    root: TempDir,
    config: Config,
    health: SocketAddr,
    metrics: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Driver {
    async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let volumes = volumes(root.path());
        let role = Role::Node(Box::new(config.clone()), volumes);
        let listeners = Listeners::open(&role).await.unwrap();
        let health = listeners.health.local_addr().unwrap();
        let metrics = listeners.metrics.as_ref().unwrap().local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { listeners.serve(&role, &Metrics::default(), &shutdown).await }
        });
        Self { root, config, health, metrics, shutdown, serving }
    }

    async fn stop(self) -> Result<(), ServeError> {
        self.shutdown.cancel();
        self.serving.await.unwrap()
    }

    fn kubelet(&self) -> &Path {
        &self.config.kubelet_dir
    }

    async fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(dial(self.config.endpoint.path()).await)
    }

    async fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(dial(self.config.endpoint.path()).await)
    }

    async fn registration(&self) -> RegistrationClient<Channel> {
        RegistrationClient::new(dial(&self.config.registration_socket()).await)
    }

    /// A publish request as the kubelet sends it, and its target.
    fn publish(&self, attributes: &[(&str, &str)]) -> (NodePublishVolumeRequest, PathBuf) {
        let target = self.kubelet().join("pods/u-1/volumes/kubernetes.io~csi/ws/mount");
        // The kubelet creates the parent (CSI spec, NodePublishVolume).
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let kubelet = [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.namespace", "ci"),
            ("csi.storage.k8s.io/pod.name", "job-1"),
            ("csi.storage.k8s.io/pod.uid", "u-1"),
        ];
        let request = NodePublishVolumeRequest {
            volume_id: "csi-1".into(),
            target_path: target.display().to_string(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(MountVolume::default())),
                access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            }),
            readonly: false,
            secrets: HashMap::new(),
            volume_context: kubelet
                .iter()
                .chain(attributes)
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        (request, target)
    }
}

fn config(root: &Path) -> Config {
    Config {
        endpoint: format!("unix://{}/plugins/d/csi.sock", root.display()).parse().unwrap(),
        kubelet_dir: root.join("kubelet"),
        driver: "ovl.csi.dev".parse().unwrap(),
        node: "node-1".parse().unwrap(),
        version: "1.2.3",
        health: "127.0.0.1:0".parse().unwrap(),
        metrics: Some("127.0.0.1:0".parse().unwrap()),
        defaults: Defaults::default(),
    }
}

fn volumes(root: &Path) -> Volumes {
    let mounts: Arc<dyn Mounts> = Arc::new(FakeMounts::default());
    let store = Arc::new(Store::open(&root.join("store"), mounts.clone()).unwrap());
    let registries = Registries::new(Hosts::default()).unwrap();
    let parts = Parts::new(store, registries, mounts, KernelFeatures::lacking([]));
    Volumes::open(parts, Settings::new(root.join("kubelet"))).unwrap()
}

async fn dial(socket: &Path) -> Channel {
    let uri = format!("unix://{}", socket.display());
    Dial::from_shared(uri).unwrap().connect().await.unwrap()
}

fn unpublish(request: &NodePublishVolumeRequest) -> NodeUnpublishVolumeRequest {
    NodeUnpublishVolumeRequest {
        volume_id: request.volume_id.clone(),
        target_path: request.target_path.clone(),
    }
}

async fn get(address: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n");
    let talk = move || {
        let mut connection = std::net::TcpStream::connect(address).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        connection.read_to_string(&mut response).unwrap();
        response
    };
    tokio::task::spawn_blocking(talk).await.unwrap()
}

#[tokio::test]
async fn the_driver_reports_its_name_version_and_node() {
    let driver = Driver::start().await;
    let info = driver.identity().await.get_plugin_info(GetPluginInfoRequest {}).await.unwrap();
    let info = info.into_inner();
    assert_eq!((&*info.name, &*info.vendor_version), ("ovl.csi.dev", "1.2.3"));
    let node = driver.node().await.node_get_info(NodeGetInfoRequest {}).await.unwrap();
    assert_eq!(node.into_inner().node_id, "node-1");
    driver.stop().await.unwrap();
}

#[tokio::test]
async fn a_method_that_is_not_served_is_unimplemented() {
    let driver = Driver::start().await;
    for path in
        ["/csi.v1.Node/NodeStageVolume", "/csi.v1.Controller/CreateVolume", "/unknown/Method"]
    {
        let mut client = tonic::client::Grpc::new(dial(driver.config.endpoint.path()).await);
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let path = PathAndQuery::from_static(path);
        let status = client.unary(Request::new(()), path.clone(), codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn a_repeated_publish_or_unpublish_succeeds_and_changes_nothing() {
    let driver = Driver::start().await;
    let mut node = driver.node().await;
    let (request, target) = driver.publish(&[]);
    node.node_publish_volume(request.clone()).await.unwrap();
    assert!(target.is_dir());
    node.node_publish_volume(request.clone()).await.unwrap();

    let other = NodePublishVolumeRequest { readonly: true, ..request.clone() };
    let status = node.node_publish_volume(other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    // Its name in the pod, and not the id of the kubelet.
    assert!(status.message().starts_with("volume ws: the request differs"), "{status}");

    node.node_unpublish_volume(unpublish(&request)).await.unwrap();
    assert!(!target.exists());
    node.node_unpublish_volume(unpublish(&request)).await.unwrap();
    node.node_publish_volume(request).await.unwrap();
    assert!(target.is_dir());
}

#[tokio::test]
async fn a_failure_has_a_code_and_a_message() {
    let driver = Driver::start().await;
    let mut node = driver.node().await;
    for (attributes, code, expected) in [
        (&[("images", "")][..], Code::InvalidArgument, "images is \"\""),
        (&[("colour", "blue")], Code::InvalidArgument, "unknown attribute \"colour\""),
        (
            &[("image", "127.0.0.1:1/a:1"), ("pullPolicy", "Never")],
            Code::NotFound,
            "127.0.0.1:1/a:1 is not available to this pod",
        ),
    ] {
        let (request, target) = driver.publish(attributes);
        let status = node.node_publish_volume(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{status}");
        assert!(!target.exists(), "{attributes:?}: something was left behind");
    }
    let status = node.node_unpublish_volume(NodeUnpublishVolumeRequest::default()).await;
    assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_log_has_the_pod_and_no_secret() {
    let log = log::Log::default();
    let _guard = log.capture();
    let driver = Driver::start().await;
    let mut node = driver.node().await;
    let (mut request, _) = driver.publish(&[]);
    for key in ["token", ".dockerconfigjson", ".dockercfg"] {
        request.secrets = HashMap::from([(key.into(), "{\"auths\": hunter2".into())]);
        let status = node.node_publish_volume(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(key), "{status}");
        assert!(!format!("{status:?}").contains("hunter2"), "{status:?}");
    }
    driver.stop().await.unwrap();

    let lines = log.lines();
    let finished: Vec<_> =
        lines.iter().filter(|line| line["fields"]["message"] == "call finished").collect();
    assert_eq!(finished.len(), 3, "{lines:#?}");
    for line in finished {
        assert_eq!(line["span"]["method"], "NodePublishVolume");
        assert_eq!(line["span"]["volume"], "csi-1");
        assert_eq!(line["span"]["pod"], "ci/job-1");
        assert_eq!(line["fields"]["code"], "InvalidArgument");
    }
    assert!(!format!("{lines:?}").contains("hunter2"), "{lines:#?}");
}

#[tokio::test]
async fn the_node_has_the_capabilities_that_it_reports() {
    let driver = Driver::start().await;
    let mut node = driver.node().await;
    let response = node.node_get_capabilities(NodeGetCapabilitiesRequest {}).await.unwrap();
    let reported: Vec<_> =
        response.into_inner().capabilities.into_iter().filter_map(|c| c.r#type).collect();
    let able = |ability: Ability| Kind::Rpc(Rpc { r#type: ability.into() });
    assert_eq!(reported, [able(Ability::GetVolumeStats), able(Ability::VolumeMountGroup)]);

    let (request, target) = driver.publish(&[]);
    let stats_request = |volume: &str, path: &Path| NodeGetVolumeStatsRequest {
        volume_id: volume.into(),
        volume_path: path.display().to_string(),
    };
    for (request, code, expected) in [
        (stats_request("csi-1", &target), Code::NotFound, "csi-1"),
        (stats_request("", &target), Code::InvalidArgument, "volume_id is missing"),
        (
            stats_request("csi-1", Path::new("some/path")),
            Code::NotFound,
            "no volume is published at",
        ),
        (stats_request("csi-1", Path::new("")), Code::InvalidArgument, "volume_path is missing"),
    ] {
        let status = node.node_get_volume_stats(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{status}");
    }
    node.node_publish_volume(request).await.unwrap();
    let stats =
        node.node_get_volume_stats(stats_request("csi-1", &target)).await.unwrap().into_inner();
    let units: Vec<_> = stats.usage.iter().map(|usage| usage.unit()).collect();
    assert_eq!(units, [Unit::Bytes, Unit::Inodes]);
    let elsewhere =
        node.node_get_volume_stats(stats_request("csi-1", Path::new("/elsewhere"))).await;
    assert_eq!(elsewhere.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code_and_unknown_methods_as_other() {
    let driver = Driver::start().await;
    let mut node = driver.node().await;
    for n in 0..3 {
        let (mut request, _) = driver.publish(&[("colour", "blue")]);
        request.volume_id = format!("csi-{n}");
        node.node_publish_volume(request).await.unwrap_err();
    }
    for path in ["/csi.v1.Node/NodeStageVolume", "/unknown/Method"] {
        let mut client = tonic::client::Grpc::new(dial(driver.config.endpoint.path()).await);
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        client.unary(Request::new(()), PathAndQuery::from_static(path), codec).await.unwrap_err();
    }
    let response = get(driver.metrics, "/metrics").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(
        response.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{response}"
    );
    for line in [
        "ovl_operations_total{method=\"NodePublishVolume\",code=\"InvalidArgument\"} 3",
        "ovl_operations_total{method=\"other\",code=\"Unimplemented\"} 2",
        "ovl_operation_duration_seconds_count{method=\"NodePublishVolume\",code=\"InvalidArgument\"} 3",
    ] {
        assert!(response.lines().any(|l| l == line), "{line} is not in {response}");
    }
    assert!(!response.contains("csi-1") && !response.contains("NodeStage"), "{response}");
    let response = get(driver.health, "/metrics").await;
    assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
}

#[tokio::test]
async fn the_kubelet_gets_the_name_and_the_endpoint() {
    let driver = Driver::start().await;
    let mut kubelet = driver.registration().await;
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((&*info.r#type, &*info.name), ("CSIPlugin", "ovl.csi.dev"));
    assert_eq!(Path::new(&info.endpoint), driver.config.endpoint.path());
    assert_eq!(info.supported_versions, ["1.0.0"]);

    let registered = RegistrationStatus { plugin_registered: true, error: String::new() };
    kubelet.notify_registration_status(registered).await.unwrap();
    kubelet.get_info(InfoRequest {}).await.unwrap();
    driver.stop().await.unwrap();
}

#[tokio::test]
async fn the_registration_socket_is_restored_when_the_kubelet_removes_it() {
    let driver = Driver::start().await;
    let socket = driver.config.registration_socket();
    std::fs::remove_dir_all(socket.parent().unwrap()).unwrap();
    let restored = async {
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), restored).await.unwrap();
    let info = driver.registration().await.get_info(InfoRequest {}).await.unwrap();
    assert_eq!(info.into_inner().name, "ovl.csi.dev");
    driver.stop().await.unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_refusal_by_the_kubelet_ends_the_service_with_its_message() {
    let driver = Driver::start().await;
    let refused = RegistrationStatus { plugin_registered: false, error: "name is taken".into() };
    driver.registration().await.notify_registration_status(refused).await.unwrap();
    let error = driver.serving.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the kubelet refused to register ovl.csi.dev: name is taken");
    assert!(!driver.config.registration_socket().exists());
    assert!(!driver.config.endpoint.path().exists());
}

#[tokio::test]
async fn stopping_removes_the_sockets_and_keeps_the_volumes() {
    let driver = Driver::start().await;
    let (request, target) = driver.publish(&[]);
    driver.node().await.node_publish_volume(request).await.unwrap();
    let sockets = [driver.config.endpoint.path().to_owned(), driver.config.registration_socket()];
    assert!(sockets.iter().all(|socket| socket.exists()));
    driver.shutdown.cancel();
    driver.serving.await.unwrap().unwrap();
    assert!(!sockets.iter().any(|socket| socket.exists()));
    assert!(target.is_dir());
    drop(driver.root);
}

#[tokio::test]
async fn the_registration_socket_appears_only_after_the_csi_socket() {
    let root = tempfile::tempdir().unwrap();
    let config = config(root.path());
    std::fs::create_dir_all(config.endpoint.path().parent().unwrap()).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(config.endpoint.path()).unwrap();
    let role = Role::Node(Box::new(config.clone()), volumes(root.path()));
    let error = Listeners::open(&role).await.unwrap_err();
    assert!(matches!(error, ServeError::Socket(SocketError::InUse(_))), "{error}");
    assert!(!config.registration_socket().exists());
}

#[tokio::test]
async fn healthz_reports_the_same_as_probe() {
    let driver = Driver::start().await;
    let probed = driver.identity().await.probe(ProbeRequest {}).await.unwrap();
    assert_eq!(probed.into_inner().ready, Some(true));
    let response = get(driver.health, "/healthz").await;
    assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("ok\n"), "{response}");
    let response = get(driver.health, "/").await;
    assert!(response.starts_with("HTTP/1.1 404 "), "{response}");

    break_store(driver.root.path());
    let status: Status = driver.identity().await.probe(ProbeRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let response = get(driver.health, "/healthz").await;
    assert!(
        response.starts_with("HTTP/1.1 503 ") && response.contains(status.message()),
        "{response}"
    );
}

/// If all stayed open, a client that can reach the port could fill the memory and keep out the probes.
#[tokio::test]
async fn connections_that_are_left_open_do_not_keep_out_others() {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::timeout,
    };
    let driver = Driver::start().await;
    for (address, path) in [(driver.health, "/healthz"), (driver.metrics, "/metrics")] {
        let mut left = Vec::new();
        for _ in 0..100 {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: a").await.unwrap();
            left.push(connection);
        }
        assert!(get(address, path).await.starts_with("HTTP/1.1 200 "));
        // All but the newest are closed.
        for connection in &mut left[..60] {
            let ended =
                timeout(Duration::from_secs(20), connection.read(&mut [0; 512])).await.unwrap();
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        }
        assert!(get(address, path).await.starts_with("HTTP/1.1 200 "));
    }
}

fn break_store(root: &Path) {
    std::fs::remove_dir_all(root.join("store")).unwrap();
}
