//! The images of the benchmark: a real one, built once and kept as the directory of a registry, and
//! tiny ones; and the registry on loopback that serves them.
//!
//! Deliberately absent: builds in each run. The kept directory is only read.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::engine::REPOSITORY;
use crate::cluster::prerequisites::Prerequisites;
use crate::machine::background::Background;
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::{minutes, seconds};
use crate::machine::wait::wait_for;
use crate::oci::http;
use crate::oci::image::{Layer, push};
use crate::toolchain::programs;

/// The Dockerfile of the image.
const DOCKERFILE: &str = include_str!("../../assets/bench.Dockerfile");

/// Layers of the deep image, with one file each.
pub const DEEP: usize = 100;

/// A registry on loopback with the images. It ends when this is dropped.
pub struct BenchRegistry {
    /// Where it listens.
    pub address: SocketAddr,
    _registry: Background,
}

/// A layer in the image's manifest.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its digest.
    pub digest: String,
    /// Its size in bytes, compressed.
    pub size: u64,
}

impl BenchRegistry {
    /// Builds the images unless they are kept, and serves them.
    ///
    /// # Errors
    /// The image cannot be built, or the registry does not start.
    pub fn ensure(h: &Harness, prerequisites: &Prerequisites) -> Result<Self> {
        let program = programs::registry().ensure(h)?.join("registry");
        let recipe = Recipe {
            name: "bench-image",
            version: "1",
            inputs: &[DOCKERFILE, &prerequisites.base_image],
        };
        let have = h.cache.find(&recipe);
        let dir = match have {
            Some(dir) => dir,
            None => h.progress.step("building the image to measure", minutes(8), |log| {
                h.cache.product(&recipe, |dir| make(h, prerequisites, &program, dir, log))
            })?,
        };
        Self::serve(h, "bench-registry", &program, &dir)
    }

    /// Serves a directory, and writes pushed images to it. The name is for its log.
    ///
    /// # Errors
    /// The registry does not start.
    pub fn serve(h: &Harness, name: &str, program: &Path, dir: &Path) -> Result<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let address = free.context("finding a free port")?;
        let config = h.cache.scratch(name)?.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}}}\nhttp: {{addr: \"{address}\"}}\n",
            dir.display()
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let serve = Cmd::new(program).arg("serve").arg(&config);
        let serve = serve.env("OTEL_TRACES_EXPORTER", "none");
        let mut registry = Background::start(&serve, h.cache.logs().join(format!("{name}.log")))?;
        wait_for("the registry on loopback", seconds(30), || {
            if registry.ended() {
                bail!("it ended; see {}", registry.log.display());
            }
            let response = http::send(address, "GET", "/v2/", &[], &[])?;
            Ok((response.status == 200).then_some(()))
        })?;
        Ok(Self { address, _registry: registry })
    }

    /// The reference of an image.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The layers of the large image, bottom first.
    ///
    /// # Errors
    /// The registry has no such image.
    pub fn layers(&self) -> Result<Vec<Blob>> {
        let accept = [
            ("Accept", "application/vnd.docker.distribution.manifest.v2+json"),
            ("Accept", "application/vnd.oci.image.manifest.v1+json"),
        ];
        let response = http::send(self.address, "GET", "/v2/bench/manifests/1", &accept, &[])?;
        ensure!(
            response.status == 200,
            "the registry returns {} for the manifest",
            response.status
        );
        let manifest: Value = serde_json::from_slice(&response.bytes()?).context("the manifest")?;
        let layers = manifest.get("layers").and_then(Value::as_array).context("no layers")?;
        let blob = |layer: &Value| {
            let digest = layer["digest"].as_str()?.to_owned();
            Some(Blob { digest, size: layer["size"].as_u64()? })
        };
        layers.iter().map(|layer| blob(layer).context("a layer without a digest")).collect()
    }
}

fn make(
    h: &Harness,
    prerequisites: &Prerequisites,
    program: &Path,
    dir: &Path,
    log: &Path,
) -> Result<()> {
    let engine = &prerequisites.engine;
    let context: PathBuf = h.cache.scratch("bench-context")?;
    fs::write(context.join("Dockerfile"), DOCKERFILE).context("writing a Dockerfile")?;
    let image = format!("{REPOSITORY}/bench:1");
    let base = format!("BASE={}", prerequisites.base_image);
    engine.build(&image, &context, &["--build-arg", &base], log)?;
    let registry = BenchRegistry::serve(h, "bench-registry", program, dir)?;
    let there = registry.image("bench:1");
    engine.docker(["tag", &image, &there]).output()?;
    let pushed = engine.docker(["push", &there]).log(log).run();
    engine.docker(["rmi", &there, &image]).output()?;
    pushed?;
    let one = |number: usize| Layer::new().file(&format!("file-{number}"), number.to_string());
    let deep = (0..DEEP).map(one).collect::<Result<_>>()?;
    push(registry.address, "deep:1", deep)?;
    push(registry.address, "flat:1", vec![one(0)?]).map(drop)
}
