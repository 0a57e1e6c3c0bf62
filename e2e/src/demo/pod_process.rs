//! The process of a pod: this program once more, in namespaces of its own, with one volume as its
//! only files of the machine. It executes requests, one line of JSON each.
//!
//! ```text
//! harness ─ the pod's first process (in the pod's cgroup; a new PID namespace for its children)
//!              └─ process 1 of that namespace: own mounts, host name, IPC and network;
//!                 its root is an empty tmpfs, with the volume at /work
//! ```
//!
//! Deliberately absent: a user namespace. A container of a pod has none by default either.

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
pub const OUTER: &str = "demo-pod";
/// The hidden command of the process inside.
pub const INNER: &str = "demo-pod-inside";

/// The path of the volume.
const VOLUME: &str = "/work";

/// The first process: `name volume root [cgroup.procs]`.
///
/// # Errors
/// The kernel refuses the cgroup or the namespace.
pub fn outer(arguments: &[&str]) -> Result<ExitCode> {
    let [name, volume, root, groups @ ..] = arguments else { bail!("this command is internal") };
    // The pod ends with the process that started it.
    set_pdeathsig(Signal::SIGKILL)
        .context("setting the signal for the end of the demonstration")?;
    for group in groups {
        fs::write(group, "0").with_context(|| format!("joining {group}"))?;
    }
    unshare(CloneFlags::CLONE_NEWPID).context("a PID namespace")?;
    let myself = std::env::current_exe().context("finding this program")?;
    let status = Command::new(myself).args([INNER, name, volume, root]).status();
    let status = status.context("starting the process within")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The process inside: `name volume root`.
///
/// # Errors
/// The kernel refuses a namespace or a mount, or the harness has closed the pipe.
pub fn inner(arguments: &[&str]) -> Result<()> {
    let [name, volume, root] = arguments else { bail!("this command is internal") };
    set_pdeathsig(Signal::SIGKILL).context("setting the signal for the end of the pod")?;
    enter(name, Path::new(volume), Path::new(root))?;
    let mut writes = Writer::default();
    let mut out = std::io::stdout();
    writeln!(out, "{}", json!({ "result": "ready" })).context("writing a reply")?;
    for line in std::io::stdin().lock().lines() {
        let request = serde_json::from_str(&line.context("reading a request")?)?;
        let reply = match execute(&request, &mut writes) {
            Ok(output) => json!({ "result": output }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        writeln!(out, "{reply}").context("writing a reply")?;
    }
    Ok(())
}

/// Leaves all files of the machine behind, except the volume.
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
    // Onto itself: the old root then lies over the new one and is unmounted (pivot_root(2),
    // "pivot_root(".", ".")").
    let here = CString::from(c".");
    pivot_root(here.as_c_str(), here.as_c_str()).context("changing the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("unmounting the old root")?;
    chdir("/").context("entering the root")?;
    let left: Vec<PathBuf> =
        fs::read_dir("/").context("listing the root")?.flatten().map(|e| e.path()).collect();
    ensure!(left == [Path::new(VOLUME)], "the pod sees {left:?}");
    Ok(())
}

/// Executes one request in the volume, and returns its result.
fn execute(request: &Value, writer: &mut Writer) -> Result<String> {
    let word = |key: &str| request[key].as_str().with_context(|| format!("no {key}"));
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
            let bytes = request["bytes"].as_u64().context("no bytes")?;
            Ok(fill(&at("path")?, bytes).map(|()| none)?)
        }
        "remove" => Ok(fs::remove_file(at("path")?).map(|()| none)?),
        "there" => Ok(at("path")?.exists().to_string()),
        "keep-writing" => writer.start(&at("path")?).map(|()| none),
        other => bail!("the request {other} is unknown"),
    }
}

/// Writes a file of incompressible bytes (a xorshift).
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

/// A thread that writes forever: a number to `PATH.first`, and then the same to `PATH.second`. A
/// consistent copy has the same number twice, or a second number that is behind by one.
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
                // The volume is gone, and with it the task.
                if write(&first, count).and_then(|()| write(&second, count)).is_err() {
                    return;
                }
            }
        });
        Ok(())
    }
}

/// Of fixed length, so one write replaces a number.
fn number(count: u64) -> String {
    format!("{count:020}\n")
}

fn write(path: &Path, count: u64) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(number(count).as_bytes())
}
