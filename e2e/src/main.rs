//! The harness of ovl-csi, reached as `cargo xtask`.
//!
//! It creates a real Kubernetes cluster of two nodes and removes it again. The machine needs only
//! Linux, root, Rust and a C compiler. Go is needed by `test`, and to build programs that are not
//! installed.
//!
//! A module may use those below it, as far as its header says so (`May use:`). There are no cycles.
//!
//! ```text
//! suites      `test`: every suite        tour   `try`: the driver in a cluster
//! cases       the cluster tests          bench  `bench`          demo  `demo`: without a cluster
//! release     `release`: all files of a release
//! env         a cluster with the driver, images and a registry, as tests use it
//! cluster     kind, the engine, the registry, what they need; `up`, `clean`
//! book        `book`: docs/ as HTML              pages  the commands that the pages show
//! driver      the driver, built and run as a process             emulated  machines in qemu
//! toolchain   programs that are built or installed, versions     report    results of suites
//! machine     processes, cache, lock, mounts, progress           oci       HTTP, images, a registry
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program prints")]

mod bench;
mod book;
mod cases;
mod cluster;
mod demo;
mod driver;
mod emulated;
mod env;
mod machine;
mod oci;
mod pages;
mod release;
mod report;
mod suites;
mod toolchain;
mod tour;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::cluster::purpose::Purpose;
use crate::cluster::{cleanup, lifecycle, prerequisites};
use crate::env::{chart, chart_readme};
use crate::machine::harness::Harness;
use crate::machine::process;
use crate::machine::progress::seconds;
use crate::toolchain::installed;

const USAGE: &str = "\
usage: cargo xtask <command>

  demo            build the driver and show its main function on this machine, without a cluster
  try             create a two-node cluster with the driver and show a pod's volume (context kind-ovl)
  test [SUITE]…   run every suite, or the named ones
  test --quick    run the suites that need neither a cluster nor an emulated machine
  bench [PART]…   compare the driver with containerd, podman, docker, buildah, a baseline and
                  former versions: pulls, warm, snapshots, busy, shell, controller, or all
  bench controller --count N
                  the controller with N snapshots, such as 500, instead of 5000
  soak [PART]…    run the long tests: on as many files as a layer may have (large), and with the programs
                  for arm64 in an emulated machine (arm64)
  release [--image REPOSITORY] [--allow-dirty] [--unreleased] [--profile PROFILE]
                  make all files of a release in target/dist and check them; --allow-dirty,
                  --unreleased (notes) and --profile quick are for trials
  render          write the rendered chart into deploy/, and the README of the chart
  book            make the book of docs/ in target/book and check its links
  up              create a two-node cluster (context kind-ovl) and keep it
  clean           remove the harness's clusters, containers, networks and engine
  clean --cache   the same, and everything that was built
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // A pod of the demonstration. It must end by itself, so nothing is set up for it.
    let pod = match args.as_slice() {
        [demo::pod_process::OUTER, rest @ ..] => Some(demo::pod_process::outer(rest)),
        [demo::pod_process::INNER, rest @ ..] => {
            Some(demo::pod_process::inner(rest).map(|()| ExitCode::SUCCESS))
        }
        _ => None,
    };
    if let Some(ended) = pod {
        return ended.unwrap_or_else(failed);
    }
    // Before any other setup: this process becomes another one.
    let begun = match args.as_slice() {
        ["bench", parts @ ..] => bench::in_release(parts),
        _ => Ok(()),
    };
    match begun.and_then(|()| process::end_children_on_signal()).and_then(|()| run()) {
        Ok(code) => code,
        // The thread that received the signal ends the process and prints its own message.
        Err(_) if process::interrupted() => loop {
            std::thread::park();
        },
        Err(error) => failed(error),
    }
}

fn failed(error: anyhow::Error) -> ExitCode {
    eprintln!("\nxtask: {error:#}");
    ExitCode::FAILURE
}

fn run() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["demo"] => demo::run(&driver::sources()?)?,
        [demo::WITH, program] => demo::run_program(Path::new(program))?,
        ["try"] => tour::run(&Harness::start()?, &driver::sources()?)?,
        ["test", suites @ ..] => {
            let (quick, all_quick) = (suites == ["--quick"], suites::quick());
            let suites = if quick { &all_quick } else { suites };
            let (h, repo) = (Harness::start()?, driver::sources()?);
            let ctx = suites::SuiteContext { h: &h, repo: &repo, quick };
            let passed = suites::run(&ctx, suites)?;
            return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        ["bench", parts @ ..] => {
            let plan = bench::Plan::parse(parts)?;
            bench::run(&Harness::start()?, &driver::sources()?, &plan)?;
        }
        ["soak", parts @ ..] => {
            suites::soak::run(&Harness::start()?, &driver::sources()?, parts)?;
        }
        ["release", options @ ..] => {
            let options = release::Options::parse(options)?;
            release::run(&Harness::start()?, &driver::sources()?, &options)?;
        }
        ["render"] => {
            let (h, repo) = (Harness::start()?, driver::sources()?);
            chart::write(&installed::helm(&h)?, &repo)?;
            chart_readme::write(&h, &repo)?;
        }
        ["book"] => {
            let (h, repo) = (Harness::start()?, driver::sources()?);
            let made = |log: &std::path::Path| book::build(&h, &repo, log);
            let first = h.progress.step("making the book", seconds(5), made)?;
            h.progress.say(&format!("The book is at {}.", first.display()));
        }
        ["up"] => {
            let h = Harness::start()?;
            let prerequisites = prerequisites::provision(&h, Purpose::Try)?;
            lifecycle::up(&h, &prerequisites, Purpose::Try)?;
        }
        ["clean"] => cleanup::all(&Harness::start()?)?,
        ["clean", "--cache"] => {
            let h = Harness::start()?;
            cleanup::all(&h)?;
            cleanup::cache(&h)?;
        }
        _ => {
            eprint!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}
