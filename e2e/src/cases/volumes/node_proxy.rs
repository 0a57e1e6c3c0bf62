//! A proxy between the nodes and a registry (docs/proxy.md), for the case `helm`, which installs the chart anyway.
//!
//! Deliberately absent: what a proxy must not get. Tests of `image::proxy_tests` have it.

use std::fs;
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::env::chart::{NAMESPACE, RELEASE};
use crate::env::environment::Environment;
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::machine::background::Background;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;
use crate::oci::image::{Layer, push};

/// An image that only this case pulls.
const IMAGE: &str = "behind-proxy:1";

/// tinyproxy on the bridge of the nodes' network.
pub struct NodeProxy {
    running: Background,
    address: String,
}

impl NodeProxy {
    /// Starts it.
    pub fn start(env: &Environment) -> Result<Self> {
        let bridge = env.proxies()?.controlled.host.split(':').next().unwrap_or_default();
        let free = TcpListener::bind((bridge, 0)).context("looking for a free port")?;
        let address = free.local_addr().context("a free port")?;
        drop(free);
        let scratch = &env.programs()?.scratch;
        let config = scratch.join("tinyproxy.conf");
        let (at, port) = (address.ip(), address.port());
        let text =
            format!("Port {port}\nListen {at}\nTimeout 60\nMaxClients 50\nLogLevel Connect\n");
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let program = Cmd::new("tinyproxy").args(["-d", "-c"]).arg(&config);
        let running = Background::start(&program, scratch.join("tinyproxy.log"))?;
        wait_for("tinyproxy to listen", seconds(10), || {
            Ok(TcpStream::connect(address).is_ok().then_some(()))
        })?;
        Ok(Self { running, address: address.to_string() })
    }

    /// The chart's value `proxy`. The registry beside the cluster has no proxy: its name does not resolve on this machine.
    pub fn values(&self, env: &Environment) -> Value {
        let url = format!("http://{}", self.address);
        let direct = env.registry.host.split(':').next().unwrap_or_default();
        json!({ "https": url, "http": url, "noProxy": [direct] })
    }

    /// Checks that a pull goes through it, and that the networks of the cluster do not.
    pub fn check_used(&self, ns: &TestNamespace<'_>) -> Result<()> {
        let registry = &ns.env.proxies()?.controlled;
        push(ns.env.registry.here, IMAGE, vec![Layer::new().file("file", "behind a proxy")?])?;
        let pod = Pod::new("behind-proxy", json!({ "image": registry.name(IMAGE) }));
        ns.start(&pod.on(&ns.env.worker().name))?;
        ns.expect_output("behind-proxy", &[("cat /work/file", "behind a proxy")])?;
        let log = fs::read_to_string(&self.running.log).context("reading tinyproxy's log")?;
        let request = format!("GET http://{}/v2/behind-proxy/", registry.host);
        ensure!(log.contains(&request), "no `{request}` in:\n{log}");
        ensure!(!log.contains(&ns.env.registry.host), "a server in noProxy is in:\n{log}");

        let driver = format!("{RELEASE}-node");
        let driver = ["get", "daemonset", &driver, "--namespace", NAMESPACE];
        let driver = ns.cluster().kubectl_json(&driver)?;
        let variables = driver.pointer("/spec/template/spec/containers/0/env");
        let mut variables = variables.and_then(Value::as_array).into_iter().flatten();
        let no_proxy = variables.find(|variable| variable["name"] == "NO_PROXY");
        let no_proxy = no_proxy.and_then(|variable| variable["value"].as_str());
        let no_proxy: Vec<_> = no_proxy.context("there is no NO_PROXY")?.split(',').collect();
        for network in networks(ns)? {
            ensure!(no_proxy.contains(&network.as_str()), "{network} is not in {no_proxy:?}");
        }
        ns.delete("behind-proxy")
    }
}

/// The networks of the cluster's Services and of its pods.
fn networks(ns: &TestNamespace<'_>) -> Result<Vec<String>> {
    let services = ns.cluster().kubectl_json(&["get", "servicecidr", "kubernetes"])?;
    let services = services["spec"]["cidrs"].as_array().into_iter().flatten();
    let mut networks: Vec<_> = services.filter_map(Value::as_str).map(str::to_owned).collect();
    ensure!(!networks.is_empty(), "the ServiceCIDR has no network");
    let config = ["get", "configmap", "kubeadm-config", "--namespace", NAMESPACE];
    let config = ns.cluster().kubectl_json(&config)?;
    let config = config["data"]["ClusterConfiguration"].as_str().unwrap_or_default();
    let pods = config.lines().find_map(|line| line.trim().strip_prefix("podSubnet: "));
    let pods = pods.context("kubeadm's configuration has no network of pods")?;
    networks.extend(pods.split(',').map(str::to_owned));
    Ok(networks)
}
