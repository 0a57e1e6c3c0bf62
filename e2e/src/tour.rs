//! `cargo xtask try`: the driver on a cluster, what one pod's volume looks like from the pod and
//! from its node, and how it is kept and goes on in a pod on the other node. The cluster stays, with
//! both pods running.
//!
//! Deliberately absent: claims. Every line is read from the cluster while it is printed, and what
//! is not as it should be ends the demonstration.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::cluster::Purpose;
use crate::harness::Harness;
use crate::look::{self, Node, STORE};
use crate::pods::Scene;
use crate::progress::seconds;
use crate::provision;
use crate::render::{NAMESPACE, RELEASE};
use crate::snapshots;
use crate::stage::{self, Stage};

/// The example, below the sources.
const EXAMPLE: &str = "deploy/examples/pod.yaml";

/// The pod in it.
const POD: &str = "demo";

/// The snapshot of its volume, and the pod that goes on from it.
const SNAPSHOT: &str = "demo-1";
const FORK: &str = "demo-fork";

/// The class of the snapshot: the chart's own, which pushes to the chart's registry.
const CLASS: &str = "ovl-csi";

/// What the pod does to its volume: a new file, a changed one, one less.
const WRITES: &str = "cd /work && echo 'written by the pod' > note && echo 'and changed' >> demo/hello && rm demo/twin";

/// Sets the stage, shows the volume's life and leaves the pod running.
///
/// # Errors
/// The first step that failed or showed something else than it should.
pub fn run(h: &Harness, repo: &Path) -> Result<()> {
    h.progress.say("Getting a cluster with the driver (what is missing is made once, and kept):");
    let ground = provision::provision(h)?;
    let stage = stage::set(h, repo, &ground, Purpose::Try)?;
    let example = fs::read_to_string(repo.join(EXAMPLE));
    let example = example.with_context(|| format!("reading {EXAMPLE}"))?;
    let scene = Scene { stage: &stage, namespace: "default" };
    let start = || {
        scene.apply(&example)?;
        scene.ready(POD)
    };
    forget(&scene)?;
    let uid = h.progress.step("starting the example pod", seconds(10), |_| start())?;
    let say = |line: &str| h.progress.say(line);
    let (base, tools) = (&stage.image, &stage.tools);
    say(&format!("\nPod `{POD}` ({EXAMPLE}) has two images at /work, the later over the earlier:"));
    say(&format!("    {base} {tools}"));
    let node = show_life(&scene, &uid, &say)?;
    show_fork(h, &scene, &node, &say)?;
    say(&format!("\nAfter `kubectl delete pod {POD}`, on {}:", node.name));
    scene.delete(POD)?;
    show_end(&node, &uid, &say)?;
    h.progress.step("starting the pod again, for you", seconds(10), |_| start())?;
    say(&hints(&stage, &node));
    Ok(())
}

/// The volume while its pod lives; returns its node.
fn show_life<'a>(scene: &Scene<'a>, uid: &str, say: &impl Fn(&str)) -> Result<Node<'a>> {
    let in_pod = |command: &str| -> Result<String> {
        let said = scene.shell(POD, command)?;
        say(&format!("    $ {command}"));
        said.lines().for_each(|line| say(&format!("    {line}")));
        Ok(said)
    };
    let node = scene.node(POD)?;
    let before = node.layers()?;
    say("  Both images' files are there:");
    let hello = in_pod("cat /work/demo/hello /work/demo/tool /work/demo/changed")?;
    let merged = hello == "from the image\nfrom the tools\nfrom the tools";
    ensure!(merged, "the images' files say `{hello}`");
    say("  and the pod may change them:");
    in_pod(WRITES)?;
    let changed = in_pod("cat /work/note /work/demo/hello")?;
    ensure!(changed.ends_with("and changed"), "the files say `{changed}`");

    say(&format!("\n  What its node, {}, sees of it: one mount", node.name));
    let mount = node.volume_mount(uid)?;
    say(&format!("    {}\n    {}", mount.target, mount.words()));
    say("  and the pod's changes, all of them, beside the layers (c marks what was removed):");
    node.upper(uid)?.iter().for_each(|line| say(&format!("    {line}")));

    let after = node.layers()?;
    look::unchanged(&before, &after)?;
    let files = node.shell(&format!("du -sh {STORE}/layers | cut -f1"))?;
    say(&format!(
        "  The layers, {files} in {} files, have the same sha256 as before.",
        after.len()
    ));
    Ok(node)
}

/// Takes away what an earlier demonstration has left.
fn forget(scene: &Scene<'_>) -> Result<()> {
    scene.delete(POD)?;
    scene.delete(FORK)?;
    scene.kubectl(&["delete", "volumesnapshot", SNAPSHOT, "--ignore-not-found"]).map(drop)
}

/// The volume kept while its pod goes on, and a pod on the other node that goes on from there.
fn show_fork(h: &Harness, scene: &Scene<'_>, node: &Node<'_>, say: &impl Fn(&str)) -> Result<()> {
    let asked = snapshots::manifest(scene.namespace, SNAPSHOT, POD, CLASS);
    let taken = h.progress.step("keeping the pod's volume", seconds(10), |_| {
        scene.apply(&asked.to_string())?;
        scene.taken(SNAPSHOT)
    })?;
    let said = |key| taken.said(key).unwrap_or("-");
    say(&format!("\nVolumeSnapshot `{SNAPSHOT}` keeps that volume, while the pod goes on:"));
    say(&format!("    the pod stood still for   {}", said("frozen")));
    say(&format!("    entries, bytes            {}, {}", said("entries"), said("bytes")));
    say(&format!("    an image in the registry  {}", taken.image()?));

    let other = scene.stage.cluster.nodes.iter().find(|other| **other != node.name);
    let other = other.context("the cluster has one node")?;
    h.progress.step("starting a pod from it on the other node", seconds(10), |_| {
        scene.restore(FORK, SNAPSHOT, other)
    })?;
    say(&format!("\nPod `{FORK}`, on {other}, has `snapshot: {SNAPSHOT}` at /work:"));
    let in_fork = |command: &str| -> Result<String> {
        let said = scene.shell(FORK, command)?;
        say(&format!("    $ {command}"));
        said.lines().for_each(|line| say(&format!("    {line}")));
        Ok(said)
    };
    let kept =
        in_fork("cat /work/note /work/demo/hello; ls /work/demo/twin 2>/dev/null || echo no twin")?;
    let want = "written by the pod\nfrom the image\nand changed\nno twin";
    ensure!(kept == want, "the fork's files say `{kept}`");
    say("  and what it writes is its own:");
    in_fork("echo 'written by the fork' > /work/note")?;
    let still = scene.shell(POD, "cat /work/note")?;
    ensure!(still == "written by the pod", "the first pod's file says `{still}`");
    say(&format!("    in `{POD}`, /work/note still says: {still}"));
    Ok(())
}

/// The node once the pod is gone.
fn show_end(node: &Node<'_>, uid: &str, say: &impl Fn(&str)) -> Result<()> {
    node.forgets(uid)?;
    let left = node.shell(&format!("ls {STORE}/volumes | wc -l"))?;
    say(&format!("    mounts of the pod   0\n    {STORE}/volumes   {left} entries"));
    say(&format!("    layers              {} files, for the next pod", node.layers()?.len()));
    Ok(())
}

/// What to do next.
fn hints(stage: &Stage, node: &Node<'_>) -> String {
    let ground = &stage.cluster.ground;
    // A kubectl of the harness's own is in no folder of PATH, nor are its engine's settings known.
    let alias = match ground.kubectl.is_absolute() {
        true => format!("  alias kubectl={}\n", ground.kubectl.display()),
        false => String::new(),
    };
    let kubectl = format!("kubectl --context kind-{}", stage.cluster.name);
    let docker = ground.engine.words(&["exec", "-it", &node.name, "ls", STORE]);
    format!(
        "\nThe cluster stays, with both pods running. Look around:\n{alias}\
         \x20 {kubectl} exec -it {POD} -- bash\n\
         \x20 {kubectl} get volumesnapshots,overlaysnapshots\n\
         \x20 {kubectl} describe pod {POD}\n\
         \x20 {kubectl} --namespace {NAMESPACE} logs daemonset/{RELEASE}-node\n\
         \x20 {docker}\n\
         Images that you push to {} are {}/… for a volume.\n\
         Take all of it away:\n\
         \x20 cargo xtask clean",
        stage.registry.here, stage.registry.host
    )
}
