//! The exposition that a scraper reads.

use std::collections::BTreeMap;

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

#[test]
fn each_method_changes_its_metric() {
    let metrics = Metrics::default();
    let call = Call { method: "NodePublishVolume", code: "OK" };
    metrics.observe_call(call.clone(), 0.5);
    metrics.observe_call(call, 0.001);
    metrics.pulled(1000, 2.0);
    metrics.store(3, 4000);
    metrics.volumes(5);
    metrics.collected(6, 7000);
    metrics.unenforced();
    metrics.limit_found("charged");
    metrics.capture("frozen", Some(0.25));
    metrics.capture("failed", None);
    metrics.reconciled("VolumeSnapshot", "done", 0.5);
    metrics.snapshots([("Ready", 8), ("Failed", 0)]);
    let found = samples(&metrics.clone().text().unwrap());
    let labels = "{method=\"NodePublishVolume\",code=\"OK\"}";
    for (series, value) in [
        (format!("ovl_operations_total{labels}"), 2.0),
        (format!("ovl_operation_duration_seconds_count{labels}"), 2.0),
        (format!("ovl_operation_duration_seconds_sum{labels}"), 0.501),
        ("ovl_pulls_total".into(), 1.0),
        ("ovl_pull_bytes_total".into(), 1000.0),
        ("ovl_pull_duration_seconds_sum".into(), 2.0),
        ("ovl_layers".into(), 3.0),
        ("ovl_store_bytes".into(), 4000.0),
        ("ovl_volumes".into(), 5.0),
        ("ovl_gc_rounds_total".into(), 1.0),
        ("ovl_gc_layers_total".into(), 6.0),
        ("ovl_gc_bytes_total".into(), 7000.0),
        ("ovl_unenforced_limits_total".into(), 1.0),
        ("ovl_limit_findings_total{result=\"charged\"}".into(), 1.0),
        ("ovl_captures_total{result=\"frozen\"}".into(), 1.0),
        ("ovl_captures_total{result=\"failed\"}".into(), 1.0),
        ("ovl_capture_frozen_seconds_count".into(), 1.0),
        ("ovl_capture_frozen_seconds_sum".into(), 0.25),
        ("ovl_reconciles_total{kind=\"VolumeSnapshot\",result=\"done\"}".into(), 1.0),
        ("ovl_reconcile_duration_seconds_sum".into(), 0.5),
        ("ovl_snapshots{phase=\"Ready\"}".into(), 8.0),
        ("ovl_snapshots{phase=\"Failed\"}".into(), 0.0),
    ] {
        assert_eq!(found.get(&series), Some(&value), "{series} in {found:#?}");
    }
}

#[test]
fn each_family_has_one_type_and_one_help_line() {
    let text = Metrics::default().text().unwrap();
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
