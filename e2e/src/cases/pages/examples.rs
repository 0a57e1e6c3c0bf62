//! Each file of `deploy/examples` does what its first comment says.
//!
//! The files have the names of a cluster of `cargo xtask try`; the names of this cluster replace them. Deliberately
//! absent: manifests.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::cases::case::{Case, Concurrency};
use crate::cluster::registry_proxy::{PASSWORD, USER};
use crate::env::namespace::TestNamespace;
use crate::oci::image::{Layer, push};

/// See the module.
pub const CASE: Case = Case {
    name: "examples",
    what: "each example does what it says",
    concurrency: Concurrency::Parallel,
    run,
};

/// The directory, below the sources.
const EXAMPLES: &str = "deploy/examples";

/// An example that another case applies: it starts the CronJob at once.
const OF_ANOTHER_CASE: &str = "cronjob.yaml";

/// The class in `volumesnapshot.yaml`. It belongs to the whole cluster, not to the case's namespace.
const CLASS: &str = "example";

/// The image of `private-image.yaml`.
const PRIVATE: &str = "team/base:1";

/// A file, and what to check after it was applied. Later ones use objects of earlier ones.
type Example = (&'static str, fn(&TestNamespace<'_>) -> Result<()>);

const ALL: [Example; 10] = [
    ("pod.yaml", |ns| {
        ns.ready("demo")?;
        ns.shell("demo", "echo written > /work/note")?;
        ns.expect_output("demo", &[("cat /work/demo/tool", "from the tools")])
    }),
    ("empty.yaml", |ns| {
        ns.ready("empty")?;
        ns.expect_output("empty", &[("ls -A /work; touch /work/file; ls -A /work", "file")])
    }),
    ("private-image.yaml", |ns| {
        ns.ready("private")?;
        ns.expect_output("private", &[("cat /work/file", "private")])
    }),
    ("limits.yaml", |ns| {
        ns.ready("limited")?;
        let fill = "cat /work/demo/hello; head -c 32M /dev/zero > /work/half && echo half; \
                    head -c 64M /dev/zero 2>/dev/null > /work/whole || echo full";
        ns.expect_output("limited", &[(fill, "from the image\nhalf\nfull")])
    }),
    ("job.yaml", |ns| {
        ns.kubectl(&["wait", "--for=condition=complete", "--timeout=120s", "job/build"])?;
        let log = ns.kubectl(&["logs", "--selector", "batch.kubernetes.io/job-name=build"])?;
        let each = "from the image\nbuilt";
        ensure!(log == format!("{each}\n{each}"), "the Job's pods print `{log}`");
        Ok(())
    }),
    ("deployment.yaml", |ns| rolled_out(ns, "deployment/workers", "app=workers", 2)),
    ("statefulset.yaml", |ns| rolled_out(ns, "statefulset/members", "app=members", 2)),
    ("volumesnapshot.yaml", |ns| ns.wait_snapshot_ready("demo-saved").map(drop)),
    ("restore.yaml", |ns| {
        ns.ready("restored")?;
        let facts = [("cat /work/note /work/demo/tool", "written\nfrom the tools")];
        ns.expect_output("restored", &facts)
    }),
    ("fork.yaml", |ns| {
        rolled_out(ns, "deployment/forks", "app=forks", 3)?;
        for pod in pods(ns, "app=forks")? {
            ns.expect_output(&pod, &[("cat /work/note", "written")])?;
        }
        Ok(())
    }),
];

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let dir = ns.env.repo.join(EXAMPLES);
    let files = fs::read_dir(&dir).with_context(|| format!("reading {EXAMPLES}"))?;
    let files = files.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let files: BTreeSet<String> = files.collect::<Result<_>>()?;
    let known = ALL.iter().map(|(file, _)| *file).chain([OF_ANOTHER_CASE]);
    let known: BTreeSet<String> = known.map(str::to_owned).collect();
    ensure!(files == known, "{EXAMPLES} has {files:?}, and the cases apply {known:?}");
    let layer = Layer::new().file("file", "private")?;
    push(ns.env.registry.here, PRIVATE, vec![layer])?;
    let applied = ALL.iter().try_for_each(|(file, check)| {
        let text = fs::read_to_string(dir.join(file)).with_context(|| format!("reading {file}"))?;
        ns.apply(&with_names(ns, &text)?)
            .and_then(|()| check(ns))
            .with_context(|| (*file).to_owned())
    });
    let delete = ["delete", "volumesnapshots", "--all", "--wait", "--timeout=180s"];
    let deleted = ns.kubectl(&delete).and_then(|_| {
        ns.cluster().kubectl(&["delete", "volumesnapshotclass", CLASS, "--ignore-not-found"])
    });
    applied.and(deleted.map(drop))
}

/// An example with the names of this cluster.
fn with_names(ns: &TestNamespace<'_>, text: &str) -> Result<String> {
    let env = ns.env;
    Ok(text
        .replace("registry.example", &env.proxies()?.basic.host)
        .replace("ovl-registry:5000", &env.registry.host)
        .replace("\"USER\"", &format!("{USER:?}"))
        .replace("\"PASSWORD\"", &format!("{PASSWORD:?}")))
}

/// Waits for the pods of a set. Each must have written its own name.
fn rolled_out(ns: &TestNamespace<'_>, set: &str, selector: &str, replicas: usize) -> Result<()> {
    ns.kubectl(&["rollout", "status", set, "--timeout=120s"])?;
    let pods = pods(ns, selector)?;
    ensure!(pods.len() == replicas, "{set} has the pods {pods:?}");
    for pod in pods {
        // A pod is Ready before its shell has run.
        ns.wait_for_command(&pod, "test -s /work/who")?;
        ns.expect_output(&pod, &[("cat /work/who", &pod)])?;
    }
    Ok(())
}

fn pods(ns: &TestNamespace<'_>, selector: &str) -> Result<Vec<String>> {
    let pods = ns.json(&["get", "pods", "--selector", selector])?;
    let pods = pods["items"].as_array().context("no list of pods")?;
    Ok(pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned).collect())
}
