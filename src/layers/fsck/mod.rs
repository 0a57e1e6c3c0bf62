//! Checks a store: every layer against its content digest, and every record against the layers.
//!
//! | file | what it does |
//! |---|---|
//! | `check` | all of it, with several threads |
//! | `layer`, `marks` | one layer, and the marks of overlay in it |
//! | `references` | what the records need |
//! | `left` | what processes have left that ended |
//! | `report` | the result |
//!
//! It reads only, and takes no lock. So it works beside a running node. A record is replaced by a rename, and a layer is
//! renamed into place and away; each is whole or gone. What seems to be missing is looked at again before it is a fault: a
//! layer is added before a record names it, and removed after the last record.
//!
//! Deliberately absent: what is done about a fault (`quarantine.rs`, and the module `workspaces`).

mod check;
mod layer;
mod left;
mod marks;
mod references;
mod report;

#[cfg(test)]
mod tests;

pub use check::FsckProgress;
pub use report::{Fault, FsckReport, Subject, Unchecked};

pub(super) use layer::check as check_layer;
