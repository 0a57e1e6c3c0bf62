//! A pod that writes all the time, to see whether it notices what happens around it.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cluster::wait_for;
use crate::look::{Mount, Node};
use crate::pods::{PATIENCE, Pod, Scene};

/// Writes a number a line, ten a second, each copied up, appended, synced; ends at the first error.
const WRITES: &str = "set -e; i=0; while :; do i=$((i+1)); echo $i >> /work/demo/hello; \
                      echo $i > /work/last; sync /work/last; sleep 0.1; done";

/// How many numbers there are, each on its line, below the line of the image.
const COUNTS: &str = r#"perl -ne 'next if $. == 1; chomp; $_ eq $. - 1 or die "line $. is $_\n";
                        END { print $. - 1 }' /work/demo/hello"#;

const NAME: &str = "writer";

/// The pod, which writes.
pub struct Writer<'a> {
    scene: Scene<'a>,
    /// Where it writes.
    pub node: Node<'a>,
    uid: String,
    mount: Mount,
}

impl<'a> Writer<'a> {
    /// Starts it on the second node, and waits until it writes.
    pub fn start(scene: &Scene<'a>) -> Result<Self> {
        let node = scene.stage.worker();
        let pod = Pod::new(NAME, json!({ "image": scene.stage.image })).runs(WRITES);
        let uid = scene.start(&pod.on(&node.name))?;
        let mount = node.volume_mount(&uid)?;
        let writer = Self { scene: *scene, node, uid, mount };
        writer.goes_on()?;
        Ok(writer)
    }

    /// Waits until it has written more than it has now, and returns how much; fails if it has
    /// ended, or if its mount is another one.
    pub fn goes_on(&self) -> Result<u64> {
        let last = || -> Result<u64> {
            let said = self.scene.shell(NAME, "cat /work/last")?;
            // The file is empty for the moment between opening and writing it.
            if said.is_empty() { Ok(0) } else { Ok(said.parse()?) }
        };
        let first = || Ok(Some(last()?).filter(|n| *n > 0));
        let so_far = wait_for("the writer's first number", PATIENCE, first)?;
        let written = wait_for("the writer to write on", PATIENCE, || {
            let pod = self.scene.json(&["get", "pod", NAME])?;
            ensure!(pod["status"]["phase"] == "Running", "it ended: {}", pod["status"]);
            Ok(Some(last()?).filter(|now| *now > so_far))
        })?;
        let now = self.node.volume_mount(&self.uid)?;
        ensure!(now == self.mount, "its mount {:?} became {now:?}", self.mount);
        Ok(written)
    }

    /// Checks that no number is missing, then deletes the pod and waits until its node has nothing of it.
    pub fn end(self) -> Result<()> {
        let written = self.goes_on()?;
        let there = self.scene.shell(NAME, COUNTS)?;
        ensure!(there.parse::<u64>()? >= written, "of {written} numbers {there} are there");
        self.scene.delete(NAME)?;
        self.node.forgets(&self.uid)
    }
}

/// Starts another pod on the second node, which has to see the image and nothing of the writer's.
pub fn newcomer(scene: &Scene<'_>, name: &str) -> Result<()> {
    let pod = Pod::new(name, json!({ "image": scene.stage.image }));
    scene.start(&pod.on(&scene.stage.worker().name))?;
    scene.facts(name, &[("cat /work/demo/hello", "from the image")])
}
