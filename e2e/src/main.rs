//! The harness of ovl-csi, reached as `cargo xtask`.
//!
//! It brings up a real two-node Kubernetes cluster on a machine that may have nothing but Linux,
//! root, Rust, a C compiler and Go, and takes all of it away again.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program talks")]

mod background;
mod bench;
mod cache;
mod cases;
mod clean;
mod cluster;
mod demo;
mod driver;
mod emulated;
mod engine;
mod gate;
mod harness;
mod http;
mod images;
mod look;
mod network;
mod node_image;
mod oci;
mod pods;
mod preflight;
mod process;
mod progress;
mod provision;
mod registry;
mod render;
mod schemas;
mod snapshots;
mod snapshotter;
mod soak;
mod stage;
mod suites;
mod tally;
mod tools;
mod tour;
mod versions;

use std::process::ExitCode;

use anyhow::Result;

use crate::cluster::Purpose;
use crate::harness::Harness;

const USAGE: &str = "\
usage: cargo xtask <command>

  demo            build the driver and show its main job on this machine, without a cluster
  try             make a two-node cluster with the driver and show a pod's volume (context kind-ovl)
  test [SUITE]…   run every suite, or those named
  test --quick    run those that need neither a cluster nor an emulated machine
  bench [PART]…   measure the driver beside containerd, podman and the least there is to do:
                  pulls, warm, snapshots, busy, or all of it
  soak            run the tests that are long by nature: as many files as a layer may have
  render          write the rendered chart into deploy/
  up              make a two-node cluster (context kind-ovl) and leave it there
  clean           remove the harness's clusters, containers, networks and engine
  clean --cache   the same, and everything that was built
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // A pod of the demonstration: it is to end by itself, so nothing is set up for it.
    let pod = match args.as_slice() {
        [demo::inside::OUTSIDE, rest @ ..] => Some(demo::inside::outside(rest)),
        [demo::inside::INSIDE, rest @ ..] => {
            Some(demo::inside::inside(rest).map(|()| ExitCode::SUCCESS))
        }
        _ => None,
    };
    if let Some(ended) = pod {
        return ended.unwrap_or_else(failed);
    }
    // Before anything is set up: this process becomes another one.
    let begun = match args.as_slice() {
        ["bench", parts @ ..] => bench::in_release(parts),
        _ => Ok(()),
    };
    match begun.and_then(|()| process::end_children_on_signal()).and_then(|()| run()) {
        Ok(code) => code,
        // The thread that took the signal ends the process, with its own words.
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
        ["try"] => tour::run(&Harness::start()?, &driver::sources()?)?,
        ["test", suites @ ..] => {
            let quick = suites::quick();
            let suites = if suites == ["--quick"] { &quick } else { suites };
            let (h, repo) = (Harness::start()?, driver::sources()?);
            let passed = suites::run(&suites::Bench { h: &h, repo: &repo }, suites)?;
            return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        ["bench", parts @ ..] => {
            let parts = bench::Part::named(parts)?;
            bench::run(&Harness::start()?, &driver::sources()?, &parts)?;
        }
        ["soak"] => soak::run(&Harness::start()?, &driver::sources()?)?,
        ["render"] => {
            let helm = tools::found::helm(&Harness::start()?)?;
            render::write(&helm, &driver::sources()?)?;
        }
        ["up"] => {
            let h = Harness::start()?;
            let ground = provision::provision(&h)?;
            cluster::up(&h, &ground, Purpose::Try)?;
        }
        ["clean"] => clean::all(&Harness::start()?)?,
        ["clean", "--cache"] => {
            let h = Harness::start()?;
            clean::all(&h)?;
            clean::cache(&h)?;
        }
        _ => {
            eprint!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}
