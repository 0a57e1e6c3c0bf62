//! Prometheus on this machine. It scrapes the pods through the API server, which can reach them, and gives the samples
//! the labels that the Prometheus operator gives them for the chart's ServiceMonitor.
//!
//! Deliberately absent: the operator, and Prometheus' own discovery of Kubernetes, which Debian leaves out.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::env::chart::NAMESPACE;
use crate::env::environment::Environment;
use crate::env::monitoring::Monitoring;
use crate::machine::background::Background;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;
use crate::oci::http;

/// The time between two scrapes, and between two values of a query, in seconds.
const STEP: u64 = 5;

/// A running Prometheus. It ends when it is dropped.
pub struct Prometheus {
    running: Background,
    address: SocketAddr,
    /// In seconds of Unix time.
    started: u64,
    targets: usize,
}

impl Prometheus {
    /// Starts it with the alerts of the chart, and with its files in a directory.
    ///
    /// # Errors
    /// It does not respond, or the cluster has nothing to scrape.
    pub fn start(env: &Environment, chart: &Monitoring, dir: &Path) -> Result<Self> {
        let targets = targets(env, &chart.service_monitor)?;
        let count = targets.len();
        let rules = dir.join("rules.json");
        fs::write(&rules, chart.rule["spec"].to_string()).context("writing the rules")?;
        let interval = format!("{STEP}s");
        let config = json!({
            "global": { "scrape_interval": interval, "evaluation_interval": interval },
            "rule_files": [rules],
            "scrape_configs": [scrape_config(env, targets, dir)?],
        });
        let file = dir.join("prometheus.json");
        fs::write(&file, config.to_string()).context("writing the configuration")?;
        let free = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
        let address = free.local_addr().context("a free port")?;
        drop(free);
        let arg = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let program = Cmd::new(&env.programs()?.prometheus.server).args([
            arg("config.file", &file),
            arg("storage.tsdb.path", &dir.join("data")),
            format!("--web.listen-address={address}"),
        ]);
        let running = Background::start(&program, dir.join("log"))?;
        let started = now()?;
        let prometheus = Self { running, address, started, targets: count };
        wait_for("Prometheus to respond", seconds(30), || {
            let status = http::send(address, "GET", "/-/ready", &[], &[])?.status;
            ensure!(
                status == 200,
                "it responds {status}; see {}",
                prometheus.running.log.display()
            );
            Ok(Some(()))
        })?;
        Ok(prometheus)
    }

    /// Waits until it has scraped every pod.
    ///
    /// # Errors
    /// A pod cannot be scraped, or Prometheus does not understand its metrics.
    pub fn wait_until_scraped(&self) -> Result<()> {
        wait_for("Prometheus to scrape every pod", seconds(60), || {
            let targets = self.api("/api/v1/targets")?;
            let targets = targets["activeTargets"].as_array().context("no targets")?;
            ensure!(targets.len() == self.targets, "{} of {}", targets.len(), self.targets);
            let down = targets.iter().find(|target| target["health"] != "up");
            ensure!(down.is_none(), "{}", down.unwrap_or(&Value::Null));
            Ok(Some(()))
        })
    }

    /// The `data` of a response of its API.
    ///
    /// # Errors
    /// It responds with an error, for example about a query.
    pub fn api(&self, path: &str) -> Result<Value> {
        let body = http::send(self.address, "GET", path, &[], &[])?.bytes()?;
        let mut response: Value = serde_json::from_slice(&body).context("not JSON")?;
        match response["status"].as_str() {
            Some("success") => Ok(response["data"].take()),
            _ => bail!("Prometheus responds {response}"),
        }
    }

    /// The values of a query since the start, of all series. Those that are no number are left out: a quantile of nothing.
    ///
    /// # Errors
    /// As [`Prometheus::api`].
    pub fn values(&self, query: &str) -> Result<Vec<f64>> {
        let (query, start, end) = (encoded(query), self.started, now()?);
        let range = format!("query={query}&start={start}&end={end}&step={STEP}");
        let data = self.api(&format!("/api/v1/query_range?{range}"))?;
        let series = data["result"].as_array().context("no result")?.iter();
        let samples = series.flat_map(|series| series["values"].as_array().into_iter().flatten());
        let values = samples.map(|sample| {
            let value = sample[1].as_str().context("a sample without a value")?;
            value.parse::<f64>().with_context(|| format!("a value {value}"))
        });
        let values = values.collect::<Result<Vec<_>>>()?;
        Ok(values.into_iter().filter(|value| value.is_finite()).collect())
    }

    /// The values of a label of a metric.
    ///
    /// # Errors
    /// As [`Prometheus::api`].
    pub fn label_values(&self, metric: &str, label: &str) -> Result<Vec<String>> {
        let values = self.api(&format!("/api/v1/label/{label}/values?match[]={metric}"))?;
        serde_json::from_value(values).context("the values of a label")
    }
}

/// The pods that the ServiceMonitor selects, as targets: those behind the named port of its Services.
fn targets(env: &Environment, monitor: &Value) -> Result<Vec<Value>> {
    let services = ["get", "services", "--namespace", NAMESPACE, "--selector"];
    let services = env.cluster.kubectl_json(&[&services[..], &[&selector(monitor)?]].concat())?;
    let port_name = &monitor["spec"]["endpoints"][0]["port"];
    let mut targets = Vec::new();
    for service in services["items"].as_array().context("no Services")? {
        let name = service["metadata"]["name"].as_str().context("a Service without a name")?;
        let of_service = format!("kubernetes.io/service-name={name}");
        let slices = ["get", "endpointslices", "--namespace", NAMESPACE, "--selector", &of_service];
        let slices = env.cluster.kubectl_json(&slices)?;
        let before = targets.len();
        for slice in slices["items"].as_array().context("no EndpointSlices")? {
            let mut ports = slice["ports"].as_array().into_iter().flatten();
            let Some(port) = ports.find(|port| port["name"] == *port_name) else { continue };
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                targets.push(target(name, &port["port"], endpoint)?);
            }
        }
        ensure!(targets.len() > before, "Service {name} has no port {port_name} with pods");
    }
    // The nodes, and at least one controller.
    let nodes = env.cluster.nodes.len();
    ensure!(targets.len() > nodes, "the ServiceMonitor selects {targets:?}");
    Ok(targets)
}

/// A pod of a Service, with the labels of the operator.
fn target(service: &str, port: &Value, endpoint: &Value) -> Result<Value> {
    let pod = endpoint["targetRef"]["name"].as_str().context("an endpoint without a pod")?;
    let address = endpoint["addresses"][0].as_str().context("an endpoint without an address")?;
    Ok(json!({
        "job": service,
        "service": service,
        "namespace": NAMESPACE,
        "pod": pod,
        "instance": format!("{address}:{port}"),
        "__metrics_path__": format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:{port}/proxy/metrics"),
    }))
}

/// The selector of a ServiceMonitor as an argument of kubectl.
fn selector(monitor: &Value) -> Result<String> {
    let selector = &monitor["spec"]["selector"];
    let labels = selector["matchLabels"].as_object().context("the ServiceMonitor has no labels")?;
    let labels = labels.iter().map(|(key, value)| Ok(format!("{key}={}", text(value)?)));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let expressions = expressions.map(|expression| {
        ensure!(expression["operator"] == "In", "an unknown operator: {expression}");
        let values = expression["values"].as_array().context("an expression without values")?;
        let values = values.iter().map(text).collect::<Result<Vec<_>>>()?;
        Ok(format!("{} in ({})", text(&expression["key"])?, values.join(",")))
    });
    Ok(labels.chain(expressions).collect::<Result<Vec<_>>>()?.join(","))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

/// How the targets are scraped: through the API server, as the user of the kubeconfig.
fn scrape_config(env: &Environment, targets: Vec<Value>, dir: &Path) -> Result<Value> {
    let config = env.cluster.kubectl_json(&["config", "view", "--raw", "--minify"])?;
    let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
    let file = |name: &str, value: &Value| -> Result<Value> {
        let bytes =
            STANDARD.decode(text(value)?).with_context(|| format!("the kubeconfig's {name}"))?;
        let path = dir.join(name);
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        Ok(json!(path))
    };
    let tls = json!({
        "ca_file": file("ca.crt", &cluster["certificate-authority-data"])?,
        "cert_file": file("client.crt", &user["client-certificate-data"])?,
        "key_file": file("client.key", &user["client-key-data"])?,
    });
    let server = text(&cluster["server"])?;
    let server = server.strip_prefix("https://").with_context(|| format!("a server {server}"))?;
    let targets =
        targets.into_iter().map(|labels| json!({ "targets": [server], "labels": labels }));
    Ok(json!({
        "job_name": "pods",
        "scheme": "https",
        "tls_config": tls,
        "static_configs": targets.collect::<Vec<_>>(),
    }))
}

/// Seconds of Unix time.
fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?.as_secs())
}

/// Text as a value in the query of a URL (RFC 3986).
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(encoded("a{b=~\"c\"} + 1"), "a%7Bb%3D~%22c%22%7D%20%2B%201");
    }

    #[test]
    fn a_selector_has_labels_and_expressions() -> Result<()> {
        let expression = json!({ "key": "c", "operator": "In", "values": ["node", "controller"] });
        let monitor = json!({ "spec": { "selector": {
            "matchLabels": { "a": "1", "b": "2" },
            "matchExpressions": [expression],
        } } });
        assert_eq!(selector(&monitor)?, "a=1,b=2,c in (node,controller)");
        Ok(())
    }
}
