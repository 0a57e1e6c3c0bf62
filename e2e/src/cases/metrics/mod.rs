//! The metrics, with a real Prometheus: it scrapes all nodes and controllers while they work, runs each query of the
//! dashboard, and evaluates each alert.
//!
//! Deliberately absent: alerts that fire. The chart suite tests them with promtool.

mod dashboard;
mod prometheus;

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::prometheus::Prometheus;
use super::case::{Case, Concurrency};
use super::driver_pod::DriverPod;
use crate::env::monitoring::Monitoring;
use crate::env::namespace::TestNamespace;
use crate::env::pods::{POD_TIMEOUT, Pod};
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;

/// See the module.
pub const ALL: &[Case] = &[Case {
    name: "metrics",
    what: "Prometheus runs the queries of the dashboard and the alerts",
    // The failures of other cases would let alerts fire.
    concurrency: Concurrency::Last,
    run,
}];

/// Panels that show 0 or nothing in a healthy cluster, and why.
const QUIET: &[(&str, &str)] = &[
    ("Failed calls", "no call fails"),
    ("Findings", "all records can be read, and no volume has a limit"),
    ("Garbage collection", "the layers of the case are in use"),
    ("Age of the oldest snapshot that is not pushed", "a push takes a moment"),
];

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let dir = ns.env.programs()?.scratch.join("prometheus");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let helm = &ns.cluster().prerequisites.helm;
    let chart = Monitoring::render(helm, &ns.env.repo, &dir)?;
    let prometheus = Prometheus::start(ns.env, &chart, &dir)?;
    prometheus.wait_until_scraped()?;
    use_driver(ns, &prometheus)?;
    for query in dashboard::queries(ns.env, &prometheus)? {
        let (panel, text) = (&query.panel, &query.text);
        check_exists(&prometheus, text).with_context(|| format!("panel {panel}"))?;
        if QUIET.iter().all(|(quiet, _)| quiet != panel) {
            // Gauges of the store change about once a minute.
            wait_for(&format!("a value of `{text}` (panel {panel})"), seconds(120), || {
                let values = prometheus.values(text)?;
                let is_used = values.iter().any(|value| *value > 0.0);
                ensure!(is_used, "none of {} values is above 0", values.len());
                Ok(Some(()))
            })?;
        } else {
            // A wrong query is an error, too.
            prometheus.values(text).with_context(|| format!("panel {panel}"))?;
        }
    }
    check_alerts(&prometheus, &chart)
}

/// Mounts volumes on both nodes, two of them on one node, and pushes a snapshot. Prometheus sees a value before and after
/// most of it: the rate of a series begins with its second sample.
fn use_driver(ns: &TestNamespace<'_>, prometheus: &Prometheus) -> Result<()> {
    let (other, worker) = (&ns.env.cluster.nodes[0], ns.env.worker());
    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).on(&worker.name))?;
    ns.shell("source", "head -c 1000000 /dev/urandom > /work/data")?;
    let driver = DriverPod::on(ns.env, &worker.name)?.pod;
    let published = format!(
        "ovl_operations_total{{method=\"NodePublishVolume\",code=\"OK\",pod=\"{driver}\"}}"
    );
    wait_for(&format!("`{published}`"), POD_TIMEOUT, || {
        Ok(prometheus.values(&published)?.last().filter(|calls| **calls > 0.0).map(drop))
    })?;
    ns.snapshot("ws", "source", "pushed")?;
    ns.restore("near", "ws", &worker.name)?;
    ns.restore("far", "ws", other).map(drop)
}

/// Checks that Prometheus has the metrics of a query.
fn check_exists(prometheus: &Prometheus, query: &str) -> Result<()> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for metric in words.filter(|word| word.starts_with("ovl_")) {
        let count = prometheus.values(&format!("count({metric})"))?;
        ensure!(!count.is_empty(), "there is no {metric} in `{query}`");
    }
    Ok(())
}

/// Checks that each alert is evaluated and does not fire, and that there are series for it.
fn check_alerts(prometheus: &Prometheus, chart: &Monitoring) -> Result<()> {
    let evaluated = wait_for("the alerts to be evaluated", seconds(60), || {
        let rules = prometheus.api("/api/v1/rules")?;
        let rules = rules.pointer("/groups/0/rules").and_then(Value::as_array).cloned();
        let rules = rules.context("it has no rules")?;
        ensure!(rules.iter().all(|rule| rule["health"] == "ok"), "{rules:?}");
        Ok(Some(rules))
    })?;
    let alerts = chart.alerts()?;
    ensure!(evaluated.len() == alerts.len(), "of {} alerts it has {evaluated:?}", alerts.len());
    for (alert, now) in alerts.iter().zip(&evaluated) {
        let name = &alert["alert"];
        ensure!(now["name"] == *name, "{name} is {now}");
        ensure!(now["state"] != "firing", "{name} fires in a healthy cluster: {now}");
        let query = alert["expr"].as_str().context("an alert without an expression")?;
        check_exists(prometheus, query).with_context(|| format!("alert {name}"))?;
        let jobs = query.match_indices("up{").map(|(at, _)| &query[at..]);
        for up in jobs.filter_map(|rest| rest.split_inclusive('}').next()) {
            // A scrape on a busy machine can be too slow.
            wait_for(&format!("`{up}` of alert {name} to be 1"), seconds(30), || {
                let values = prometheus.values(up)?;
                ensure!(values.last() == Some(&1.0), "it is {values:?}");
                Ok(Some(()))
            })?;
        }
    }
    Ok(())
}
