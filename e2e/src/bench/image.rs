//! What is pulled: a real image, made once and kept as the folder of a registry, and tiny ones
//! beside it; and the registry on loopback that serves them.
//!
//! Deliberately absent: writing. The registry only reads what was kept.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::background::Background;
use crate::cache::Recipe;
use crate::cluster::wait_for;
use crate::engine::REPOSITORY;
use crate::harness::Harness;
use crate::http;
use crate::oci::{Layer, push};
use crate::process::Cmd;
use crate::progress::{minutes, seconds};
use crate::provision::Ground;
use crate::tools;

/// What the image is made by.
const DOCKERFILE: &str = include_str!("../../assets/bench.Dockerfile");

/// Layers of the deep image, each of one file.
pub const DEEP: usize = 100;

/// A registry on loopback with the images in it, for as long as this lives.
pub struct Source {
    /// Where it listens.
    pub address: SocketAddr,
    _registry: Background,
}

/// A layer as the image's manifest names it.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its digest.
    pub digest: String,
    /// Its bytes, compressed.
    pub size: u64,
}

impl Source {
    /// Makes the images unless they are kept, and serves them.
    ///
    /// # Errors
    /// The image cannot be built, or the registry does not start.
    pub fn ensure(h: &Harness, ground: &Ground) -> Result<Self> {
        let program = tools::registry().ensure(h)?.join("registry");
        let recipe =
            Recipe { name: "bench-image", version: "1", inputs: &[DOCKERFILE, &ground.base_image] };
        let have = h.cache.have(&recipe);
        let folder = match have {
            Some(folder) => folder,
            None => h.progress.step("making an image to measure with", minutes(8), |log| {
                h.cache.product(&recipe, |folder| make(h, ground, &program, folder, log))
            })?,
        };
        Self::serve(h, "bench-registry", &program, &folder)
    }

    /// Serves a folder, and takes pushes into it; the name tells it from others.
    ///
    /// # Errors
    /// The registry does not start.
    pub fn serve(h: &Harness, name: &str, program: &Path, folder: &Path) -> Result<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let address = free.context("finding a free port")?;
        let config = h.cache.scratch(name)?.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}}}\nhttp: {{addr: \"{address}\"}}\n",
            folder.display()
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let serve = Cmd::new(program).arg("serve").arg(&config);
        let serve = serve.env("OTEL_TRACES_EXPORTER", "none");
        let mut registry = Background::start(&serve, h.cache.logs().join(format!("{name}.log")))?;
        wait_for("the registry on loopback", seconds(30), || {
            if registry.ended() {
                bail!("it ended; see {}", registry.log.display());
            }
            let answer = http::send(address, "GET", "/v2/", &[], &[])?;
            Ok((answer.status == 200).then_some(()))
        })?;
        Ok(Self { address, _registry: registry })
    }

    /// An image's reference.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The large image's layers, bottom first.
    ///
    /// # Errors
    /// The registry has no such image.
    pub fn layers(&self) -> Result<Vec<Blob>> {
        let accept = [
            ("Accept", "application/vnd.docker.distribution.manifest.v2+json"),
            ("Accept", "application/vnd.oci.image.manifest.v1+json"),
        ];
        let answer = http::send(self.address, "GET", "/v2/bench/manifests/1", &accept, &[])?;
        ensure!(answer.status == 200, "the registry answers {} to the manifest", answer.status);
        let manifest: Value = serde_json::from_slice(&answer.bytes()?).context("the manifest")?;
        let layers = manifest.get("layers").and_then(Value::as_array).context("no layers")?;
        let blob = |layer: &Value| {
            let digest = layer["digest"].as_str()?.to_owned();
            Some(Blob { digest, size: layer["size"].as_u64()? })
        };
        layers.iter().map(|layer| blob(layer).context("a layer without a digest")).collect()
    }
}

fn make(h: &Harness, ground: &Ground, program: &Path, folder: &Path, log: &Path) -> Result<()> {
    let engine = &ground.engine;
    let context: PathBuf = h.cache.scratch("bench-context")?;
    fs::write(context.join("Dockerfile"), DOCKERFILE).context("writing a Dockerfile")?;
    let image = format!("{REPOSITORY}/bench:1");
    let base = format!("BASE={}", ground.base_image);
    engine.build(&image, &context, &["--build-arg", &base], log)?;
    let source = Source::serve(h, "bench-registry", program, folder)?;
    let there = source.image("bench:1");
    engine.docker(["tag", &image, &there]).output()?;
    let pushed = engine.docker(["push", &there]).log(log).run();
    engine.docker(["rmi", &there, &image]).output()?;
    pushed?;
    let one = |number: usize| Layer::new().file(&format!("file-{number}"), number.to_string());
    let deep = (0..DEEP).map(one).collect::<Result<_>>()?;
    push(source.address, "deep:1", deep)?;
    push(source.address, "flat:1", vec![one(0)?]).map(drop)
}
