//! An image registry beside a cluster: a container on the nodes' network, reached by its name
//! from the nodes and by a port of the loopback address from here.
//!
//! Deliberately absent: encryption and accounts. The driver is told that this one has none.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::{Purpose, wait_for};
use crate::engine::{Engine, LABEL, NETWORK, REPOSITORY};
use crate::harness::Harness;
use crate::progress::seconds;
use crate::provision::{Ground, Images};
use crate::{tools, versions};

/// The port on the nodes' network.
const PORT: u16 = 5000;

/// The reference registry, as its project publishes it.
const PUBLISHED: &str = "registry:3";

/// What the registry does: keeps images in a folder of its container.
const CONFIG: &str = "\
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: \":5000\"}
";

/// A registry that answers.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Host and port as the nodes reach it.
    pub host: String,
    /// Host and port as this machine reaches it.
    pub here: SocketAddr,
}

impl Registry {
    /// The container's name, by which the nodes find it.
    fn container(purpose: Purpose) -> String {
        format!("{}-registry", purpose.cluster())
    }

    /// Starts it, or finds it running, and waits until it answers.
    ///
    /// # Errors
    /// Its image cannot be had, or it does not answer.
    pub fn ensure(h: &Harness, ground: &Ground, purpose: Purpose) -> Result<Self> {
        let name = Self::container(purpose);
        let engine = &ground.engine;
        let image = image(h, ground)?;
        let running = ["inspect", "--format", "{{.State.Running}}", &name];
        if engine.docker(running).output().ok().as_deref() != Some("true") {
            remove(engine, purpose)?;
            let run = engine.docker(["run", "--detach", "--label", LABEL, "--name", &name]);
            let run = run.args(["--network", NETWORK, "--publish", &format!("127.0.0.1::{PORT}")]);
            let run = run.args(["--env", "OTEL_TRACES_EXPORTER=none"]);
            // A snapshot that is deleted takes its manifest along.
            run.args(["--env", "REGISTRY_STORAGE_DELETE_ENABLED=true"]).arg(image).output()?;
        }
        let here = engine.docker(["port", &name, &PORT.to_string()]).output()?;
        let here = here.parse().with_context(|| format!("`{here}` is no address of {name}"))?;
        wait_for(&format!("{name} to answer at {here}"), seconds(60), || answers(here))?;
        Ok(Self { host: format!("{name}:{PORT}"), here })
    }

    /// What the driver's hosts.toml for it has to say.
    pub fn hosts_toml(&self) -> String {
        format!("server = \"http://{}\"\n", self.host)
    }

    /// An image's name on the nodes.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    /// Pushes an image of the engine under a name; returns its reference on the nodes.
    ///
    /// # Errors
    /// The engine could not push it.
    pub fn push(&self, engine: &Engine, image: &str, name: &str) -> Result<String> {
        // Engines speak plain http to loopback addresses without being told.
        let there = format!("{}/{name}", self.here);
        engine.docker(["tag", image, &there]).output()?;
        let pushed = engine.docker(["push", "--quiet", &there]).output();
        engine.docker(["rmi", &there]).output()?;
        pushed.map(|_| self.name(name))
    }
}

/// Removes a cluster's registry; fine if there is none.
///
/// # Errors
/// The engine refused.
pub fn remove(engine: &Engine, purpose: Purpose) -> Result<()> {
    let name = Registry::container(purpose);
    let list = ["ps", "--all", "--quiet", "--filter", &format!("name=^{name}$")];
    if engine.docker(list).output()?.is_empty() {
        return Ok(());
    }
    engine.docker(["rm", "--force", "--volumes", &name]).output().map(drop)
}

/// The registry's image: pulled where images can be, else a folder with the program in it.
///
/// # Errors
/// The program cannot be built, or the engine refuses the image.
pub fn image(h: &Harness, ground: &Ground) -> Result<String> {
    if ground.images == Images::Pulled {
        return Ok(PUBLISHED.to_owned());
    }
    let image = format!("{REPOSITORY}/registry:{}", versions::REGISTRY);
    if ground.engine.has_image(&image) {
        return Ok(image);
    }
    let program = tools::registry().ensure(h)?.join("registry");
    let context = h.cache.scratch("registry-image")?;
    let dockerfile = "FROM scratch\nCOPY registry config.yml /\n\
                      ENTRYPOINT [\"/registry\"]\nCMD [\"serve\", \"/config.yml\"]\n";
    let copied = fs::copy(&program, context.join("registry")).map(drop);
    copied
        .and_then(|()| fs::write(context.join("config.yml"), CONFIG))
        .and_then(|()| fs::write(context.join("Dockerfile"), dockerfile))
        .with_context(|| format!("filling {}", context.display()))?;
    h.progress.step("building the registry's image", seconds(5), |log| {
        ground.engine.build(&image, &context, &[], log)
    })?;
    Ok(image)
}

/// Whether the registry's API says that it is there.
fn answers(address: SocketAddr) -> Result<Option<()>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    match start.split(|&byte| byte == b' ').nth(1) {
        Some(b"200") => Ok(Some(())),
        _ => bail!("it says {}", String::from_utf8_lossy(&start)),
    }
}
