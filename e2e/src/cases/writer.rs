//! A pod that writes all the time, to check that it is not disturbed.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::env::namespace::TestNamespace;
use crate::env::node::{Mount, Node};
use crate::env::pods::{POD_TIMEOUT, Pod};
use crate::machine::wait::wait_for;

/// Writes one number per line, ten a second. Each is copied up, appended and synced. Ends at the
/// first error.
const WRITES: &str = "set -e; i=0; while :; do i=$((i+1)); echo $i >> /work/demo/hello; \
                      echo $i > /work/last; sync /work/last; sleep 0.1; done";

/// Counts the numbers, each on its line, below the line of the image.
const COUNTS: &str = r#"perl -ne 'next if $. == 1; chomp; $_ eq $. - 1 or die "line $. is $_\n";
                        END { print $. - 1 }' /work/demo/hello"#;

const NAME: &str = "writer";

/// The pod.
pub struct Writer<'a> {
    ns: TestNamespace<'a>,
    /// Its node.
    pub node: Node<'a>,
    uid: String,
    mount: Mount,
}

impl<'a> Writer<'a> {
    /// Starts it on the second node, and waits until it writes.
    pub fn start(ns: &TestNamespace<'a>) -> Result<Self> {
        let node = ns.env.worker();
        let pod = Pod::new(NAME, json!({ "image": ns.env.image })).runs(WRITES);
        let uid = ns.start(&pod.on(&node.name))?;
        let mount = node.volume_mount(&uid)?;
        let writer = Self { ns: *ns, node, uid, mount };
        writer.check_still_writing()?;
        Ok(writer)
    }

    /// Waits until it has written more than now, and returns how much. Fails if it has ended, or if
    /// its mount has changed.
    pub fn check_still_writing(&self) -> Result<u64> {
        let last = || -> Result<u64> {
            let output = self.ns.shell(NAME, "cat /work/last")?;
            // The file is empty between opening and writing it.
            if output.is_empty() { Ok(0) } else { Ok(output.parse()?) }
        };
        let first = || Ok(Some(last()?).filter(|n| *n > 0));
        let so_far = wait_for("the writer's first number", POD_TIMEOUT, first)?;
        let written = wait_for("the writer to write more", POD_TIMEOUT, || {
            let pod = self.ns.json(&["get", "pod", NAME])?;
            ensure!(pod["status"]["phase"] == "Running", "it ended: {}", pod["status"]);
            Ok(Some(last()?).filter(|now| *now > so_far))
        })?;
        let now = self.node.volume_mount(&self.uid)?;
        ensure!(now == self.mount, "its mount {:?} became {now:?}", self.mount);
        Ok(written)
    }

    /// Checks that no number is missing, deletes the pod, and waits until its node has nothing of
    /// it.
    pub fn finish(self) -> Result<()> {
        let written = self.check_still_writing()?;
        let there = self.ns.shell(NAME, COUNTS)?;
        ensure!(there.parse::<u64>()? >= written, "of {written} numbers {there} are there");
        self.ns.delete(NAME)?;
        self.node.wait_until_removed(&self.uid)
    }
}

/// Starts another pod on the second node. It must see the image, and nothing of the writer.
pub fn start_another_pod(ns: &TestNamespace<'_>, name: &str) -> Result<()> {
    let pod = Pod::new(name, json!({ "image": ns.env.image }));
    ns.start(&pod.on(&ns.env.worker().name))?;
    ns.expect_output(name, &[("cat /work/demo/hello", "from the image")])
}
