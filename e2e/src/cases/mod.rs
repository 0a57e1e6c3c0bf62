//! What has to hold on a real cluster. A case plays in a namespace of its own on a stage that is
//! set, and leaves the stage as it was.
//!
//! Deliberately absent: order. No case builds on another; `When` says only which of them bear company.

mod helm;
mod killed;
mod kubelet;
mod life;
mod manifests;
mod many;
mod mended;
mod options;
mod owner;
mod policy;
mod private;
mod pulls;
mod restarted;
mod slow;
mod snapshots;
mod stacked;
mod writer;

use anyhow::Result;

use crate::pods::Scene;

/// One case.
pub struct Case {
    /// What it is called when it fails, and its namespace.
    pub name: &'static str,
    /// What it does, for the progress.
    pub what: &'static str,
    /// Beside which others it may play.
    pub when: When,
    /// Plays it.
    pub play: fn(&Scene<'_>) -> Result<()>,
}

/// Beside which others a case may play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Beside everything but the last: it mostly waits, and on the first node, where no other is.
    Aside,
    /// Beside others of its kind: it touches nothing but its own pods.
    Together,
    /// Beside nothing on the second node: it breaks something there.
    Alone,
    /// When nothing else plays any more: it breaks something on both nodes.
    Last,
}

/// All of them: those that take long come first.
pub fn all() -> impl Iterator<Item = &'static Case> {
    snapshots::ALL.iter().chain(ALL)
}

/// Those of volumes.
const ALL: &[Case] = &[
    slow::CASE,
    mended::MENDED,
    private::CASE,
    life::CASE,
    stacked::CASE,
    options::CASE,
    pulls::CASE,
    owner::CASE,
    mended::ATTRIBUTES,
    policy::IMAGES,
    policy::USERS,
    manifests::CASE,
    many::CASE,
    killed::CASE,
    kubelet::CASE,
    restarted::CASE,
    helm::CASE,
];
