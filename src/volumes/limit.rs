//! The check of project quotas: compares the files of a limited volume with its quota.
//!
//! A project quota protects against accidents only. The owner of a file may give it another project (`chattr -p`). A
//! pod can so hold more than its limit, or fill the limit of a neighbour. The kernel allows that. So the files of a
//! limited volume are also counted in the background (`stats.rs`). If the count and the quota differ, an Event of the
//! pod and a metric report it.
//!
//! Deliberately absent: any reaction. Only `medium: Memory` is a limit that a pod cannot evade.

use super::{Limits, PodEventType, counts::Finding, record::Record, state::Inner};
use crate::{format, sys::quota::ProjectUsage};

impl Inner {
    /// Compares the last count of a limited volume with its limit. Reports a difference once, as an Event of its pod.
    pub(super) fn check_limit(&self, record: &Record) {
        let Some(project) = record.project else { return };
        let (id, limits) = (&record.id, record.spec.limits);
        let Some(counted) = self.count(record) else { return };
        let charged = self.projects.usage(project).ok();
        let found = finding(limits, counted, charged);
        if !self.counts.is_news(id, found) {
            return;
        }
        let ProjectUsage { bytes, inodes } = counted;
        let (name, bytes) = (record.name(), format::bytes(bytes));
        let holds = format!("volume {name} has {inodes} files with {bytes} together");
        let (reason, result, message) = match found {
            Some(Finding::Passed) => (
                "LimitPassed",
                "passed",
                format!(
                    "{holds}, more than its limit: a process changed the project ID of files in it (chattr -p), so the \
                     quota does not count them"
                ),
            ),
            Some(Finding::Charged) => (
                "LimitCharged",
                "charged",
                format!(
                    "{holds}, but its quota is nearly used up: files outside the volume are charged to its project ID \
                     (chattr -p), or deleted files are still open"
                ),
            ),
            None => return,
        };
        tracing::warn!(volume = %id, "{message}");
        self.metrics.limit_found(result);
        self.record_event(record, PodEventType::Warning, reason, message);
    }
}

/// Compares the count with the limit and with the usage that the file system charges to the project. A file that moves
/// during the count may be counted twice or not at all, so small differences are ignored.
fn finding(
    limits: Limits,
    counted: ProjectUsage,
    charged: Option<ProjectUsage>,
) -> Option<Finding> {
    let measures = [
        (limits.size, counted.bytes, charged.map(|charged| charged.bytes)),
        (limits.inodes, counted.inodes, charged.map(|charged| charged.inodes)),
    ];
    let parts = |of: u64, percent: u128| u128::from(of) * percent;
    let any = |differs: &dyn Fn(u64, u64, Option<u64>) -> bool| {
        measures.iter().any(|&(limit, counted, charged)| {
            limit.is_some_and(|limit| differs(limit, counted, charged))
        })
    };
    if any(&|limit, counted, _| parts(counted, 100) > parts(limit, 110)) {
        return Some(Finding::Passed);
    }
    let charged = any(&|limit, counted, charged| {
        charged.is_some_and(|charged| parts(charged, 100) >= parts(limit, 90))
            && parts(counted, 100) < parts(limit, 50)
    });
    charged.then_some(Finding::Charged)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::{super::tests::Node, *};

    #[test]
    fn a_limit_is_compared_with_the_files_and_the_quota() {
        let limits = |size, inodes| Limits { size, inodes, by_default: false };
        let usage = |bytes, inodes| ProjectUsage { bytes, inodes };
        let (large, many) = (limits(Some(1000), None), limits(None, Some(1000)));
        for (limits, counted, charged, expected) in [
            (large, usage(900, 9000), Some(usage(950, 1)), None),
            // Counted twice while it moved.
            (large, usage(1050, 0), Some(usage(1000, 0)), None),
            (large, usage(1200, 0), Some(usage(10, 0)), Some(Finding::Passed)),
            (many, usage(0, 1200), None, Some(Finding::Passed)),
            (many, usage(0, 100), Some(usage(0, 1000)), Some(Finding::Charged)),
            (large, usage(600, 0), Some(usage(1000, 0)), None),
            // A limit so small that 10 % of it are less than one file.
            (limits(None, Some(5)), usage(0, 1), Some(usage(0, 2)), None),
            (limits(None, Some(5)), usage(0, 6), Some(usage(0, 2)), Some(Finding::Passed)),
            (limits(Some(u64::MAX), None), usage(0, 0), Some(usage(0, 0)), None),
            (limits(None, None), usage(u64::MAX, u64::MAX), Some(usage(0, 0)), None),
        ] {
            assert_eq!(finding(limits, counted, charged), expected, "{counted:?} {charged:?}");
        }
    }

    /// The owner of a file gives it another project: the quota does not count the file.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_that_holds_more_than_its_limit_is_reported_once_and_counted() {
        let node = Node::new();
        let mut request = node.request("a", "a");
        request.spec.limits = Limits { size: Some(1 << 20), inodes: None, by_default: true };
        node.volumes.publish(request).await.unwrap();
        let id = "a".parse().unwrap();
        // This machine may have no project quotas, so the test writes a project into the volume's record.
        node.records().change(&id, |record| {
            record.replace("\"targets\"", "\"project\":268435456,\"targets\"")
        });
        let upper = node.volume("a").join("upper");
        fs::write(upper.join("large"), vec![1; 4 << 20]).unwrap();
        let passed = || node.events().iter().filter(|reason| **reason == "LimitPassed").count();
        for _ in 0..500 {
            node.volumes.recover(Duration::ZERO).unwrap();
            if passed() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.volumes.recover(Duration::ZERO).unwrap();
        assert_eq!(passed(), 1, "{:?}", node.events());
        let counted = node.volumes.0.metrics.text().unwrap();
        assert!(counted.contains("ovl_limit_findings_total{result=\"passed\"} 1"), "{counted}");
        node.unpublish("a", "a").await.unwrap();
    }
}
