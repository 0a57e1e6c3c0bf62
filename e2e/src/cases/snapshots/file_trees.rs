//! Every kind of change is restored, in both formats, on the same node and through the registry.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::node::Node;
use crate::env::pods::Pod;
use crate::env::snapshots;
use crate::oci::image::{Layer, push};

/// Plain OCI layers.
pub const PORTABLE: Case = Case {
    name: "snapshot-portable",
    what: "every kind of change comes back from a portable layer",
    concurrency: Concurrency::Parallel,
    run: |ns| run(ns, "pushed"),
};

/// Layers with overlay's own markers.
pub const NATIVE: Case = Case {
    name: "snapshot-native",
    what: "every kind of change comes back from a native layer",
    concurrency: Concurrency::Parallel,
    run: |ns| run(ns, "native"),
};

/// The layer of the image.
fn base() -> Result<Layer> {
    let mut layer = Layer::new().dir("t")?;
    for dir in ["removed", "renamed", "moved", "replaced", "emptied", "kept"] {
        layer = layer.dir(&format!("t/{dir}"))?;
        layer = layer.file(&format!("t/{dir}/file"), dir)?;
        layer = layer.dir(&format!("t/{dir}/below"))?;
        layer = layer.file(&format!("t/{dir}/below/file"), dir)?;
    }
    for file in
        ["gone", "old-name", "mode-only", "owner-only", "appended", "to-directory", "capable"]
    {
        layer = layer.file(&format!("t/{file}"), format!("{file} of the image\n"))?;
    }
    Ok(layer)
}

/// Every kind of change. Extended attributes are set by their system call: a small image has perl
/// and no setfattr.
const CHANGES: &str = r#"cd /work/t
rm gone && rm -r removed && mv renamed new-name && mv moved/below moved-below && mv old-name kept/new-name
chmod 4711 mode-only && chmod 1777 kept && chown 1234:5678 owner-only && echo more >> appended
rm -r replaced && echo file > replaced && rm to-directory && mkdir to-directory && echo in > to-directory/file
rm -r emptied && mkdir emptied && echo new > emptied/new
echo two > one && ln one two && ln one kept/three && ln -s ../nowhere dangling && mkfifo pipe
mkdir -p deep/er/est && touch -d 2001-02-03T04:05:06Z deep/er/est/old && touch -d 2002-02-02T02:02:02Z deep/er
printf x > "with 'quotes' and \\ and spaces" && mkdir "$(printf '\303\244\n')" && truncate -s 1G sparse
printf end | dd of=sparse bs=1 seek=1073741000 conv=notrunc status=none && chown -h 7:8 dangling
perl -e '
  my ($set) = `uname -m` =~ /^x86_64/ ? 188 : 5;
  my ($file, $name, $value) = ("capable", "security.capability", pack "V5", 0x02000001, 1 << 10, 0, 0, 0);
  syscall($set, $file, $name, $value, length $value, 0) and die "capability: $!";
  for my $f ("one", "kept", "t-new") {
    open my $o, ">>", $f if $f eq "t-new"; ($file, $name, $value) = ($f, "user.note", "x\0y" x 40);
    syscall($set, $file, $name, $value, length $value, 0) and die "$f: $!";
  }'"#;

/// A second round of changes, to what the first round left.
const MORE: &str = r#"cd /work/t
rm two && mv new-name newer-name && rm -r kept/below && mv kept/new-name old-name && chmod 0600 appended
rm replaced && mkdir -p replaced/below && echo again > replaced/below/again && echo back > gone && rm sparse"#;

fn run(ns: &TestNamespace<'_>, class: &str) -> Result<()> {
    let (registry, worker) = (&ns.env.registry, ns.env.worker());
    let other = Node::new(ns.cluster(), &ns.env.cluster.nodes[0]);
    let image = format!("{}:1", ns.namespace);
    push(registry.here, &image, vec![base()?])?;
    let source = Pod::new("source", json!({ "image": registry.name(&image) }));
    ns.start(&source.on(&worker.name))?;
    ns.shell("source", CHANGES)?;
    let first = ns.tree("source", "/work")?;
    ensure!(first.contains("user.note=") && first.contains("security.capability="), "{first}");

    let before = other.layers_bytes()?;
    let taken = ns.snapshot("first", "source", class)?;
    ensure!(taken.number("pushed-bytes")? < 50 << 20, "the hole was pushed: {taken:?}");
    for (pod, node) in [("beside", &worker), ("across", &other)] {
        ns.restore(pod, "first", &node.name)?;
        let tree = ns.tree(pod, "/work")?;
        snapshots::check_same_tree(&format!("the volume on {}", node.name), &first, &tree)?;
        let facts =
            [("tail -c 824 /work/t/sparse | head -c 3", "end"), ("cat /work/t/kept/three", "two")];
        ns.expect_output(pod, &facts).with_context(|| format!("on {}", node.name))?;
    }
    let grown = other.layers_bytes()?.saturating_sub(before);
    ensure!(grown < 700 << 20, "the other node's layers grew by {grown} bytes");

    // A second snapshot above the first, from a restored volume.
    ns.shell("across", MORE)?;
    let second = ns.tree("across", "/work")?;
    let taken = ns.snapshot("second", "across", class)?;
    ensure!(
        taken.annotation("parent") == Some("first"),
        "its parent is {:?}",
        taken.annotation("parent")
    );
    ensure!(taken.number("own-layers")? == 2, "two layers lie above the image: {taken:?}");
    ns.restore("back", "second", &worker.name)?;
    let tree = ns.tree("back", "/work")?;
    snapshots::check_same_tree(&format!("the second volume on {}", worker.name), &second, &tree)
}
