//! Tests of the CRD, and of objects that other versions wrote.

use super::*;

#[test]
fn the_chart_ships_the_crd_of_this_type() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/ovl-csi/files/overlaysnapshots.yaml");
    let shipped = std::fs::read_to_string(path).unwrap_or_default();
    assert!(shipped == crd_yaml().unwrap(), "{path} differs from the type: run `ovl crd > {path}`");
}

#[test]
fn every_string_is_bounded_and_the_spec_is_immutable() {
    let crd = serde_json::to_value(OverlaySnapshot::crd()).unwrap();
    let version = &crd["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"]["properties"];
    let mut unbounded = Vec::new();
    unbounded_strings("", schema, &mut unbounded);
    assert_eq!(unbounded, Vec::<String>::new());
    let rules = &schema["spec"]["x-kubernetes-validations"];
    assert_eq!(rules.as_array().map(Vec::len), Some(2), "{rules}");
    // Each field but `deleted` is compared.
    for field in schema["spec"]["properties"].as_object().unwrap().keys() {
        let compared = format!("self.{field} == oldSelf.{field}");
        assert_eq!(IMMUTABLE.contains(&compared), field != "deleted", "{field}");
    }
    assert_eq!(version["selectableFields"][0]["jsonPath"], ".spec.nodeName");
    assert!(version["subresources"]["status"].is_object());
}

/// The conditions are those of Kubernetes, for tools that know them (`kubectl wait --for=condition=Ready`).
#[test]
fn a_condition_is_one_of_kubernetes() {
    let crd = serde_json::to_value(OverlaySnapshot::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let conditions = &schema["status"]["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-list-type"], "map");
    assert_eq!(conditions["x-kubernetes-list-map-keys"], serde_json::json!(["type"]));
    let ours = Condition {
        r#type: "Ready".into(),
        status: "True".into(),
        observed_generation: Some(2),
        reason: "Pushed".into(),
        message: "m".into(),
        last_transition_time: "2026-01-02T03:04:05Z".into(),
    };
    let ours = serde_json::to_value(ours).unwrap();
    let theirs = k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition::deserialize(&ours);
    assert_eq!(serde_json::to_value(theirs.unwrap()).unwrap(), ours);
    let fields: Vec<_> = ours.as_object().unwrap().keys().collect();
    let declared: Vec<_> = conditions["items"]["properties"].as_object().unwrap().keys().collect();
    assert_eq!(fields, declared);
}

#[test]
fn a_status_of_an_earlier_version_is_read() {
    let condition = |r#type: &str, status: &str, reason: &str| {
        serde_json::json!({
            "type": r#type, "status": status, "reason": reason, "message": "m",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        })
    };
    let read = |status: serde_json::Value| -> OverlaySnapshotStatus {
        serde_json::from_value(status).unwrap()
    };
    let capturing = read(serde_json::json!({
        "phase": "Cutting",
        "conditions": [condition("Cut", "False", "Cutting"), condition("Ready", "False", "Cutting")],
    }));
    assert_eq!(capturing.phase, Some(Phase::Capturing));
    assert_eq!(
        serde_json::json!(capturing.conditions),
        serde_json::json!([
            condition("Captured", "False", "Capturing"),
            condition("Ready", "False", "Capturing")
        ])
    );
    let captured = read(serde_json::json!({
        "cutTime": "2026-11-21T10:00:00Z", "conditions": [condition("Cut", "True", "Cut")],
    }));
    assert_eq!(captured.captured_at(), Some("2026-11-21T10:00:00Z"));
    assert_eq!(
        serde_json::json!(captured.conditions),
        serde_json::json!([condition("Captured", "True", "Captured")])
    );
    // An object that both versions wrote.
    let both = read(serde_json::json!({
        "captureTime": "2026-11-21T11:00:00Z", "cutTime": "2026-11-21T10:00:00Z",
        "conditions": [condition("Cut", "False", "Busy"), condition("Captured", "True", "Captured")],
    }));
    assert_eq!(both.captured_at(), Some("2026-11-21T11:00:00Z"));
    assert_eq!(both.conditions, captured.conditions);
}

/// Otherwise one object of a later version would end the watch of all.
#[test]
fn a_phase_of_a_later_version_is_read() {
    let status = serde_json::json!({"phase": "Verifying", "image": "r.io/a@sha256:0"});
    let status: OverlaySnapshotStatus = serde_json::from_value(status).unwrap();
    assert_eq!(status.phase, Some(Phase::Unknown));
    assert_eq!(status.image.as_deref(), Some("r.io/a@sha256:0"));
}

/// Nodes of an earlier version report while the cluster is upgraded.
#[test]
fn the_schema_accepts_what_an_earlier_version_writes() {
    let crd = serde_json::to_value(OverlaySnapshot::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let status = &schema["status"]["properties"];
    assert_eq!(status["cutTime"]["type"], "string");
    let words = status["phase"]["enum"].as_array().unwrap();
    for word in Phase::ALL.map(Phase::word).into_iter().chain(["Cutting"]) {
        assert!(words.contains(&word.into()), "{word}");
    }
}

/// Collects the paths of strings without a length limit.
fn unbounded_strings(path: &str, schema: &serde_json::Value, unbounded: &mut Vec<String>) {
    let serde_json::Value::Object(fields) = schema else { return };
    let is = |key: &str| fields.contains_key(key);
    if fields.get("type") == Some(&"string".into()) && !is("maxLength") && !is("enum") {
        unbounded.push(path.to_owned());
    }
    for (name, field) in fields {
        unbounded_strings(&format!("{path}/{name}"), field, unbounded);
    }
}
