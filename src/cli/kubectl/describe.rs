//! `kubectl ovl describe`: everything that is known of one snapshot.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Failure, Form, Here, Output,
    known::Snapshot,
    object_name,
    pod::made_of,
    print::{self, age},
};
use crate::units;

/// Show one snapshot, what it descends from, and which pods use it
#[derive(Debug, Args)]
pub(super) struct DescribeArgs {
    /// The snapshot
    #[arg(value_parser = object_name)]
    name: String,
    #[command(flatten)]
    output: Output,
}

/// A snapshot with what belongs to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    #[serde(flatten)]
    snapshot: Snapshot,
    /// What it descends from, the nearest first.
    ancestors: Vec<String>,
    /// What was made of volumes that were made of it.
    children: Vec<String>,
    /// Pods' volumes that are made of it, `<pod>/<volume>`.
    used_by: Vec<String>,
}

pub(super) async fn run(here: &Here, args: &DescribeArgs) -> Result<(), Failure> {
    let snapshot = here.snapshot(&args.name).await?;
    let all = here.snapshots(false).await?;
    let mut used_by = Vec::new();
    for pod in here.client.whole_pods(&here.namespace).await? {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let volumes = made_of(&pod, &args.name, &here.driver).into_iter();
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
        Form::Json => print::json(&described)?,
        Form::Text => print::out(&said(&described, Timestamp::now()))?,
    }
    Ok(())
}

/// The names of what it descends from, as far as they are known.
fn ancestors(snapshot: &Snapshot, all: &[Snapshot]) -> Vec<String> {
    let (mut names, mut next) = (Vec::new(), snapshot.parent.clone());
    while let Some(name) = next.filter(|name| !names.contains(name)) {
        next = all.iter().find(|one| one.name == name).and_then(|one| one.parent.clone());
        names.push(name);
    }
    names
}

fn said(described: &Described, now: Timestamp) -> String {
    let Described { snapshot, ancestors, children, used_by } = described;
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let layers = snapshot.layers.map(|layers| match snapshot.own_layers {
        Some(own) => format!("{layers}, {own} of them above the images'"),
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
        ("Size", snapshot.bytes.map(units::bytes)),
        ("Layers", layers),
        ("Pushed size", snapshot.pushed_bytes.map(units::bytes)),
        ("Stood still", snapshot.frozen.clone()),
        ("Made of", (!ancestors.is_empty()).then(|| ancestors.join(" <- "))),
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
