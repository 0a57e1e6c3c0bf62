//! The objects of the fake API server, with the rules for reading and changing them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A refused request: the HTTP status, the reason and the message of the `Status` object.
#[derive(Debug, PartialEq)]
pub(super) struct Refused(pub(super) u16, pub(super) &'static str, pub(super) &'static str);

pub(super) const NONE: Refused = Refused(404, "NotFound", "there is no such object");
const OTHER: Refused = Refused(409, "Conflict", "it is another object");

/// A parsed path of the API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path {
    /// Group and version.
    api: String,
    /// The plural name.
    kind: String,
    namespace: Option<String>,
    pub(super) name: Option<String>,
    status: bool,
}

impl Path {
    pub(super) fn of(text: &str) -> Self {
        let mut parts = text.trim_matches('/').split('/').map(str::to_owned);
        let first = parts.next().unwrap();
        let count = if first == "api" { 1 } else { 2 };
        let api = parts.by_ref().take(count).collect::<Vec<_>>().join("/");
        let mut rest: Vec<_> = parts.collect();
        let namespaced = rest[0] == "namespaces" && rest.len() > 2;
        let namespace = namespaced.then(|| rest.drain(..2).nth(1).unwrap());
        let mut rest = rest.into_iter();
        let (kind, name) = (rest.next().unwrap(), rest.next());
        Self { api, kind, namespace, name, status: rest.next().is_some_and(|sub| sub == "status") }
    }

    fn plain(&self) -> Self {
        Self { status: false, ..self.clone() }
    }

    /// Whether a list of this path includes the object at the other path.
    pub(super) fn holds(&self, other: &Self) -> bool {
        let everywhere = self.namespace.is_none() || self.namespace == other.namespace;
        (&self.api, &self.kind) == (&other.api, &other.kind) && everywhere
    }
}

/// One change of an object, for watches.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) path: Path,
    /// The line of JSON that a watch sends.
    pub(super) line: Value,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Store {
    objects: BTreeMap<Path, Value>,
    version: u64,
    changes: Vec<Change>,
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, path: &Path) -> Option<Value> {
        self.objects.get(&path.plain()).cloned()
    }

    pub(super) fn list(&self, path: &Path, query: &str) -> Vec<Value> {
        let selector = fields(query);
        let labels = labels(query);
        let objects = self.objects.iter().filter(|(at, _)| path.holds(at));
        let objects = objects.map(|(_, object)| object.clone());
        objects.filter(|o| selected(o, &selector) && has_labels(o, &labels)).collect()
    }

    pub(super) fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Carries out a request that changes an object.
    pub(super) fn change(
        &mut self,
        method: &str,
        path: &Path,
        body: &Value,
    ) -> Result<Value, Refused> {
        match method {
            "POST" => self.create(path, body),
            "PATCH" => self.patch(path, body),
            "DELETE" => self.delete(path, body),
            _ => Err(Refused(405, "MethodNotAllowed", "this method is not supported")),
        }
    }

    fn create(&mut self, path: &Path, body: &Value) -> Result<Value, Refused> {
        let name =
            body["metadata"]["name"].as_str().ok_or(Refused(422, "Invalid", "no name is given"))?;
        let path = Path { name: Some(name.to_owned()), ..path.plain() };
        if self.objects.contains_key(&path) {
            return Err(Refused(409, "AlreadyExists", "the object exists already"));
        }
        let mut object = body.clone();
        let version = self.version + 1;
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = format!("uid-{version}").into();
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = "2026-01-02T03:04:05Z".into();
        }
        if let Some(namespace) = &path.namespace {
            metadata["namespace"] = namespace.as_str().into();
        }
        Ok(self.keep("ADDED", path, object))
    }

    fn patch(&mut self, path: &Path, body: &Value) -> Result<Value, Refused> {
        let Some(object) = self.objects.get(&path.plain()) else {
            return Err(NONE);
        };
        for key in ["uid", "resourceVersion"] {
            let wanted = &body["metadata"][key];
            if !wanted.is_null() && *wanted != object["metadata"][key] {
                return Err(OTHER);
            }
        }
        let mut changed = object.clone();
        let mut body = body.clone();
        if let Some(parts) = body.as_object_mut() {
            // A patch of the object leaves the status alone, and a patch of the status leaves the rest alone.
            parts.retain(|key, _| (key == "status") == path.status);
        }
        merge(&mut changed, &body);
        if changed == *object {
            return Ok(changed);
        }
        Ok(self.keep("MODIFIED", path.plain(), changed))
    }

    fn delete(&mut self, path: &Path, body: &Value) -> Result<Value, Refused> {
        let Some(mut object) = self.get(path) else { return Err(NONE) };
        let uid = &body["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return Err(OTHER);
        }
        object["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:06Z".into();
        Ok(self.keep("MODIFIED", path.plain(), object))
    }

    /// Stores an object. Removes it instead if it has a deletion timestamp and no finalizer.
    fn keep(&mut self, what: &str, path: Path, mut object: Value) -> Value {
        self.version += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = self.version.to_string().into();
        let finalizers = metadata["finalizers"].as_array();
        let has_finalizer = finalizers.is_some_and(|finalizers| !finalizers.is_empty());
        let gone = metadata["deletionTimestamp"].is_string() && !has_finalizer;
        match gone {
            true => drop(self.objects.remove(&path)),
            false => drop(self.objects.insert(path.clone(), object.clone())),
        }
        let line = json!({"type": if gone { "DELETED" } else { what }, "object": object});
        self.changes.push(Change { version: self.version, path, line });
        object
    }
}

/// Applies a merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.as_object_mut().unwrap().remove(key)),
            value => merge(&mut target[key], value),
        }
    }
}

/// The field selector of a query: the field as a JSON pointer, and its value.
pub(super) fn fields(query: &str) -> Option<(String, String)> {
    let selector = query.split('&').find_map(|part| part.strip_prefix("fieldSelector="))?;
    let selector = selector.replace("%3D", "=");
    let (field, value) = selector.split_once('=').unwrap();
    Some((format!("/{}", field.replace('.', "/")), value.to_owned()))
}

/// The labels of the label selector of a query, which has only equalities.
fn labels(query: &str) -> Vec<(String, String)> {
    let selector = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
    let selector = selector.unwrap_or_default();
    let selector = selector.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
    let terms = selector.split(',').filter_map(|term| term.split_once('='));
    terms.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn has_labels(object: &Value, labels: &[(String, String)]) -> bool {
    labels.iter().all(|(key, value)| object["metadata"]["labels"][key.as_str()] == *value.as_str())
}

pub(super) fn selected(object: &Value, selector: &Option<(String, String)>) -> bool {
    let Some((field, value)) = selector else { return true };
    object.pointer(field).and_then(Value::as_str) == Some(value)
}
