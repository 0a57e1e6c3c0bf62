//! `kubectl ovl describe`: shows all properties of one snapshot.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{
    args::{Output, object_name},
    failure::Failure,
    lineage::{Ancestor, ancestors, children},
    print::{self, age},
    session::Session,
    snapshot_view::Snapshot,
    table,
};
use crate::{
    cluster::{JsonKind, Selection},
    error::Class,
    format,
};

/// The last lines of `describe --help`.
const EXAMPLES: &str = "\
Examples:
  kubectl ovl describe demo-1
  # The pods and workloads that use it, for a program
  kubectl ovl describe demo-1 -o json | jq .usedBy";

/// Show one snapshot, its ancestors, its children, what uses it, and its Events
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
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
    ancestors: Vec<Ancestor>,
    /// The snapshots of volumes that started from it.
    children: Vec<String>,
    /// The volumes of pods that started from it as POD/VOLUME, and the workloads that name it as KIND/NAME.
    used_by: Vec<String>,
    events: Vec<Event>,
}

/// An Event about the snapshot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    r#type: String,
    reason: String,
    message: String,
    from: String,
    count: u64,
    last: Option<Timestamp>,
}

pub(super) async fn run(session: &Session, args: &DescribeArgs) -> Result<(), Failure> {
    let snapshot = session.snapshot(&args.name).await?;
    let all = session.snapshots(false, None).await?;
    let described = Described {
        children: children(&snapshot, &all).map(|one| one.name.clone()).collect(),
        ancestors: ancestors(&snapshot, &all),
        used_by: session.users(false).await?.names(&snapshot),
        events: session.events(&snapshot.uid).await?,
        snapshot,
    };
    Ok(args.output.output.print(&described, || text(&described, Timestamp::now()))?)
}

impl Session {
    /// The Events about the object of this uid, the oldest first; none if the user may not list Events.
    async fn events(&self, uid: &str) -> Result<Vec<Event>, Failure> {
        let fields = format!("involvedObject.uid={uid}");
        let selection = Selection { fields: Some(&fields), ..Selection::default() };
        let listed = self.client.json_list(JsonKind::Event, Some(&self.namespace), selection).await;
        let mut events: Vec<_> = match listed {
            Err(error) if error.class() == Class::Denied => Vec::new(),
            listed => listed?.iter().map(Event::of).collect(),
        };
        events.sort_by_key(|event| event.last);
        Ok(events)
    }
}

impl Event {
    fn of(object: &Value) -> Self {
        let text = |value: &Value| print::clean(value.as_str().unwrap_or_default());
        let times = ["lastTimestamp", "eventTime", "firstTimestamp"].map(|key| &object[key]);
        Self {
            r#type: text(&object["type"]),
            reason: text(&object["reason"]),
            message: text(&object["message"]),
            from: text(match &object["source"]["component"] {
                Value::String(component) if !component.is_empty() => &object["source"]["component"],
                _ => &object["reportingComponent"],
            }),
            count: object["count"].as_u64().unwrap_or(1),
            last: times.into_iter().find_map(|time| time.as_str()?.parse().ok()),
        }
    }

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let age = match self.count {
            0 | 1 => age(self.last, now),
            count => format!("{} (x{count})", age(self.last, now)),
        };
        let message = self.message.replace('\n', " ");
        vec![self.r#type.clone(), self.reason.clone(), age, self.from.clone(), message]
    }
}

fn text(described: &Described, now: Timestamp) -> String {
    let Described { snapshot, ancestors, children, used_by, events } = described;
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let layers = snapshot.layers.map(|layers| match snapshot.own_layers {
        Some(own) => {
            format!("{layers} ({} of the images, {own} of snapshots)", layers.saturating_sub(own))
        }
        None => layers.to_string(),
    });
    let created = snapshot.created.map(|at| format!("{at} ({} ago)", age(Some(at), now)));
    let listed = |names: &[String]| (!names.is_empty()).then(|| names.join("\n"));
    let ancestors: Vec<_> = ancestors.iter().map(Ancestor::text).collect();
    let style = snapshot.style();
    let rows = [
        ("Name", Some(snapshot.name.clone())),
        ("Namespace", Some(snapshot.namespace.clone())),
        ("Source", snapshot.source.clone()),
        ("Class", snapshot.class.clone()),
        ("Phase", Some(format!("{style}{}{style:#}", snapshot.phase))),
        ("Ready", Some(if snapshot.ready { "yes" } else { "no" }.to_owned())),
        ("Message", snapshot.reason(now).map(str::to_owned)),
        ("Created", created),
        ("Node", snapshot.node.clone()),
        ("Image", snapshot.image.clone()),
        ("Entries", number(snapshot.entries)),
        ("Size", snapshot.bytes.map(format::bytes)),
        ("Layers", layers),
        ("Pushed size", snapshot.pushed_bytes.map(format::bytes)),
        ("Frozen for", snapshot.frozen.clone()),
        ("Deletion policy", snapshot.deletion_policy.clone().filter(|policy| policy == "Retain")),
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
    let mut text = table::plain(&cells);
    if !events.is_empty() {
        let head = ["Type", "Reason", "Age", "From", "Message"].map(str::to_owned).to_vec();
        let rows = [head].into_iter().chain(events.iter().map(|event| event.cells(now)));
        let rows: Vec<_> = rows.collect();
        text += "Events:\n";
        text.extend(table::plain(&rows).lines().map(|line| format!("  {line}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_row() {
        let object = json!({ "type": "Warning", "reason": "SnapshotFailed", "message": "no\nspace\u{1b}",
            "source": { "component": "ovl.csi.dev" }, "count": 3, "lastTimestamp": "2026-01-02T03:04:05Z" });
        let event = Event::of(&object);
        let now = "2026-01-02T03:05:05Z".parse().unwrap();
        let cells = ["Warning", "SnapshotFailed", "60s (x3)", "ovl.csi.dev", "no space\\u{1b}"];
        assert_eq!(event.cells(now), cells);
    }
}
