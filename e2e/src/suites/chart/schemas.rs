//! JSON schemas of Kubernetes objects, made from the API description in the sources of Kubernetes.
//!
//! Strict: a field that the API does not know is an error. Deliberately absent: schemas from the
//! network. Of other projects' kinds, there are those whose sources the harness has.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::cluster::snapshotter;
use crate::env::yaml;
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::toolchain::{golang, programs, versions};

/// The kinds in the chart and the examples.
const KINDS: &[&str] = &[
    "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy",
    "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
    "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
    "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    "io.k8s.api.apps.v1.DaemonSet",
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.apps.v1.StatefulSet",
    "io.k8s.api.batch.v1.Job",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.PersistentVolumeClaim",
    "io.k8s.api.core.v1.Pod",
    "io.k8s.api.core.v1.Secret",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.core.v1.ServiceAccount",
    "io.k8s.api.networking.v1.NetworkPolicy",
    "io.k8s.api.rbac.v1.ClusterRole",
    "io.k8s.api.policy.v1.PodDisruptionBudget",
    "io.k8s.api.rbac.v1.ClusterRoleBinding",
    "io.k8s.api.rbac.v1.Role",
    "io.k8s.api.rbac.v1.RoleBinding",
    "io.k8s.api.storage.v1.CSIDriver",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
];

/// The file names in [`dir`], as kubeconform looks for them.
pub const FILES: &str = "{{.ResourceKind}}-{{.ResourceAPIVersion}}.json";

/// Must be raised when the output of this module changes.
const FORMAT: &str = "2";

/// The directory with one schema for each kind. Creates it if it is missing.
///
/// # Errors
/// The sources of Kubernetes cannot be downloaded, or have another structure.
pub fn dir(h: &Harness) -> Result<PathBuf> {
    let kinds = KINDS.join(" ");
    let recipe =
        Recipe { name: "schemas", version: versions::KUBERNETES, inputs: &[FORMAT, &kinds] };
    h.cache.product(&recipe, |dir| {
        let version = format!("v{}", versions::KUBERNETES);
        let sources = golang::module_dir(h, "k8s.io/kubernetes", &version)?;
        let file = sources.join("api/openapi-spec/swagger.json");
        let text = fs::read_to_string(&file);
        let text = text.with_context(|| format!("reading {}", file.display()))?;
        let api: Value = serde_json::from_str(&text).context("the API's description")?;
        KINDS.iter().try_for_each(|kind| write(dir, kind, &api["definitions"]))?;
        snapshot_kinds(h, dir, &api["definitions"])
    })
}

/// The kinds of snapshots, from the schemas in their own sources.
fn snapshot_kinds(h: &Harness, dir: &Path, definitions: &Value) -> Result<()> {
    let (_, client) = programs::external_snapshotter_sources(h)?;
    for text in snapshotter::kinds(&client)? {
        let kind = yaml::as_json(h, &text)?;
        let name = kind["spec"]["names"]["kind"].as_str().context("a kind without a name")?;
        let versions = kind["spec"]["versions"].as_array();
        let mut versions = versions.context("a kind without versions")?.iter();
        let version = versions.find(|version| version["storage"] == true);
        let version = version.context("a kind that is not stored")?;
        let mut schema = closed(&version["schema"]["openAPIV3Schema"], &mut Vec::new());
        // The schema of a kind leaves the metadata to the API server.
        let mut metadata =
            self::schema("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", definitions)?;
        schema["definitions"] = metadata["definitions"].take();
        schema["properties"]["metadata"] = json!({ "$ref": metadata["$ref"] });
        let version = version["name"].as_str().context("a version without a name")?;
        let file = dir.join(format!("{}-{version}.json", name.to_lowercase()));
        let written = fs::write(&file, schema.to_string());
        written.with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

fn write(dir: &Path, kind: &str, definitions: &Value) -> Result<()> {
    let schema = schema(kind, definitions)?;
    let mut words = kind.rsplit('.');
    let (name, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let file = dir.join(format!("{}-{version}.json", name.to_lowercase()));
    fs::write(&file, schema.to_string()).with_context(|| format!("writing {}", file.display()))
}

/// One definition with everything that it refers to.
fn schema(kind: &str, definitions: &Value) -> Result<Value> {
    let mut needed = BTreeSet::new();
    let mut next = vec![kind.to_owned()];
    let mut kept = Map::new();
    while let Some(name) = next.pop() {
        if needed.insert(name.clone()) {
            let definition = definitions.get(&name);
            let definition = definition.with_context(|| format!("the API has no {name}"))?;
            kept.insert(name.clone(), strict(&name, definition, &mut next));
        }
    }
    Ok(json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": format!("#/definitions/{kind}"),
        "definitions": kept,
    }))
}

/// A definition that refuses unknown fields. Adds the names that it refers to to `refers`.
fn strict(name: &str, definition: &Value, refers: &mut Vec<String>) -> Value {
    // The API describes both as strings, which is how they are sent. It accepts numbers too.
    if name.ends_with(".IntOrString") || name.ends_with(".Quantity") {
        return json!({ "type": ["string", "number"] });
    }
    closed(definition, refers)
}

fn closed(schema: &Value, refers: &mut Vec<String>) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in fields {
        let kept = match (key.as_str(), value) {
            ("description", _) => continue,
            ("$ref", Value::String(to)) => {
                refers.extend(to.strip_prefix("#/definitions/").map(str::to_owned));
                value.clone()
            }
            // Its keys are names of fields. One of them may be "description".
            ("properties", Value::Object(fields)) => fields
                .iter()
                .map(|(name, field)| (name.clone(), closed(field, refers)))
                .collect::<Map<_, _>>()
                .into(),
            _ => closed(value, refers),
        };
        out.insert(key.clone(), kept);
    }
    if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
        out.insert("additionalProperties".to_owned(), false.into());
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_holds_what_it_refers_to_and_nothing_unknown() {
        let api = json!({
            "x.v1.A": {
                "description": "…",
                "properties": {
                    "description": { "type": "string", "description": "…" },
                    "b": { "$ref": "#/definitions/x.v1.B" },
                    "list": { "items": { "$ref": "#/definitions/u.IntOrString" }, "type": "array" },
                },
            },
            "x.v1.B": { "properties": { "a": { "$ref": "#/definitions/x.v1.A" } } },
            "x.v1.C": {},
            "u.IntOrString": { "type": "string", "format": "int-or-string" },
        });
        let schema = schema("x.v1.A", &api).unwrap_or_default();
        let definitions = &schema["definitions"];
        assert_eq!(definitions["x.v1.A"]["additionalProperties"], false);
        assert_eq!(definitions["x.v1.A"]["properties"]["description"], json!({ "type": "string" }));
        assert_eq!(definitions["u.IntOrString"], json!({ "type": ["string", "number"] }));
        assert!(definitions.get("x.v1.B").is_some() && definitions.get("x.v1.C").is_none());
        assert!(super::schema("x.v1.None", &api).is_err());
    }
}
