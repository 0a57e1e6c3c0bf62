//! Checks the node on which forks must run, before they are created: a pod that no node can run stays Pending, and its
//! user learns nothing.
//!
//! It knows the rules of the scheduler about one node: its name, its labels, its taints and whether it is cordoned.
//!
//! Deliberately absent: whether the node has enough CPU and memory, which changes at any time.

use serde_json::{Value, json};

use super::{
    failure::Failure,
    pod::{NODE_NAME, REQUIRED},
    session::Session,
};
use crate::{
    cluster::{JsonKind, Selection},
    error::Class,
};

/// The most nodes that a message names.
const SHOWN: usize = 10;
/// The taint of a cordoned node.
const CORDON: &str = "node.kubernetes.io/unschedulable";

/// Why a pod does not run on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// It never runs there, unless the pod or the node is changed.
    Never(String),
    /// It waits until the node is changed: a taint and a cordon are often removed again.
    Waits(String),
}

impl Obstacle {
    /// The sentence.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Never(why) | Self::Waits(why) => why,
        }
    }
}

impl Session {
    /// Why pods of this spec would not run on a node. `None` if nothing is in the way, or the user may not read nodes.
    pub(super) async fn obstacle(
        &self,
        node: &str,
        spec: &Value,
    ) -> Result<Option<Obstacle>, Failure> {
        let found = match self.client.json(JsonKind::Node, None, node).await {
            Err(error) if error.class() == Class::Denied => return Ok(None),
            found => found?,
        };
        match found {
            Some(found) => Ok(obstacle(&found, spec)),
            None => Ok(Some(Obstacle::Never(format!(
                "there is no node {node}: give --node the name of an existing node ({})",
                self.node_names().await
            )))),
        }
    }

    /// The names of the nodes, or how to list them.
    async fn node_names(&self) -> String {
        let nodes = self.client.json_list(JsonKind::Node, None, Selection::default()).await;
        let nodes = nodes.unwrap_or_default();
        let names: Vec<_> = nodes.iter().map(|node| text(&node["metadata"]["name"])).collect();
        match names.len() {
            1..=SHOWN => names.join(", "),
            _ => "`kubectl get nodes` lists them".to_owned(),
        }
    }
}

/// Why pods of this spec would not run on this node.
fn obstacle(node: &Value, spec: &Value) -> Option<Obstacle> {
    let name = text(&node["metadata"]["name"]);
    if let Some(label) = missing_label(node, spec) {
        return Some(Obstacle::Never(format!(
            "the pod's nodeSelector requires the label {label}, which node {name} does not have: choose another node, or \
             change the nodeSelector of the pods that `fork` prints without --apply"
        )));
    }
    if !is_selected(node, spec) {
        return Some(Obstacle::Never(format!(
            "the pod's node affinity excludes node {name}: choose another node, or change the affinity of the pods \
             that `fork` prints without --apply"
        )));
    }
    let mut taints = list(&node["spec"]["taints"]).to_vec();
    if node["spec"]["unschedulable"] == true {
        // The controller that adds this taint may be late.
        taints.push(json!({ "key": CORDON, "effect": "NoSchedule" }));
    }
    let tolerations = list(&spec["tolerations"]);
    taints.retain(|taint| {
        matches!(text(&taint["effect"]), "NoSchedule" | "NoExecute")
            && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    });
    if taints.iter().any(|taint| taint["key"] == CORDON) {
        return Some(Obstacle::Waits(format!(
            "node {name} is cordoned, so the forks stay Pending until an administrator runs `kubectl uncordon {name}`"
        )));
    }
    let taints: Vec<_> = taints.iter().map(taint_name).collect();
    (!taints.is_empty()).then(|| {
        Obstacle::Waits(format!(
            "the pod does not tolerate a taint of node {name} ({}), so the forks stay Pending: choose another node, or \
             add a toleration to the pods that `fork` prints without --apply",
            taints.join(", ")
        ))
    })
}

/// A taint as kubectl writes it, such as `dedicated=ci:NoSchedule`.
fn taint_name(taint: &Value) -> String {
    let value = taint["value"].as_str().filter(|value| !value.is_empty());
    let value = value.map(|value| format!("={value}")).unwrap_or_default();
    format!("{}{value}:{}", text(&taint["key"]), text(&taint["effect"]))
}

/// Whether a toleration matches a taint. One with an operator that this version does not know may match.
fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let is_any = |value: &Value| text(value).is_empty();
    let effect = &toleration["effect"];
    if !is_any(effect) && effect != &taint["effect"] {
        return false;
    }
    let key = &toleration["key"];
    if !is_any(key) && key != &taint["key"] {
        return false;
    }
    match text(&toleration["operator"]) {
        "" | "Equal" => !is_any(key) && text(&toleration["value"]) == text(&taint["value"]),
        _ => true,
    }
}

/// The first label of the `nodeSelector` that the node does not have, as `KEY=VALUE`.
fn missing_label(node: &Value, spec: &Value) -> Option<String> {
    let labels = &node["metadata"]["labels"];
    let wanted = spec["nodeSelector"].as_object().into_iter().flatten();
    let mut missing = wanted.filter(|(key, value)| labels[key.as_str()] != **value);
    missing.next().map(|(key, value)| format!("{key}={}", text(value)))
}

/// Whether a required node affinity selects the node: one of its terms must match.
fn is_selected(node: &Value, spec: &Value) -> bool {
    let terms = &spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"];
    let Some(terms) = terms.as_array() else { return true };
    let labels = &node["metadata"]["labels"];
    let is_met = |rule: &Value, value: Option<&str>| {
        let values = list(&rule["values"]);
        let has = |value: &str| values.iter().any(|wanted| wanted == value);
        let is_beyond = |order| {
            let number = |text: &str| text.parse::<i64>().ok();
            let limit = values.first().and_then(Value::as_str).and_then(number);
            value
                .and_then(number)
                .zip(limit)
                .is_some_and(|(value, limit)| value.cmp(&limit) == order)
        };
        match text(&rule["operator"]) {
            "In" => value.is_some_and(has),
            "NotIn" => !value.is_some_and(has),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => is_beyond(std::cmp::Ordering::Greater),
            "Lt" => is_beyond(std::cmp::Ordering::Less),
            _ => true,
        }
    };
    terms.iter().any(|term| {
        let label = |rule: &Value| is_met(rule, labels[text(&rule["key"])].as_str());
        let field = |rule: &Value| {
            rule["key"] != NODE_NAME || is_met(rule, node["metadata"]["name"].as_str())
        };
        let (labels, fields) = (list(&term["matchExpressions"]), list(&term["matchFields"]));
        // A term without rules selects no node.
        let is_empty = labels.is_empty() && fields.is_empty();
        !is_empty && labels.iter().all(label) && fields.iter().all(field)
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labels: Value, spec: Value) -> Value {
        json!({ "metadata": { "name": "n-1", "labels": labels }, "spec": spec })
    }

    fn taint(value: Value, effect: &str) -> Value {
        json!({ "taints": [{ "key": "dedicated", "value": value, "effect": effect }] })
    }

    #[test]
    fn a_taint_is_in_the_way_unless_it_is_tolerated() {
        let waits = |spec: Value, tolerations: Value| {
            let pod = json!({ "tolerations": tolerations });
            obstacle(&node(json!({}), spec), &pod).map(|it| match it {
                Obstacle::Waits(why) => why,
                never @ Obstacle::Never(_) => panic!("{never:?}"),
            })
        };
        let ci = || taint(json!("ci"), "NoSchedule");
        let why = waits(ci(), Value::Null).unwrap();
        assert!(why.contains("(dedicated=ci:NoSchedule)") && why.contains("toleration"), "{why}");
        assert!(waits(taint(Value::Null, "NoExecute"), Value::Null).is_some());
        assert_eq!(waits(taint(json!("ci"), "PreferNoSchedule"), Value::Null), None);
        for (toleration, is_tolerated) in [
            (json!({ "operator": "Exists" }), true),
            (json!({ "key": "dedicated", "operator": "Exists" }), true),
            (json!({ "key": "dedicated", "value": "ci" }), true),
            (
                json!({ "key": "dedicated", "operator": "Equal", "value": "ci", "effect": "NoSchedule" }),
                true,
            ),
            (json!({ "key": "dedicated", "operator": "OfTomorrow", "value": "1" }), true),
            (json!({ "key": "dedicated", "value": "db" }), false),
            (json!({ "key": "gpu", "operator": "Exists" }), false),
            (json!({ "operator": "Exists", "effect": "NoExecute" }), false),
        ] {
            assert_eq!(waits(ci(), json!([toleration])).is_none(), is_tolerated, "{toleration}");
        }
        let cordoned = json!({ "unschedulable": true });
        let why = waits(cordoned.clone(), Value::Null).unwrap();
        assert!(why.contains("kubectl uncordon n-1"), "{why}");
        assert_eq!(waits(cordoned, json!([{ "operator": "Exists" }])), None);
        assert_eq!(waits(json!({}), Value::Null), None);
    }

    #[test]
    fn a_pod_that_excludes_the_node_never_runs_there() {
        let never = |spec: Value| {
            let labels = json!({ "disk": "ssd", "cores": "8" });
            let found = obstacle(&node(labels, json!({})), &spec);
            found.map(|it| match it {
                Obstacle::Never(why) => why,
                waits @ Obstacle::Waits(_) => panic!("{waits:?}"),
            })
        };
        assert_eq!(never(json!({ "nodeSelector": { "disk": "ssd" } })), None);
        let why = never(json!({ "nodeSelector": { "disk": "ssd", "zone": "a" } })).unwrap();
        assert!(why.contains("the label zone=a, which node n-1 does not have"), "{why}");
        let affinity = |terms: Value| {
            never(
                json!({ "affinity": { "nodeAffinity": { REQUIRED: { "nodeSelectorTerms": terms } } } }),
            )
        };
        let rule = |key: &str, operator: &str, values: Value| json!({ "key": key, "operator": operator, "values": values });
        for (rule, is_met) in [
            (rule("disk", "In", json!(["hdd", "ssd"])), true),
            (rule("disk", "In", json!(["hdd"])), false),
            (rule("disk", "NotIn", json!(["ssd"])), false),
            (rule("zone", "NotIn", json!(["a"])), true),
            (rule("disk", "Exists", Value::Null), true),
            (rule("zone", "Exists", Value::Null), false),
            (rule("disk", "DoesNotExist", Value::Null), false),
            (rule("cores", "Gt", json!(["4"])), true),
            (rule("cores", "Gt", json!(["8"])), false),
            (rule("cores", "Lt", json!(["16"])), true),
            (rule("disk", "Lt", json!(["16"])), false),
        ] {
            let found = affinity(json!([{ "matchExpressions": [rule] }]));
            assert_eq!(found.is_none(), is_met, "{rule}: {found:?}");
        }
        let name = |name: &str| json!({ "matchFields": [rule(NODE_NAME, "In", json!([name]))] });
        assert_eq!(affinity(json!([name("n-1")])), None);
        assert!(affinity(json!([name("n-2")])).unwrap().contains("excludes node n-1"));
        assert_eq!(affinity(json!([name("n-2"), name("n-1")])), None, "one term is enough");
        assert!(affinity(json!([{}])).is_some());
    }
}
