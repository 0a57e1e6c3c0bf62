//! `kubectl ovl tree`: shows the descent of snapshots, as text or as one HTML page.

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::{
    failure::Failure,
    lineage::{Node, tree},
    page, print,
    session::Session,
    snapshot_view::Snapshot,
    table,
};

/// The last lines of `tree --help`.
const EXAMPLES: &str = "\
Examples:
  kubectl ovl tree
  # One page with sizes, and the pods on each node
  kubectl ovl tree -o html > snapshots.html";

/// Show the descent of snapshots.
///
/// The page of `-o html` has no scripts and needs no network. It shows each snapshot below its parent, what it shares
/// with its ancestors and its own size, the pods and workloads that use it, and the pods on each node.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TreeArgs {
    /// Show the snapshots of all namespaces, if you have the right to read them
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// The format of the result
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    output: TreeFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TreeFormat {
    /// The names
    Text,
    /// An HTML page
    Html,
}

pub(super) async fn run(session: &Session, args: &TreeArgs) -> Result<(), Failure> {
    let snapshots = session.snapshots(args.all_namespaces, None).await?;
    let text = match args.output {
        TreeFormat::Text => table::plain(&rows(&snapshots, args.all_namespaces)),
        TreeFormat::Html => {
            let users = session.users(args.all_namespaces).await?;
            let place = match args.all_namespaces {
                true => "all namespaces".to_owned(),
                false => format!("namespace {}", session.namespace),
            };
            let title = format!("Snapshots of {place}");
            page::page(&title, &snapshots, &users, Timestamp::now())
        }
    };
    Ok(print::out(&text)?)
}

/// The names as a tree, below a head and after their namespaces if those of all are shown.
fn rows(snapshots: &[Snapshot], all_namespaces: bool) -> Vec<Vec<String>> {
    let row = |(branch, node): (String, Node<'_>)| {
        let (namespace, name) = match node {
            Node::Snapshot(snapshot) => (&*snapshot.namespace, snapshot.name.clone()),
            Node::Missing(namespace, name) => (namespace, format!("({name}, deleted)")),
        };
        let name = branch + &name;
        match all_namespaces {
            true => vec![namespace.to_owned(), name],
            false => vec![name],
        }
    };
    let head = all_namespaces.then(|| ["NAMESPACE", "NAME"].map(str::to_owned).to_vec());
    head.into_iter().chain(tree(snapshots).into_iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_of_all_namespaces_names_them() {
        let snapshot = |namespace: &str, name: &str, parent: Option<&str>| {
            let mut annotations = json!({ "ovl.csi.dev/source": "p/ws" });
            if let Some(parent) = parent {
                annotations["ovl.csi.dev/parent"] = parent.into();
                annotations["ovl.csi.dev/parent-uid"] = format!("uid-{parent}").into();
            }
            let metadata = json!({ "namespace": namespace, "name": name, "uid": format!("uid-{name}"),
                "annotations": annotations });
            let object = json!({ "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
                "metadata": metadata, "spec": { "source": {} } });
            Snapshot::of(&serde_json::from_value(object).unwrap(), "ovl.csi.dev").unwrap()
        };
        let all = [
            snapshot("ci", "a", None),
            snapshot("ci", "b", Some("a")),
            snapshot("web", "c", Some("gone")),
        ];
        let text = "NAMESPACE  NAME\nci         a\nci         └─ b\nweb        (gone, deleted)\nweb        └─ c\n";
        assert_eq!(table::plain(&rows(&all, true)), text);
        assert_eq!(table::plain(&rows(&all[..2], false)), "a\n└─ b\n");
    }
}
