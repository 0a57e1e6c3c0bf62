//! The alerts of the chart, by promtool: they are valid, each fires with bad input, and none with good input.
//!
//! Deliberately absent: whether the driver has such metrics. A unit test of `metrics` compares the names, and a cluster
//! case evaluates the alerts.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::env::monitoring::Monitoring;
use crate::env::yaml;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::report::Report;
use crate::toolchain::prometheus::Prometheus;

/// The tests of the alerts, relative to the sources.
const TESTS: &str = "e2e/assets/alerts-test.yaml";

/// Runs promtool.
pub fn check(h: &Harness, helm: &Path, repo: &Path) -> Result<Report> {
    let dir = h.cache.scratch("alerts")?;
    let chart = Monitoring::render(helm, repo, &dir)?;
    let tests = fs::read_to_string(repo.join(TESTS)).with_context(|| format!("reading {TESTS}"))?;
    let tests = yaml::as_json(h, &tests)?;
    let promtool = Prometheus::ensure(h)?.promtool;
    let run = |rules: &Value| promtool_tests(&promtool, &dir, rules, &tests);
    let mut report = Report::default();
    let rules = &chart.rule["spec"];
    report.count("the alerts pass their tests", run(rules));
    for alert in chart.alerts()? {
        let name = alert["alert"].as_str().context("an alert without a name")?;
        report.count(&format!("{name} has tests"), has_both(&tests, name));
        report.count(&format!("a wrong {name} is found"), finds(rules, name, run));
    }
    Ok(report)
}

/// Checks and tests rules.
fn promtool_tests(promtool: &Path, dir: &Path, rules: &Value, tests: &Value) -> Result<()> {
    let (rule_file, test_file) = (dir.join("rules.json"), dir.join("tests.json"));
    let mut tests = tests.clone();
    tests["rule_files"] = json!([rule_file]);
    fs::write(&rule_file, rules.to_string()).context("writing the rules")?;
    fs::write(&test_file, tests.to_string()).context("writing the tests")?;
    let check = Cmd::new(promtool).args(["check", "rules", "--lint-fatal"]).arg(&rule_file);
    check.output()?;
    Cmd::new(promtool).args(["test", "rules"]).arg(&test_file).output().map(drop)
}

/// Checks that an alert has a test in which it fires, and one in which it does not.
fn has_both(tests: &Value, alert: &str) -> Result<()> {
    let tests = tests["tests"].as_array().into_iter().flatten();
    let tests = tests.flat_map(|test| test["alert_rule_test"].as_array().into_iter().flatten());
    let tests = tests.filter(|test| test["alertname"] == alert);
    let fires = |test: &Value| test["exp_alerts"].as_array().map(|alerts| !alerts.is_empty());
    let fires: Vec<_> = tests.map(fires).collect();
    let has_both = fires.contains(&Some(true)) && fires.contains(&Some(false));
    ensure!(has_both, "{TESTS} needs a test in which it fires, and one in which it does not");
    Ok(())
}

/// Checks that the tests fail if an alert never fires.
fn finds(rules: &Value, alert: &str, run: impl Fn(&Value) -> Result<()>) -> Result<()> {
    let mut rules = rules.clone();
    let all = rules.pointer_mut("/groups/0/rules").and_then(Value::as_array_mut);
    let mut all = all.context("no rules")?.iter_mut();
    let rule = all.find(|rule| rule["alert"] == alert).context("no such alert")?;
    rule["expr"] = json!("vector(0) > 1");
    ensure!(run(&rules).is_err(), "the tests pass although it never fires");
    Ok(())
}
