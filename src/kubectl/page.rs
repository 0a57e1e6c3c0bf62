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
    users::{User, Users},
};
use crate::format;

/// The page up to its title.
const HEAD: &str = include_str!("page.html");

/// The style sheet.
const STYLE: &str = include_str!("page.css");

/// From this depth on, a list of branches is indented less.
const DEEP: usize = 7;

/// From this depth on, a list of branches is not indented.
const FLAT: usize = 30;

/// The page about these snapshots.
pub(super) fn page(title: &str, snapshots: &[Snapshot], users: &Users, now: Timestamp) -> String {
    let title = escaped(title);
    let own: u64 = snapshots.iter().filter_map(|snapshot| snapshot.bytes).sum();
    let mut html = HEAD.replace("{style}", STYLE).replace("{title}", &title);
    let _ = writeln!(
        html,
        "<p class=\"quiet\">{} with {} at {}. A bar shows a snapshot without the layers of its images: \
         <span class=\"key shared\">shared with its ancestors</span> <span class=\"key\">its own</span></p>",
        count(snapshots.len(), "snapshot"),
        format::bytes(own),
        now.strftime("%Y-%m-%d %H:%M:%S UTC"),
    );
    let mut page = Page {
        html,
        users: snapshots.iter().map(|one| (one.uid.as_str(), users.of(one))).collect(),
        shared: shared(snapshots),
        largest: 0,
        has_namespaces: snapshots.iter().any(|one| one.namespace != snapshots[0].namespace),
        now,
    };
    page.largest = snapshots.iter().map(|one| page.whole(one)).max().unwrap_or(0);
    page.lineage(snapshots);
    page.nodes(snapshots);
    page.html + "</body>\n</html>\n"
}

/// A row of the tree, and its place on the page.
struct Row<'s> {
    node: Node<'s>,
    /// The number of forks above it.
    level: usize,
    /// Whether it is the only child of the row before. Then it stands below its parent without an indentation, so a long
    /// line of descent stays on the page.
    continues: bool,
}

/// The rows of the tree.
fn rows(snapshots: &[Snapshot]) -> Vec<Row<'_>> {
    // The level of the last row, and of its ancestors.
    let mut levels = Vec::<usize>::new();
    let row = |(branch, node): (String, _)| {
        // Each level of the branch has three characters.
        let depth = branch.chars().count() / 3;
        let continues = depth > 0 && depth == levels.len() && branch.ends_with("└─ ");
        levels.truncate(depth);
        let level = levels.last().map_or(0, |parent| parent + usize::from(!continues));
        levels.push(level);
        Row { node, level, continues }
    };
    tree(snapshots).into_iter().map(row).collect()
}

/// The page as far as it is written, and what is known of all snapshots.
struct Page<'s> {
    html: String,
    /// What uses each snapshot, by its uid.
    users: HashMap<&'s str, Vec<User>>,
    /// The bytes of the ancestors of each snapshot, by its uid.
    shared: HashMap<&'s str, u64>,
    /// The bytes of the largest snapshot with its ancestors, which has the longest bar.
    largest: u64,
    /// Whether the snapshots are in several namespaces.
    has_namespaces: bool,
    now: Timestamp,
}

impl Page<'_> {
    fn shared(&self, snapshot: &Snapshot) -> u64 {
        self.shared.get(&*snapshot.uid).copied().unwrap_or(0)
    }

    /// The bytes of a snapshot with its ancestors.
    fn whole(&self, snapshot: &Snapshot) -> u64 {
        snapshot.bytes.unwrap_or(0) + self.shared(snapshot)
    }

    /// Writes the snapshots as nested lists: a list for each fork, an item for each of its branches.
    fn lineage(&mut self, snapshots: &[Snapshot]) {
        // How many lists are open. Each has an open item.
        let (mut open, mut namespace) = (0, None);
        for Row { node, level, continues } in rows(snapshots) {
            let of = match node {
                Node::Snapshot(snapshot) => &snapshot.namespace,
                Node::Missing(namespace, _) => namespace,
            };
            if self.has_namespaces && level == 0 && namespace != Some(of) {
                self.close_lists(&mut open, 0);
                let _ = writeln!(self.html, "<h2>Namespace {}</h2>", escaped(of));
                namespace = Some(of);
            }
            if !continues {
                self.close_lists(&mut open, level + 1);
                self.html.push_str(match open > level {
                    true => "</li>\n<li>",
                    false if level >= FLAT => "<ul class=\"flat\">\n<li>",
                    false if level >= DEEP => "<ul class=\"deep\">\n<li>",
                    false => "<ul>\n<li>",
                });
                open = level + 1;
            }
            match node {
                Node::Snapshot(snapshot) => self.card(snapshot),
                Node::Missing(_, name) => {
                    let _ = writeln!(
                        self.html,
                        "<div class=\"card gone\"><p><span class=\"name\">{}</span> <small>deleted</small></p></div>",
                        escaped(name)
                    );
                }
            }
        }
        self.close_lists(&mut open, 0);
    }

    /// Closes lists until this many are open.
    fn close_lists(&mut self, open: &mut usize, until: usize) {
        while *open > until {
            self.html.push_str("</li>\n</ul>\n");
            *open -= 1;
        }
    }

    /// Writes one snapshot.
    fn card(&mut self, snapshot: &Snapshot) {
        let Snapshot { name, phase, source, .. } = snapshot;
        let [uid, name, phase] = [&snapshot.uid, name, phase].map(|text| escaped(text));
        let mut facts = Vec::new();
        facts.extend(source.as_ref().map(|source| format!("of {}", escaped(source))));
        facts.extend(snapshot.created.map(|at| format!("{} ago", age(Some(at), self.now))));
        facts.extend(match snapshot.place() {
            "-" => None,
            "registry" => Some("in the registry".to_owned()),
            node => Some(format!("only on node {}", escaped(node))),
        });
        facts.extend(snapshot.entries.map(|entries| match entries {
            1 => "1 entry".to_owned(),
            entries => format!("{entries} entries"),
        }));
        let _ = writeln!(
            self.html,
            "<div class=\"card\" id=\"{uid}\">\n<div>\n\
             <p><span class=\"name\">{name}</span> <span class=\"phase {phase}\">{phase}</span></p>\n\
             <p class=\"quiet\">{}</p>",
            facts.join(" · ")
        );
        if let Some(message) = snapshot.reason(self.now) {
            let _ = writeln!(self.html, "<p>{}</p>", escaped(message));
        }
        let users = self.users.get(&*snapshot.uid).into_iter().flatten();
        let users: Vec<_> = users.map(|user| escaped(&user.name)).collect();
        if !users.is_empty() {
            let users = users.join("</span> <span class=\"pod\">");
            let _ = writeln!(self.html, "<p><span class=\"pod\">{users}</span></p>");
        }
        self.html.push_str("</div>\n");
        self.size(snapshot);
        self.html.push_str("</div>\n");
    }

    /// Writes the size of a snapshot, with its bar.
    fn size(&mut self, snapshot: &Snapshot) {
        let Some(own) = snapshot.bytes.filter(|_| self.largest > 0) else { return };
        let shared = self.shared(snapshot);
        let width = |bytes: u64| {
            let tenths = u128::from(bytes) * 1000 / u128::from(self.largest);
            // A small part is visible, too.
            let tenths = tenths.max(if bytes > 0 { 5 } else { 0 });
            format!("<span style=\"width:{}.{}%\"></span>", tenths / 10, tenths % 10)
        };
        let bars = [width(shared).replace("<span", "<span class=\"shared\""), width(own)].concat();
        let words = match shared {
            0 => String::new(),
            shared => format!("<small>{} shared ·</small> ", format::bytes(shared)),
        };
        let _ = writeln!(
            self.html,
            "<div class=\"size\"><div class=\"bar\">{bars}</div>\n<p>{words}{} <small>own</small></p></div>",
            format::bytes(own)
        );
    }

    /// Writes a table of the pods on each node.
    fn nodes(&mut self, snapshots: &[Snapshot]) {
        let mut nodes = BTreeMap::<String, Vec<String>>::new();
        for Snapshot { uid, name, namespace, .. } in snapshots {
            for user in self.users.get(uid.as_str()).into_iter().flatten() {
                let Some(node) = &user.node else { continue };
                let [uid, name, namespace] = [uid, name, namespace].map(|text| escaped(text));
                let mut line =
                    format!("{} <small>from <a href=\"#{uid}\">{name}</a>", escaped(&user.name));
                if self.has_namespaces {
                    let _ = write!(line, " in namespace {namespace}");
                }
                nodes.entry(escaped(node)).or_default().push(line + "</small>");
            }
        }
        if nodes.is_empty() {
            return;
        }
        self.html.push_str(
            "<h2>Pods on each node</h2>\n<table>\n<tr><th>Node</th><th>Pod and volume</th></tr>\n",
        );
        for (node, pods) in nodes {
            let (volumes, pods) = (count(pods.len(), "volume"), pods.join("<br>\n"));
            let _ = writeln!(
                self.html,
                "<tr><th>{node}<br><small>{volumes}</small></th><td>{pods}</td></tr>"
            );
        }
        self.html.push_str("</table>\n");
    }
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
