//! The cases on a cluster that is made for them and taken away after them.
//!
//! Deliberately absent: the cases, which are in `cases`.

use std::path::Path;

use anyhow::Result;

use super::Bench;
use crate::cases::{self, Case};
use crate::cluster::Purpose;
use crate::look::Node;
use crate::progress::seconds;
use crate::render::{NAMESPACE, RELEASE};
use crate::stage::{self, Stage};
use crate::tally::Tally;
use crate::{clean, pods, provision};

/// Sets the stage, plays every case, and strikes the stage however that went.
pub fn run(bench: &Bench<'_>, _log: &Path) -> Result<Tally> {
    let ground = provision::provision(bench.h)?;
    let stage = stage::set(bench.h, bench.repo, &ground, Purpose::Test);
    let played = stage.map(|stage| play(bench, &stage));
    let struck = stage::strike(bench.h, &ground, Purpose::Test)
        .and_then(|()| clean::look(bench.h, &ground.engine, Purpose::Test));
    let mut tally = played.unwrap_or_else(|error| Tally::of("setting the stage", Err(error)));
    tally.count("nothing is left behind", struck);
    Ok(tally)
}

fn play(bench: &Bench<'_>, stage: &Stage) -> Tally {
    let mut tally = Tally::default();
    for case in cases::ALL {
        let result = bench.h.progress.step(case.what, seconds(30), |_| (case.play)(stage));
        if result.is_err() {
            bench.h.progress.say(&dump(stage));
        }
        tally.count(case.name, result);
        clear(bench, stage, case);
    }
    tally
}

/// Deletes every pod of a case, so that the next one starts on an empty node.
fn clear(bench: &Bench<'_>, stage: &Stage, case: &Case) {
    for pod in case.pods {
        if let Err(error) = pods::delete(&stage.cluster, pod) {
            bench.h.progress.say(&format!("  clearing up after {}: {error:#}", case.name));
        }
    }
}

/// What a person wants to see of a case that failed.
fn dump(stage: &Stage) -> String {
    let set = format!("daemonset/{RELEASE}-node");
    let mut text = String::new();
    let mut add = |what: &str, said: Result<String>| {
        let said = said.unwrap_or_else(|error| format!("{error:#}"));
        text.push_str(&format!("---- {what}\n{said}\n"));
    };
    let kubectl = |args: &[&str]| stage.cluster.kubectl(args);
    add("pods", kubectl(&["describe", "pods"]));
    add(
        "the driver's pods",
        kubectl(&[
            "describe",
            "pods",
            "--namespace",
            NAMESPACE,
            "-l",
            "app.kubernetes.io/name=ovl-csi",
        ]),
    );
    let logs = ["logs", &set, "--all-pods", "--prefix", "--tail", "60", "--namespace", NAMESPACE];
    add("the driver's log", kubectl(&logs));
    for name in &stage.cluster.nodes {
        let table = Node::named(stage, name)
            .shell("grep -e kubernetes.io~csi -e ovl-csi /proc/self/mountinfo");
        add(&format!("mounts on {name}"), table);
    }
    text
}
