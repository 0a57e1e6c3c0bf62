//! `kubectl ovl describe`: shows all properties of one snapshot.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    args::{Format, Output, object_name},
    failure::Failure,
    pod::started_from,
    print::{self, age},
    session::Session,
    snapshot_view::Snapshot,
};
use crate::format;

/// Show one snapshot, its ancestors, its children, and the pods that use it
#[derive(Debug, Args)]
pub(super) struct DescribeArgs {
    /// The name of the snapshot
    #[arg(value_parser = object_name)]
    name: String,
    #[command(flatten)]
    output: Output,
}

/// A snapshot with its relations.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    #[serde(flatten)]
    snapshot: Snapshot,
    /// The snapshots from which it descends, the nearest first.
    ancestors: Vec<String>,
    /// The snapshots of volumes that started from it.
    children: Vec<String>,
    /// The volumes of pods that started from it, `<pod>/<volume>`.
    used_by: Vec<String>,
}

pub(super) async fn run(session: &Session, args: &DescribeArgs) -> Result<(), Failure> {
    let snapshot = session.snapshot(&args.name).await?;
    let all = session.snapshots(false).await?;
    let mut used_by = Vec::new();
    for pod in session.client.pods_json(&session.namespace).await? {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let volumes = started_from(&pod, &args.name, &session.driver).into_iter();
        used_by.extend(volumes.map(|volume| format!("{name}/{volume}")));
    }
    let children = all.iter().filter(|one| one.parent.as_ref() == Some(&snapshot.name));
    let described = Described {
        children: children.map(|one| one.name.clone()).collect(),
        ancestors: ancestors(&snapshot, &all),
        used_by,
        snapshot,
    };
    match args.output.output {
        Format::Json => print::json(&described)?,
        Format::Text => print::out(&text(&described, Timestamp::now()))?,
    }
    Ok(())
}

/// The names of the snapshots from which it descends, up to the first one that does not exist any more.
fn ancestors(snapshot: &Snapshot, all: &[Snapshot]) -> Vec<String> {
    let (mut names, mut next) = (Vec::new(), snapshot.parent.clone());
    while let Some(name) = next.filter(|name| !names.contains(name)) {
        next = all.iter().find(|one| one.name == name).and_then(|one| one.parent.clone());
        names.push(name);
    }
    names
}

fn text(described: &Described, now: Timestamp) -> String {
    let Described { snapshot, ancestors, children, used_by } = described;
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let layers = snapshot.layers.map(|layers| match snapshot.own_layers {
        Some(own) => {
            format!("{layers} ({} of the images, {own} of snapshots)", layers.saturating_sub(own))
        }
        None => layers.to_string(),
    });
    let created = snapshot.created.map(|at| format!("{at} ({} ago)", age(Some(at), now)));
    let listed = |names: &[String]| (!names.is_empty()).then(|| names.join("\n"));
    let rows = [
        ("Name", Some(snapshot.name.clone())),
        ("Namespace", Some(snapshot.namespace.clone())),
        ("Source", snapshot.source.clone()),
        ("Class", snapshot.class.clone()),
        ("Phase", Some(snapshot.phase.clone())),
        ("Ready", Some(if snapshot.ready { "yes" } else { "no" }.to_owned())),
        ("Message", snapshot.message.clone()),
        ("Created", created),
        ("Node", snapshot.node.clone()),
        ("Image", snapshot.image.clone()),
        ("Entries", number(snapshot.entries)),
        ("Size", snapshot.bytes.map(format::bytes)),
        ("Layers", layers),
        ("Pushed size", snapshot.pushed_bytes.map(format::bytes)),
        ("Frozen for", snapshot.frozen.clone()),
        ("Ancestors", (!ancestors.is_empty()).then(|| ancestors.join(", "))),
        ("Children", listed(children)),
        ("Used by", listed(used_by)),
    ];
    let known = rows.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let mut cells = Vec::new();
    for (key, value) in known {
        for (i, line) in value.lines().enumerate() {
            let key = if i == 0 { format!("{key}:") } else { String::new() };
            cells.push(vec![key, line.to_owned()]);
        }
    }
    print::table(&cells)
}
