//! An engine of the harness's own: Debian's dockerd beside any other engine, with its own data,
//! socket and PID file.
//!
//! ```text
//! /run/ovl-csi-e2e/        removed by `clean`
//!   docker.sock  exec/     dockerd's
//!   config/                DOCKER_CONFIG of its clients: the build plugin, no credentials
//!   engine.json            the process, when it started, the state of the packet filter before it
//!   *.kubeconfig           one for each cluster
//! ```
//!
//! Deliberately absent: the service manager of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::firewall;
use super::names::{BRIDGE, RUN_DIR};
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::{self, Cmd};

/// How long dockerd may take to respond or to end.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(60);

/// The wrapper for containers where root lacks CAP_SYS_RESOURCE.
const REDUCING_RUNTIME: &str = include_str!("../../../assets/runtime-without-sys-resource");

/// CAP_SYS_RESOURCE in the masks of `/proc/*/status` (capabilities(7)).
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// The cgroup of all containers.
const CONTROL_GROUP: &str = "ovl-csi-e2e";

/// The socket for its clients.
pub fn socket() -> PathBuf {
    Path::new(RUN_DIR).join("docker.sock")
}

/// The configuration directory of its clients.
pub fn client_config() -> PathBuf {
    Path::new(RUN_DIR).join("config")
}

/// A daemon that the harness started and that is still the same process.
pub struct Daemon {
    pid: Pid,
    before: Before,
}

/// What the daemon changes on the host and does not restore.
struct Before {
    /// Policy of the FORWARD chain.
    forward: String,
    /// Whether the host forwards packets, in the kernel's form.
    ip_forward: String,
}

/// Finds the recorded daemon. `None` without a record, or if another process has its ID.
pub fn find() -> Option<Daemon> {
    let record = read_record()?;
    let pid = i32::try_from(record.get("pid")?.as_i64()?).ok()?;
    if started(pid)? != record.get("started")?.as_u64()? {
        return None;
    }
    Some(Daemon { pid: Pid::from_raw(pid), before: Before::recorded(&record)? })
}

/// Whether a recorded daemon has crashed or was killed. Its containers may still run, and only
/// another daemon on its data can remove them.
pub fn was_lost() -> bool {
    record().exists() && find().is_none()
}

/// Starts dockerd and waits until it responds.
///
/// # Errors
/// It ended or did not respond in time. The error quotes the end of its log.
pub fn start(h: &Harness) -> Result<()> {
    let log = h.cache.logs().join("dockerd.log");
    let out = fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let before = Before::now();
    let mut command = dockerd(h)?.detached();
    let stderr = out.try_clone().context("sharing dockerd's log")?;
    command.stdin(Stdio::null()).stdout(out).stderr(stderr);
    let mut child = command.spawn().context("starting dockerd")?;
    let pid = process::group(&child)?;
    let text = json!({
        "pid": pid,
        "started": started(pid),
        "forward": before.forward,
        "ip_forward": before.ip_forward,
    });
    fs::write(record(), text.to_string()).context("recording dockerd's process")?;

    let begun = Instant::now();
    loop {
        if Cmd::new("docker").arg("version").env("DOCKER_HOST", host()).succeeds() {
            return Ok(());
        }
        let ended = child.try_wait().context("looking after dockerd")?;
        if ended.is_some() || begun.elapsed() > DAEMON_TIMEOUT {
            let output = process::tail(&log, 40).unwrap_or_default();
            bail!("dockerd does not respond; the end of {}:\n{output}", log.display());
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// dockerd with its own directories and socket.
fn dockerd(h: &Harness) -> Result<Cmd> {
    let run = Path::new(RUN_DIR);
    let data = h.cache.root().join("docker");
    for dir in [&data, &client_config()] {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    // An empty configuration. Otherwise the machine's would apply.
    let config = run.join("daemon.json");
    fs::write(&config, "{}").with_context(|| format!("writing {}", config.display()))?;
    let mut dockerd = Cmd::new("dockerd").arg("--data-root").arg(data);
    dockerd = dockerd.arg("--exec-root").arg(run.join("exec"));
    dockerd = dockerd.arg("--pidfile").arg(run.join("docker.pid"));
    dockerd = dockerd.arg("--config-file").arg(config);
    dockerd = dockerd.arg("--host").arg(host());
    // No default bridge: nodes have a network of their own, builds use the host's.
    dockerd = dockerd.args(["--bridge", "none"]);
    // A running systemd creates the cgroups under its own names, and removes them.
    if !Path::new("/run/systemd/system").exists() {
        dockerd = dockerd.arg("--cgroup-parent").arg(format!("/{CONTROL_GROUP}"));
    }
    if lacks_sys_resource(&fs::read_to_string("/proc/self/status").unwrap_or_default()) {
        let runtime = format!("reducing={}", reducing_runtime(h)?.display());
        dockerd = dockerd.args(["--add-runtime", &runtime, "--default-runtime", "reducing"]);
    }
    Ok(dockerd)
}

impl Before {
    /// The current state, or the recorded one after a daemon that was lost.
    fn now() -> Self {
        read_record().and_then(|record| Self::recorded(&record)).unwrap_or_else(|| Self {
            forward: firewall::forward_policy(),
            ip_forward: fs::read_to_string(IP_FORWARD).unwrap_or_default().trim().to_owned(),
        })
    }

    fn recorded(record: &Value) -> Option<Self> {
        let word = |key: &str| record.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Self { forward: word("forward")?, ip_forward: word("ip_forward")? })
    }
}

fn read_record() -> Option<Value> {
    serde_json::from_str(&fs::read_to_string(record()).ok()?).ok()
}

/// The value for `DOCKER_HOST`.
pub fn host() -> String {
    format!("unix://{}", socket().display())
}

impl Daemon {
    /// Stops it after the networks of its containers were removed, and removes its rules from the
    /// packet filter.
    ///
    /// # Errors
    /// It does not end, or the rules cannot be changed.
    pub fn stop(self) -> Result<()> {
        match kill(self.pid, Signal::SIGTERM) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => bail!("ending dockerd (process {}): {errno}", self.pid),
        }
        let begun = Instant::now();
        while find().is_some() {
            ensure!(
                begun.elapsed() < DAEMON_TIMEOUT,
                "dockerd (process {}) does not end",
                self.pid
            );
            thread::sleep(Duration::from_millis(100));
        }
        firewall::forget_engine(BRIDGE, &self.before.forward)?;
        remove_empty_dirs();
        fs::write(IP_FORWARD, self.before.ip_forward)
            .with_context(|| format!("restoring {IP_FORWARD}"))
    }
}

/// Removes directories that dockerd, containerd and runc create outside of the given ones, and the
/// cgroups of its containers. Only empty ones are removed: another engine may use the same.
fn remove_empty_dirs() {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let groups = hierarchies.map(|hierarchy| hierarchy.path().join(CONTROL_GROUP));
    for group in groups.chain([Path::new("/sys/fs/cgroup").join(CONTROL_GROUP)]) {
        remove_group(&group);
    }
    for dir in ["docker/plugins", "docker", "containerd/s", "containerd", "runc"] {
        fs::remove_dir(Path::new("/run").join(dir)).unwrap_or_default();
    }
}

/// Removes a cgroup and those in it, the innermost first.
fn remove_group(group: &Path) {
    for inner in fs::read_dir(group).into_iter().flatten().flatten() {
        if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&inner.path());
        }
    }
    fs::remove_dir(group).unwrap_or_default();
}

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

fn record() -> PathBuf {
    Path::new(RUN_DIR).join("engine.json")
}

/// When a process started, in clock ticks since boot. With its ID, this identifies it (proc(5)). A
/// zombie does not count as a process.
fn started(pid: i32) -> Option<u64> {
    start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn start_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything, so fields count from the last parenthesis.
    let (_, after) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = after.split(' ').collect();
    (*fields.first()? != "Z").then(|| fields.get(19)?.parse().ok()).flatten()
}

fn lacks_sys_resource(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_some_and(|mask| mask & CAP_SYS_RESOURCE == 0)
}

fn reducing_runtime(h: &Harness) -> Result<PathBuf> {
    let recipe = Recipe { name: "runtime", version: "1", inputs: &[REDUCING_RUNTIME] };
    let place = h.cache.product(&recipe, |dir| {
        use std::os::unix::fs::PermissionsExt;
        let script = dir.join("runtime");
        fs::write(&script, REDUCING_RUNTIME)?;
        Ok(fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?)
    })?;
    Ok(place.join("runtime"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_is_read_from_the_bounding_set() {
        assert!(lacks_sys_resource("CapEff:\t0\nCapBnd:\t000001fffeffffff\n"));
        assert!(!lacks_sys_resource("CapBnd:\t000001ffffffffff\n"));
        assert!(!lacks_sys_resource("no such line"));
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let stat = |state: &str| format!("7 (a) b) {state} {}", fields.join(" "));
        assert_eq!(start_ticks(&stat("S")), Some(22));
        assert_eq!(start_ticks(&stat("Z")), None);
    }
}
