//! Counts the snapshots in each phase, for the metrics.

use std::collections::BTreeMap;

use super::bind::name_of;
use crate::cluster::{
    Change,
    overlay_snapshot::{OverlaySnapshot, Phase},
};

/// The phase of each snapshot of a driver, from a watch.
#[derive(Debug, Default)]
pub(super) struct Phases(BTreeMap<String, Option<Phase>>);

impl Phases {
    /// Applies a change of the watch.
    pub(super) fn apply(&mut self, change: &Change<OverlaySnapshot>, driver: &str) {
        match change {
            Change::All(all) => {
                self.0.clear();
                all.iter().for_each(|made| self.set(made, driver));
            }
            Change::Applied(made) => self.set(made, driver),
            Change::Gone(made) => drop(self.0.remove(&name_of(made))),
        }
    }

    fn set(&mut self, made: &OverlaySnapshot, driver: &str) {
        if made.spec.driver == driver {
            let phase = made.status.as_ref().and_then(|status| status.phase);
            self.0.insert(name_of(made), phase);
        }
    }

    /// The number of snapshots in each phase. A snapshot without a report of its node counts as `Pending`.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let all = [None].into_iter().chain(Phase::ALL.map(Some));
        all.map(|phase| {
            let count = self.0.values().filter(|known| **known == phase).count();
            (phase.map_or("Pending", Phase::word), count)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(name: &str, driver: &str, phase: Option<Phase>) -> OverlaySnapshot {
        serde_json::from_value(json!({
            "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlaySnapshot", "metadata": {"name": name},
            "spec": {"driver": driver, "nodeName": "n-1", "volumeHandle": "csi-1", "freezeTimeoutMillis": 1, "squashAbove": 1,
                     "source": {"namespace": "ci", "pod": "p", "podUid": "u", "volume": "ws"}},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn each_snapshot_counts_once_in_its_current_phase() {
        let mut phases = Phases::default();
        let pushing = Some(Phase::Pushing);
        let all = vec![made("a", "d", None), made("b", "d", pushing), made("c", "e", pushing)];
        phases.apply(&Change::All(all), "d");
        let counts = |phases: &Phases| -> Vec<_> {
            phases.counts().filter(|(_, count)| *count > 0).collect()
        };
        assert_eq!(counts(&phases), [("Pending", 1), ("Pushing", 1)]);
        phases.apply(&Change::Applied(made("a", "d", pushing)), "d");
        phases.apply(&Change::Gone(made("b", "d", Some(Phase::Deleted))), "d");
        assert_eq!(counts(&phases), [("Pushing", 1)]);
        phases.apply(&Change::All(Vec::new()), "d");
        assert_eq!(phases.counts().map(|(_, count)| count).collect::<Vec<_>>(), [0; 7]);
    }
}
