//! The exposition that a scraper reads.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// The samples of a scrape by name and labels. Panics on a line that is not in the format.
fn samples(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap_or_else(|e| panic!("{line}: {e}")))
        })
        .collect()
}

/// Panics if a series of the scrape does not have its value.
fn assert_has(metrics: &Metrics, wanted: &[(&str, f64)]) {
    let found = samples(&metrics.clone().text().unwrap());
    for (series, value) in wanted {
        assert_eq!(found.get(*series), Some(value), "{series} in {found:#?}");
    }
}

/// The metrics of a node, with a sample for each label.
fn filled_node() -> Metrics {
    let metrics = Metrics::of_node();
    let call = Call { method: "NodePublishVolume", code: "OK" };
    metrics.observe_call(call.clone(), 0.5);
    metrics.observe_call(call, 0.001);
    metrics.pulled(1000, 2.0);
    metrics.pushed(1500, 3.0);
    metrics.store(3, 4000);
    metrics.disk(100, 40, 85, 75);
    metrics.volumes(5);
    metrics.collected(6, 7000);
    metrics.unenforced();
    metrics.limit_found("charged");
    metrics.capture("frozen", Some(0.25));
    metrics.capture("failed", None);
    metrics
}

/// The metrics of the controller, with a sample for each label.
fn filled_controller() -> Metrics {
    let metrics = Metrics::of_controller();
    metrics.observe_call(Call { method: "DeleteSnapshot", code: "Aborted" }, 0.5);
    metrics.reconciled("VolumeSnapshot", "done", 0.5);
    metrics.snapshots([("Ready", 8), ("Failed", 0)]);
    metrics.oldest_unpushed(Some(1_700_000_000));
    metrics
}

#[test]
fn each_method_changes_its_metric_of_a_node() {
    let metrics = filled_node();
    let labels = "{method=\"NodePublishVolume\",code=\"OK\"}";
    assert_has(
        &metrics,
        &[
            (&format!("ovl_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0),
            (&format!("ovl_operations_total{labels}"), 2.0),
            (&format!("ovl_operation_duration_seconds_count{labels}"), 2.0),
            (&format!("ovl_operation_duration_seconds_sum{labels}"), 0.501),
            ("ovl_pulls_total", 1.0),
            ("ovl_pull_bytes_total", 1000.0),
            ("ovl_pull_duration_seconds_sum", 2.0),
            ("ovl_pushes_total", 1.0),
            ("ovl_push_bytes_total", 1500.0),
            ("ovl_push_duration_seconds_sum", 3.0),
            ("ovl_layers", 3.0),
            ("ovl_store_bytes", 4000.0),
            ("ovl_disk_size_bytes", 100.0),
            ("ovl_disk_available_bytes", 40.0),
            ("ovl_disk_high_watermark_bytes", 85.0),
            ("ovl_disk_low_watermark_bytes", 75.0),
            ("ovl_volumes", 5.0),
            ("ovl_gc_rounds_total", 1.0),
            ("ovl_gc_layers_total", 6.0),
            ("ovl_gc_bytes_total", 7000.0),
            ("ovl_unenforced_limits_total", 1.0),
            ("ovl_limit_findings_total{result=\"charged\"}", 1.0),
            ("ovl_captures_total{result=\"frozen\"}", 1.0),
            ("ovl_captures_total{result=\"failed\"}", 1.0),
            ("ovl_capture_frozen_seconds_count", 1.0),
            ("ovl_capture_frozen_seconds_sum", 0.25),
        ],
    );
}

#[test]
fn each_method_changes_its_metric_of_the_controller() {
    let metrics = filled_controller();
    assert_has(
        &metrics,
        &[
            ("ovl_operations_total{method=\"DeleteSnapshot\",code=\"Aborted\"}", 1.0),
            ("ovl_reconciles_total{kind=\"VolumeSnapshot\",result=\"done\"}", 1.0),
            ("ovl_reconcile_duration_seconds_sum", 0.5),
            ("ovl_snapshots{phase=\"Ready\"}", 8.0),
            ("ovl_snapshots{phase=\"Failed\"}", 0.0),
            ("ovl_oldest_unpushed_snapshot_timestamp_seconds", 1_700_000_000.0),
        ],
    );
    metrics.oldest_unpushed(None);
    assert_has(&metrics, &[("ovl_oldest_unpushed_snapshot_timestamp_seconds", 0.0)]);
}

#[test]
fn a_counter_with_a_result_begins_at_0() {
    assert_has(
        &Metrics::of_node(),
        &[
            ("ovl_limit_findings_total{result=\"passed\"}", 0.0),
            ("ovl_limit_findings_total{result=\"charged\"}", 0.0),
            ("ovl_captures_total{result=\"frozen\"}", 0.0),
            ("ovl_captures_total{result=\"live\"}", 0.0),
            ("ovl_captures_total{result=\"not_frozen\"}", 0.0),
            ("ovl_captures_total{result=\"failed\"}", 0.0),
        ],
    );
}

#[test]
fn a_process_has_no_metrics_of_the_other() {
    let (node, controller) = (Metrics::of_node(), Metrics::of_controller());
    node.reconciled("VolumeSnapshot", "done", 0.5);
    controller.pulled(1, 1.0);
    let (node, controller) = (node.text().unwrap(), controller.text().unwrap());
    assert!(!node.contains("reconcile") && !node.contains("ovl_snapshots"), "{node}");
    assert!(!controller.contains("pull") && !controller.contains("ovl_volumes"), "{controller}");
}

#[test]
fn each_family_has_one_type_and_one_help_line() {
    for metrics in [Metrics::of_node(), Metrics::of_controller()] {
        let text = metrics.text().unwrap();
        let names = |prefix: &str| -> Vec<_> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
            lines.map(|line| line.split(' ').nth(1).unwrap()).collect()
        };
        let (mut types, helps) = (names("# TYPE"), names("# HELP"));
        assert_eq!(types, helps);
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), helps.len(), "a name is registered twice");
        assert!(types.iter().all(|name| name.starts_with("ovl_")), "{types:?}");
    }
}

/// The labels of a sample that do not come from this program: a scrape adds them, and a histogram has one for its buckets.
const OTHER_LABELS: [&str; 5] = ["instance", "job", "namespace", "pod", "le"];

/// Metrics that the dashboard does not show, and why.
const NOT_ON_DASHBOARD: [(&str, &str); 4] = [
    ("ovl_pulls", "the panels show the bytes and the duration of pulls"),
    ("ovl_pushes", "the panels show the bytes and the duration of pushes"),
    ("ovl_gc_layers", "the panel shows the bytes"),
    ("ovl_gc_rounds", "they follow one another all the time; the panel shows the skipped ones"),
];

#[test]
fn each_metric_is_on_the_dashboard_or_there_is_a_reason() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/ovl-csi/files/dashboard.json");
    let dashboard: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut queries = Vec::new();
    queries_of(&dashboard["panels"], &mut queries);
    let shown: BTreeSet<&str> =
        queries.iter().flat_map(|query| metrics_of(query)).map(|(name, _)| name).collect();
    let texts = [filled_node(), filled_controller()].map(|metrics| metrics.text().unwrap());
    let families: BTreeSet<&str> = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    assert!(families.len() > 20, "{families:?}");
    for family in families {
        let is_shown = ["", "_total", "_bucket", "_info"]
            .iter()
            .any(|suffix| shown.contains(format!("{family}{suffix}").as_str()));
        let is_left_out = NOT_ON_DASHBOARD.iter().any(|(name, _)| *name == family);
        assert!(is_shown != is_left_out, "{family}: shown {is_shown}, left out {is_left_out}");
    }
}

#[test]
fn alerts_and_dashboard_name_only_metrics_and_labels_of_the_code() {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let texts = [filled_node(), filled_controller()].map(|metrics| metrics.text().unwrap());
    for series in texts.iter().flat_map(|text| samples(text).into_keys()) {
        let (name, labels) = series.split_once('{').unwrap_or((&series, ""));
        let labels = labels.split("=\"").filter_map(|part| part.rsplit([',', '"']).next());
        known.entry(name.to_owned()).or_default().extend(labels.map(str::to_owned));
    }
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/ovl-csi/files");
    let alerts = std::fs::read_to_string(format!("{files}/alerts.yaml")).unwrap();
    let alerts = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let mut queries: Vec<_> = alerts.map(str::to_owned).collect();
    assert!(queries.len() >= 9, "{queries:?}");
    let dashboard = std::fs::read_to_string(format!("{files}/dashboard.json")).unwrap();
    queries_of(&serde_json::from_str(&dashboard).unwrap(), &mut queries);
    assert!(queries.len() > 30, "{queries:?}");
    for query in &queries {
        let mut labels: BTreeSet<&str> = OTHER_LABELS.into();
        for (metric, matched) in metrics_of(query) {
            let own = known.get(metric).unwrap_or_else(|| panic!("no metric {metric}: {query}"));
            for label in matched {
                let is_known = own.contains(label) || OTHER_LABELS.contains(&label);
                assert!(is_known, "{metric} has no label {label}: {query}");
            }
            labels.extend(own.iter().map(String::as_str));
        }
        let groups = query.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
        for label in groups.flat_map(|group| group.split(',')).map(str::trim) {
            assert!(labels.contains(label), "no label {label}: {query}");
        }
    }
}

/// The queries of a dashboard: of its panels, and of its variables.
fn queries_of(value: &serde_json::Value, queries: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for key in ["expr", "query"] {
                queries.extend(fields.get(key).and_then(|text| text.as_str()).map(str::to_owned));
            }
            fields.values().for_each(|value| queries_of(value, queries));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| queries_of(item, queries)),
        _ => {}
    }
}

/// The metrics of this program in a query, each with the labels by which it is selected.
fn metrics_of(query: &str) -> Vec<(&str, Vec<&str>)> {
    let starts = query.match_indices("ovl_").map(|(at, _)| at);
    starts
        .map(|at| {
            let rest = &query[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
            let selected = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
            let labels = selected.unwrap_or_default().split(',').filter(|part| !part.is_empty());
            (name, labels.filter_map(|part| part.split(['=', '!']).next()).collect())
        })
        .collect()
}

#[test]
fn a_query_is_split_into_metrics_and_labels() {
    assert_eq!(
        metrics_of("sum(rate(ovl_a_total{x=\"1\",y!~\"2|3\"}[5m])) / ovl_b{} + up{z=\"4\"}"),
        [("ovl_a_total", vec!["x", "y"]), ("ovl_b", vec![])]
    );
}
