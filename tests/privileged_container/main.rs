//! Tests of containers: the namespaces, mounts, users and signals of a command.
//!
//! A process with several threads cannot be forked safely, and the usual test harness has them. So this program is both:
//! with `--container` it runs one container, before there is any thread, and without it the tests, which start it.

// A test fails by panicking, and deletes its own temporary directories.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods
)]

mod end;
mod helper;
mod inside;
mod terminal;
mod world;

use std::{env, process::ExitCode};

use libtest_mimic::{Arguments, Trial};

/// The first argument of a process that runs a container.
const CONTAINER: &str = "--container";

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    if args.next().as_deref() == Some(CONTAINER) {
        return helper::run(&args.next().expect("what to run"));
    }
    let tests = [end::TESTS, inside::TESTS, terminal::TESTS].concat();
    let trials = tests.into_iter().map(|(name, test)| {
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(true)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// A test: its name, and what panics if it fails.
type Test = (&'static str, fn());
