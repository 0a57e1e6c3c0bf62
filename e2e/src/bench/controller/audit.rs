//! The requests of the driver's accounts, from the audit log of the API server.
//!
//! Deliberately absent: the times of requests. The log has them, but only their number is of interest.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::control_plane::user;

/// The audit log of a control plane, in which each request of these accounts is one line.
pub struct AuditLog(pub PathBuf);

/// How many requests for objects are kept as text.
const EXAMPLES: usize = 5;

/// Numbers of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// For one object: reads and changes.
    pub of_objects: usize,
    /// For many objects: lists and watches.
    pub of_kinds: usize,
    /// Some of those for one object, as `VERB RESOURCE NAMESPACE/NAME`.
    pub examples: Vec<String>,
}

impl AuditLog {
    /// Where the log ends now.
    ///
    /// # Errors
    /// There is no log.
    pub fn end(&self) -> Result<u64> {
        let log = std::fs::metadata(&self.0);
        Ok(log.with_context(|| format!("reading {}", self.0.display()))?.len())
    }

    /// The requests of an account since a place in the log. Those about objects of which `without` accepts the
    /// namespace and the name are not counted. Either is empty where there is none.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn requests(
        &self,
        account: &str,
        since: u64,
        without: impl Fn(&str, &str) -> bool,
    ) -> Result<Requests> {
        let mut file =
            File::open(&self.0).with_context(|| format!("opening {}", self.0.display()))?;
        file.seek(SeekFrom::Start(since)).context("finding a place in the audit log")?;
        let (mut requests, user) = (Requests::default(), user(account));
        for line in BufReader::new(file).lines() {
            let line = line.context("reading the audit log")?;
            let event: Value = serde_json::from_str(&line).context("parsing the audit log")?;
            if event["user"]["username"] == user {
                requests.add(&event, &without);
            }
        }
        Ok(requests)
    }
}

impl Requests {
    fn add(&mut self, event: &Value, without: &impl Fn(&str, &str) -> bool) {
        let of = |field: &str| event["objectRef"][field].as_str().unwrap_or_default();
        if matches!(event["verb"].as_str(), Some("list" | "watch")) {
            self.of_kinds += 1;
        } else if !without(of("namespace"), of("name")) {
            self.of_objects += 1;
            if self.examples.len() < EXAMPLES {
                let verb = event["verb"].as_str().unwrap_or_default();
                let object = [of("resource"), of("namespace"), of("name")];
                self.examples.push(format!("{verb} {} {}/{}", object[0], object[1], object[2]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_for_other_objects_are_counted_by_kind() {
        let mut requests = Requests::default();
        let without = |namespace: &str, name: &str| namespace == "probe" || name == "snap-1";
        let mut add = |verb: &str, of: Value| {
            requests.add(&json!({ "verb": verb, "objectRef": of }), &without);
        };
        add("get", json!({ "resource": "volumesnapshots", "namespace": "a", "name": "s" }));
        add("patch", json!({ "resource": "overlaysnapshots", "name": "snap-2" }));
        add("create", json!({ "resource": "events", "namespace": "a" }));
        add("get", json!({ "resource": "volumesnapshots", "namespace": "probe", "name": "s" }));
        add("patch", json!({ "resource": "overlaysnapshots", "name": "snap-1" }));
        add("watch", json!({ "resource": "pods" }));
        assert_eq!((requests.of_objects, requests.of_kinds), (3, 1));
        let examples =
            ["get volumesnapshots a/s", "patch overlaysnapshots /snap-2", "create events a/"];
        assert_eq!(requests.examples, examples);
    }

    #[test]
    fn only_new_requests_of_one_account_are_counted() -> Result<()> {
        let path = std::env::temp_dir().join(format!("ovl-audit-{}", std::process::id()));
        let line = |account: &str| {
            let user = json!({ "username": user(account) });
            format!("{}\n", json!({ "verb": "get", "user": user }))
        };
        let log = AuditLog(path.clone());
        std::fs::write(&path, line("a"))?;
        let since = log.end()?;
        std::fs::write(&path, ["a", "b", "a", "a"].map(line).concat())?;
        assert_eq!(log.requests("a", since, |_, _| false)?.of_objects, 2);
        std::fs::remove_file(path)?;
        Ok(())
    }
}
