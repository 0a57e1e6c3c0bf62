//! The pod network where there is no image of kind's own: each node's pods on point-to-point links,
//! and a route to the pods of every other node.
//!
//! Deliberately absent: a daemon. Two nodes do not change, so the configuration is written once.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A node in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address on the nodes' network.
    pub address: String,
    /// The range of its pods' addresses, as `10.244.0.0/24`.
    pub pods: String,
}

/// The path where the runtime reads the network configuration.
pub const CONFIG: &str = "/etc/cni/net.d/10-ovl.conflist";

/// Reads the nodes from the API's list.
///
/// # Errors
/// A node has no address or no range for pods (yet).
pub fn nodes(list: &Value) -> Result<Vec<Node>> {
    let items = list.get("items").and_then(Value::as_array).context("a list without items")?;
    items.iter().map(node).collect()
}

fn node(object: &Value) -> Result<Node> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let name = text("/metadata/name").context("a node without a name")?;
    let addresses = object.pointer("/status/addresses").and_then(Value::as_array);
    let internal = addresses
        .into_iter()
        .flatten()
        .find(|address| address.get("type").and_then(Value::as_str) == Some("InternalIP"));
    let address = internal.and_then(|a| a.get("address")).and_then(Value::as_str);
    let address = address.with_context(|| format!("node {name} has no InternalIP yet"))?.to_owned();
    let pods = text("/spec/podCIDR").with_context(|| format!("node {name} has no podCIDR yet"))?;
    Ok(Node { name, address, pods })
}

/// The network configuration of one node, for [`CONFIG`].
pub fn conflist(node: &Node) -> String {
    let plugins = json!([
        {
            "type": "ptp",
            "ipMasq": true,
            "ipam": {
                "type": "host-local",
                // Leases end with the node's boot.
                "dataDir": "/run/cni-ipam-state",
                "ranges": [[{ "subnet": node.pods }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ]);
    json!({ "cniVersion": "1.0.0", "name": "ovl", "plugins": plugins }).to_string()
}

/// The routes of a node: to the pods of every other node, through that node. As arguments of `ip`,
/// which can be repeated.
pub fn routes<'a>(node: &Node, all: &'a [Node]) -> Vec<[&'a str; 6]> {
    let others = all.iter().filter(|other| other.name != node.name);
    others.map(|other| ["ip", "route", "replace", &other.pods, "via", &other.address]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Value {
        let node = |name: &str, address: &str, pods: &str| {
            json!({
                "metadata": { "name": name },
                "spec": { "podCIDR": pods },
                "status": { "addresses": [
                    { "type": "Hostname", "address": name },
                    { "type": "InternalIP", "address": address },
                ] },
            })
        };
        json!({ "items": [
            node("a", "172.18.0.2", "10.244.0.0/24"),
            node("b", "172.18.0.3", "10.244.1.0/24"),
        ] })
    }

    #[test]
    fn each_node_routes_to_the_others_pods_only() -> Result<()> {
        let all = nodes(&two())?;
        let plan = routes(&all[0], &all);
        assert_eq!(plan, [["ip", "route", "replace", "10.244.1.0/24", "via", "172.18.0.3"]]);
        Ok(())
    }

    #[test]
    fn the_configuration_holds_the_nodes_own_addresses() -> Result<()> {
        let all = nodes(&two())?;
        let config: Value = serde_json::from_str(&conflist(&all[1]))?;
        let subnet = config.pointer("/plugins/0/ipam/ranges/0/0/subnet");
        assert_eq!(subnet, Some(&json!("10.244.1.0/24")));
        Ok(())
    }

    #[test]
    fn a_node_that_is_not_ready_for_a_network_is_named() {
        let mut list = two();
        list["items"][1]["spec"] = json!({});
        let words = nodes(&list).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(words.contains("node b"), "{words}");
    }
}
