//! An image registry beside a cluster: a container on the nodes' network. Nodes use its name, this
//! machine uses a loopback port.
//!
//! Deliberately absent: encryption and accounts. The driver's configuration says so.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::engine::{Engine, LABEL, NETWORK, REPOSITORY};
use super::prerequisites::{ImageSource, Prerequisites};
use super::purpose::Purpose;
use crate::machine::harness::Harness;
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;
use crate::toolchain::{programs, versions};

/// The port on the nodes' network.
const PORT: u16 = 5000;

/// The published image of the reference registry.
const PUBLISHED: &str = "registry:3";

/// The registry's configuration: images are in a directory of its container.
const CONFIG: &str = "\
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: \":5000\"}
";

/// A running registry.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Host and port for the nodes.
    pub host: String,
    /// Host and port for this machine.
    pub here: SocketAddr,
}

impl Registry {
    /// The name of its container, which the nodes use.
    fn container(purpose: Purpose) -> String {
        format!("{}-registry", purpose.cluster())
    }

    /// Starts it if it does not run, and waits until it responds.
    ///
    /// # Errors
    /// Its image is missing, or it does not respond.
    pub fn ensure(h: &Harness, prerequisites: &Prerequisites, purpose: Purpose) -> Result<Self> {
        let name = Self::container(purpose);
        let engine = &prerequisites.engine;
        let image = image(h, prerequisites)?;
        let running = ["inspect", "--format", "{{.State.Running}}", &name];
        if engine.docker(running).output().ok().as_deref() != Some("true") {
            remove(engine, purpose)?;
            let run = engine.docker(["run", "--detach", "--label", LABEL, "--name", &name]);
            let run = run.args(["--network", NETWORK, "--publish", &format!("127.0.0.1::{PORT}")]);
            let run = run.args(["--env", "OTEL_TRACES_EXPORTER=none"]);
            // The deletion of a snapshot deletes its manifest.
            run.args(["--env", "REGISTRY_STORAGE_DELETE_ENABLED=true"]).arg(image).output()?;
        }
        let here = engine.docker(["port", &name, &PORT.to_string()]).output()?;
        let here = here.parse().with_context(|| format!("`{here}` is no address of {name}"))?;
        wait_for(&format!("{name} to respond at {here}"), seconds(60), || responds(here))?;
        Ok(Self { host: format!("{name}:{PORT}"), here })
    }

    /// The content of the driver's hosts.toml for it.
    pub fn hosts_toml(&self) -> String {
        format!("server = \"http://{}\"\n", self.host)
    }

    /// The name of an image on the nodes.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    /// Pushes an image of the engine under a name. Returns its reference on the nodes.
    ///
    /// # Errors
    /// The engine failed.
    pub fn push(&self, engine: &Engine, image: &str, name: &str) -> Result<String> {
        // Engines use plain HTTP for loopback addresses by default.
        let there = format!("{}/{name}", self.here);
        engine.docker(["tag", image, &there]).output()?;
        let pushed = engine.docker(["push", "--quiet", &there]).output();
        engine.docker(["rmi", &there]).output()?;
        pushed.map(|_| self.name(name))
    }
}

/// Removes the registry of a cluster. A missing registry is no error.
///
/// # Errors
/// The engine failed.
pub fn remove(engine: &Engine, purpose: Purpose) -> Result<()> {
    let name = Registry::container(purpose);
    let list = ["ps", "--all", "--quiet", "--filter", &format!("name=^{name}$")];
    if engine.docker(list).output()?.is_empty() {
        return Ok(());
    }
    engine.docker(["rm", "--force", "--volumes", &name]).output().map(drop)
}

/// The image of the registry: the published one where images can be pulled, or one built with the
/// program.
///
/// # Errors
/// The program cannot be built, or the engine refuses the image.
pub fn image(h: &Harness, prerequisites: &Prerequisites) -> Result<String> {
    if prerequisites.images == ImageSource::Pulled {
        return Ok(PUBLISHED.to_owned());
    }
    let image = format!("{REPOSITORY}/registry:{}", versions::REGISTRY);
    if prerequisites.engine.has_image(&image) {
        return Ok(image);
    }
    let program = programs::registry().ensure(h)?.join("registry");
    let context = h.cache.scratch("registry-image")?;
    let dockerfile = "FROM scratch\nCOPY registry config.yml /\n\
                      ENTRYPOINT [\"/registry\"]\nCMD [\"serve\", \"/config.yml\"]\n";
    let copied = fs::copy(&program, context.join("registry")).map(drop);
    copied
        .and_then(|()| fs::write(context.join("config.yml"), CONFIG))
        .and_then(|()| fs::write(context.join("Dockerfile"), dockerfile))
        .with_context(|| format!("filling {}", context.display()))?;
    h.progress.step("building the registry's image", seconds(5), |log| {
        prerequisites.engine.build(&image, &context, &[], log)
    })?;
    Ok(image)
}

/// Whether the API of the registry responds.
fn responds(address: SocketAddr) -> Result<Option<()>> {
    const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, RESPONSE_TIMEOUT)?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    match start.split(|&byte| byte == b' ').nth(1) {
        Some(b"200") => Ok(Some(())),
        _ => bail!("it responds with {}", String::from_utf8_lossy(&start)),
    }
}
