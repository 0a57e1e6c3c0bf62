//! `kubectl ovl list`: lists snapshots as a tree of their descent.

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::sleep;

use super::{
    failure::Failure,
    lineage::{Node, tree},
    print,
    session::Session,
    snapshot_view::Snapshot,
    table::{self, Cell},
};
use crate::{error::Class, format};

/// The last lines of `list --help`.
const EXAMPLES: &str = "\
Examples:
  # The snapshots of the namespace
  kubectl ovl list
  # More columns
  kubectl ovl list -o wide
  # Those with a label, and each change of them
  kubectl ovl list -l team=a --watch
  # Their names, for another command
  kubectl ovl list -o name | xargs kubectl label team=a";

/// The pause between two lists of --watch.
const PAUSE: Duration = Duration::from_secs(1);

/// List snapshots as a tree: each one below the snapshot from which its volume started.
///
/// PHASE is Pending until a node reports the snapshot, then Capturing, Pushing and Ready. Failed and Refused have a
/// reason in the last column. NotInRegistry: the registry has lost the image, and no node can push it again. LOCATION is
/// `registry`, or the only node that has the snapshot.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ListArgs {
    /// List the snapshots of all namespaces, if you have the right to read them
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// List only snapshots with these labels, such as team=a
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// After the list, print each snapshot that changes, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Print no line with the names of the columns
    #[arg(long)]
    no_headers: bool,
    /// The format of the result
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    output: ListFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    /// A table
    Text,
    /// A table with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// The kind and the name of each snapshot
    Name,
}

pub(super) async fn run(session: &Session, args: &ListArgs) -> Result<(), Failure> {
    let snapshots = args.snapshots(session).await?;
    let widths = args.print_all(session, &snapshots)?;
    if !args.watch {
        return Ok(());
    }
    let mut known = by_uid(snapshots);
    loop {
        sleep(PAUSE).await;
        let now = match args.snapshots(session).await {
            Ok(now) => by_uid(now),
            // The API server is restarted, or overloaded.
            Err(Failure::Cluster(error)) if error.class() == Class::Unavailable => continue,
            Err(error) => return Err(error),
        };
        for snapshot in changes(&known, &now) {
            args.print_one(&snapshot, &widths)?;
        }
        known = now;
    }
}

fn by_uid(snapshots: Vec<Snapshot>) -> BTreeMap<String, Snapshot> {
    snapshots.into_iter().map(|snapshot| (snapshot.uid.clone(), snapshot)).collect()
}

/// The snapshots that are new or have changed, and those that are gone, as deleted.
fn changes(before: &BTreeMap<String, Snapshot>, now: &BTreeMap<String, Snapshot>) -> Vec<Snapshot> {
    let changed = now.iter().filter(|(uid, snapshot)| before.get(*uid) != Some(snapshot));
    let gone = before.iter().filter(|(uid, _)| !now.contains_key(*uid));
    let deleted =
        gone.map(|(_, snapshot)| Snapshot { phase: "Deleted".to_owned(), ..snapshot.clone() });
    changed.map(|(_, snapshot)| snapshot.clone()).chain(deleted).collect()
}

impl ListArgs {
    async fn snapshots(&self, session: &Session) -> Result<Vec<Snapshot>, Failure> {
        session.snapshots(self.all_namespaces, self.selector.as_deref()).await
    }

    /// Prints all snapshots. Returns the widths of the columns, for later rows.
    fn print_all(&self, session: &Session, snapshots: &[Snapshot]) -> anyhow::Result<Vec<usize>> {
        match self.output {
            ListFormat::Json => print::json(&json!({ "items": snapshots }))?,
            ListFormat::Yaml => print::yaml(&json!({ "items": snapshots }))?,
            ListFormat::Name => {
                let lines = snapshots.iter().map(|snapshot| snapshot.resource() + "\n");
                print::out(&lines.collect::<String>())?;
            }
            ListFormat::Text | ListFormat::Wide => {
                if snapshots.is_empty() {
                    print::note(&self.none(session));
                    if !self.watch {
                        return Ok(Vec::new());
                    }
                }
                let rows = self.rows(snapshots, Timestamp::now());
                let widths = table::widths(&rows, table::terminal_width());
                print::out(&table::draw(&rows, &widths))?;
                return Ok(widths);
            }
        }
        Ok(Vec::new())
    }

    /// Prints one snapshot that has changed. A line of JSON and a document of YAML can be read one by one.
    fn print_one(&self, snapshot: &Snapshot, widths: &[usize]) -> anyhow::Result<()> {
        match self.output {
            ListFormat::Json => print::out(&format!("{}\n", serde_json::to_string(snapshot)?)),
            ListFormat::Yaml => {
                print::out("---\n")?;
                print::yaml(snapshot)
            }
            ListFormat::Name => print::out(&(snapshot.resource() + "\n")),
            ListFormat::Text | ListFormat::Wide => {
                let row = self.row(&snapshot.name, snapshot, Timestamp::now());
                let row = [row];
                // The first table may have no column of messages, or no rows.
                let own = table::widths(&row, None).into_iter().skip(widths.len());
                let widths: Vec<_> = widths.iter().copied().chain(own).collect();
                print::out(&table::draw(&row, &widths))
            }
        }
    }

    fn none(&self, session: &Session) -> String {
        let labels = self.selector.as_ref().map(|labels| format!(" with labels {labels}"));
        let place = match self.all_namespaces {
            true => "any namespace".to_owned(),
            false => format!("namespace {}", session.namespace),
        };
        format!("there are no snapshots{} in {place}", labels.unwrap_or_default())
    }

    /// The rows of the table, the first with the names of the columns.
    fn rows(&self, snapshots: &[Snapshot], now: Timestamp) -> Vec<Vec<Cell>> {
        let tree = tree(snapshots);
        let mut rows: Vec<_> = tree
            .into_iter()
            .map(|(branch, node)| match node {
                Node::Snapshot(snapshot) => {
                    self.row(&format!("{branch}{}", snapshot.name), snapshot, now)
                }
                Node::Missing(namespace, name) => self.missing(namespace, name),
            })
            .collect();
        if !self.no_headers {
            rows.insert(0, self.head());
        }
        let has_messages = snapshots.iter().any(|snapshot| snapshot.reason(now).is_some());
        if !has_messages {
            let columns = self.head().len() - 1;
            rows.iter_mut().for_each(|row| row.truncate(columns));
        }
        rows
    }

    fn head(&self) -> Vec<Cell> {
        let mut head = vec!["NAME", "SOURCE", "PHASE", "ENTRIES", "SIZE", "LOCATION", "AGE"];
        if self.output == ListFormat::Wide {
            head.extend(["LAYERS", "PUSHED-SIZE", "FROZEN", "NODE", "CLASS", "IMAGE"]);
        }
        head.push("MESSAGE");
        if self.all_namespaces {
            head.insert(0, "NAMESPACE");
        }
        head.into_iter().map(Cell::from).collect()
    }

    fn row(&self, name: &str, snapshot: &Snapshot, now: Timestamp) -> Vec<Cell> {
        let text = |text: &Option<String>| Cell::from(text.as_deref().unwrap_or("-"));
        let number = |number: Option<u64>| Cell::from(number.map_or("-".into(), |n| n.to_string()));
        let size = |number: Option<u64>| Cell::from(number.map_or("-".into(), format::bytes));
        let phase = Cell { text: snapshot.phase.clone(), style: snapshot.style() };
        let mut row = vec![
            Cell::from(name),
            text(&snapshot.source),
            phase,
            number(snapshot.entries),
            size(snapshot.bytes),
            Cell::from(snapshot.place()),
            Cell::from(print::age(snapshot.created, now)),
        ];
        if self.output == ListFormat::Wide {
            row.extend([
                number(snapshot.layers),
                size(snapshot.pushed_bytes),
                text(&snapshot.frozen),
                text(&snapshot.node),
                text(&snapshot.class),
                text(&snapshot.image),
            ]);
        }
        let message = snapshot.reason(now).unwrap_or_default();
        row.push(Cell::from(message.replace('\n', " ")));
        if self.all_namespaces {
            row.insert(0, Cell::from(snapshot.namespace.as_str()));
        }
        row
    }

    /// The row of a parent that is not in the list. With a selector, it may exist.
    fn missing(&self, namespace: &str, name: &str) -> Vec<Cell> {
        let name = match self.selector {
            Some(_) => format!("({name})"),
            None => format!("({name}, deleted)"),
        };
        let mut row = vec![Cell::from(name)];
        if self.all_namespaces {
            row.insert(0, Cell::from(namespace));
        }
        row.resize(self.head().len(), Cell::default());
        row
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
