//! The steps of the demonstration, in order.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::utsname::uname;
use serde_json::Value;

use super::format::{bytes, time};
use super::layers::{self, Sums};
use super::one_machine;
use super::pod::Pod;
use super::workspace::{PodCgroup, Workspace};
use crate::driver::process::{NodeProcess, Volume};
use crate::machine::process::Cmd;
use crate::oci::image::{Layer, push};
use crate::oci::registry::MemoryRegistry;

/// The image: its name, its files, and the size of one incompressible file.
const IMAGE: &str = "demo/base:1";
const FILES: usize = 1000;
const BYTES: usize = 8 << 20;

/// The snapshot, how much pod a writes to one file before it, and how many volumes are created from
/// it.
const SNAPSHOT: &str = "a-1";
const WRITTEN: u64 = 4 << 20;
const FORKS: u64 = 10;

/// A pod with its volume.
struct RunningPod {
    pod: Pod,
    volume: Volume,
    group: Result<PodCgroup>,
}

/// Runs all steps.
///
/// # Errors
/// A check failed.
pub fn run(program: &Path, place: &Workspace) -> Result<()> {
    let kernel = uname().context("reading the kernel release")?;
    println!(
        "\nOn Linux {}, without Kubernetes, in {}:\n",
        kernel.release().to_string_lossy(),
        place.root.display()
    );
    let registry = MemoryRegistry::start()?;
    let image = make_image(&registry)?;
    let demo = Demo { program, place, registry };
    let first = demo.node("first")?;
    let store = place.root.join("first/store");

    let mut a = demo.start(&first, "a", 0xa, &[("image", &image)])?;
    let mut b = demo.start(&first, "b", 0xb, &[("image", &image)])?;
    let before = layers::sums(&store)?;
    check_isolation(&mut a.pod, &mut b.pod)?;
    let frozen = take_snapshot(&demo, &mut a)?;
    push_snapshot(&demo)?;

    let second = demo.node("second")?;
    let mut c = demo.start(&second, "c", 0xc, &[("snapshot", SNAPSHOT)])?;
    restored(&mut c.pod)?;
    println!(
        "    It starts with the files that a had at the snapshot. a has changed its `note` since."
    );
    if frozen {
        check_consistency(&mut c.pod)?;
    }
    let forks = forks(&demo, &first, &store)?;
    one_machine::run(program, place)?;

    println!("\nAt the end:");
    unchanged(&store, &before)?;
    remove_pods("first", &first, &store, [a, b].into_iter().chain(forks))?;
    remove_pods("second", &second, &place.root.join("second/store"), [c])
}

/// What the steps share.
struct Demo<'a> {
    program: &'a Path,
    place: &'a Workspace,
    registry: MemoryRegistry,
}

/// Creates an image of two layers. The upper one changes a file of the lower one.
fn make_image(registry: &MemoryRegistry) -> Result<String> {
    let mut base = Layer::new().dir("src")?.file("hello", "from the image\n")?;
    for number in 0..FILES {
        base = base.file(&format!("src/file-{number:04}"), format!("line {number}\n"))?;
    }
    let base = base.noise("data", BYTES, "demo")?;
    let tools = Layer::new().file("hello", "from its second layer\n")?.file("tool", "a tool\n")?;
    push(registry.address, IMAGE, vec![base, tools])?;
    println!(
        "  An image of 2 layers, {} files and {} is in a registry at {}, in this process.",
        FILES + 3,
        bytes(registry.bytes_received()),
        registry.address
    );
    Ok(format!("{}/{IMAGE}", registry.address))
}

impl Demo<'_> {
    /// Starts a node process.
    fn node(&self, name: &str) -> Result<NodeProcess> {
        let snapshots = format!("{}/demo/snapshots", self.registry.address);
        let arguments = ["--snapshot-repository", &snapshots];
        let dir = self.place.root.join(name);
        let driver =
            NodeProcess::start_as(name, self.program, &dir, self.registry.address, &arguments)?;
        println!(
            "  `ovl node` is the {name} node: process {}, with an empty store of its own.",
            driver.process()
        );
        Ok(driver)
    }

    /// Publishes a volume as the kubelet does, starts its pod, and prints how long that took.
    fn start(
        &self,
        node: &NodeProcess,
        name: &str,
        number: u64,
        attributes: &[(&str, &str)],
    ) -> Result<RunningPod> {
        let (running, took, given) = self.publish(node, name, number, attributes)?;
        let fetched = match given {
            0 => "nothing was fetched".to_owned(),
            given => format!("{} came from the registry", bytes(given)),
        };
        let what = match attributes {
            [("snapshot", name)] => format!("a volume of the snapshot {name}"),
            _ => "a volume of the image".to_owned(),
        };
        println!("  Pod {name} gets {what} after {}; {fetched}.", time(took));
        Ok(running)
    }

    fn publish(
        &self,
        node: &NodeProcess,
        name: &str,
        number: u64,
        attributes: &[(&str, &str)],
    ) -> Result<(RunningPod, Duration, u64)> {
        // In the form of the API server.
        let uid = format!("de300000-0000-4000-8000-{number:012x}");
        let volume = node.volume_of(&uid, name, attributes);
        let (given, since) = (self.registry.bytes_served(), Instant::now());
        node.publish(&volume)?;
        let (took, given) = (since.elapsed(), self.registry.bytes_served() - given);
        let group = PodCgroup::create(&uid);
        let pod = Pod::start(name, volume.target(), &self.place.empty(), group.as_ref().ok())?;
        Ok((RunningPod { pod, volume, group }, took, given))
    }

    /// Runs `ovl node-snapshot …` on a node. Returns its output as JSON.
    fn ovl_snapshot(&self, node: &str, arguments: &[&str]) -> Result<Value> {
        let socket = self.place.root.join(node).join("kubelet/plugins/ovl.csi.dev/ovl.sock");
        let output = Cmd::new(self.program)
            .args(["node-snapshot", "--output", "json", "--local-endpoint"])
            .arg(format!("unix://{}", socket.display()))
            .args(arguments)
            .output()?;
        serde_json::from_str(&output)
            .with_context(|| format!("`ovl node-snapshot` prints {output}"))
    }
}

/// Shows that two pods do not see each other's writes.
fn check_isolation(a: &mut Pod, b: &mut Pod) -> Result<()> {
    for pod in [&mut *a, &mut *b] {
        let hello = pod.read("hello")?;
        ensure!(hello == "from its second layer", "pod {} reads `{hello}`", pod.name);
    }
    a.write("note", "of a\n")?;
    a.append("hello", "changed by a\n")?;
    a.remove("tool")?;
    b.write("note", "of b\n")?;
    let (of_a, of_b) = (a.read("note")?, b.read("note")?);
    ensure!((of_a.as_str(), of_b.as_str()) == ("of a", "of b"), "`{of_a}`, `{of_b}`");
    let (in_a, in_b) = (a.read("hello")?, b.read("hello")?);
    ensure!(in_a == "from its second layer\nchanged by a", "pod a reads `{in_a}`");
    ensure!(in_b == "from its second layer", "pod b reads `{in_b}`");
    ensure!(!a.has("tool")? && b.has("tool")?, "`tool`, which a removed, is wrong");
    println!(
        "    Both wrote a file `note`: a reads \"{of_a}\", b reads \"{of_b}\".\n    \
         a changed `hello` and removed `tool`; b still has both from the image."
    );
    Ok(())
}

/// Takes a snapshot of pod a's volume while the pod writes. Returns whether the pod was frozen for
/// it.
fn take_snapshot(demo: &Demo<'_>, a: &mut RunningPod) -> Result<bool> {
    a.pod.fill("more", WRITTEN)?;
    a.pod.keep_writing("ledger")?;
    println!("  Pod a writes {} more, and keeps writing two files in turn.", bytes(WRITTEN));
    let mut arguments = vec!["take", a.volume.id(), SNAPSHOT];
    if let Err(why) = &a.group {
        arguments.push("--live");
        println!(
            "    It cannot be frozen here ({why:#}), so the snapshot is taken while it writes."
        );
    }
    let mut since = Instant::now();
    let output = match demo.ovl_snapshot("first", &arguments) {
        Err(error) if a.group.is_ok() && cannot_freeze(&error) => {
            println!(
                "    It cannot be frozen here, so the snapshot is taken while it writes: {error:#}"
            );
            arguments.push("--live");
            since = Instant::now();
            demo.ovl_snapshot("first", &arguments)
        }
        output => output,
    }?;
    let took = since.elapsed();
    let frozen = match output["frozenMicros"].as_u64() {
        Some(micros) => format!("the pod was frozen for {}", time(Duration::from_micros(micros))),
        None if !arguments.contains(&"--live") => bail!("the pod was not frozen: {output}"),
        None => "the pod was not frozen".to_owned(),
    };
    let (entries, size) = (output["entries"].as_u64(), output["bytes"].as_u64());
    let (entries, size) = entries.zip(size).with_context(|| format!("it prints {output}"))?;
    ensure!(size >= WRITTEN, "the snapshot has {size} bytes");
    println!(
        "  `ovl node-snapshot take` keeps the files of a as {SNAPSHOT}, in {}: {frozen}; {entries} entries, {}.",
        time(took),
        bytes(size)
    );
    let (first, second) = (a.pod.read("ledger.first")?, a.pod.read("ledger.second")?);
    ensure!(first != number(0) && second != number(0), "pod a is still frozen: {first}, {second}");
    a.pod.write("note", "of a, later\n")?;
    Ok(output["frozenMicros"].is_u64())
}

/// Whether the driver refused a snapshot because the pod cannot be frozen here.
fn cannot_freeze(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    ["stand still", "freeze", "frozen"].iter().any(|words| text.contains(words))
}

/// Pushes the snapshot.
fn push_snapshot(demo: &Demo<'_>) -> Result<()> {
    let (taken, since) = (demo.registry.bytes_received(), Instant::now());
    let output = demo.ovl_snapshot("first", &["push", SNAPSHOT])?;
    let image = output["image"].as_str().context("it has no image")?;
    println!(
        "  `ovl node-snapshot push` makes it an image in the registry, in {}; {} were sent:\n    {image}",
        time(since.elapsed()),
        bytes(demo.registry.bytes_received() - taken)
    );
    Ok(())
}

/// Checks the content of a volume from the snapshot: what pod a had then, and nothing that it wrote
/// later.
fn restored(pod: &mut Pod) -> Result<()> {
    let (note, hello) = (pod.read("note")?, pod.read("hello")?);
    ensure!(note == "of a", "pod {} reads the note `{note}`", pod.name);
    ensure!(hello == "from its second layer\nchanged by a", "pod {} reads `{hello}`", pod.name);
    ensure!(!pod.has("tool")?, "pod {} has the file that a had removed", pod.name);
    ensure!(pod.has("src/file-0999")? && pod.has("more")?, "pod {} lacks files", pod.name);
    Ok(())
}

/// Checks that the two files that pod a wrote in turn are consistent.
fn check_consistency(pod: &mut Pod) -> Result<()> {
    let count = |text: String| text.parse::<u64>().with_context(|| format!("`{text}`"));
    let (first, second) = (count(pod.read("ledger.first")?)?, count(pod.read("ledger.second")?)?);
    ensure!(
        first == second || first == second + 1,
        "the snapshot is not consistent: of two files that are written in turn, one has {first} and the other {second}"
    );
    println!(
        "    Of the two files that a writes in turn it has number {first} and number {second}, which is consistent."
    );
    Ok(())
}

/// Creates ten volumes from the snapshot, each with a pod that writes.
fn forks(demo: &Demo<'_>, node: &NodeProcess, store: &Path) -> Result<Vec<RunningPod>> {
    let (disk, mut times, mut forks) = (layers::on_disk(store)?, Vec::new(), Vec::new());
    for number in 0..FORKS {
        let name = format!("fork-{number}");
        let (fork, took, given) =
            demo.publish(node, &name, 0x100 + number, &[("snapshot", SNAPSHOT)])?;
        ensure!(given == 0, "{name} fetched {given} bytes");
        times.push(took);
        forks.push(fork);
    }
    let disk = layers::on_disk(store)?.saturating_sub(disk);
    for fork in &mut forks {
        restored(&mut fork.pod)?;
        let name = fork.pod.name.clone();
        fork.pod.write("note", &format!("of {name}\n"))?;
    }
    for fork in &mut forks {
        let note = fork.pod.read("note")?;
        ensure!(note == format!("of {}", fork.pod.name), "{} reads `{note}`", fork.pod.name);
    }
    times.sort();
    let (fastest, slowest) = (times.first().copied(), times.last().copied());
    println!(
        "  {FORKS} more pods start from {SNAPSHOT} on the first node, in {} to {} each; all ten volumes use {} of its disk before they write.\n    \
         Each wrote its own `note`, and none sees another's.",
        time(fastest.unwrap_or_default()),
        time(slowest.unwrap_or_default()),
        bytes(disk)
    );
    Ok(forks)
}

/// Shows that the layers have not changed.
fn unchanged(store: &Path, before: &Sums) -> Result<()> {
    let after = layers::sums(store)?;
    for (path, sum) in before {
        ensure!(after.get(path) == Some(sum), "{} has changed", path.display());
    }
    println!(
        "    The image's layers, {} files, have the sha256 that they had before the first write.",
        before.len()
    );
    Ok(())
}

/// Ends the pods, and unpublishes their volumes as the kubelet does.
fn remove_pods(
    name: &str,
    node: &NodeProcess,
    store: &Path,
    pods: impl IntoIterator<Item = RunningPod>,
) -> Result<()> {
    let (mut count, mut slowest) = (0, Duration::ZERO);
    for RunningPod { pod, volume, group } in pods {
        drop((pod, group));
        let since = Instant::now();
        node.unpublish(&volume)?;
        slowest = slowest.max(since.elapsed());
        ensure!(!volume.target().exists(), "{} is there", volume.target().display());
        count += 1;
    }
    let volumes = fs::read_dir(store.join("volumes")).context("listing the volumes")?.count();
    ensure!(volumes == 0, "{volumes} volumes are in the store");
    let pods = if count == 1 { "1 pod is".to_owned() } else { format!("{count} pods are") };
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    let kubelet = store.with_file_name("kubelet").display().to_string();
    ensure!(!table.contains(&kubelet), "mounts are left below {kubelet}");
    println!(
        "    On the {name} node {pods} deleted, with all volumes and mounts; the slowest volume took {}.",
        time(slowest)
    );
    Ok(())
}

/// In the form in which the pod writes a number.
fn number(count: u64) -> String {
    format!("{count:020}")
}
