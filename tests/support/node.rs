//! A node for tests of the whole driver: a small disk for the store, a kubelet directory, and the requests of its
//! kubelet. For `tests/privileged_killed.rs` and `tests/privileged_hostile`.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::csi::{
    NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
    node_client::NodeClient,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
};

/// The driver's program.
pub const OVL: &str = env!("CARGO_BIN_EXE_ovl");
/// The longest time for any operation of the driver.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The driver's process. It is killed when dropped.
pub struct Driver(pub Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The node. Its drop unmounts everything below its directory.
pub struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    /// A node with an ext4 disk of this many bytes, and a hosts.toml for each registry.
    pub fn new(disk: u64, mkfs_options: &[&str], registries: &[&str]) -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap() };
        for dir in ["disk", "kubelet/plugins", "kubelet/pods", "hosts"] {
            fs::create_dir_all(node.path(dir)).unwrap();
        }
        for host in registries {
            let dir = node.path("hosts").join(host);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("hosts.toml"), format!("server = \"http://{host}\"\n")).unwrap();
        }
        let image = node.path("disk.img");
        File::create(&image).unwrap().set_len(disk).unwrap();
        let options: Vec<_> = ["-q"].iter().chain(mkfs_options).map(Path::new).collect();
        run("mkfs.ext4", &[&options[..], &[&image]].concat());
        node.mount_disk();
        node
    }

    pub fn mount_disk(&self) {
        let options = ["-o", "loop"].map(Path::new);
        run("mount", &[&options[..], &[&self.path("disk.img"), &self.path("disk")]].concat());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a driver: `command`, which ends with the program, with the arguments of this node and `args`.
    pub fn start(&self, mut command: Command, args: &[&str]) -> Driver {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.args(["node", "--node-name", "n", "--no-cluster"]);
        command.args(["--health-address", "127.0.0.1:0"]);
        command.arg("--root").arg(self.path("disk/store"));
        command.arg("--kubelet-dir").arg(self.path("kubelet"));
        command.arg("--hosts-dir").arg(self.path("hosts")).args(args);
        Driver(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Connects to the driver's socket, and waits until it serves.
    pub async fn connect(&self) -> NodeClient<Channel> {
        let socket = self.path("kubelet/plugins/ovl.csi.dev/csi.sock");
        let start = Instant::now();
        loop {
            let to = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
            match to.connect().await {
                Ok(channel) => return NodeClient::new(channel),
                Err(error) => assert!(start.elapsed() < TIMEOUT, "{error}: {}", self.log()),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The kubelet's directory for the only pod of the namespace.
    pub fn pod(&self, namespace: &str) -> PathBuf {
        self.path("kubelet/pods").join(uid(namespace))
    }

    pub fn target(&self, namespace: &str, id: &str) -> PathBuf {
        self.pod(namespace).join(id)
    }

    pub fn publish(
        &self,
        namespace: &str,
        id: &str,
        attributes: &[(&str, &str)],
    ) -> NodePublishVolumeRequest {
        fs::create_dir_all(self.pod(namespace)).unwrap();
        let uid = uid(namespace);
        let pod = [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.namespace", namespace),
            ("csi.storage.k8s.io/pod.name", "pod"),
            ("csi.storage.k8s.io/pod.uid", &uid),
        ];
        let context = pod.iter().chain(attributes);
        NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: self.target(namespace, id).display().to_string(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(MountVolume::default())),
                access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            }),
            readonly: false,
            secrets: HashMap::new(),
            volume_context: context.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    pub fn unpublish(&self, namespace: &str, id: &str) -> NodeUnpublishVolumeRequest {
        let target_path = self.target(namespace, id).display().to_string();
        NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path }
    }

    /// Unpublishes as the kubelet does: repeats the call while the operation is in progress.
    pub async fn remove(&self, client: &NodeClient<Channel>, namespace: &str, id: &str) {
        let request = self.unpublish(namespace, id);
        until_done(|| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.node_unpublish_volume(request).await.map(drop) }
        })
        .await;
    }

    /// The mounts below this directory, without the disk, the innermost last.
    pub fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
        let disk = self.path("disk");
        let ours = |target: &&str| target.starts_with(self.dir.path().to_str().unwrap());
        targets.filter(ours).filter(|t| Path::new(t) != disk).map(str::to_owned).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("{}", log.get(log.len().saturating_sub(20_000)..).unwrap_or_default());
        }
        let disk = self.path("disk").display().to_string();
        for target in self.mounts().into_iter().rev().chain([disk]) {
            let _ = Command::new("umount").args(["-l", &target]).status();
        }
    }
}

/// Repeats a call while the operation is in progress, as the kubelet does.
pub async fn until_done<F: Future<Output = Result<(), Status>>>(call: impl Fn() -> F) {
    let start = Instant::now();
    while let Err(status) = call().await {
        let is_in_progress = matches!(status.code(), Code::Aborted | Code::Unavailable);
        assert!(is_in_progress && start.elapsed() < TIMEOUT, "{status}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub fn run(program: &str, args: &[&Path]) {
    let done = Command::new(program).args(args).output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program}: {done:?}");
}

fn uid(namespace: &str) -> String {
    format!("pod-{namespace}")
}
