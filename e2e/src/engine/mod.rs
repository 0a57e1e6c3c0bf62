//! The container engine: the one that answers, else Debian's, started by hand.
//!
//! Deliberately absent: a client library. The `docker` program is what kind uses as well.

pub mod daemon;
mod firewall;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::harness::Harness;
use crate::process::Cmd;
use crate::progress::seconds;
use crate::tools::{self, apt};

/// The label that every container of the harness (kind's own aside) has to carry, so that
/// `clean` finds it: `docker run --label dev.ovl.e2e …`.
pub const LABEL: &str = "dev.ovl.e2e";

/// The engine's network that the nodes are on; containers on it find each other by name.
pub const NETWORK: &str = "ovl-csi";

/// That network's bridge on the host.
pub const BRIDGE: &str = "ovl-csi0";

/// The repository of every image that the harness makes in the engine.
pub const REPOSITORY: &str = "ovl-csi-e2e";

/// What lives only as long as an engine or a cluster does; gone after `clean`.
pub const RUN_DIR: &str = "/run/ovl-csi-e2e";

/// How long an engine may take to say that it is there.
const ANSWER: Duration = Duration::from_secs(10);

/// Installs the engine's programs unless they are here, from whomever.
///
/// # Errors
/// They cannot be installed.
pub fn ensure_programs(h: &Harness) -> Result<()> {
    let here = |program: &str| Cmd::new(program).arg("--version").succeeds();
    if !here("dockerd") {
        apt::ensure(h, &["docker.io"])?;
    }
    if !here("docker") {
        // Later Debian releases have the client in a package of its own.
        apt::ensure(h, &["docker-cli"])?;
    }
    Ok(())
}

/// An engine that answers.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Set for every client: where the engine is and how to talk to it; empty for the user's own.
    env: Vec<(&'static str, String)>,
    /// Whether the harness started it.
    pub ours: bool,
}

impl Engine {
    /// Finds or starts the engine.
    ///
    /// # Errors
    /// None answers and none can be installed or started.
    pub fn ensure(h: &Harness) -> Result<Self> {
        fs::create_dir_all(RUN_DIR).with_context(|| format!("making {RUN_DIR}"))?;
        if let Some(engine) = Self::find() {
            return Ok(engine);
        }
        apt::ensure(h, &["docker.io", "iptables", "jq"])?;
        ensure_programs(h)?;
        // Where a service manager runs, it may have started the package's engine: the machine's.
        if let Some(engine) = Self::find() {
            return Ok(engine);
        }
        h.progress.step("starting a container engine", seconds(5), |_| daemon::start(h))?;
        Ok(Self::own())
    }

    /// The engine that runs already: the harness's own, else the user's.
    pub fn find() -> Option<Self> {
        if daemon::find().is_some() {
            return Some(Self::own());
        }
        let user = Self { env: Vec::new(), ours: false };
        user.docker(["version", "--format", "{{.Server.Version}}"])
            .limit(ANSWER)
            .succeeds()
            .then_some(user)
    }

    fn own() -> Self {
        let config = daemon::client_config().display().to_string();
        Self { env: vec![("DOCKER_HOST", daemon::host()), ("DOCKER_CONFIG", config)], ours: true }
    }

    /// `docker` with arguments, aimed at this engine.
    pub fn docker<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Cmd {
        self.aim(Cmd::new("docker")).args(args)
    }

    /// The same as a person would type it, with what aims it.
    pub fn words(&self, args: &[&str]) -> String {
        let aim: String = self.env.iter().map(|(key, value)| format!("{key}={value} ")).collect();
        format!("{aim}docker {}", args.join(" "))
    }

    /// Aims a program that uses `docker` (such as kind) at this engine.
    pub fn aim(&self, cmd: Cmd) -> Cmd {
        let cmd = self.env.iter().fold(cmd, |cmd, (key, value)| cmd.env(key, value));
        cmd.env("KIND_EXPERIMENTAL_DOCKER_NETWORK", NETWORK)
    }

    /// Whether it holds this image.
    pub fn has_image(&self, image: &str) -> bool {
        self.docker(["image", "inspect", image]).succeeds()
    }

    /// Makes the nodes' network unless it is there. Its bridge has a name of ours, so that `clean`
    /// knows what in the packet filter belongs to it.
    ///
    /// # Errors
    /// The engine refused.
    pub fn ensure_network(&self) -> Result<()> {
        if self.docker(["network", "inspect", NETWORK]).succeeds() {
            return Ok(());
        }
        let bridge = format!("com.docker.network.bridge.name={BRIDGE}");
        self.docker(["network", "create", "--label", LABEL, "--opt", &bridge, NETWORK])
            .output()
            .map(drop)
    }

    /// Builds a folder with a Dockerfile into an image; its steps are on the host's network. By
    /// the build plugin where there is one, so what a Dockerfile asks of it (mounts, COPY with a
    /// mode) is for [`Images::Built`](crate::provision::Images::Built) only.
    ///
    /// # Errors
    /// The build failed; the error quotes the end of the log.
    pub fn build(&self, image: &str, folder: &Path, args: &[&str], log: &Path) -> Result<()> {
        let mut build = self.docker(["build", "--network", "host", "--tag", image]).args(args);
        for name in ["http_proxy", "https_proxy", "no_proxy"] {
            // Without a value, the client's own is passed on; it stays out of the image.
            build = build.args(["--build-arg", name]);
        }
        let buildkit = if self.has_build_plugin() { "1" } else { "0" };
        build.arg(folder).env("DOCKER_BUILDKIT", buildkit).log(log).run()
    }

    /// Gives this engine's clients the build plugin, without which `docker build` does not know
    /// what current Dockerfiles say. For an engine of ours; a user's has its own.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn add_build_plugin(&mut self, h: &Harness) -> Result<()> {
        if self.has_build_plugin() {
            return Ok(());
        }
        if !self.ours {
            // A configuration folder of ours hides the user's contexts, so name the place itself.
            let format = "{{.Endpoints.docker.Host}}";
            let host = self.docker(["context", "inspect", "--format", format]).output()?;
            let config = daemon::client_config().display().to_string();
            self.env = vec![("DOCKER_HOST", host), ("DOCKER_CONFIG", config)];
        }
        let plugin = tools::buildx().ensure(h)?.join("buildx");
        let plugins = daemon::client_config().join("cli-plugins");
        fs::create_dir_all(&plugins).with_context(|| format!("making {}", plugins.display()))?;
        let link = plugins.join("docker-buildx");
        // A link to an older build may be there.
        fs::remove_file(&link).unwrap_or_default();
        symlink(&plugin, &link).with_context(|| format!("linking {}", link.display()))
    }

    fn has_build_plugin(&self) -> bool {
        self.docker(["buildx", "version"]).succeeds()
    }
}
