//! What users may do with Kubernetes' roles `view` and `edit`, and with the Role of the documentation, tested by
//! impersonation.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::{POD_TIMEOUT, Pod};
use crate::env::snapshots;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-roles",
    what: "users take snapshots with Kubernetes' roles, and with the documented one",
    concurrency: Concurrency::Parallel,
    run,
};

/// The page with the Role.
const PAGE: &str = "docs/snapshots.md";

/// A user, by impersonation.
struct User<'a> {
    ns: &'a TestNamespace<'a>,
    name: &'static str,
}

impl User<'_> {
    fn kubectl(&self, args: &[&str], stdin: &str) -> Result<String> {
        let kubectl = self.ns.cluster().kubectl_cmd();
        let kubectl = kubectl.args(["--namespace", self.ns.namespace, "--as", self.name]);
        kubectl.args(args).stdin(stdin).output()
    }

    fn may(&self, verb: &str, what: &str) -> Result<bool> {
        let kubectl = self.ns.cluster().kubectl_cmd();
        let kubectl = kubectl.args(["--namespace", self.ns.namespace, "--as", self.name]);
        // It exits with 1 for "no".
        match kubectl.args(["auth", "can-i", verb, what]).outcome()?.stdout.trim() {
            "yes" => Ok(true),
            "no" => Ok(false),
            other => bail!("kubectl auth can-i prints `{other}`"),
        }
    }

    /// Creates a snapshot of the pod `source`, as this user, and waits until it is ready.
    fn snapshot(&self, name: &str) -> Result<()> {
        let request = snapshots::manifest(self.ns.namespace, name, "source", "local");
        self.kubectl(&["create", "-f", "-"], &request.to_string())?;
        self.ns.wait_snapshot_ready(name)?;
        let list = self.kubectl(&["get", "volumesnapshots"], "")?;
        ensure!(list.contains(name), "{} does not see {name} in: {list}", self.name);
        self.kubectl(&["get", "volumesnapshot", name], "").map(drop)
    }
}

const SNAPSHOTS: &str = "volumesnapshots.snapshot.storage.k8s.io";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let worker = ns.env.worker().name;
    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).on(&worker))?;
    ns.shell("source", "echo kept > /work/note")?;
    ns.apply(&documented_role(ns)?)?;
    let user = |name: &'static str, role: &str| -> Result<User<'_>> {
        let user = format!("--user={name}");
        ns.kubectl(&["create", "rolebinding", name, role, &user])?;
        let user = User { ns, name };
        // The API server caches roles.
        wait_for(&format!("the rights of {name}"), POD_TIMEOUT, || {
            ensure!(user.may("get", SNAPSHOTS)?, "it may not read VolumeSnapshots");
            Ok(Some(()))
        })?;
        Ok(user)
    };
    let viewer = user("viewer", "--clusterrole=view")?;
    let editor = user("editor", "--clusterrole=edit")?;
    let documented = user("documented", "--role=snapshots")?;
    for (user, verb, what, expected) in [
        (&viewer, "watch", SNAPSHOTS, true),
        (&viewer, "create", SNAPSHOTS, false),
        (&viewer, "delete", SNAPSHOTS, false),
        (&editor, "patch", SNAPSHOTS, true),
        (&editor, "delete", SNAPSHOTS, true),
        (&editor, "update", "volumesnapshotcontents.snapshot.storage.k8s.io", false),
        (&editor, "get", "overlaysnapshots.ovl.csi.dev", false),
        (&documented, "patch", SNAPSHOTS, false),
        (&documented, "delete", "pods", false),
    ] {
        let may = user.may(verb, what)?;
        ensure!(may == expected, "{} may {verb} {what}: {may}", user.name);
    }

    editor.snapshot("by-editor")?;
    let restored = Pod::new("restored", snapshots::volume_attributes("by-editor")).on(&worker);
    editor.kubectl(&["create", "-f", "-"], &restored.manifest())?;
    ns.ready("restored")?;
    ns.expect_output("restored", &[("cat /work/note", "kept")])?;
    viewer.kubectl(&["get", "volumesnapshot", "by-editor"], "")?;
    editor.kubectl(&["delete", "volumesnapshot", "by-editor", "--wait=false"], "")?;

    documented.snapshot("by-documented")?;
    let fork = Pod::new("fork", snapshots::volume_attributes("by-documented")).on(&worker);
    documented.kubectl(&["create", "-f", "-"], &fork.manifest())?;
    documented.kubectl(&["get", "pods"], "")?;
    documented.kubectl(&["delete", "volumesnapshot", "by-documented", "--wait=false"], "")?;
    for name in ["by-editor", "by-documented"] {
        ns.wait_until_deleted("volumesnapshot", name)?;
    }
    Ok(())
}

/// The Role of the page.
fn documented_role(ns: &TestNamespace<'_>) -> Result<String> {
    let text = fs::read_to_string(ns.env.repo.join(PAGE));
    let text = text.with_context(|| format!("reading {PAGE}"))?;
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut roles = blocks.filter(|block| block.contains("\nkind: Role\n"));
    let role = roles.next().with_context(|| format!("{PAGE} has no Role"))?;
    ensure!(roles.next().is_none(), "{PAGE} has several Roles");
    Ok(role.to_owned())
}
