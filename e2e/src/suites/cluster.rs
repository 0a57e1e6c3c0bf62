//! The cases, on a cluster that is created for them and deleted after them.
//!
//! ```text
//! first node   │ all FirstNode cases at once ───────────────────────────────────────┐
//! second node  │ Parallel cases, some at a time │ Exclusive cases, one after another ┴─ Last cases, the same
//! ```
//!
//! Deliberately absent: the cases. They are in `cases`.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};

use super::context::SuiteContext;
use crate::cases::{self, Case, Concurrency};
use crate::cluster::purpose::Purpose;
use crate::cluster::{cleanup, prerequisites};
use crate::env::chart::{NAMESPACE, RELEASE};
use crate::env::environment::{self, Environment};
use crate::env::namespace::TestNamespace;
use crate::env::node::Node;
use crate::machine::progress::seconds;
use crate::report::Report;

/// Cases that run at the same time. They mostly wait, but they also use the processor.
const AT_ONCE: usize = 4;

/// Lines of the driver's log that are shown for a failed case.
const LOGGED: usize = 40;

/// Sets up the environment, runs every case, and always tears the environment down.
pub fn run(ctx: &SuiteContext<'_>, _log: &Path) -> Result<Report> {
    let prerequisites = prerequisites::provision(ctx.h, Purpose::Test)?;
    let env = environment::set_up(ctx.h, ctx.repo, &prerequisites, Purpose::Test);
    let ran = env.map(|env| run_all(ctx, &env));
    let torn_down = environment::teardown(ctx.h, &prerequisites, Purpose::Test)
        .and_then(|()| cleanup::check(ctx.h, &prerequisites.engine, Purpose::Test));
    let mut report =
        ran.unwrap_or_else(|error| Report::of("setting up the environment", Err(error)));
    report.count("nothing is left behind", torn_down);
    Ok(report)
}

fn run_all(ctx: &SuiteContext<'_>, env: &Environment) -> Report {
    let report = Mutex::new(Report::default());
    let one = |case: &Case| {
        let result = run_case(ctx, env, case);
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report.count(case.name, result);
    };
    let all = |when: Concurrency| cases::all().filter(move |case| case.concurrency == when);
    thread::scope(|scope| {
        for case in all(Concurrency::FirstNode) {
            scope.spawn(|| one(case));
        }
        let together = Mutex::new(all(Concurrency::Parallel));
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
        all(Concurrency::Exclusive).for_each(one);
    });
    all(Concurrency::Last).for_each(one);
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a case in its namespace, then deletes the namespace.
fn run_case(ctx: &SuiteContext<'_>, env: &Environment, case: &Case) -> Result<()> {
    let ns = TestNamespace { env, namespace: case.name };
    let result = ctx.h.progress.step(case.what, seconds(30), |_| {
        env.cluster.kubectl(&["create", "namespace", case.name])?;
        // The API server refuses pods until the namespace has its service account.
        let account = || ns.kubectl(&["get", "serviceaccount", "default"]).map(Some);
        crate::machine::wait::wait_for("the namespace's account", seconds(60), account)?;
        (case.run)(&ns)
    });
    if let Err(error) = &result {
        ctx.h.progress.say(&format!("{}: {error:#}\n{}", case.name, dump(&ns)));
    }
    let delete = ["delete", "namespace", case.name, "--ignore-not-found", "--timeout=280s"];
    let cleared = env.cluster.kubectl(&delete).map(drop);
    result.and(cleared.map_err(|error| anyhow!("cleaning up: {error:#}")))
}

/// Diagnostics of a failed case.
fn dump(ns: &TestNamespace<'_>) -> String {
    let env = ns.env;
    let mut text = String::new();
    let mut add = |what: &str, output: Result<String>| {
        let output = output.unwrap_or_else(|error| format!("{error:#}"));
        text.push_str(&format!("---- {what}\n{output}\n"));
    };
    add("its pods", ns.kubectl(&["get", "pods", "--output", "wide"]));
    let by_time = ["get", "events", "--sort-by=.lastTimestamp"];
    add("its events", ns.kubectl(&by_time));
    let snapshots = ["get", "volumesnapshots", "--output", "yaml"];
    add("its snapshots", ns.kubectl(&snapshots));
    add(
        "all OverlaySnapshots",
        env.cluster.kubectl(&["get", "overlaysnapshots", "--output", "wide"]),
    );
    let driver = ["get", "pods", "--namespace", NAMESPACE, "--output", "wide"];
    add("the pods beside the driver", env.cluster.kubectl(&driver));
    for set in ["daemonset/{}-node", "deployment/{}-controller"] {
        let set = set.replace("{}", RELEASE);
        let logs = ["logs", &set, "--all-pods", "--tail", "2000", "--namespace", NAMESPACE];
        let log = env.cluster.kubectl(&logs).map(|log| {
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(ns.namespace)).collect();
            lines[lines.len().saturating_sub(LOGGED)..].join("\n")
        });
        add(&format!("the log of {set} about it"), log);
    }
    for name in &env.cluster.nodes {
        let table = Node::new(&env.cluster, name)
            .shell("grep -e kubernetes.io~csi -e ovl-csi /proc/self/mountinfo || true");
        add(&format!("mounts on {name}"), table);
    }
    text
}
