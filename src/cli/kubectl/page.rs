//! The descent of snapshots as one static HTML page: no script, nothing from the network.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use jiff::Timestamp;

use super::{
    lineage::{Node, tree},
    print::age,
    snapshot_view::Snapshot,
    users::Users,
};
use crate::format;

/// The style sheet.
const STYLE: &str = include_str!("page.css");

/// The page about these snapshots.
pub(super) fn page(title: &str, snapshots: &[Snapshot], users: &Users, now: Timestamp) -> String {
    let mut page = String::new();
    let title = escaped(title);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <p class=\"quiet\">{} of {now}. A bar has the size of a snapshot: what it shares with its \
         ancestors, and its own part.</p>\n",
        count(snapshots.len(), "snapshot"),
    );
    lineage(&mut page, snapshots, users, now);
    nodes(&mut page, snapshots, users);
    page + "</body>\n</html>\n"
}

/// Writes the snapshots as nested lists.
fn lineage(page: &mut String, snapshots: &[Snapshot], users: &Users, now: Timestamp) {
    let shared = shared(snapshots);
    let bytes = |snapshot: &Snapshot| snapshot.bytes.unwrap_or(0);
    let whole = |snapshot: &Snapshot| bytes(snapshot) + shared.get(&*snapshot.uid).unwrap_or(&0);
    let largest = snapshots.iter().map(whole).max().unwrap_or(0);
    // How many lists are open. Each has an open item.
    let mut open = 0;
    for (branch, node) in tree(snapshots) {
        // Each level of the branch has three characters.
        let level = branch.chars().count() / 3;
        while open > level + 1 {
            page.push_str("</li>\n</ul>\n");
            open -= 1;
        }
        match open > level {
            true => page.push_str("</li>\n<li>"),
            false => {
                page.push_str("<ul>\n<li>");
                open += 1;
            }
        }
        match node {
            Node::Missing(_, name) => {
                let name = escaped(name);
                let _ = writeln!(
                    page,
                    "<div class=\"card gone\"><span class=\"name\">{name}</span> <small>deleted</small></div>"
                );
            }
            Node::Snapshot(snapshot) => {
                let shared = shared.get(&*snapshot.uid).copied().unwrap_or(0);
                page.push_str("<div class=\"card\">\n");
                card(page, snapshot, shared, largest, now);
                let users = users.of(snapshot).into_iter();
                let users: Vec<_> = users.map(|user| escaped(&user.name)).collect();
                if !users.is_empty() {
                    let pods = users.join("</span><span class=\"pod\">");
                    let _ = writeln!(page, "<p><span class=\"pod\">{pods}</span></p>");
                }
                page.push_str("</div>\n");
            }
        }
    }
    (0..open).for_each(|_| page.push_str("</li>\n</ul>\n"));
}

/// Writes the properties of one snapshot.
fn card(page: &mut String, snapshot: &Snapshot, shared: u64, largest: u64, now: Timestamp) {
    let Snapshot { name, phase, source, message, .. } = snapshot;
    let [name, phase] = [name, phase].map(|text| escaped(text));
    let _ = writeln!(
        page,
        "<p><span class=\"name\">{name}</span><span class=\"phase {phase}\">{phase}</span></p>"
    );
    let mut facts = Vec::new();
    facts.extend(source.as_ref().map(|source| format!("of {}", escaped(source))));
    facts.extend(snapshot.created.map(|at| format!("{} ago", age(Some(at), now))));
    facts.push(match snapshot.place() {
        "-" => "on no node yet".to_owned(),
        "registry" => "in the registry".to_owned(),
        node => format!("only on node {}", escaped(node)),
    });
    facts.extend(snapshot.amount());
    if shared > 0 {
        facts.push(format!("shares {} with its ancestors", format::bytes(shared)));
    }
    let _ = writeln!(page, "<p class=\"quiet\">{}</p>", facts.join(" · "));
    if let Some(message) = message {
        let _ = writeln!(page, "<p>{}</p>", escaped(message));
    }
    if let Some(own) = snapshot.bytes.filter(|_| largest > 0) {
        let percent = |bytes: u64| u128::from(bytes) * 100 / u128::from(largest);
        let _ = writeln!(
            page,
            "<div class=\"bar\"><span class=\"shared\" style=\"width:{}%\"></span><span style=\"width:{}%\"></span></div>",
            percent(shared),
            percent(own)
        );
    }
}

/// Writes a table of the pods on each node.
fn nodes(page: &mut String, snapshots: &[Snapshot], users: &Users) {
    let mut nodes = BTreeMap::<String, Vec<String>>::new();
    for snapshot in snapshots {
        for user in users.of(snapshot) {
            let Some(node) = user.node else { continue };
            let snapshot = escaped(&snapshot.name);
            let pod = format!("{} <small>from {snapshot}</small>", escaped(&user.name));
            nodes.entry(node).or_default().push(pod);
        }
    }
    if nodes.is_empty() {
        return;
    }
    page.push_str("<h2>Pods on each node</h2>\n<table>\n<tr><th>Node</th><th>Pods</th></tr>\n");
    for (node, pods) in nodes {
        let node = escaped(&node);
        let _ = writeln!(page, "<tr><td>{node}</td><td>{}</td></tr>", pods.join("<br>"));
    }
    page.push_str("</table>\n");
}

/// The bytes of the ancestors of each snapshot, as far as they exist, by its uid.
fn shared(snapshots: &[Snapshot]) -> HashMap<&str, u64> {
    let bytes: HashMap<_, _> =
        snapshots.iter().map(|one| (one.uid.as_str(), one.bytes.unwrap_or(0))).collect();
    let mut sums = HashMap::<&str, u64>::new();
    // Each snapshot comes after its parent.
    for (_, node) in tree(snapshots) {
        let Node::Snapshot(snapshot) = node else { continue };
        let parent = snapshot.parent_uid.as_deref().unwrap_or_default();
        let of = |sums: &HashMap<&str, u64>| sums.get(parent).copied().unwrap_or(0);
        let above = bytes.get(parent).copied().unwrap_or(0) + of(&sums);
        sums.insert(&snapshot.uid, above);
    }
    sums
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// Text in HTML.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            c => html.push(c),
        }
    }
    html
}
