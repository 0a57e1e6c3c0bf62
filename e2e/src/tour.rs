//! `cargo xtask try`: the driver in a cluster, and the kubectl plugin. It shows a pod's volume from the pod and from its
//! node, takes a snapshot of the volume, and starts a pod from the snapshot on the other node. The
//! cluster and both pods stay.
//!
//! Deliberately absent: claims. Every line is read from the cluster while it is printed. An
//! unexpected result ends the tour with an error.
//!
//! May use: machine, cluster, driver, env

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::cluster::prerequisites;
use crate::cluster::purpose::Purpose;
use crate::driver;
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
    let prerequisites = prerequisites::provision(h, Purpose::Try)?;
    let env = environment::set_up(h, repo, &prerequisites, Purpose::Try)?;
    let plugin = driver::plugin(h, repo)?;
    let used = [("kubectl", &*prerequisites.kubectl), ("helm", &*prerequisites.helm)];
    let bin = h.cache.programs();
    let programs = link_programs(&bin, &used, &plugin)?;
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
    say(&hints(&env, &node, &bin, &programs));
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

/// Puts links to the kubectl plugin, and to the kubectl and the helm that the harness has built, into a directory for the
/// user's `PATH`. Those that were in `PATH` stay as they are. Returns the names of the links.
fn link_programs(
    dir: &Path,
    programs: &[(&'static str, &Path)],
    plugin: &Path,
) -> Result<Vec<&'static str>> {
    let making = || format!("making {}", dir.display());
    fs::create_dir_all(dir).with_context(making)?;
    // By the second name kubectl completes the words after `kubectl ovl`.
    let plugin = [("kubectl-ovl", plugin), ("kubectl_complete-ovl", plugin)];
    let mut linked = Vec::new();
    for (name, program) in plugin.iter().chain(programs).copied() {
        let link = dir.join(name);
        // Of an earlier run, which may have built a program that is in `PATH` now.
        if link.is_symlink() {
            fs::remove_file(&link).with_context(|| format!("removing {}", link.display()))?;
        }
        if program.is_absolute() {
            symlink(program, &link).with_context(|| format!("linking {}", link.display()))?;
            linked.push(name);
        }
    }
    Ok(linked)
}

/// The commands to try next. `dir` has `programs`.
fn hints(env: &Environment, node: &Node<'_>, dir: &Path, programs: &[&str]) -> String {
    let prerequisites = &env.cluster.prerequisites;
    let context = format!("--context kind-{}", env.cluster.name);
    let kubectl = format!("kubectl {context}");
    let dir = dir.display();
    let programs = programs.join(", ");
    // The settings of the harness's engine are not in the shell.
    let docker = prerequisites.engine.command_line(&["exec", "-it", &node.name, "ls", STORE]);
    format!(
        "\nThe cluster stays, with both pods running. {dir} has {programs}. Look around:\n\
         \x20 export PATH={dir}:$PATH\n\
         \x20 kubectl ovl list {context}\n\
         \x20 kubectl ovl snapshot {POD} work my-1 {context}\n\
         \x20 kubectl ovl diff {SNAPSHOT} {context}\n\
         \x20 {kubectl} exec -it {POD} -- bash\n\
         \x20 {kubectl} get volumesnapshots,overlaysnapshots\n\
         \x20 {kubectl} describe pod {POD}\n\
         \x20 {kubectl} --namespace {NAMESPACE} logs daemonset/{RELEASE}-node\n\
         \x20 helm status {RELEASE} --namespace {NAMESPACE} --kube-context kind-{}\n\
         \x20 {docker}\n\
         Images that you push to {} are {}/… for a volume.\n\
         docs/quickstart.md continues from its step 2, and docs/snapshots.md has all commands of `kubectl ovl`.\n\
         Remove all of it:\n\
         \x20 cargo xtask clean",
        env.cluster.name, env.registry.here, env.registry.host
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn programs_that_were_built_are_linked_and_those_in_path_are_not() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("ovl-tour-{}", std::process::id()));
        let link = |kubectl: &str, helm: &str| -> Result<Vec<PathBuf>> {
            let programs = [("kubectl", kubectl), ("helm", helm)].map(|(n, p)| (n, Path::new(p)));
            let linked = link_programs(&dir, &programs, Path::new("/b/kubectl-ovl"))?;
            linked.iter().map(|name| Ok(fs::read_link(dir.join(name))?)).collect()
        };
        let plugin = ["/b/kubectl-ovl", "/b/kubectl-ovl"].map(PathBuf::from);
        let built = ["/p/kubectl", "/p/helm"].map(PathBuf::from);
        assert_eq!(link("/p/kubectl", "/p/helm")?, [plugin.clone(), built].concat());
        // The user has installed both meanwhile.
        assert_eq!(link("kubectl", "helm")?, plugin);
        assert_eq!(fs::read_dir(&dir)?.count(), 2);
        Ok(fs::remove_dir_all(&dir)?)
    }
}
