//! `ovl node` as a process of this machine, called at its socket as the kubelet does.
//!
//! Deliberately absent: a cluster.

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::machine::background::Background;
use crate::machine::process::{Cmd, tail};
use crate::machine::progress::{minutes, seconds};
use crate::machine::wait::wait_for;

#[allow(missing_docs, clippy::all, reason = "generated from the specification")]
mod csi {
    tonic::include_proto!("csi.v1");
}

use csi::node_client::NodeClient;
use csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
use csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};

/// Timeout of a call, as the kubelet's.
const CALL: Duration = seconds(120);

/// The longest that a pull may take, over several calls.
const PULL: Duration = minutes(10);

/// A running `ovl node`.
pub struct NodeProcess {
    running: Background,
    pods: PathBuf,
    runtime: Runtime,
    client: NodeClient<Channel>,
}

/// A volume to publish.
#[derive(Clone)]
pub struct Volume {
    request: NodePublishVolumeRequest,
}

impl NodeProcess {
    /// Starts it with a store and a kubelet directory in this directory, and waits for its socket.
    ///
    /// # Errors
    /// It ended, or does not respond.
    pub fn start(program: &Path, dir: &Path, registry: SocketAddr) -> Result<Self> {
        Self::start_as("bench", program, dir, registry, &[])
    }

    /// As [`NodeProcess::start`], with this node name and further arguments.
    ///
    /// # Errors
    /// As [`NodeProcess::start`].
    pub fn start_as(
        name: &str,
        program: &Path,
        dir: &Path,
        registry: SocketAddr,
        arguments: &[&str],
    ) -> Result<Self> {
        let node = command(program).args(["--node-name", name]).args(arguments);
        Self::start_command(node, dir, registry)
    }

    /// As [`NodeProcess::start`], with this `ovl node` and its first arguments.
    ///
    /// # Errors
    /// As [`NodeProcess::start`].
    pub fn start_command(node: Cmd, dir: &Path, registry: SocketAddr) -> Result<Self> {
        let kubelet = dir.join("kubelet");
        let socket = kubelet.join("plugins/ovl.csi.dev/csi.sock");
        let (pods, hosts) = (kubelet.join("pods"), dir.join("hosts"));
        let host = hosts.join(registry.to_string());
        let sockets = kubelet.join("plugins/ovl.csi.dev");
        for made in [&kubelet.join("plugins_registry"), &sockets, &pods, &host] {
            fs::create_dir_all(made).with_context(|| format!("making {}", made.display()))?;
        }
        let text = format!("server = \"http://{registry}\"\n");
        fs::write(host.join("hosts.toml"), text).context("writing a hosts.toml")?;
        let health = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let health = health.context("finding a free port")?.to_string();
        let node = node
            .args(["--health-address", &health])
            .arg("--root")
            .arg(dir.join("store"))
            .arg("--kubelet-dir")
            .arg(&kubelet)
            .arg("--hosts-dir")
            .arg(&hosts);
        let mut running = Background::start(&node, dir.join("driver.log"))?;
        let runtime = Runtime::new().context("starting a runtime")?;
        let channel = wait_for("the driver's socket", seconds(30), || {
            if running.ended() {
                bail!("the driver ended: {}", tail(&running.log, 20)?);
            }
            let to = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
            Ok(Some(runtime.block_on(to.connect())?))
        })?;
        Ok(Self { running, pods, runtime, client: NodeClient::new(channel) })
    }

    /// Its process ID.
    pub fn process(&self) -> u32 {
        self.running.id()
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.running.log
    }

    /// A value of its process status, in bytes (proc_pid_status(5)).
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self, line: &str) -> Result<u64> {
        self.running.memory(line)
    }

    /// A volume of an image for a pod of this name.
    pub fn volume(&self, name: &str, image: &str) -> Volume {
        self.volume_of(&format!("pod-{name}"), name, &[("image", image)])
    }

    /// A volume with these attributes for a pod.
    pub fn volume_of(&self, uid: &str, name: &str, attributes: &[(&str, &str)]) -> Volume {
        let target = self.pods.join(uid).join("volumes/kubernetes.io~csi/work/mount");
        let pod_info = [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.namespace", "bench"),
            ("csi.storage.k8s.io/pod.name", name),
            ("csi.storage.k8s.io/pod.uid", uid),
            ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ];
        let context = pod_info.iter().chain(attributes);
        let context = context.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let capability = VolumeCapability {
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        };
        let request = NodePublishVolumeRequest {
            volume_id: format!("csi-{name}"),
            target_path: target.display().to_string(),
            volume_capability: Some(capability),
            volume_context: context.collect::<HashMap<_, _>>(),
            ..NodePublishVolumeRequest::default()
        };
        Volume { request }
    }

    /// Publishes a volume. Repeats the call while the driver responds that the pull is in progress.
    ///
    /// # Errors
    /// The driver refused.
    pub fn publish(&self, volume: &Volume) -> Result<()> {
        self.prepare(volume)?;
        self.runtime.block_on(publish(self.client.clone(), volume.clone()))
    }

    /// Publishes volumes, in turn or all at once. Returns how long each call took at the socket.
    ///
    /// # Errors
    /// The driver refused one.
    pub fn publish_all(&self, volumes: &[Volume], at_once: bool) -> Result<Vec<Duration>> {
        volumes.iter().try_for_each(|volume| self.prepare(volume))?;
        let one = |volume: &Volume| {
            let (client, volume) = (self.client.clone(), volume.clone());
            async move {
                let since = Instant::now();
                publish(client, volume).await.map(|()| since.elapsed())
            }
        };
        self.runtime.block_on(async {
            let mut times = Vec::new();
            if at_once {
                let tasks: Vec<_> = volumes.iter().map(|v| tokio::spawn(one(v))).collect();
                for task in tasks {
                    times.push(task.await.context("a task panicked")??);
                }
            } else {
                for volume in volumes {
                    times.push(one(volume).await?);
                }
            }
            Ok(times)
        })
    }

    /// Unpublishes a volume.
    ///
    /// # Errors
    /// The driver failed.
    pub fn unpublish(&self, volume: &Volume) -> Result<()> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: volume.request.volume_id.clone(),
            target_path: volume.request.target_path.clone(),
        };
        let mut client = self.client.clone();
        let response = self.runtime.block_on(client.node_unpublish_volume(request));
        response.map(drop).with_context(|| format!("unpublishing {}", volume.request.volume_id))
    }

    /// Creates what the kubelet creates before a call.
    fn prepare(&self, volume: &Volume) -> Result<()> {
        let above = volume.target().parent().map_or(Ok(()), fs::create_dir_all);
        above.with_context(|| format!("making the directory of {}", volume.request.target_path))
    }
}

impl Volume {
    /// Its ID.
    pub fn id(&self) -> &str {
        &self.request.volume_id
    }

    /// Its target path.
    pub fn target(&self) -> &Path {
        Path::new(&self.request.target_path)
    }
}

/// `ovl node` as a process of this machine, without a cluster.
pub fn command(program: &Path) -> Cmd {
    Cmd::new(program).args(["node", "--no-cluster"])
}

async fn publish(mut client: NodeClient<Channel>, volume: Volume) -> Result<()> {
    let since = Instant::now();
    loop {
        let mut request = Request::new(volume.request.clone());
        request.set_timeout(CALL);
        match client.node_publish_volume(request).await {
            Ok(_) => return Ok(()),
            Err(not_yet) if not_yet.code() == Code::Unavailable && since.elapsed() < PULL => {}
            Err(error) => bail!("publishing {}: {error}", volume.request.volume_id),
        }
    }
}
