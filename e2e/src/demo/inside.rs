//! What runs in the place of a pod: this program once more, in namespaces of its own, with nothing of the machine's
//! files but one volume. It does what it is told, a line of JSON at a time.
//!
//! ```text
//! harness ─ the pod's first process (in the pod's cgroup; a new PID namespace for its children)
//!              └─ process 1 of that namespace: own mounts, host name, IPC and network; its root is an empty tmpfs, with the
//!                 volume at /work
//! ```
//!
//! Deliberately absent: a user namespace. A container of a pod has none either unless it asks for one.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{chdir, pivot_root, sethostname};
use serde_json::{Value, json};

/// The hidden command of the pod's first process.
pub const OUTSIDE: &str = "demo-pod";
/// That of the one within.
pub const INSIDE: &str = "demo-pod-inside";

/// Where the volume is.
const VOLUME: &str = "/work";

/// The first process: `name volume root [cgroup.procs]`.
///
/// # Errors
/// The kernel refuses the cgroup or the namespace.
pub fn outside(arguments: &[&str]) -> Result<ExitCode> {
    let [name, volume, root, groups @ ..] = arguments else { bail!("not for people") };
    // Whoever started it is gone: so is the pod.
    set_pdeathsig(Signal::SIGKILL).context("asking to end with the demonstration")?;
    for group in groups {
        fs::write(group, "0").with_context(|| format!("joining {group}"))?;
    }
    unshare(CloneFlags::CLONE_NEWPID).context("a PID namespace")?;
    let myself = std::env::current_exe().context("finding this program")?;
    let status = Command::new(myself).args([INSIDE, name, volume, root]).status();
    let status = status.context("starting the process within")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The process within: `name volume root`.
///
/// # Errors
/// The kernel refuses a namespace or a mount, or nobody listens any more.
pub fn inside(arguments: &[&str]) -> Result<()> {
    let [name, volume, root] = arguments else { bail!("not for people") };
    set_pdeathsig(Signal::SIGKILL).context("asking to end with the pod")?;
    enter(name, Path::new(volume), Path::new(root))?;
    let mut writes = Writer::default();
    let mut out = std::io::stdout();
    writeln!(out, "{}", json!({ "said": "ready" })).context("answering")?;
    for line in std::io::stdin().lock().lines() {
        let asked = serde_json::from_str(&line.context("reading what to do")?)?;
        let answer = match obey(&asked, &mut writes) {
            Ok(said) => json!({ "said": said }),
            Err(error) => json!({ "failed": format!("{error:#}") }),
        };
        writeln!(out, "{answer}").context("answering")?;
    }
    Ok(())
}

/// Leaves everything of the machine behind but the volume.
fn enter(name: &str, volume: &Path, root: &Path) -> Result<()> {
    let apart = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    unshare(apart).context("namespaces of its own")?;
    sethostname(name).context("a host name of its own")?;
    let none = None::<&Path>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("own mounts")?;
    let tmpfs = Some("tmpfs");
    mount(tmpfs, root, tmpfs, MsFlags::empty(), Some("mode=755,size=1m")).context("a root")?;
    let work = root.join(VOLUME.trim_start_matches('/'));
    fs::create_dir(&work).context("a place for the volume")?;
    mount(Some(volume), &work, none, MsFlags::MS_BIND, none).context("the volume")?;
    chdir(root).context("entering the root")?;
    // Onto itself: the old root comes to lie over the new one, and goes (pivot_root(2), "pivot_root(".", ".")").
    let here = CString::from(c".");
    pivot_root(here.as_c_str(), here.as_c_str()).context("changing the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("leaving the machine's files")?;
    chdir("/").context("entering the root")?;
    let left: Vec<PathBuf> =
        fs::read_dir("/").context("looking round")?.flatten().map(|e| e.path()).collect();
    ensure!(left == [Path::new(VOLUME)], "the pod sees {left:?}");
    Ok(())
}

/// Does one thing in the volume, and says what came of it.
fn obey(asked: &Value, writer: &mut Writer) -> Result<String> {
    let word = |key: &str| asked[key].as_str().with_context(|| format!("no {key}"));
    let at = |key: &str| -> Result<PathBuf> { Ok(Path::new(VOLUME).join(word(key)?)) };
    let none = String::new();
    match word("do")? {
        "read" => Ok(fs::read_to_string(at("path")?)?.trim_end().to_owned()),
        "write" => Ok(fs::write(at("path")?, word("text")?).map(|()| none)?),
        "append" => {
            let mut file = OpenOptions::new().append(true).open(at("path")?)?;
            Ok(file.write_all(word("text")?.as_bytes()).map(|()| none)?)
        }
        "fill" => {
            let bytes = asked["bytes"].as_u64().context("no bytes")?;
            Ok(fill(&at("path")?, bytes).map(|()| none)?)
        }
        "remove" => Ok(fs::remove_file(at("path")?).map(|()| none)?),
        "there" => Ok(at("path")?.exists().to_string()),
        "keep-writing" => writer.start(&at("path")?).map(|()| none),
        other => bail!("{other} is unknown"),
    }
}

/// A file of bytes that do not compress (a xorshift's).
fn fill(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..bytes / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()
}

/// A thread that writes without end: a number into `PATH.first`, and after that the same into `PATH.second`. Whoever sees both at
/// one moment sees the same number twice, or the second one behind by one.
#[derive(Default)]
struct Writer(bool);

impl Writer {
    fn start(&mut self, path: &Path) -> Result<()> {
        ensure!(!std::mem::replace(&mut self.0, true), "it writes already");
        let [mut first, mut second] = ["first", "second"].map(|end| path.with_extension(end));
        for file in [&mut first, &mut second] {
            fs::write(&*file, number(0)).with_context(|| file.display().to_string())?;
        }
        thread::spawn(move || {
            for count in 1_u64.. {
                // The volume is gone: so is what there is to do.
                if write(&first, count).and_then(|()| write(&second, count)).is_err() {
                    return;
                }
            }
        });
        Ok(())
    }
}

/// Of one length, so that a number is replaced by one write.
fn number(count: u64) -> String {
    format!("{count:020}\n")
}

fn write(path: &Path, count: u64) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(number(count).as_bytes())
}
