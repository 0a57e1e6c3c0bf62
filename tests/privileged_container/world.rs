//! A tree with busybox, and containers in it.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The longest time for anything to happen.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The directory of one test: `lower` is the tree, `tree/upper` has what the container wrote.
pub struct World(TempDir);

impl World {
    /// A tree with busybox, two users, and nothing else.
    pub fn new() -> Self {
        let world = Self::empty();
        for dir in ["bin", "etc", "tmp", "data", "home/ada"] {
            fs::create_dir_all(world.lower(dir)).unwrap();
        }
        let busybox = "/bin/busybox";
        assert!(Path::new(busybox).exists(), "install the package busybox-static");
        fs::copy(busybox, world.lower("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "ls", "echo", "id", "mount", "touch", "sleep", "true", "kill", "stat",
            "ps", "hostname", "ip", "stty", "tty", "setsid", "pwd", "env", "readlink", "umask",
            "grep", "rm", "mkdir", "wc", "test", "head", "chmod", "dd",
        ] {
            symlink("busybox", world.lower(&format!("bin/{name}"))).unwrap();
        }
        world
            .write("etc/passwd", "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n");
        world.write("etc/group", "root:x:0:\nada:x:1000:\nstaff:x:50:ada\n");
        world.write("data/file", "lower\n");
        world
    }

    /// An empty tree.
    pub fn empty() -> Self {
        let root = std::env::temp_dir().canonicalize().unwrap();
        let world = Self(TempDir::with_prefix_in("ovl-test-", root).unwrap());
        fs::create_dir(world.lower("")).unwrap();
        world
    }

    /// A path in the directory of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A path in the tree.
    pub fn lower(&self, name: &str) -> PathBuf {
        self.path("lower").join(name)
    }

    /// Writes a file of the tree.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.lower(name), text).unwrap();
    }

    /// All paths that the container wrote.
    pub fn written(&self) -> Vec<String> {
        let upper = self.path("tree/upper");
        let mut found = Vec::new();
        let mut next = vec![upper.clone()];
        while let Some(dir) = next.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(&upper).unwrap().to_str().unwrap().to_owned());
                if path.is_dir() && !path.is_symlink() {
                    next.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// The process that runs a container, as a command. `spec` has the fields of `helper`.
    pub fn command(&self, spec: Value) -> Command {
        let mut all = json!({ "lower": self.lower(""), "scratch": self.0.path() });
        // Paths of the kernel have no `/` at the end.
        all["lower"] = self.path("lower").to_str().unwrap().into();
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(super::CONTAINER).arg(all.to_string());
        command
    }

    /// Runs a container with more fields of `helper`, and returns its output.
    pub fn output(&self, argv: &[&str], spec: Value) -> Output {
        let mut all = json!({ "argv": argv });
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.command(all).output().unwrap()
    }

    /// Runs a script of the shell in a container, which must succeed. Returns its standard output.
    pub fn sh(&self, script: &str, spec: Value) -> String {
        let output = self.output(&["sh", "-c", script], spec);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a container whose standard output is the file `out`.
    pub fn start(&self, script: &str, spec: Value) -> Running {
        let mut all = json!({ "argv": ["sh", "-c", script] });
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let out = self.path("out");
        let output = File::create(&out).unwrap();
        let child = self.command(all).stdin(Stdio::null()).stdout(output).spawn().unwrap();
        Running { child, out }
    }

    /// The processes of the machine that have this argument.
    pub fn processes(&self, marker: &str) -> Vec<i32> {
        let entries = fs::read_dir("/proc").unwrap();
        let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let has_marker = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).split('\0').any(|arg| arg == marker)
        };
        pids.filter(has_marker).collect()
    }

    /// The mounts of all processes in which the tree or a part of it is mounted.
    pub fn mounts(&self) -> Vec<String> {
        let upper = self.path("tree/upper").to_str().unwrap().to_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let table = entry.unwrap().path().join("mountinfo");
            let table = fs::read_to_string(table).unwrap_or_default();
            found.extend(table.lines().filter(|line| line.contains(&upper)).map(str::to_owned));
        }
        found
    }
}

/// A running container. It is killed when this is dropped.
pub struct Running {
    pub child: Child,
    out: PathBuf,
}

impl Running {
    /// What the command has written.
    pub fn text(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    /// Waits until the command has written this.
    pub fn wait_for(&self, text: &str) {
        until(&format!("{text:?} in {:?}", self.text()), || self.text().contains(text));
    }

    /// Sends a signal to the process that runs the container.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for the end. Returns the exit code.
    pub fn code(&mut self) -> i32 {
        until("the end", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code().expect("an exit code")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < TIMEOUT, "not in time: {what}");
        sleep(Duration::from_millis(10));
    }
}
