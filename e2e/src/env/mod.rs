//! A test environment: a cluster with a registry, images and the driver, and what tests do and see in it.
//!
//! ```text
//! snapshots ──> namespace ──> environment ──> node ──> pods      A ──> B: A uses B
//!                                  └────────> images, driver_image, chart
//!                                             chart_readme, monitoring ──> chart, yaml
//! ```
//!
//! Deliberately absent: the tests themselves, which are in `cases`.
//!
//! May use: machine, toolchain, oci, driver, cluster

pub mod chart;
pub mod chart_readme;
mod driver_image;
pub mod environment;
mod images;
pub mod monitoring;
pub mod namespace;
pub mod node;
pub mod pods;
pub mod snapshots;
pub mod yaml;
