//! Everything that a cluster needs: the engine, programs and images. They come from the machine and
//! from registries, or are built.
//!
//! ```text
//! engine ─┬─ a registry responds ── pull kind's node image, a Debian; programs from PATH ─┬─ Prerequisites
//!         │                                                                              │
//!         │  ┌ Kubernetes ───────────────────────────────┐                               │
//!         └──┤ kind, containerd, etcd, CoreDNS, helm, …  ├── put the node image together ┘
//!            └ Debian image, build plugin, node's system ┘
//! ```
//!
//! The three builds run at the same time: the first two compile, the third mostly downloads.
//! Deliberately absent: the cluster itself.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::engine::Engine;
use super::node_image::{self, Programs};
use super::purpose::Purpose;
use super::{kubectl, preflight};
use crate::machine::harness::Harness;
use crate::machine::progress::{minutes, seconds};
use crate::machine::{mounts, process};
use crate::toolchain::{apt, installed, pause, programs, versions};

/// A small Debian, as Debian publishes it.
const PUBLISHED_DEBIAN: &str = "debian";

/// How long a registry may take to respond.
const REGISTRY_RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Everything that a cluster needs.
#[derive(Clone, Debug)]
pub struct Prerequisites {
    /// The container engine.
    pub engine: Engine,
    /// Where the images come from.
    pub images: ImageSource,
    /// The image of a node.
    pub node_image: String,
    /// A small Debian with a shell and apt, for test images. The engine has it.
    pub base_image: String,
    /// kind.
    pub kind: PathBuf,
    /// helm.
    pub helm: PathBuf,
    /// A kubectl that fits the cluster.
    pub kubectl: PathBuf,
}

/// Where images come from on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// From a registry on the network.
    Pulled,
    /// From a build: no registry responds.
    Built,
}

/// Provides all prerequisites of a cluster for this purpose.
///
/// # Errors
/// The first one that is missing, with a fix.
pub fn provision(h: &Harness, purpose: Purpose) -> Result<Prerequisites> {
    preflight::check(h)?;
    let engine = Engine::ensure(h)?;
    match pull(h, &engine) {
        Some((node_image, base_image)) => {
            let kind = installed::kind(h)?;
            let helm = installed::helm(h)?;
            let kubectl = kubectl::ensure(h, &engine, &node_image)?;
            let images = ImageSource::Pulled;
            Ok(Prerequisites { engine, images, node_image, base_image, kind, helm, kubectl })
        }
        None => build(h, engine, purpose),
    }
}

/// Pulls the node image and a Debian. `None`, with a message, where no registry responds or an
/// image is missing.
fn pull(h: &Harness, engine: &Engine) -> Option<(String, String)> {
    let node = versions::NODE_IMAGE.to_owned();
    let debian = format!("{PUBLISHED_DEBIAN}:{}-slim", versions::DEBIAN);
    let have = |image: &String| engine.has_image(image);
    if !have(&node) || !have(&debian) {
        // The client calls the registry itself, which takes seconds in both cases.
        if !engine
            .docker(["manifest", "inspect", &node])
            .limit(REGISTRY_RESPONSE_TIMEOUT)
            .succeeds()
        {
            let name = without_digest(&node);
            h.progress.say(&format!("  {name} cannot be pulled here, so the node image is built"));
            return None;
        }
        for image in [&node, &debian] {
            let what = format!("pulling {}", without_digest(image));
            let pulled = h.progress.step(&what, minutes(1), |log| {
                engine.docker(["pull", image]).limit(minutes(15)).log(log).run()
            });
            pulled.map_err(|error| h.progress.say(&format!("  {error:#}"))).ok()?;
        }
    }
    Some((node, debian))
}

fn without_digest(image: &str) -> &str {
    image.split('@').next().unwrap_or(image)
}

/// Builds everything that is missing.
fn build(h: &Harness, mut engine: Engine, purpose: Purpose) -> Result<Prerequisites> {
    let (kubernetes, small, system) = std::thread::scope(|scope| {
        let kubernetes = scope.spawn(|| run_build(|| programs::kubernetes().ensure(h)));
        let small = scope.spawn(|| run_build(|| SmallPrograms::ensure(h, purpose)));
        let system = run_build(|| NodeSystem::ensure(h, &mut engine));
        let panicked = || anyhow!("a part of the build panicked");
        let kubernetes = kubernetes.join().unwrap_or_else(|_| Err(panicked()));
        (kubernetes, small.join().unwrap_or_else(|_| Err(panicked())), system)
    });
    process::admit_children();
    let (kubernetes, small, system) = first_failure(kubernetes, small, system)?;
    let programs = Programs {
        kubernetes: kubernetes.clone(),
        containerd: small.containerd,
        runc: system.runc,
        cni_plugins: small.cni_plugins,
        crictl: small.crictl,
        etcd: small.etcd,
        coredns: small.coredns,
        pause: small.pause,
        snapshotter: small.snapshotter,
    };
    let node_image = node_image::assemble(h, &engine, &system.node_base, &programs)?;
    // They only take space, and the next run tries again.
    if let Err(error) = drop_intermediates(h, &engine) {
        h.progress.say(&format!("  {error:#}"));
    }
    Ok(Prerequisites {
        engine,
        images: ImageSource::Built,
        node_image,
        base_image: system.debian,
        kind: small.kind.join("kind"),
        helm: small.helm.join("helm"),
        kubectl: kubernetes.join("kubectl"),
    })
}

/// Removes intermediate files of the compilers: most of the cache by then, and needed again only
/// for a new version. Sources stay: they are many small files, and slow to remove.
fn drop_intermediates(h: &Harness, engine: &Engine) -> Result<()> {
    let compiled = h.cache.root().join("go-build");
    if !compiled.exists() {
        return Ok(());
    }
    h.progress.step("removing intermediate files of the builds", seconds(15), |log| {
        if engine.ours {
            engine.docker(["builder", "prune", "--force"]).log(log).run()?;
        }
        mounts::remove(&compiled)
    })
}

/// The build of the programs that compile quickly.
struct SmallPrograms {
    kind: PathBuf,
    helm: PathBuf,
    containerd: PathBuf,
    cni_plugins: PathBuf,
    crictl: PathBuf,
    etcd: PathBuf,
    coredns: PathBuf,
    pause: PathBuf,
    snapshotter: PathBuf,
}

impl SmallPrograms {
    fn ensure(h: &Harness, purpose: Purpose) -> Result<Self> {
        // The first to fail comes first: a machine without a C compiler fails at once.
        let pause = pause::ensure(h)?;
        let small = Self {
            pause,
            kind: programs::kind().ensure(h)?,
            containerd: programs::containerd().ensure(h)?,
            cni_plugins: programs::cni_plugins().ensure(h)?,
            crictl: programs::crictl().ensure(h)?,
            etcd: programs::etcd().ensure(h)?,
            coredns: programs::coredns().ensure(h)?,
            helm: programs::helm().ensure(h)?,
            snapshotter: programs::external_snapshotter().ensure(h)?,
        };
        // What is needed later is compiled now, beside Kubernetes, and not after it.
        programs::registry().ensure(h)?;
        if purpose == Purpose::Test {
            programs::csi_sanity().ensure(h)?;
            programs::umoci().ensure(h)?;
        }
        Ok(small)
    }
}

/// The build of the node's system, with runc, which needs a Debian package to build.
struct NodeSystem {
    debian: String,
    node_base: String,
    runc: PathBuf,
}

impl NodeSystem {
    fn ensure(h: &Harness, engine: &mut Engine) -> Result<Self> {
        let runc = programs::runc();
        if runc.find(h).is_none() {
            apt::ensure(h, &["libseccomp-dev", "pkg-config"])?;
        }
        let debian = node_image::debian(h, engine)?;
        engine.add_build_plugin(h)?;
        let node_base = node_image::node_base(h, engine, &debian)?;
        Ok(Self { debian, node_base, runc: runc.ensure(h)? })
    }
}

/// Runs one build. Its failure ends the commands of the others, so the user sees it at once.
fn run_build<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    work().inspect_err(|_| process::end_children())
}

/// All three results, or the failure that came first. (The others only report that they were
/// ended.)
fn first_failure<A, B, C>(a: Result<A>, b: Result<B>, c: Result<C>) -> Result<(A, B, C)> {
    let own = |error: &anyhow::Error| !error.is::<process::Cancelled>();
    match (a, b, c) {
        (Ok(a), Ok(b), Ok(c)) => Ok((a, b, c)),
        (a, b, c) => {
            let errors = [a.err(), b.err(), c.err()];
            let (first, rest): (Vec<_>, Vec<_>) = errors.into_iter().flatten().partition(own);
            let error = first.into_iter().chain(rest).next();
            Err(error.unwrap_or_else(|| anyhow!("a part of the build failed without an error")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reported_failure_is_the_one_that_came_first() {
        let ended =
            || Err::<(), _>(anyhow::Error::new(process::Cancelled).context("building kind"));
        let result = first_failure(ended(), Err::<(), _>(anyhow!("no compiler")), ended());
        assert_eq!(result.err().map(|e| e.to_string()).as_deref(), Some("no compiler"));
        assert!(first_failure(Ok(1), Ok(2), Ok(3)).is_ok());
    }
}
