//! Tests of the CRDs.

use serde_json::{Value, json};

use super::*;

#[test]
fn the_chart_ships_the_crds_of_these_types() {
    for (name, yaml) in
        [("overlaydiffs", crd_yaml().unwrap()), ("overlaydiffresults", result_crd_yaml().unwrap())]
    {
        let files = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/ovl-csi/files");
        let path = format!("{files}/{name}.yaml");
        let shipped = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(shipped == yaml, "{path} differs from the type: run `ovl crd {name} > {path}`");
    }
}

#[test]
fn a_request_has_no_differences_and_its_spec_is_immutable() {
    let crd = serde_json::to_value(OverlayDiff::crd()).unwrap();
    let version = &crd["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"]["properties"];
    let rules = schema["spec"]["x-kubernetes-validations"].to_string();
    assert!(rules.contains("self == oldSelf"), "{rules}");
    let names =
        |of: &Value| of["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&schema["status"]), ["nodeName", "podUid", "volumeHandle"]);
    assert_eq!(version["selectableFields"], json!([{ "jsonPath": ".status.nodeName" }]));
    assert_eq!(crd["spec"]["scope"], "Namespaced");
}

#[test]
fn a_result_is_bounded_and_has_no_status() {
    let crd = serde_json::to_value(OverlayDiffResult::crd()).unwrap();
    let version = &crd["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"]["properties"];
    assert_eq!(schema["spec"]["properties"]["changes"]["maxItems"], CHANGES_MAX);
    assert!(version["subresources"].get("status").is_none(), "{version}");
    assert_eq!(crd["spec"]["scope"], "Namespaced");
}

#[test]
fn a_result_has_the_name_of_its_request_and_ends_with_it() {
    let request: OverlayDiff = serde_json::from_value(json!({
        "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlayDiff",
        "metadata": { "name": "a", "namespace": "ci", "uid": "u-1" },
        "spec": { "driver": "ovl.csi.dev", "volumeSnapshotName": "ws-1" },
    }))
    .unwrap();
    let error = "ä".repeat(MESSAGE_MAX);
    let result =
        json!(request.result(OverlayDiffResultSpec::failed("ovl.csi.dev", Some("n-1"), &error)));
    assert_eq!(result["metadata"]["name"], "a");
    assert_eq!(result["metadata"]["namespace"], "ci");
    let owner = json!([{ "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlayDiff", "name": "a", "uid": "u-1" }]);
    assert_eq!(result["metadata"]["ownerReferences"], owner);
    assert_eq!(result["spec"]["nodeName"], "n-1");
    assert_eq!(result["spec"]["error"], "ä".repeat(MESSAGE_MAX / 2));
}

#[test]
fn words_are_those_of_the_objects() {
    use DiffProperty::{Content, Device, Mode, Owner, Size, Target, Type, Xattrs};
    for property in [Type, Size, Content, Target, Device, Mode, Owner, Xattrs] {
        assert_eq!(json!(property), property.word());
    }
}
