//! `cargo xtask try`: the driver in a cluster. It shows a pod's volume from the pod and from its
//! node, takes a snapshot of the volume, and starts a pod from the snapshot on the other node. The
//! cluster and both pods stay.
//!
//! Deliberately absent: claims. Every line is read from the cluster while it is printed. An
//! unexpected result ends the tour with an error.
//!
//! May use: machine, cluster, env

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::cluster::prerequisites;
use crate::cluster::purpose::Purpose;
use crate::env::chart::{NAMESPACE, RELEASE};
use crate::env::environment::{self, Environment};
use crate::env::namespace::TestNamespace;
use crate::env::node::{self, Node, STORE};
use crate::env::snapshots;
use crate::machine::harness::Harness;
use crate::machine::progress::seconds;

/// The example, below the sources.
const EXAMPLE: &str = "deploy/examples/pod.yaml";

/// The pod in it.
const POD: &str = "demo";

/// The snapshot of its volume, and the pod that starts from it. The pages use other names, so their commands also work
/// after this.
const SNAPSHOT: &str = "try-1";
const FORK: &str = "try-fork";

/// The class of the snapshot: the chart's own, which pushes to the chart's registry.
const CLASS: &str = "ovl-csi";

/// What the pod does to its volume: it writes a new file, changes a file, and removes one.
const WRITES: &str = "cd /work && echo 'written by the pod' > note && echo 'and changed' >> demo/hello && rm demo/twin";

/// Sets up the environment, shows the lifecycle of a volume, and leaves the pods running.
///
/// # Errors
/// The first step that failed or gave an unexpected result.
pub fn run(h: &Harness, repo: &Path) -> Result<()> {
    h.progress
        .say("Setting up a cluster with the driver (missing parts are built once, and kept):");
    let prerequisites = prerequisites::provision(h)?;
    let env = environment::set_up(h, repo, &prerequisites, Purpose::Try)?;
    let example = fs::read_to_string(repo.join(EXAMPLE));
    let example = example.with_context(|| format!("reading {EXAMPLE}"))?;
    let ns = TestNamespace { env: &env, namespace: "default" };
    let start = || {
        ns.apply(&example)?;
        ns.ready(POD)
    };
    delete_earlier(&ns)?;
    let uid = h.progress.step("starting the example pod", seconds(10), |_| start())?;
    let say = |line: &str| h.progress.say(line);
    let (base, tools) = (&env.image, &env.tools);
    say(&format!("\nPod `{POD}` ({EXAMPLE}) has two images at /work, the later over the earlier:"));
    say(&format!("    {base} {tools}"));
    let node = show_life(&ns, &uid, &say)?;
    show_fork(h, &ns, &node, &say)?;
    say(&format!("\nAfter `kubectl delete pod {POD}`, on {}:", node.name));
    ns.delete(POD)?;
    show_end(&node, &uid, &say)?;
    h.progress.step("starting the pod again", seconds(10), |_| start())?;
    say(&hints(&env, &node));
    Ok(())
}

/// Shows the volume while its pod runs. Returns its node.
fn show_life<'a>(ns: &TestNamespace<'a>, uid: &str, say: &impl Fn(&str)) -> Result<Node<'a>> {
    let in_pod = |command: &str| -> Result<String> {
        let output = ns.shell(POD, command)?;
        say(&format!("    $ {command}"));
        output.lines().for_each(|line| say(&format!("    {line}")));
        Ok(output)
    };
    let node = ns.node(POD)?;
    let before = node.layers()?;
    say("  It has the files of both images:");
    let hello = in_pod("cat /work/demo/hello /work/demo/tool /work/demo/changed")?;
    let merged = hello == "from the image\nfrom the tools\nfrom the tools";
    ensure!(merged, "the images' files are `{hello}`");
    say("  and the pod can change them:");
    in_pod(WRITES)?;
    let changed = in_pod("cat /work/note /work/demo/hello")?;
    ensure!(changed.ends_with("and changed"), "the files are `{changed}`");

    say(&format!("\n  Its node, {}, has one mount for it", node.name));
    let mount = node.volume_mount(uid)?;
    say(&format!("    {}\n    {}", mount.target, mount.summary()));
    say("  and all changes of the pod, outside the layers (c is a removed file):");
    node.upper(uid)?.iter().for_each(|line| say(&format!("    {line}")));

    let after = node.layers()?;
    node::check_unchanged(&before, &after)?;
    let files = node.shell(&format!("du -sh {STORE}/layers | cut -f1"))?;
    say(&format!(
        "  The layers, {files} in {} files, have the same sha256 as before.",
        after.len()
    ));
    Ok(node)
}

/// Deletes what an earlier tour left.
fn delete_earlier(ns: &TestNamespace<'_>) -> Result<()> {
    ns.delete(POD)?;
    ns.delete(FORK)?;
    ns.kubectl(&["delete", "volumesnapshot", SNAPSHOT, "--ignore-not-found"]).map(drop)
}

/// Takes a snapshot of the volume while its pod runs, and starts a pod from it on the other node.
fn show_fork(
    h: &Harness,
    ns: &TestNamespace<'_>,
    node: &Node<'_>,
    say: &impl Fn(&str),
) -> Result<()> {
    let request = snapshots::manifest(ns.namespace, SNAPSHOT, POD, CLASS);
    let taken = h.progress.step("taking a snapshot of the pod's volume", seconds(10), |_| {
        ns.apply(&request.to_string())?;
        ns.wait_snapshot_ready(SNAPSHOT)
    })?;
    let output = |key| taken.annotation(key).unwrap_or("-");
    say(&format!("\nVolumeSnapshot `{SNAPSHOT}` keeps that volume, while the pod runs:"));
    say(&format!("    the pod was frozen for    {}", output("frozen")));
    say(&format!("    entries, bytes            {}, {}", output("entries"), output("bytes")));
    say(&format!("    an image in the registry  {}", taken.image()?));

    let other = ns.env.cluster.nodes.iter().find(|other| **other != node.name);
    let other = other.context("the cluster has one node")?;
    h.progress.step("starting a pod from it on the other node", seconds(10), |_| {
        ns.restore(FORK, SNAPSHOT, other)
    })?;
    say(&format!("\nPod `{FORK}`, on {other}, has `snapshot: {SNAPSHOT}` at /work:"));
    let in_fork = |command: &str| -> Result<String> {
        let output = ns.shell(FORK, command)?;
        say(&format!("    $ {command}"));
        output.lines().for_each(|line| say(&format!("    {line}")));
        Ok(output)
    };
    let kept =
        in_fork("cat /work/note /work/demo/hello; ls /work/demo/twin 2>/dev/null || echo no twin")?;
    let want = "written by the pod\nfrom the image\nand changed\nno twin";
    ensure!(kept == want, "the fork's files are `{kept}`");
    say("  and its writes are its own:");
    in_fork("echo 'written by the fork' > /work/note")?;
    let still = ns.shell(POD, "cat /work/note")?;
    ensure!(still == "written by the pod", "the first pod's file is `{still}`");
    say(&format!("    in `{POD}`, /work/note is still: {still}"));
    Ok(())
}

/// Shows the node after the pod was deleted.
fn show_end(node: &Node<'_>, uid: &str, say: &impl Fn(&str)) -> Result<()> {
    node.wait_until_removed(uid)?;
    let left = node.shell(&format!("ls {STORE}/volumes | wc -l"))?;
    say(&format!("    mounts of the pod   0\n    {STORE}/volumes   {left} entries"));
    say(&format!("    layers              {} files, for the next pod", node.layers()?.len()));
    Ok(())
}

/// The commands to try next.
fn hints(env: &Environment, node: &Node<'_>) -> String {
    let prerequisites = &env.cluster.prerequisites;
    // A kubectl that the harness built is in no directory of PATH, and the settings of the
    // harness's engine are not in the shell.
    let alias = match prerequisites.kubectl.is_absolute() {
        true => format!("  alias kubectl={}\n", prerequisites.kubectl.display()),
        false => String::new(),
    };
    let kubectl = format!("kubectl --context kind-{}", env.cluster.name);
    let docker = prerequisites.engine.command_line(&["exec", "-it", &node.name, "ls", STORE]);
    format!(
        "\nThe cluster stays, with both pods running. Look around:\n{alias}\
         \x20 {kubectl} exec -it {POD} -- bash\n\
         \x20 {kubectl} get volumesnapshots,overlaysnapshots\n\
         \x20 {kubectl} describe pod {POD}\n\
         \x20 {kubectl} --namespace {NAMESPACE} logs daemonset/{RELEASE}-node\n\
         \x20 {docker}\n\
         Images that you push to {} are {}/… for a volume.\n\
         Remove all of it:\n\
         \x20 cargo xtask clean",
        env.registry.here, env.registry.host
    )
}
