//! Every kind of change comes back, in both formats, on the node and through the registry.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::cases::{Case, When};
use crate::look::Node;
use crate::oci::{Layer, push};
use crate::pods::{Pod, Scene};
use crate::snapshots;

/// Plain OCI layers.
pub const PORTABLE: Case = Case {
    name: "snapshot-portable",
    what: "every kind of change comes back from a portable layer",
    when: When::Together,
    play: |scene| play(scene, "pushed"),
};

/// Layers with overlay's marks.
pub const NATIVE: Case = Case {
    name: "snapshot-native",
    what: "every kind of change comes back from a native layer",
    when: When::Together,
    play: |scene| play(scene, "native"),
};

/// What is below.
fn base() -> Result<Layer> {
    let mut layer = Layer::new().folder("t")?;
    for folder in ["removed", "renamed", "moved", "replaced", "emptied", "kept"] {
        layer = layer.folder(&format!("t/{folder}"))?;
        layer = layer.file(&format!("t/{folder}/file"), folder)?;
        layer = layer.folder(&format!("t/{folder}/below"))?;
        layer = layer.file(&format!("t/{folder}/below/file"), folder)?;
    }
    for file in ["gone", "old-name", "mode-only", "owner-only", "appended", "to-folder", "capable"]
    {
        layer = layer.file(&format!("t/{file}"), format!("{file} of the image\n"))?;
    }
    Ok(layer)
}

/// Every change. Extended attributes go by their system call: a small image has perl and no setfattr.
const CHANGES: &str = r#"cd /work/t
rm gone && rm -r removed && mv renamed new-name && mv moved/below moved-below && mv old-name kept/new-name
chmod 4711 mode-only && chmod 1777 kept && chown 1234:5678 owner-only && echo more >> appended
rm -r replaced && echo file > replaced && rm to-folder && mkdir to-folder && echo in > to-folder/file
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

/// What a second round does to what the first had left.
const MORE: &str = r#"cd /work/t
rm two && mv new-name newer-name && rm -r kept/below && mv kept/new-name old-name && chmod 0600 appended
rm replaced && mkdir -p replaced/below && echo again > replaced/below/again && echo back > gone && rm sparse"#;

fn play(scene: &Scene<'_>, class: &str) -> Result<()> {
    let (registry, worker) = (&scene.stage.registry, scene.stage.worker());
    let other = Node::named(scene.stage, &scene.stage.cluster.nodes[0]);
    let image = format!("{}:1", scene.namespace);
    push(registry.here, &image, vec![base()?])?;
    let source = Pod::new("source", json!({ "image": registry.name(&image) }));
    scene.start(&source.on(&worker.name))?;
    scene.shell("source", CHANGES)?;
    let first = scene.tree("source", "/work")?;
    ensure!(first.contains("user.note=") && first.contains("security.capability="), "{first}");

    let before = other.layers_bytes()?;
    let taken = scene.snapshot("first", "source", class)?;
    ensure!(taken.number("pushed-bytes")? < 50 << 20, "the hole was pushed: {taken:?}");
    for (pod, node) in [("beside", &worker), ("across", &other)] {
        scene.restore(pod, "first", &node.name)?;
        let tree = scene.tree(pod, "/work")?;
        snapshots::same(&format!("the volume on {}", node.name), &first, &tree)?;
        let facts =
            [("tail -c 824 /work/t/sparse | head -c 3", "end"), ("cat /work/t/kept/three", "two")];
        scene.facts(pod, &facts).with_context(|| format!("on {}", node.name))?;
    }
    let grown = other.layers_bytes()?.saturating_sub(before);
    ensure!(grown < 700 << 20, "the other node's layers grew by {grown} bytes");

    // A second one above the first, from where it was restored.
    scene.shell("across", MORE)?;
    let second = scene.tree("across", "/work")?;
    let taken = scene.snapshot("second", "across", class)?;
    ensure!(taken.said("parent") == Some("first"), "its parent is {:?}", taken.said("parent"));
    ensure!(taken.number("own-layers")? == 2, "two layers lie above the image: {taken:?}");
    scene.restore("back", "second", &worker.name)?;
    let tree = scene.tree("back", "/work")?;
    snapshots::same(&format!("the second volume on {}", worker.name), &second, &tree)
}
