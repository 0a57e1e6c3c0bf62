//! YAML to JSON, by helm.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::toolchain::installed;

/// Converts a YAML document with a map at its top to JSON.
///
/// # Errors
/// It is no such document, or helm cannot be had.
pub fn as_json(h: &Harness, text: &str) -> Result<Value> {
    as_json_by(&installed::helm(h)?, &h.cache.scratch("to-json")?, text)
}

/// As [`as_json`], by this helm, with its files in an empty directory.
///
/// # Errors
/// It is no such document, or the directory is not empty.
pub fn as_json_by(helm: &Path, chart: &Path, text: &str) -> Result<Value> {
    let template = "{{ .Files.Get \"it.yaml\" | fromYaml | toJson }}";
    let files = [
        ("Chart.yaml", "apiVersion: v2\nname: to-json\nversion: 0.0.0\n"),
        ("it.yaml", text),
        ("templates/it.yaml", template),
    ];
    fs::create_dir(chart.join("templates")).context("making a chart")?;
    for (file, text) in files {
        fs::write(chart.join(file), text).context("filling a chart")?;
    }
    let output = Cmd::new(helm).args(["template", "to-json"]).arg(chart).output()?;
    let json = output.lines().find(|line| line.starts_with('{')).context("helm prints no JSON")?;
    serde_json::from_str(json).context("parsing the output of helm")
}
