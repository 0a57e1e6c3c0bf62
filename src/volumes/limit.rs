//! Whether a quota holds what it is meant to hold.
//!
//! A project quota is a guard against accidents. Whoever owns a file may give it another project (`chattr -p`), and so hold more than
//! the limit, or fill the limit of a neighbour. The kernel allows that, so what the files of a limited volume take is counted beside
//! its quota, in the background (`stats.rs`), and the pod's Events and a metric say where the two do not agree.
//!
//! Deliberately absent: anything done about it. A limit that holds is `medium: Memory`.

use super::{Inner, Limits, PodEventType, record::Record};
use crate::sys::quota::Usage;

/// What is wrong with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// The volume holds more than its limit.
    Passed,
    /// Its limit is nearly reached, by other things than the files in it.
    Charged,
}

impl Inner {
    /// Compares what a limited volume holds with its limit, as of the last count, and tells its pod once.
    pub(super) fn check_limit(&self, record: &Record) {
        let Some(project) = record.project else { return };
        let (id, limits) = (&record.id, record.spec.limits);
        let Some(counted) = self.count(record) else { return };
        let charged = self.projects.usage(project).ok();
        let found = finding(limits, counted, charged);
        if !self.counts.is_news(id, found) {
            return;
        }
        let Usage { bytes, inodes } = counted;
        let holds = format!("volume {id}: its files take {bytes} bytes and are {inodes}");
        let (reason, result, message) = match found {
            Some(Finding::Passed) => (
                "LimitPassed",
                "passed",
                format!("{holds}, more than its limit: files in it were given another project"),
            ),
            Some(Finding::Charged) => (
                "LimitCharged",
                "charged",
                format!(
                    "{holds}, and its limit is nearly reached: files elsewhere were given its project, or removed files are still open"
                ),
            ),
            None => return,
        };
        tracing::warn!(volume = %id, "{message}");
        self.metrics.limit_found(result);
        self.record_event(record, PodEventType::Warning, reason, message);
    }
}

/// What is wrong, by what was counted and by what the file system charges. A file that moves while it is counted may be counted
/// twice, or not at all, so small differences say nothing.
fn finding(limits: Limits, counted: Usage, charged: Option<Usage>) -> Option<Finding> {
    let measures = [
        (limits.size, counted.bytes, charged.map(|charged| charged.bytes)),
        (limits.inodes, counted.inodes, charged.map(|charged| charged.inodes)),
    ];
    let parts = |of: u64, percent: u128| u128::from(of) * percent;
    let any = |wrong: &dyn Fn(u64, u64, Option<u64>) -> bool| {
        measures.iter().any(|&(limit, counted, charged)| {
            limit.is_some_and(|limit| wrong(limit, counted, charged))
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
    fn a_limit_is_compared_with_what_is_there() {
        let limits = |size, inodes| Limits { size, inodes, by_default: false };
        let usage = |bytes, inodes| Usage { bytes, inodes };
        let (large, many) = (limits(Some(1000), None), limits(None, Some(1000)));
        for (limits, counted, charged, expected) in [
            (large, usage(900, 9000), Some(usage(950, 1)), None),
            // Counted twice while it moved.
            (large, usage(1050, 0), Some(usage(1000, 0)), None),
            (large, usage(1200, 0), Some(usage(10, 0)), Some(Finding::Passed)),
            (many, usage(0, 1200), None, Some(Finding::Passed)),
            (many, usage(0, 100), Some(usage(0, 1000)), Some(Finding::Charged)),
            (large, usage(600, 0), Some(usage(1000, 0)), None),
            // So few that a tenth is none.
            (limits(None, Some(5)), usage(0, 1), Some(usage(0, 2)), None),
            (limits(None, Some(5)), usage(0, 6), Some(usage(0, 2)), Some(Finding::Passed)),
            (limits(Some(u64::MAX), None), usage(0, 0), Some(usage(0, 0)), None),
            (limits(None, None), usage(u64::MAX, u64::MAX), Some(usage(0, 0)), None),
        ] {
            assert_eq!(finding(limits, counted, charged), expected, "{counted:?} {charged:?}");
        }
    }

    /// Whoever owns a file gives it another project: the quota counts nothing of it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_that_holds_more_than_its_limit_is_told_once_and_counted() {
        let node = Node::new();
        let mut request = node.request("a", "a");
        request.spec.limits = Limits { size: Some(1 << 20), inodes: None, by_default: true };
        node.volumes.publish(request).await.unwrap();
        let id = "a".parse().unwrap();
        // This machine may have no project quotas: the record says that the volume has one.
        node.records().change(&id, |record| {
            record.replace("\"targets\"", "\"project\":268435456,\"targets\"")
        });
        let upper = node.volume("a").join("upper");
        fs::write(upper.join("large"), vec![1; 4 << 20]).unwrap();
        let passed = || node.told().iter().filter(|told| **told == "LimitPassed").count();
        for _ in 0..500 {
            node.volumes.recover(Duration::ZERO).unwrap();
            if passed() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.volumes.recover(Duration::ZERO).unwrap();
        assert_eq!(passed(), 1, "{:?}", node.told());
        let counted = node.volumes.0.metrics.text().unwrap();
        assert!(counted.contains("ovl_limit_findings_total{result=\"passed\"} 1"), "{counted}");
        node.unpublish("a", "a").await.unwrap();
    }
}
