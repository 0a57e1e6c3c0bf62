//! What is shown, in its order.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::utsname::uname;
use serde_json::Value;

use super::layers::{self, Sums};
use super::place::{Group, Place};
use super::pod::Pod;
use super::registry::Registry;
use super::{bytes, time};
use crate::bench::ours::{Driver, Volume};
use crate::oci::{Layer, push};
use crate::process::Cmd;

/// The image: its name, its files and the bytes that do not compress in one of them.
const IMAGE: &str = "demo/base:1";
const FILES: usize = 1000;
const BYTES: usize = 8 << 20;

/// The snapshot, what pod a writes before it in one file, and how many volumes are made of it.
const SNAPSHOT: &str = "a-1";
const WRITTEN: u64 = 4 << 20;
const FORKS: u64 = 10;

/// A pod with its volume.
struct Running {
    pod: Pod,
    volume: Volume,
    group: Result<Group>,
}

/// Shows all of it.
///
/// # Errors
/// Something was not as it should be.
pub fn tell(program: &Path, place: &Place) -> Result<()> {
    let kernel = uname().context("asking for the kernel")?;
    println!(
        "\nOn Linux {}, without Kubernetes, in {}:\n",
        kernel.release().to_string_lossy(),
        place.root.display()
    );
    let registry = Registry::start()?;
    let image = make_image(&registry)?;
    let scene = Scene { program, place, registry };
    let first = scene.node("first")?;
    let store = place.root.join("first/store");

    let mut a = scene.start(&first, "a", 0xa, &[("image", &image)])?;
    let mut b = scene.start(&first, "b", 0xb, &[("image", &image)])?;
    let before = layers::sums(&store)?;
    apart(&mut a.pod, &mut b.pod)?;
    let still = take(&scene, &mut a)?;
    push_it(&scene)?;

    let second = scene.node("second")?;
    let mut c = scene.start(&second, "c", 0xc, &[("snapshot", SNAPSHOT)])?;
    restored(&mut c.pod)?;
    println!(
        "    It begins with what a had when the snapshot was taken; a has changed its `note` since."
    );
    if still {
        of_one_moment(&mut c.pod)?;
    }
    let forks = forks(&scene, &first, &store)?;

    println!("\nAnd at the end:");
    unchanged(&store, &before)?;
    take_away("first", &first, &store, [a, b].into_iter().chain(forks))?;
    take_away("second", &second, &place.root.join("second/store"), [c])
}

/// What there is on the machine.
struct Scene<'a> {
    program: &'a Path,
    place: &'a Place,
    registry: Registry,
}

/// Makes an image of two layers, the upper one changes a file of the lower one.
fn make_image(registry: &Registry) -> Result<String> {
    let mut base = Layer::new().folder("src")?.file("hello", "from the image\n")?;
    for number in 0..FILES {
        base = base.file(&format!("src/file-{number:04}"), format!("line {number}\n"))?;
    }
    let base = base.noise("data", BYTES, "demo")?;
    let tools = Layer::new().file("hello", "from its second layer\n")?.file("tool", "a tool\n")?;
    push(registry.address, IMAGE, vec![base, tools])?;
    println!(
        "  An image of 2 layers, {} files and {} lies in a registry at {}, which this process is.",
        FILES + 3,
        bytes(registry.taken()),
        registry.address
    );
    Ok(format!("{}/{IMAGE}", registry.address))
}

impl Scene<'_> {
    /// Starts a node process.
    fn node(&self, name: &str) -> Result<Driver> {
        let snapshots = format!("{}/demo/snapshots", self.registry.address);
        let arguments = ["--snapshot-repository", &snapshots];
        let folder = self.place.root.join(name);
        let driver =
            Driver::start_as(name, self.program, &folder, self.registry.address, &arguments)?;
        println!(
            "  `ovl node` is the {name} node: process {}, with an empty store of its own.",
            driver.process()
        );
        Ok(driver)
    }

    /// Publishes a volume as the kubelet does, starts its pod, and says what that took.
    fn start(
        &self,
        node: &Driver,
        name: &str,
        number: u64,
        attributes: &[(&str, &str)],
    ) -> Result<Running> {
        let (running, took, given) = self.publish(node, name, number, attributes)?;
        let fetched = match given {
            0 => "nothing had to be fetched".to_owned(),
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
        node: &Driver,
        name: &str,
        number: u64,
        attributes: &[(&str, &str)],
    ) -> Result<(Running, Duration, u64)> {
        // As the API server would make one.
        let uid = format!("de300000-0000-4000-8000-{number:012x}");
        let volume = node.volume_of(&uid, name, attributes);
        let (given, since) = (self.registry.given(), Instant::now());
        node.publish(&volume)?;
        let (took, given) = (since.elapsed(), self.registry.given() - given);
        let group = Group::make(&uid);
        let pod = Pod::start(name, volume.target(), &self.place.empty(), group.as_ref().ok())?;
        Ok((Running { pod, volume, group }, took, given))
    }

    /// `ovl snapshot …` on a node; what it prints, as JSON.
    fn ovl_snapshot(&self, node: &str, arguments: &[&str]) -> Result<Value> {
        let socket = self.place.root.join(node).join("kubelet/plugins/ovl.csi.dev/ovl.sock");
        let said = Cmd::new(self.program)
            .args(["snapshot", "--output", "json", "--local-endpoint"])
            .arg(format!("unix://{}", socket.display()))
            .args(arguments)
            .output()?;
        serde_json::from_str(&said).with_context(|| format!("`ovl snapshot` says {said}"))
    }
}

/// Shows that neither of two pods sees what the other one writes.
fn apart(a: &mut Pod, b: &mut Pod) -> Result<()> {
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
    ensure!(!a.has("tool")? && b.has("tool")?, "`tool`, which a removed, is not as it should be");
    println!(
        "    Both wrote a file `note`: a reads \"{of_a}\", b reads \"{of_b}\".\n    \
         a changed `hello` and removed `tool`; b has both as they are in the image."
    );
    Ok(())
}

/// Takes a snapshot of pod a's volume while the pod writes without end; returns whether the pod stood still for it.
fn take(scene: &Scene<'_>, a: &mut Running) -> Result<bool> {
    a.pod.fill("more", WRITTEN)?;
    a.pod.keep_writing("ledger")?;
    println!("  Pod a writes {} more, and goes on writing two files in turn.", bytes(WRITTEN));
    let mut arguments = vec!["take", a.volume.id(), SNAPSHOT];
    if let Err(why) = &a.group {
        arguments.push("--live");
        println!(
            "    It cannot be made to stand still here ({why:#}), so this is taken while it writes."
        );
    }
    let mut since = Instant::now();
    let said = match scene.ovl_snapshot("first", &arguments) {
        Err(error) if a.group.is_ok() && format!("{error:#}").contains("stand still") => {
            println!(
                "    It cannot be made to stand still here, so this is taken while it writes: {error:#}"
            );
            arguments.push("--live");
            since = Instant::now();
            scene.ovl_snapshot("first", &arguments)
        }
        said => said,
    }?;
    let took = since.elapsed();
    let still = match said["frozenMicros"].as_u64() {
        Some(micros) => format!("the pod stood still for {}", time(Duration::from_micros(micros))),
        None if !arguments.contains(&"--live") => bail!("the pod did not stand still: {said}"),
        None => "the pod did not stand still".to_owned(),
    };
    let (entries, size) = (said["entries"].as_u64(), said["bytes"].as_u64());
    let (entries, size) = entries.zip(size).with_context(|| format!("it says {said}"))?;
    ensure!(size >= WRITTEN, "the snapshot has {size} bytes");
    println!(
        "  `ovl snapshot take` keeps what a wrote as {SNAPSHOT}, in {}: {still}; {entries} entries, {}.",
        time(took),
        bytes(size)
    );
    let (first, second) = (a.pod.read("ledger.first")?, a.pod.read("ledger.second")?);
    ensure!(first != number(0) && second != number(0), "pod a stands still: {first}, {second}");
    a.pod.write("note", "of a, later\n")?;
    Ok(said["frozenMicros"].is_u64())
}

/// Pushes it.
fn push_it(scene: &Scene<'_>) -> Result<()> {
    let (taken, since) = (scene.registry.taken(), Instant::now());
    let said = scene.ovl_snapshot("first", &["push", SNAPSHOT])?;
    let image = said["image"].as_str().context("it is nowhere")?;
    println!(
        "  `ovl snapshot push` makes it an image of the registry, in {}; {} had to be sent:\n    {image}",
        time(since.elapsed()),
        bytes(scene.registry.taken() - taken)
    );
    Ok(())
}
/// Looks at what a volume of the snapshot begins with: what pod a had then, and not what it wrote later.
fn restored(pod: &mut Pod) -> Result<()> {
    let (note, hello) = (pod.read("note")?, pod.read("hello")?);
    ensure!(note == "of a", "pod {} reads the note `{note}`", pod.name);
    ensure!(hello == "from its second layer\nchanged by a", "pod {} reads `{hello}`", pod.name);
    ensure!(!pod.has("tool")?, "pod {} has the file that a had removed", pod.name);
    ensure!(pod.has("src/file-0999")? && pod.has("more")?, "pod {} lacks files", pod.name);
    Ok(())
}

/// Whether the two files that pod a wrote in turn are of one moment.
fn of_one_moment(pod: &mut Pod) -> Result<()> {
    let count = |text: String| text.parse::<u64>().with_context(|| format!("`{text}`"));
    let (first, second) = (count(pod.read("ledger.first")?)?, count(pod.read("ledger.second")?)?);
    ensure!(
        first == second || first == second + 1,
        "the snapshot is not of one moment: of two files that are written in turn one says {first} and the other {second}"
    );
    println!(
        "    Of the two files that a writes in turn it has number {first} and number {second}: one moment."
    );
    Ok(())
}

/// Ten volumes of the snapshot, each with a pod that writes.
fn forks(scene: &Scene<'_>, node: &Driver, store: &Path) -> Result<Vec<Running>> {
    let (disk, mut times, mut forks) = (layers::on_disk(store)?, Vec::new(), Vec::new());
    for number in 0..FORKS {
        let name = format!("fork-{number}");
        let (fork, took, given) =
            scene.publish(node, &name, 0x100 + number, &[("snapshot", SNAPSHOT)])?;
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
        "  {FORKS} more pods start from {SNAPSHOT} on the first node, in {} to {} each; all ten volumes take {} of its disk before they write.\n    \
         Each wrote its own `note`, and none sees another's.",
        time(fastest.unwrap_or_default()),
        time(slowest.unwrap_or_default()),
        bytes(disk)
    );
    Ok(forks)
}

/// Shows that the layers are as they were.
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

/// Ends the pods, and takes their volumes away as the kubelet does.
fn take_away(
    name: &str,
    node: &Driver,
    store: &Path,
    pods: impl IntoIterator<Item = Running>,
) -> Result<()> {
    let (mut count, mut slowest) = (0, Duration::ZERO);
    for Running { pod, volume, group } in pods {
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
        "    On the {name} node {pods} gone, with all volumes and mounts; the slowest volume took {}.",
        time(slowest)
    );
    Ok(())
}

/// As the pod writes a number.
fn number(count: u64) -> String {
    format!("{count:020}")
}
