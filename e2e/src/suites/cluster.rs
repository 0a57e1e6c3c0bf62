//! The cases on a cluster that is made for them and taken away after them.
//!
//! ```text
//! first node   │ aside ─────────────────────────┐
//! second node  │ together (some at a time) │ alone │ alone │ … ┴─ last
//! ```
//!
//! Deliberately absent: the cases, which are in `cases`.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};

use super::Bench;
use crate::cases::{self, Case, When};
use crate::cluster::Purpose;
use crate::look::Node;
use crate::pods::Scene;
use crate::progress::seconds;
use crate::render::{NAMESPACE, RELEASE};
use crate::stage::{self, Stage};
use crate::tally::Tally;
use crate::{clean, provision};

/// How many cases play at once where they may: they mostly wait, but not for nothing.
const AT_ONCE: usize = 4;

/// How many lines of the driver's log are shown of a case that failed.
const LOGGED: usize = 40;

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
    let tally = Mutex::new(Tally::default());
    let one = |case: &Case| {
        let result = play_one(bench, stage, case);
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.count(case.name, result);
    };
    let all = |when: When| cases::all().filter(move |case| case.when == when);
    thread::scope(|scope| {
        for case in all(When::Aside) {
            scope.spawn(|| one(case));
        }
        let together = Mutex::new(all(When::Together));
        let next = || together.lock().unwrap_or_else(PoisonError::into_inner).next();
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(case) = next() {
                        one(case);
                    }
                });
            }
        });
        all(When::Alone).for_each(one);
    });
    all(When::Last).for_each(one);
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Plays a case in its namespace, which goes with everything in it.
fn play_one(bench: &Bench<'_>, stage: &Stage, case: &Case) -> Result<()> {
    let scene = Scene { stage, namespace: case.name };
    let result = bench.h.progress.step(case.what, seconds(30), |_| {
        stage.cluster.kubectl(&["create", "namespace", case.name])?;
        // The API refuses pods until the namespace has its account.
        let account = || scene.kubectl(&["get", "serviceaccount", "default"]).map(Some);
        crate::cluster::wait_for("the namespace's account", seconds(60), account)?;
        (case.play)(&scene)
    });
    if let Err(error) = &result {
        bench.h.progress.say(&format!("{}: {error:#}\n{}", case.name, dump(&scene)));
    }
    let delete = ["delete", "namespace", case.name, "--ignore-not-found", "--timeout=280s"];
    let cleared = stage.cluster.kubectl(&delete).map(drop);
    result.and(cleared.map_err(|error| anyhow!("clearing up: {error:#}")))
}

/// What a person wants to see of a case that failed.
fn dump(scene: &Scene<'_>) -> String {
    let stage = scene.stage;
    let mut text = String::new();
    let mut add = |what: &str, said: Result<String>| {
        let said = said.unwrap_or_else(|error| format!("{error:#}"));
        text.push_str(&format!("---- {what}\n{said}\n"));
    };
    add("its pods", scene.kubectl(&["get", "pods", "--output", "wide"]));
    let by_time = ["get", "events", "--sort-by=.lastTimestamp"];
    add("its events", scene.kubectl(&by_time));
    let snapshots = ["get", "volumesnapshots", "--output", "yaml"];
    add("its snapshots", scene.kubectl(&snapshots));
    add("all orders", stage.cluster.kubectl(&["get", "overlaysnapshots", "--output", "wide"]));
    let driver = ["get", "pods", "--namespace", NAMESPACE, "--output", "wide"];
    add("the driver's pods and others", stage.cluster.kubectl(&driver));
    for set in ["daemonset/{}-node", "deployment/{}-controller"] {
        let set = set.replace("{}", RELEASE);
        let logs = ["logs", &set, "--all-pods", "--tail", "2000", "--namespace", NAMESPACE];
        let log = stage.cluster.kubectl(&logs).map(|log| {
            let lines: Vec<&str> =
                log.lines().filter(|line| line.contains(scene.namespace)).collect();
            lines[lines.len().saturating_sub(LOGGED)..].join("\n")
        });
        add(&format!("what {set} logged of it"), log);
    }
    for name in &stage.cluster.nodes {
        let table = Node::named(stage, name)
            .shell("grep -e kubernetes.io~csi -e ovl-csi /proc/self/mountinfo || true");
        add(&format!("mounts on {name}"), table);
    }
    text
}
