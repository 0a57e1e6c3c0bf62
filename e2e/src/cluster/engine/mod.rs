//! The container engine: a running one, or Debian's, started by the harness.
//!
//! Deliberately absent: a client library. kind uses the `docker` program as well.

pub mod daemon;
mod firewall;
mod names;

pub use names::{BRIDGE, LABEL, NETWORK, REPOSITORY, RUN_DIR};

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;
use crate::toolchain::{apt, programs};

/// How long an engine may take to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Installs the programs of the engine if they are missing.
///
/// # Errors
/// They cannot be installed.
pub fn ensure_programs(h: &Harness) -> Result<()> {
    let exists = |program: &str| Cmd::new(program).arg("--version").succeeds();
    if !exists("dockerd") {
        apt::ensure(h, &["docker.io"])?;
    }
    if !exists("docker") {
        // Later Debian releases have the client in a package of its own.
        apt::ensure(h, &["docker-cli"])?;
    }
    Ok(())
}

/// A running engine.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Environment of every client: the address of the engine. Empty for the user's own engine.
    env: Vec<(&'static str, String)>,
    /// Whether the harness started it.
    pub ours: bool,
}

impl Engine {
    /// Finds or starts the engine.
    ///
    /// # Errors
    /// No engine responds, and none can be installed or started.
    pub fn ensure(h: &Harness) -> Result<Self> {
        fs::create_dir_all(RUN_DIR).with_context(|| format!("making {RUN_DIR}"))?;
        if let Some(engine) = Self::find() {
            return Ok(engine);
        }
        apt::ensure(h, &["docker.io", "iptables", "jq"])?;
        ensure_programs(h)?;
        // A service manager may have started the engine of the package, which is then the
        // machine's.
        if let Some(engine) = Self::find() {
            return Ok(engine);
        }
        h.progress.step("starting a container engine", seconds(5), |_| daemon::start(h))?;
        Ok(Self::own())
    }

    /// The running engine: the harness's own, or else the user's.
    pub fn find() -> Option<Self> {
        if daemon::find().is_some() {
            return Some(Self::own());
        }
        let user = Self { env: Vec::new(), ours: false };
        user.docker(["version", "--format", "{{.Server.Version}}"])
            .limit(RESPONSE_TIMEOUT)
            .succeeds()
            .then_some(user)
    }

    fn own() -> Self {
        let config = daemon::client_config().display().to_string();
        Self { env: vec![("DOCKER_HOST", daemon::host()), ("DOCKER_CONFIG", config)], ours: true }
    }

    /// `docker` for this engine, with arguments.
    pub fn docker<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Cmd {
        self.aim(Cmd::new("docker")).args(args)
    }

    /// The same command as a user types it in a shell.
    pub fn command_line(&self, args: &[&str]) -> String {
        let aim: String = self.env.iter().map(|(key, value)| format!("{key}={value} ")).collect();
        format!("{aim}docker {}", args.join(" "))
    }

    /// Sets the environment for this engine, for a program that uses `docker` (such as kind).
    pub fn aim(&self, cmd: Cmd) -> Cmd {
        let cmd = self.env.iter().fold(cmd, |cmd, (key, value)| cmd.env(key, value));
        cmd.env("KIND_EXPERIMENTAL_DOCKER_NETWORK", NETWORK)
    }

    /// Whether it has this image.
    pub fn has_image(&self, image: &str) -> bool {
        self.docker(["image", "inspect", image]).succeeds()
    }

    /// Creates the nodes' network if it is missing. Its bridge has a name of ours, so `clean` finds
    /// its rules in the packet filter.
    ///
    /// # Errors
    /// The engine failed.
    pub fn ensure_network(&self) -> Result<()> {
        if self.docker(["network", "inspect", NETWORK]).succeeds() {
            return Ok(());
        }
        let bridge = format!("com.docker.network.bridge.name={BRIDGE}");
        self.docker(["network", "create", "--label", LABEL, "--opt", &bridge, NETWORK])
            .output()
            .map(drop)
    }

    /// Builds an image from a directory with a Dockerfile, on the host's network. It uses the build
    /// plugin if there is one. Dockerfile features of the plugin (mounts, COPY with a mode) work
    /// only for built images.
    ///
    /// # Errors
    /// The build failed; the error quotes the end of the log.
    pub fn build(&self, image: &str, dir: &Path, args: &[&str], log: &Path) -> Result<()> {
        let mut build = self.docker(["build", "--network", "host", "--tag", image]).args(args);
        for name in ["http_proxy", "https_proxy", "no_proxy"] {
            // Without a value, the client's own is passed on. It stays out of the image.
            build = build.args(["--build-arg", name]);
        }
        let buildkit = if self.has_build_plugin() { "1" } else { "0" };
        build.arg(dir).env("DOCKER_BUILDKIT", buildkit).log(log).run()
    }

    /// Adds the build plugin for this engine's clients. Without it `docker build` does not support
    /// current Dockerfiles. For an engine of ours: a user's has its own.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn add_build_plugin(&mut self, h: &Harness) -> Result<()> {
        if self.has_build_plugin() {
            return Ok(());
        }
        if !self.ours {
            // A configuration directory of ours hides the user's contexts, so the address is set.
            let format = "{{.Endpoints.docker.Host}}";
            let host = self.docker(["context", "inspect", "--format", format]).output()?;
            let config = daemon::client_config().display().to_string();
            self.env = vec![("DOCKER_HOST", host), ("DOCKER_CONFIG", config)];
        }
        let plugin = programs::buildx().ensure(h)?.join("buildx");
        let plugins = daemon::client_config().join("cli-plugins");
        fs::create_dir_all(&plugins).with_context(|| format!("making {}", plugins.display()))?;
        let link = plugins.join("docker-buildx");
        // There may be a link to an older build.
        fs::remove_file(&link).unwrap_or_default();
        symlink(&plugin, &link).with_context(|| format!("linking {}", link.display()))
    }

    fn has_build_plugin(&self) -> bool {
        self.docker(["buildx", "version"]).succeeds()
    }
}
