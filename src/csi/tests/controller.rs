//! Tests of the controller service over its socket, as csi-snapshotter uses it, with a fake API server.

use serde_json::json;

use super::*;
use crate::{
    cluster::fake::FakeApi,
    controller::{Controller, volume_handle},
    csi::{
        config::ControllerConfig,
        proto::csi::{
            ControllerGetCapabilitiesRequest, CreateSnapshotRequest, DeleteSnapshotRequest,
            GetPluginCapabilitiesRequest, GetSnapshotRequest, ListSnapshotsRequest, Snapshot,
            ValidateVolumeCapabilitiesRequest,
            controller_client::ControllerClient,
            controller_service_capability::{
                Rpc as Can, Type as CanKind, rpc::Type as ControllerAbility,
            },
            plugin_capability::{Service, Type as PluginKind, service::Type as PluginAbility},
        },
    },
};

const SNAPSHOTS: &str = "/apis/ovl.csi.dev/v1alpha1/overlaysnapshots";

/// A running controller, and its cluster: one node, and three pods with a volume `ws`: a running one, one with a
/// read-only volume and a pending one.
struct Served {
    api: FakeApi,
    client: ControllerClient<Channel>,
    identity: IdentityClient<Channel>,
    health: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
    root: TempDir,
}

impl Served {
    async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let api = FakeApi::default();
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        api.put("/api/v1/nodes", json!({"metadata": {"name": "n-1"}, "status": ready}));
        for (name, node, read_only) in
            [("p-1", "n-1", false), ("p-2", "n-1", true), ("p-3", "", false)]
        {
            let phase = if node.is_empty() { "Pending" } else { "Running" };
            let csi = |driver: &str| json!({"driver": driver, "readOnly": read_only});
            let volumes = json!([{"name": "ws", "csi": csi("ovl.csi.dev")}, {"name": "other", "csi": csi("other.dev")}]);
            api.put(
                "/api/v1/namespaces/ci/pods",
                json!({
                    "metadata": {"name": name, "uid": format!("u-{name}")},
                    "spec": {"nodeName": node, "containers": [], "volumes": volumes},
                    "status": {"phase": phase},
                }),
            );
        }
        let config = ControllerConfig {
            endpoint: format!("unix://{}/csi.sock", root.path().display()).parse().unwrap(),
            driver: "ovl.csi.dev".parse().unwrap(),
            version: "1.2.3",
            health: "127.0.0.1:0".parse().unwrap(),
            metrics: None,
            removal_timeout: Duration::from_millis(300),
        };
        let socket = config.endpoint.path().to_owned();
        let role = Role::Controller(
            Box::new(config),
            Controller::new(api.client(), "ovl.csi.dev", None, Metrics::of_controller()),
        );
        let listeners = Listeners::open(&role).await.unwrap();
        let health = listeners.health.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { listeners.serve(&role, &Metrics::of_controller(), &shutdown).await }
        });
        let channel = dial(&socket).await;
        let (client, identity) =
            (ControllerClient::new(channel.clone()), IdentityClient::new(channel));
        Self { api, client, identity, health, shutdown, serving, root }
    }

    async fn create(
        &mut self,
        name: &str,
        volume: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Snapshot, Status> {
        let request = CreateSnapshotRequest {
            source_volume_id: volume.into(),
            name: name.into(),
            parameters: parameters.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        };
        Ok(self.client.create_snapshot(request).await?.into_inner().snapshot.unwrap())
    }

    async fn delete(&mut self, id: &str) -> Result<(), Status> {
        self.client
            .delete_snapshot(DeleteSnapshotRequest { snapshot_id: id.into() })
            .await
            .map(drop)
    }

    async fn list(
        &mut self,
        request: ListSnapshotsRequest,
    ) -> Result<(Vec<String>, String), Status> {
        let page = self.client.list_snapshots(request).await?.into_inner();
        let ids = page.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id);
        Ok((ids.collect(), page.next_token))
    }

    async fn get(&mut self, id: &str) -> Result<Snapshot, Status> {
        let request = GetSnapshotRequest { snapshot_id: id.into() };
        Ok(self.client.get_snapshot(request).await?.into_inner().snapshot.unwrap())
    }

    /// The node reports a status.
    fn node_reports(&self, id: &str, status: serde_json::Value) {
        self.api.patch(&format!("{SNAPSHOTS}/{id}/status"), json!({ "status": status }));
    }
}

fn ws(pod: &str) -> String {
    volume_handle(&format!("u-{pod}"), "ws")
}

#[tokio::test]
async fn the_controller_reports_its_capabilities() {
    let mut served = Served::start().await;
    let plugin = served.identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await;
    let service = Service { r#type: PluginAbility::ControllerService.into() };
    let capabilities = plugin.unwrap().into_inner().capabilities;
    assert_eq!(
        capabilities.into_iter().filter_map(|c| c.r#type).collect::<Vec<_>>(),
        [PluginKind::Service(service)]
    );
    let response =
        served.client.controller_get_capabilities(ControllerGetCapabilitiesRequest {}).await;
    let reported: Vec<_> =
        response.unwrap().into_inner().capabilities.into_iter().filter_map(|c| c.r#type).collect();
    let abilities = [
        ControllerAbility::CreateDeleteSnapshot,
        ControllerAbility::ListSnapshots,
        ControllerAbility::GetSnapshot,
    ];
    assert_eq!(reported, abilities.map(|ability| CanKind::Rpc(Can { r#type: ability.into() })));
    let info = served.identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((&*info.name, &*info.vendor_version), ("ovl.csi.dev", "1.2.3"));
    // The controller does not serve the calls of a node.
    let node = NodeClient::new(dial(&served.root.path().join("csi.sock")).await);
    let status = { node }.node_get_info(NodeGetInfoRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    served.shutdown.cancel();
    served.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_supported_capabilities_of_a_volume_are_confirmed() {
    let mut served = Served::start().await;
    let ask = |volume: &str, modes: &[Mode]| ValidateVolumeCapabilitiesRequest {
        volume_id: volume.into(),
        volume_capabilities: modes
            .iter()
            .map(|mode| VolumeCapability {
                access_type: Some(AccessType::Mount(MountVolume::default())),
                access_mode: Some(AccessMode { mode: (*mode).into() }),
            })
            .collect(),
    };
    for (request, code) in [
        (ask("", &[Mode::SingleNodeWriter]), Code::InvalidArgument),
        (ask(&ws("p-1"), &[]), Code::InvalidArgument),
        (ask("csi-0", &[Mode::SingleNodeWriter]), Code::NotFound),
    ] {
        let status = served.client.validate_volume_capabilities(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
    let writer = ask(&ws("p-1"), &[Mode::SingleNodeWriter]);
    let response = served.client.validate_volume_capabilities(writer.clone()).await.unwrap();
    assert_eq!(
        response.into_inner().confirmed.unwrap().volume_capabilities,
        writer.volume_capabilities
    );
    let many = ask(&ws("p-1"), &[Mode::SingleNodeWriter, Mode::MultiNodeMultiWriter]);
    let response = served.client.validate_volume_capabilities(many).await.unwrap().into_inner();
    assert_eq!((response.confirmed, response.message.is_empty()), (None, false));
}

#[tokio::test]
async fn the_controller_is_healthy_while_the_api_server_responds() {
    let mut served = Served::start().await;
    assert_eq!(
        served.identity.probe(ProbeRequest {}).await.unwrap().into_inner().ready,
        Some(true)
    );
    assert!(get(served.health, "/healthz").await.starts_with("HTTP/1.1 200 "));
    served.api.lose(0, crate::cluster::fake::Loss::Request);
    let status = served.identity.probe(ProbeRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(get(served.health, "/healthz").await.starts_with("HTTP/1.1 503 "));
    assert!(get(served.health, "/livez").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_name_has_exactly_one_snapshot() {
    let mut served = Served::start().await;
    let made = served
        .create("snapshot-1", &ws("p-1"), &[("repository", "r.io/{namespace}/{name}")])
        .await
        .unwrap();
    assert_eq!(
        (made.snapshot_id.as_str(), made.ready_to_use, made.size_bytes),
        ("snapshot-1", false, 0)
    );
    assert_eq!(made.source_volume_id, ws("p-1"));
    assert_eq!(made.creation_time.unwrap().seconds, 1_767_323_045);
    let spec = served.api.get(&format!("{SNAPSHOTS}/snapshot-1")).unwrap()["spec"].clone();
    assert_eq!(
        (&spec["nodeName"], &spec["repository"]),
        (&json!("n-1"), &json!("r.io/ci/snapshot-1"))
    );
    assert_eq!(
        spec["source"],
        json!({"namespace": "ci", "pod": "p-1", "podUid": "u-p-1", "volume": "ws"})
    );

    served.node_reports(
        "snapshot-1",
        json!({"phase": "Pushing", "captureTime": "2026-01-02T03:04:10.5Z", "bytes": 7}),
    );
    let pushing = served.create("snapshot-1", &ws("p-1"), &[]).await.unwrap();
    assert!(!pushing.ready_to_use);
    // A node of an earlier version wrote the time into another field.
    let former = json!({"captureTime": null, "cutTime": "2026-01-02T03:04:10.5Z"});
    served.node_reports("snapshot-1", former);
    assert_eq!(served.create("snapshot-1", &ws("p-1"), &[]).await.unwrap(), pushing);
    served.node_reports("snapshot-1", json!({"phase": "Ready"}));
    let made = served.create("snapshot-1", &ws("p-1"), &[]).await.unwrap();
    assert_eq!((made.ready_to_use, made.size_bytes), (true, 7));
    let created = made.creation_time.unwrap();
    assert_eq!((created.seconds, created.nanos), (1_767_323_050, 500_000_000));
    assert_eq!(served.get("snapshot-1").await.unwrap(), made);

    let status = served.create("snapshot-1", &ws("p-2"), &[]).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    // A name that is not a valid object name.
    let odd = served.create("Größe 1", &ws("p-1"), &[]).await.unwrap();
    assert_eq!(odd.snapshot_id.len(), 45);
    assert_eq!(
        served.create("Größe 1", &ws("p-1"), &[]).await.unwrap().snapshot_id,
        odd.snapshot_id
    );
    assert_eq!(served.api.all(SNAPSHOTS).len(), 2);
}

#[tokio::test]
async fn a_refused_snapshot_has_a_code_and_a_message() {
    let mut served = Served::start().await;
    let other = volume_handle("u-p-1", "other");
    for (name, volume, parameters, code, expected) in [
        ("", ws("p-1"), &[][..], Code::InvalidArgument, "name is missing"),
        ("s", String::new(), &[], Code::InvalidArgument, "source_volume_id is missing"),
        ("s\u{1}", ws("p-1"), &[], Code::InvalidArgument, "control characters"),
        (&"s".repeat(129), ws("p-1"), &[], Code::InvalidArgument, "129 bytes long"),
        (
            "s",
            ws("p-1"),
            &[("colour", "blue")],
            Code::InvalidArgument,
            "unknown parameter \"colour\"",
        ),
        (
            "s",
            ws("p-1"),
            &[("repository", "a")],
            Code::InvalidArgument,
            "does not start with a registry",
        ),
        ("s", "csi-0".into(), &[], Code::NotFound, "no pod has an inline volume of ovl.csi.dev"),
        ("s", other, &[], Code::NotFound, "no pod has an inline volume"),
        ("s", ws("p-2"), &[], Code::FailedPrecondition, "volume ws of pod p-2 is read-only"),
        ("s", ws("p-3"), &[], Code::Unavailable, "pod p-3 is not running yet"),
    ] {
        let status = served.create(name, &volume, parameters).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{status}");
    }
    assert!(served.api.all(SNAPSHOTS).is_empty());

    served.create("s", &ws("p-1"), &[]).await.unwrap();
    served.node_reports("s", json!({"phase": "Failed", "message": "the disk of n-1 is full"}));
    for status in [
        served.create("s", &ws("p-1"), &[]).await.unwrap_err(),
        served.get("s").await.unwrap_err(),
        served
            .list(ListSnapshotsRequest { snapshot_id: "s".into(), ..Default::default() })
            .await
            .unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "snapshot s failed: the disk of n-1 is full");
    }
    assert_eq!(served.list(ListSnapshotsRequest::default()).await.unwrap().0, ["s"]);
}

#[tokio::test]
async fn a_delete_is_complete_when_the_node_reports_it() {
    let mut served = Served::start().await;
    for id in ["unknown", "../../secrets", "A b"] {
        served.delete(id).await.unwrap();
    }
    assert_eq!(served.delete("").await.unwrap_err().code(), Code::InvalidArgument);
    served.create("s", &ws("p-1"), &[]).await.unwrap();
    for _ in 0..2 {
        let status = served.delete("s").await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Aborted, "snapshot s is being removed by node n-1")
        );
    }
    assert_eq!(served.api.get(&format!("{SNAPSHOTS}/s")).unwrap()["spec"]["deleted"], true);
    // Meanwhile, the snapshot is not found any more, and its name is not free yet.
    assert_eq!(served.create("s", &ws("p-1"), &[]).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(served.get("s").await.unwrap_err().code(), Code::NotFound);
    assert!(served.list(ListSnapshotsRequest::default()).await.unwrap().0.is_empty());
    served.node_reports("s", json!({"phase": "Deleting"}));
    assert_eq!(served.delete("s").await.unwrap_err().code(), Code::Aborted);
    served.node_reports("s", json!({"phase": "Deleted"}));
    served.delete("s").await.unwrap();
    served.delete("s").await.unwrap();
    assert!(served.api.all(SNAPSHOTS).is_empty());

    // The controller does not wait for a node that is not ready or gone.
    for state in ["False", "Unknown", "gone"] {
        served.create("s", &ws("p-1"), &[]).await.unwrap();
        let conditions = json!([{"type": "Ready", "status": state}]);
        match state {
            "gone" => served.api.delete("/api/v1/nodes/n-1"),
            _ => {
                drop(served.api.patch(
                    "/api/v1/nodes/n-1/status",
                    json!({"status": {"conditions": conditions}}),
                ))
            }
        }
        served.delete("s").await.unwrap();
        assert!(served.api.all(SNAPSHOTS).is_empty(), "{state}");
    }
}

/// Otherwise csi-snapshotter would emit a warning for each deletion.
#[tokio::test]
async fn a_delete_waits_for_a_node_that_takes_a_moment() {
    let mut served = Served::start().await;
    served.create("s", &ws("p-1"), &[]).await.unwrap();
    let api = served.api.clone();
    let node = tokio::spawn(async move {
        let path = format!("{SNAPSHOTS}/s");
        while api.get(&path).unwrap()["spec"]["deleted"] != true {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        api.patch(&format!("{path}/status"), json!({"status": {"phase": "Deleted"}}));
    });
    served.delete("s").await.unwrap();
    node.await.unwrap();
    assert!(served.api.all(SNAPSHOTS).is_empty());
}

#[tokio::test]
async fn snapshots_are_listed_in_pages_by_handle_and_by_volume() {
    let mut served = Served::start().await;
    served.api.patch("/api/v1/namespaces/ci/pods/p-3", json!({"spec": {"nodeName": "n-1"}}));
    served
        .api
        .patch("/api/v1/namespaces/ci/pods/p-3/status", json!({"status": {"phase": "Running"}}));
    for (name, pod) in [("c", "p-1"), ("a", "p-1"), ("b", "p-3"), ("d", "p-1")] {
        served.create(name, &ws(pod), &[]).await.unwrap();
    }
    // A snapshot of another driver.
    let mut theirs = served.api.get(&format!("{SNAPSHOTS}/a")).unwrap();
    theirs["metadata"] = json!({"name": "z"});
    theirs["spec"]["driver"] = "other.dev".into();
    served.api.put(SNAPSHOTS, theirs);

    let ask = ListSnapshotsRequest::default;
    assert_eq!(
        served.list(ask()).await.unwrap(),
        (["a", "b", "c", "d"].map(str::to_owned).into(), String::new())
    );
    let (first, token) =
        served.list(ListSnapshotsRequest { max_entries: 3, ..ask() }).await.unwrap();
    assert_eq!(first, ["a", "b", "c"]);
    let rest = ListSnapshotsRequest { max_entries: 3, starting_token: token, ..ask() };
    assert_eq!(served.list(rest).await.unwrap(), (vec!["d".into()], String::new()));
    for (request, ids) in [
        (ListSnapshotsRequest { source_volume_id: ws("p-3"), ..ask() }, &["b"][..]),
        (ListSnapshotsRequest { source_volume_id: "csi-0".into(), ..ask() }, &[]),
        (ListSnapshotsRequest { snapshot_id: "c".into(), ..ask() }, &["c"]),
        (
            ListSnapshotsRequest { snapshot_id: "c".into(), source_volume_id: ws("p-3"), ..ask() },
            &[],
        ),
        (ListSnapshotsRequest { snapshot_id: "unknown".into(), ..ask() }, &[]),
        (ListSnapshotsRequest { snapshot_id: "No name".into(), ..ask() }, &[]),
        (ListSnapshotsRequest { snapshot_id: "z".into(), ..ask() }, &[]),
    ] {
        assert_eq!(served.list(request.clone()).await.unwrap().0, ids, "{request:?}");
    }
    for (request, code) in [
        (ListSnapshotsRequest { starting_token: "invalid-token".into(), ..ask() }, Code::Aborted),
        (ListSnapshotsRequest { max_entries: -1, ..ask() }, Code::InvalidArgument),
    ] {
        assert_eq!(served.list(request).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn calls_are_unavailable_while_the_api_server_is_down() {
    let mut served = Served::start().await;
    served.api.lose(0, crate::cluster::fake::Loss::Request);
    for status in [
        served.create("s", &ws("p-1"), &[]).await.unwrap_err(),
        served.delete("s").await.unwrap_err(),
        served.list(ListSnapshotsRequest::default()).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
}
