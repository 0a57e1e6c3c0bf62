//! What the chart gives a Prometheus and its operator, rendered.
//!
//! Deliberately absent: the dashboard, which a cluster has as a ConfigMap.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{chart, yaml};

/// The values with which the chart has these objects.
const VALUES: &str =
    "metrics.enabled=true,metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true";

/// Objects of the Prometheus operator.
pub struct Monitoring {
    /// The ServiceMonitor, which says what is scraped.
    pub service_monitor: Value,
    /// The PrometheusRule. Its `spec` is a rule file of Prometheus.
    pub rule: Value,
}

impl Monitoring {
    /// Renders the chart. Files of the conversion are written to the directory `scratch`.
    ///
    /// # Errors
    /// helm failed, or the chart lacks an object.
    pub fn render(helm: &Path, repo: &Path, scratch: &Path) -> Result<Self> {
        let rendered = chart::chart(helm, repo, &["--set", VALUES])?;
        let object = |kind: &str| {
            let line = format!("\nkind: {kind}\n");
            let text = rendered.split("---\n").find(|text| text.contains(&line));
            let text = text.with_context(|| format!("the chart has no {kind}"))?;
            let dir = scratch.join(kind);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            yaml::as_json_by(helm, &dir, text).with_context(|| format!("the {kind} of the chart"))
        };
        Ok(Self { service_monitor: object("ServiceMonitor")?, rule: object("PrometheusRule")? })
    }

    /// The alerts, each as in a rule file.
    ///
    /// # Errors
    /// The PrometheusRule has none.
    pub fn alerts(&self) -> Result<&Vec<Value>> {
        let alerts = self.rule.pointer("/spec/groups/0/rules").and_then(Value::as_array);
        alerts.with_context(|| format!("no rules: {}", self.rule))
    }
}
