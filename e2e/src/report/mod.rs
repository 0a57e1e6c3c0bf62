//! Counts what passed and names what failed, in one suite and in all suites.
//!
//! Deliberately absent: a third kind. A suite that was skipped without a request has failed.
//!
//! May use: machine

pub mod ginkgo;
pub mod libtest;
mod results;

pub use results::{Report, SuiteResult, summary};
