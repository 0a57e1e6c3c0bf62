//! What rendered objects are, read as far as that needs no parser of YAML.
//!
//! Deliberately absent: whether fields are right, which Kubernetes' schemas say.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

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

/// Checks the one role that there is.
pub fn rights(rendered: &str) -> Result<()> {
    let rules: Vec<_> = rendered.match_indices("\nrules:\n").collect();
    let [(at, _)] = rules[..] else { anyhow::bail!("{} roles, not one", rules.len()) };
    let want =
        "\nrules:\n- apiGroups: [\"\"]\n  resources: [events]\n  verbs: [create, patch]\n---";
    ensure!(rendered[at..].starts_with(want), "other rights: {}", &rendered[at..]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "---\nkind: A\nmetadata:\n  name: a\n---\n# Why.\nkind: B\nmetadata:\n  name: b\n  namespace: n\n";

    #[test]
    fn objects_are_told_apart_by_kind_namespace_and_name() {
        let names = names(&format!("apiVersion: v1{ONE}").replace("---\nkind", "---\n\nkind"));
        let names: Vec<_> = names.unwrap_or_default().into_iter().collect();
        assert_eq!(names, ["A /a", "B n/b"]);
    }
}
