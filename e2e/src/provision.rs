//! Everything a cluster stands on: engine, programs and images, taken from the machine and from
//! registries where they are, built where they are not.
//!
//! ```text
//! engine ─┬─ a registry answers ── pull kind's node image, a Debian; programs from PATH ─┬─ Ground
//!         │                                                                              │
//!         │  ┌ Kubernetes ───────────────────────────────┐                               │
//!         └──┤ kind, containerd, etcd, CoreDNS, helm, …  ├── put the node image together ┘
//!            └ Debian image, build plugin, node's system ┘
//! ```
//!
//! The three lanes run side by side: the first two compile, the third mostly downloads.
//! Deliberately absent: the cluster itself.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::clean;
use crate::engine::Engine;
use crate::harness::Harness;
use crate::node_image::{self, Programs};
use crate::progress::{minutes, seconds};
use crate::tools::{self, apt, found};
use crate::{preflight, process, versions};

/// A small Debian, as Debian publishes it.
const PUBLISHED_DEBIAN: &str = "debian";

/// How long a registry may take to show that it is there.
const REGISTRY_ANSWER: Duration = Duration::from_secs(15);

/// What a cluster stands on.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The container engine.
    pub engine: Engine,
    /// Where the images come from.
    pub images: Images,
    /// The image of a node.
    pub node_image: String,
    /// A small Debian with a shell and apt, for test images; present in the engine.
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
pub enum Images {
    /// A registry on the network answers: published images are used.
    Pulled,
    /// None does: they are built.
    Built,
}

/// Provides all of it.
///
/// # Errors
/// The first thing that could not be had, with its cure.
pub fn provision(h: &Harness) -> Result<Ground> {
    preflight::check(h)?;
    let engine = Engine::ensure(h)?;
    match pull(h, &engine) {
        Some((node_image, base_image)) => {
            let kind = found::kind(h)?;
            let helm = found::helm(h)?;
            let kubectl = found::kubectl(h, &engine, &node_image)?;
            let images = Images::Pulled;
            Ok(Ground { engine, images, node_image, base_image, kind, helm, kubectl })
        }
        None => build(h, engine),
    }
}

/// Pulls the node's image and a Debian; `None` where no registry answers or one of them is not
/// to be had, which is then told.
fn pull(h: &Harness, engine: &Engine) -> Option<(String, String)> {
    let node = versions::NODE_IMAGE.to_owned();
    let debian = format!("{PUBLISHED_DEBIAN}:{}-slim", versions::DEBIAN);
    let have = |image: &String| engine.has_image(image);
    if !have(&node) || !have(&debian) {
        // The client asks the registry itself, which is decided in seconds either way.
        if !engine.docker(["manifest", "inspect", &node]).limit(REGISTRY_ANSWER).succeeds() {
            let name = without_digest(&node);
            h.progress.say(&format!("  {name} cannot be pulled here: the node image is built"));
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

/// Builds whatever is not built yet.
fn build(h: &Harness, mut engine: Engine) -> Result<Ground> {
    let (kubernetes, small, system) = std::thread::scope(|scope| {
        let kubernetes = scope.spawn(|| lane(|| tools::kubernetes().ensure(h)));
        let small = scope.spawn(|| lane(|| Small::ensure(h)));
        let system = lane(|| System::ensure(h, &mut engine));
        let broken = || anyhow!("a lane of the build broke down");
        let kubernetes = kubernetes.join().unwrap_or_else(|_| Err(broken()));
        (kubernetes, small.join().unwrap_or_else(|_| Err(broken())), system)
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
    drop_intermediates(h, &engine)?;
    Ok(Ground {
        engine,
        images: Images::Built,
        node_image,
        base_image: system.debian,
        kind: small.kind.join("kind"),
        helm: small.helm.join("helm"),
        kubectl: kubernetes.join("kubectl"),
    })
}

/// Gives back the space of what compilers made on the way: most of the cache by then, and needed
/// again only when a version changes. Sources stay; they are many small files, slow to remove.
fn drop_intermediates(h: &Harness, engine: &Engine) -> Result<()> {
    let compiled = h.cache.root().join("go-build");
    if !compiled.exists() {
        return Ok(());
    }
    h.progress.step("dropping what only the builds needed", seconds(15), |log| {
        if engine.ours {
            engine.docker(["builder", "prune", "--force"]).log(log).run()?;
        }
        clean::remove(&compiled)
    })
}

/// The lane of programs that build quickly.
struct Small {
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

impl Small {
    fn ensure(h: &Harness) -> Result<Self> {
        // The quickest to fail comes first: a machine without a C compiler hears of it at once.
        let pause = tools::pause::ensure(h)?;
        let small = Self {
            pause,
            kind: tools::kind().ensure(h)?,
            containerd: tools::containerd().ensure(h)?,
            cni_plugins: tools::cni_plugins().ensure(h)?,
            crictl: tools::crictl().ensure(h)?,
            etcd: tools::etcd().ensure(h)?,
            coredns: tools::coredns().ensure(h)?,
            helm: tools::helm().ensure(h)?,
            snapshotter: tools::external_snapshotter().ensure(h)?,
        };
        // What the suites want later is compiled now, beside Kubernetes, instead of after it.
        for later in [tools::registry(), tools::csi_sanity(), tools::umoci()] {
            later.ensure(h)?;
        }
        Ok(small)
    }
}

/// The lane of the node's system, with the one program that needs a Debian package to build.
struct System {
    debian: String,
    node_base: String,
    runc: PathBuf,
}

impl System {
    fn ensure(h: &Harness, engine: &mut Engine) -> Result<Self> {
        let runc = tools::runc();
        if runc.have(h).is_none() {
            apt::ensure(h, &["libseccomp-dev", "pkg-config"])?;
        }
        let debian = node_image::debian(h, engine)?;
        engine.add_build_plugin(h)?;
        let node_base = node_image::node_base(h, engine, &debian)?;
        Ok(Self { debian, node_base, runc: runc.ensure(h)? })
    }
}

/// Runs one lane; its failure ends the others' commands, so that a person hears of it now and
/// not when the longest lane is done.
fn lane<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    work().inspect_err(|_| process::end_children())
}

/// All three results, or the failure that came first (the others only say that they were ended).
fn first_failure<A, B, C>(a: Result<A>, b: Result<B>, c: Result<C>) -> Result<(A, B, C)> {
    let own = |error: &anyhow::Error| !error.is::<process::Ended>();
    match (a, b, c) {
        (Ok(a), Ok(b), Ok(c)) => Ok((a, b, c)),
        (a, b, c) => {
            let errors = [a.err(), b.err(), c.err()];
            let (first, rest): (Vec<_>, Vec<_>) = errors.into_iter().flatten().partition(own);
            let error = first.into_iter().chain(rest).next();
            Err(error.unwrap_or_else(|| anyhow!("a lane of the build failed without an error")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_told_is_the_one_that_came_first() {
        let ended = || Err::<(), _>(anyhow::Error::new(process::Ended).context("building kind"));
        let result = first_failure(ended(), Err::<(), _>(anyhow!("no compiler")), ended());
        assert_eq!(result.err().map(|e| e.to_string()).as_deref(), Some("no compiler"));
        assert!(first_failure(Ok(1), Ok(2), Ok(3)).is_ok());
    }
}
