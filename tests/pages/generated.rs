//! The pages that are written from the code: `docs/metrics.md` and `docs/api.md`. Each is compared with what the code
//! gives today. With `OVL_WRITE_PAGES=1` the tests write the pages instead.

use std::{collections::BTreeMap, fs, path::Path};

use ovl::metrics::{Call, Metrics};
use serde_json::Value;

use super::root;

/// The text around the tables of metrics.
const METRICS: &str = include_str!("metrics.md");

/// The text around the tables of the API.
const API: &str = include_str!("api.md");

/// Compares a page with its text from the code, or writes it.
fn check_page(name: &str, want: &str) {
    let path = root().join("docs").join(name);
    if std::env::var_os("OVL_WRITE_PAGES").is_some() {
        fs::write(&path, want).unwrap();
    }
    let have = fs::read_to_string(&path).unwrap_or_default();
    let differs = have.lines().zip(want.lines()).find(|(have, want)| have != want);
    assert!(
        have == want,
        "docs/{name} is not what the code gives, first at {differs:?}; run `OVL_WRITE_PAGES=1 cargo test --test pages` \
         and commit it"
    );
}

#[test]
fn the_page_of_metrics_is_written_from_the_code() {
    let (node, controller) = (families(&Metrics::of_node()), families(&Metrics::of_controller()));
    assert!(node.len() > 20 && controller.len() > 5);
    let both = |name: &String| node.contains_key(name) && controller.contains_key(name);
    let table = |families: &BTreeMap<String, Family>, wanted: &dyn Fn(&String) -> bool| -> String {
        let head = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
        let rows = families.iter().filter(|(name, _)| wanted(name));
        head.to_owned() + &rows.map(|(name, family)| family.row(name)).collect::<String>()
    };
    let page = METRICS
        .replace("{both}\n", &table(&node, &both))
        .replace("{node}\n", &table(&node, &|name| !both(name)))
        .replace("{controller}\n", &table(&controller, &|name| !both(name)))
        .replace("{alerts}\n", &alerts());
    check_page("metrics.md", &page);
}

/// The table of the chart's alerts.
fn alerts() -> String {
    let text = fs::read_to_string(root().join("charts/ovl-csi/files/alerts.yaml")).unwrap();
    let alerts: Value = serde_saphyr::from_str(&text).unwrap();
    let word = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
    let row = |alert: &Value| {
        let lasts = alert["for"].as_str().unwrap_or("at once");
        let (name, severity) = (word(&alert["alert"]), word(&alert["labels"]["severity"]));
        let summary = word(&alert["annotations"]["summary"]);
        format!("| `{name}` | {severity} | {lasts} | {} |\n", summary.trim_end_matches('.'))
    };
    let rows: String = alerts.as_array().unwrap().iter().map(row).collect();
    assert!(rows.lines().count() > 8, "{rows}");
    format!("| alert | severity | after | meaning |\n|---|---|---|---|\n{rows}")
}

/// One metric, as a scrape shows it.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: Vec<String>,
}

impl Family {
    fn row(&self, name: &str) -> String {
        let labels: Vec<_> = self.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {} | {} | {} |\n", self.kind, labels.join(", "), self.help)
    }
}

/// The metrics by the names that queries use.
fn families(metrics: &Metrics) -> BTreeMap<String, Family> {
    touch(metrics);
    let text = metrics.text().unwrap();
    let mut families = BTreeMap::new();
    for group in text.trim_end_matches("# EOF\n").split("# HELP ").skip(1) {
        let (name, rest) = group.split_once(' ').unwrap();
        let (help, rest) = rest.split_once('\n').unwrap();
        let kind = rest.split_once("# TYPE ").unwrap().1.split_whitespace().nth(1).unwrap();
        let sample = rest.lines().find(|line| !line.starts_with('#'));
        let sample = sample.unwrap_or_else(|| panic!("{name} has no sample: touch it"));
        let labels = sample.split_once('{').map_or("", |(_, rest)| rest.split('}').next().unwrap());
        let labels = labels.split(',').filter_map(|label| label.split('=').next());
        let labels = labels.filter(|label| !label.is_empty() && *label != "le");
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let family = Family {
            kind: kind.to_owned(),
            help: help.trim_end_matches('.').to_owned(),
            labels: labels.map(str::to_owned).collect(),
        };
        families.insert(format!("{name}{suffix}"), family);
    }
    families
}

/// Gives each metric with labels a value, because a scrape shows no others.
fn touch(metrics: &Metrics) {
    metrics.observe_call(Call { method: "NodePublishVolume", code: "OK" }, 1.0);
    metrics.limit_found("passed");
    metrics.capture("frozen", Some(1.0));
    metrics.reconciled("VolumeSnapshot", "done", 1.0);
    metrics.snapshots([("Ready", 1)]);
}

#[test]
fn the_page_of_the_api_is_written_from_the_crds_and_the_code() {
    let dir = root().join("charts/ovl-csi/files");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let crds: String = files.iter().filter_map(|file| kind_of(file)).collect();
    assert!(crds.contains("## OverlaySnapshot"), "{files:?}");
    let keys = fs::read_to_string(root().join("src/cluster/annotation_keys.rs")).unwrap();
    let page = API.replace("{annotations}\n", &annotations(&keys));
    check_page("api.md", &page.replace("{crds}", crds.trim_end()));
}

/// The rows of the annotations, from the constants and their comments.
fn annotations(keys: &str) -> String {
    let mut comment = String::new();
    let mut rows = String::new();
    for line in keys.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            comment.push_str(if comment.is_empty() { "" } else { " " });
            comment.push_str(text);
            continue;
        }
        let key = line.starts_with("pub const").then(|| line.split('"').nth(1)).flatten();
        if let Some(key) = key.filter(|key| key.starts_with("ovl.csi.dev/")) {
            let writer = if key.ends_with("/source") { "the user" } else { "the controller" };
            rows.push_str(&format!("| `{key}` | {writer} | {} |\n", prose(&comment)));
        }
        comment.clear();
    }
    assert!(rows.lines().count() > 10, "{rows}");
    rows
}

/// The text of a doc comment, for a cell of a table: without the targets of links into the code.
fn prose(comment: &str) -> String {
    let mut parts = comment.split("](");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest: String =
        parts.filter_map(|part| part.split_once(')')).map(|(_, after)| after).collect();
    (first + &rest).replace(['[', ']'], "").replace('|', "\\|").trim_end_matches('.').to_owned()
}

/// The section of one CRD.
fn kind_of(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).unwrap();
    let crd: Value = serde_saphyr::from_str(&text).ok()?;
    (crd["kind"] == "CustomResourceDefinition").then_some(())?;
    let (spec, version) = (&crd["spec"], &crd["spec"]["versions"][0]);
    let schema = &version["schema"]["openAPIV3Schema"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value, key: &str| -> String {
        let all = value.as_array().into_iter().flatten();
        all.map(|one| format!("`{}`", one[key].as_str().or(one.as_str()).unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut page =
        format!("## {}\n\n{}\n\n", word(&spec["names"]["kind"]), word(&schema["description"]));
    page.push_str("| | |\n|---|---|\n");
    page.push_str(&format!(
        "| API version | `{}/{}` |\n",
        word(&spec["group"]),
        word(&version["name"])
    ));
    page.push_str(&format!("| scope | {} |\n", word(&spec["scope"])));
    page.push_str(&format!("| short names | {} |\n", list(&spec["names"]["shortNames"], "")));
    let columns = list(&version["additionalPrinterColumns"], "name");
    page.push_str(&format!("| columns of `kubectl get` | {columns} |\n"));
    let fields = list(&version["selectableFields"], "jsonPath");
    if !fields.is_empty() {
        page.push_str(&format!("| field selectors | {fields} |\n"));
    }
    for part in ["spec", "status"] {
        let part_schema = &schema["properties"][part];
        if part_schema.is_null() {
            continue;
        }
        page.push_str(&format!("\n### Fields of `{part}`\n\n"));
        page.push_str("| field | type | meaning |\n|---|---|---|\n");
        push_fields(&mut page, part_schema, "");
        let rules = part_schema["x-kubernetes-validations"].as_array().into_iter().flatten();
        let rules: Vec<_> = rules.map(|rule| format!("- {}\n", word(&rule["message"]))).collect();
        if !rules.is_empty() {
            page.push_str(&format!("\nRules:\n\n{}", rules.concat()));
        }
    }
    page.push('\n');
    Some(page)
}

/// A row for each field, and for the fields in it.
fn push_fields(page: &mut String, schema: &Value, above: &str) {
    let Some(fields) = schema["properties"].as_object() else { return };
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in fields {
        let (path, inner) = match field["items"]["properties"].is_object() {
            true => (format!("{above}{name}[]"), &field["items"]),
            false => (format!("{above}{name}"), field),
        };
        let is_required = required.iter().any(|required| required == name);
        let meaning = field["description"].as_str().or(inner["description"].as_str());
        let meaning = prose(meaning.unwrap_or_default());
        page.push_str(&format!("| `{path}` | {} | {meaning} |\n", kind(field, is_required)));
        push_fields(page, inner, &format!("{path}."));
    }
}

/// The type of a field with its bounds.
fn kind(field: &Value, is_required: bool) -> String {
    let mut words = vec![match field["type"].as_str().unwrap_or("any") {
        "array" => format!("list of {}s", field["items"]["type"].as_str().unwrap_or("value")),
        kind => kind.to_owned(),
    }];
    let number = |value: &Value| value.as_f64().map(|number| number.to_string());
    if let Some(all) = field["enum"].as_array() {
        let all = all.iter().filter_map(Value::as_str).map(|word| format!("`{word}`"));
        words = vec![all.collect::<Vec<_>>().join(", ")];
    }
    match (number(&field["minimum"]), number(&field["maximum"])) {
        (Some(least), Some(most)) => words.push(format!("{least} to {most}")),
        (Some(least), None) => words.push(format!("at least {least}")),
        _ => {}
    }
    if let Some(most) = number(&field["maxLength"]) {
        words.push(format!("at most {most} characters"));
    }
    if !field["default"].is_null() {
        words.push(format!("default `{}`", field["default"].to_string().trim_matches('"')));
    }
    if is_required {
        words.push("required".to_owned());
    }
    words.join(", ")
}
