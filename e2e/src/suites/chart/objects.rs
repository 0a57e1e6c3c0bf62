//! Facts about rendered objects, as far as they need no YAML parser.
//!
//! Deliberately absent: checks of fields. The schemas of Kubernetes do that.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

/// Kind, namespace and name of each object.
fn names(rendered: &str) -> Result<BTreeSet<String>> {
    let objects = rendered.split("---\n").filter(|text| text.contains("\nkind: "));
    let name = |object: &str| {
        let field = |start: &str| object.lines().find_map(|line| line.strip_prefix(start));
        let kind = field("kind: ").context("an object without a kind")?;
        let name = field("  name: ").with_context(|| format!("a {kind} without a name"))?;
        Ok(format!("{kind} {}/{name}", field("  namespace: ").unwrap_or_default()))
    };
    objects.map(name).collect()
}

/// Checks that no object is in both.
pub fn apart(first: &str, second: &str) -> Result<()> {
    let (first, second) = (names(first)?, names(second)?);
    ensure!(first.len() > 5 && second.len() > 5, "objects are missing: {first:?} {second:?}");
    let both: Vec<_> = first.intersection(&second).collect();
    ensure!(both.is_empty(), "in both: {both:?}");
    Ok(())
}

/// A role: its kind, the end of its name, and one line for each rule (groups, resources, names,
/// verbs).
pub type Role = (&'static str, &'static str, &'static [&'static str]);

/// The roles of a release with the default values.
pub const RIGHTS: &[Role] = &[
    (
        "ClusterRole",
        "-node",
        &[
            "networking.k8s.io: servicecidrs: list",
            "discovery.k8s.io: endpointslices: kubernetes: get",
            "\"\": events: create, patch",
            "ovl.csi.dev: overlaysnapshots: get, list, watch",
            "snapshot.storage.k8s.io: volumesnapshots, volumesnapshotcontents: get",
            "ovl.csi.dev: overlaysnapshots/status: patch, update",
            "ovl.csi.dev: overlaydiffs: get, list, watch",
            "ovl.csi.dev: overlaydiffresults: create",
        ],
    ),
    (
        "ClusterRole",
        "-controller",
        &[
            "ovl.csi.dev: overlaysnapshots: get, list, watch, create, update, patch, delete",
            "ovl.csi.dev: overlaysnapshots/status: patch",
            "ovl.csi.dev: overlaydiffs: get, list, watch, delete",
            "ovl.csi.dev: overlaydiffs/status: patch",
            "ovl.csi.dev: overlaydiffresults: create",
            "snapshot.storage.k8s.io: volumesnapshots: get, list, watch, patch",
            "snapshot.storage.k8s.io: volumesnapshotcontents: \
             get, list, watch, create, update, patch, delete",
            "snapshot.storage.k8s.io: volumesnapshotcontents/status: update, patch",
            "snapshot.storage.k8s.io: volumesnapshotclasses: get, list, watch",
            "\"\": pods, nodes: get, list, watch",
            "\"\": events: list, watch, create, update, patch",
        ],
    ),
    ("ClusterRole", "-view", &["snapshot.storage.k8s.io: volumesnapshots: get, list, watch"]),
    (
        "ClusterRole",
        "-edit",
        &["snapshot.storage.k8s.io: volumesnapshots: \
             create, update, patch, delete, deletecollection"],
    ),
    (
        "ClusterRole",
        "-edit-diffs",
        &[
            "ovl.csi.dev: overlaydiffs: get, list, watch, create, delete",
            "ovl.csi.dev: overlaydiffresults: get, list, watch",
        ],
    ),
    (
        "Role",
        "-controller",
        &["coordination.k8s.io: leases: get, list, watch, create, update, patch, delete"],
    ),
];

/// Checks that the roles are exactly these, with exactly these rules.
pub fn rights(rendered: &str, want: &[Role]) -> Result<()> {
    let mut have = Vec::new();
    for object in rendered.split("---\n") {
        let field = |start: &str| object.lines().find_map(|line| line.strip_prefix(start));
        let (Some(kind), Some((_, rules))) = (field("kind: "), object.split_once("\nrules:\n"))
        else {
            continue;
        };
        have.push((kind, field("  name: ").unwrap_or_default(), self::rules(rules)?));
    }
    ensure!(have.len() == want.len(), "other roles: {have:?}");
    for (kind, end, rules) in want {
        let role = have.iter().find(|(have, name, _)| have == kind && name.ends_with(end));
        let (.., lines) = role.with_context(|| format!("no {kind} …{end} in {have:?}"))?;
        ensure!(lines == rules, "{kind} …{end} has {lines:#?}");
    }
    Ok(())
}

/// The rules, one line each.
fn rules(text: &str) -> Result<Vec<String>> {
    let list = |line: &str, start: &str| {
        let list = line.trim_start_matches(['-', ' ']).strip_prefix(start)?;
        Some(list.trim_matches([' ', '[', ']']).to_owned())
    };
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some(group) = list(line, "apiGroups:") {
            lines.push(group);
            continue;
        }
        let more = ["resources:", "resourceNames:", "verbs:"].iter().find_map(|w| list(line, w));
        match (more, lines.last_mut()) {
            (Some(more), Some(last)) => last.push_str(&format!(": {more}")),
            (Some(_), None) => bail!("a rule has no apiGroups"),
            (None, _) => ensure!(line.starts_with('#'), "a rule has `{line}`"),
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "---\nkind: A\nmetadata:\n  name: a\n---\n# Why.\nkind: B\nmetadata:\n  name: b\n  namespace: n\n";

    #[test]
    fn objects_differ_by_kind_namespace_and_name() {
        let names = names(&format!("apiVersion: v1{ONE}").replace("---\nkind", "---\n\nkind"));
        let names: Vec<_> = names.unwrap_or_default().into_iter().collect();
        assert_eq!(names, ["A /a", "B n/b"]);
    }
}
