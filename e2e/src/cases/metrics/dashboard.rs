//! The queries of the chart's dashboard, as Grafana sends them: with the values of the dashboard's variables.
//!
//! Deliberately absent: everything else of the dashboard. Only Grafana can show it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::prometheus::Prometheus;
use crate::env::chart::NAMESPACE;
use crate::env::environment::Environment;

/// The value of `$__rate_interval`, as with Grafana's own default for the scrape interval.
const RATE_INTERVAL: &str = "1m";

/// A query of a panel.
pub struct Query {
    /// The panel's title.
    pub panel: String,
    /// The query, without variables.
    pub text: String,
}

/// All queries, in the order of the panels. The dashboard is that of the ConfigMap in the cluster.
///
/// # Errors
/// There is no dashboard, or a variable has no value.
pub fn queries(env: &Environment, prometheus: &Prometheus) -> Result<Vec<Query>> {
    let map = ["get", "configmap", "ovl-csi-dashboard", "--namespace", NAMESPACE];
    let map = env.cluster.kubectl_json(&map)?;
    let text = map.pointer("/data/ovl-csi.json").and_then(Value::as_str);
    let dashboard: Value = serde_json::from_str(text.context("the ConfigMap has no dashboard")?)?;
    let variables = variables(&dashboard, prometheus)?;
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let title = panel["title"].as_str().context("a panel without a title")?;
        let targets = panel["targets"].as_array().into_iter().flatten();
        for query in targets.map(|target| target["expr"].as_str()) {
            let query = query.with_context(|| format!("panel {title} has no query"))?;
            let mut text = query.replace("$__rate_interval", RATE_INTERVAL);
            for (name, value) in &variables {
                text = text.replace(&format!("${name}"), value);
            }
            ensure!(!text.contains('$'), "panel {title} has an unknown variable: {query}");
            queries.push(Query { panel: title.to_owned(), text });
        }
    }
    ensure!(queries.len() > 20, "the dashboard has {} queries", queries.len());
    Ok(queries)
}

/// The variables with a query, each with its only value: the driver's namespace.
fn variables(dashboard: &Value, prometheus: &Prometheus) -> Result<Vec<(String, String)>> {
    let all = dashboard["templating"]["list"].as_array().context("no variables")?.iter();
    let mut variables = Vec::new();
    for variable in all.filter(|variable| variable["type"] == "query") {
        let name = variable["name"].as_str().context("a variable without a name")?;
        let query = variable["query"].as_str().context("a variable without a query")?;
        let arguments = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let arguments = arguments.and_then(|arguments| arguments.split_once(", "));
        let (metric, label) = arguments.with_context(|| format!("variable {name}: {query}"))?;
        let values = prometheus.label_values(metric, label)?;
        ensure!(values == [NAMESPACE], "variable {name} has the values {values:?}");
        variables.push((name.to_owned(), NAMESPACE.to_owned()));
    }
    Ok(variables)
}
