//! What the driver's accounts may do, tested with their own tokens, and mistakes that the cluster
//! administrator is protected from.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::cases::driver_pod::DriverPod;
use crate::cluster::engine::RUN_DIR;
use crate::cluster::kind::Cluster;
use crate::env::chart::{NAMESPACE, RELEASE};
use crate::env::environment::{OTHER_SECRET, PUSH_SECRET};
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-attacks",
    what: "the accounts of nodes and of the controller have no rights beyond their task",
    concurrency: Concurrency::Parallel,
    run,
};

/// A service account with a token.
struct Account<'a> {
    cluster: &'a Cluster,
    kubeconfig: PathBuf,
}

impl<'a> Account<'a> {
    /// One of the release's accounts. Its token is bound to a pod of a node, or to no pod.
    fn of(cluster: &'a Cluster, component: &str, pod: Option<&str>) -> Result<Self> {
        let account = format!("{RELEASE}-{component}");
        let token = ["create", "token", &account, "--namespace", NAMESPACE];
        let bound = pod.map(|pod| ["--bound-object-kind", "Pod", "--bound-object-name", pod]);
        let token =
            cluster.kubectl(&[&token[..], bound.as_ref().map_or(&[], |b| &b[..])].concat())?;
        let mut config = cluster.kubectl_json(&["config", "view", "--raw"])?;
        // The administrator's certificate would take precedence.
        let users = config["users"].as_array_mut().context("a kubeconfig without users")?;
        users.iter_mut().for_each(|user| user["user"] = json!({ "token": token }));
        let file = format!("attack-{account}-{}.kubeconfig", pod.unwrap_or("unbound"));
        let kubeconfig = Path::new(RUN_DIR).join(file);
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(true).write(true).mode(0o600);
        let written = options.open(&kubeconfig);
        written
            .and_then(|mut file| file.write_all(config.to_string().as_bytes()))
            .with_context(|| format!("writing {}", kubeconfig.display()))?;
        Ok(Self { cluster, kubeconfig })
    }

    /// Runs `kubectl` as this account.
    fn kubectl(&self, args: &[&str], stdin: &str) -> Result<String> {
        let kubectl = crate::machine::process::Cmd::new(&self.cluster.prerequisites.kubectl);
        let kubectl = kubectl.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        kubectl.stdin(stdin).output()
    }

    /// Checks that a request is refused, and that the error has one of these words.
    fn refused(&self, args: &[&str], stdin: &str, words: &str) -> Result<()> {
        refused(self.kubectl(args, stdin), words).with_context(|| args.join(" "))
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        std::fs::remove_file(&self.kubeconfig).unwrap_or_default();
    }
}

fn refused(done: Result<String>, words: &str) -> Result<()> {
    match done {
        Ok(output) => bail!("it was not refused: {output}"),
        Err(error) => {
            let output = format!("{error:#}");
            let fits = words.split('|').any(|word| output.contains(word));
            ensure!(fits, "the refusal has none of these words: {words}: {output}");
            Ok(())
        }
    }
}

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let (cluster, nodes) = (ns.cluster(), &ns.env.cluster.nodes);
    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).on(&nodes[1]))?;
    let id = ns.snapshot("ws", "source", "local")?.id()?;
    let object = ns.overlay_snapshot(&id)?;
    let on = |node: &str| -> Result<Account<'_>> {
        Account::of(cluster, "node", Some(&DriverPod::on(ns.env, node)?.pod))
    };
    let (own, other) = (on(&nodes[1])?, on(&nodes[0])?);
    let unbound = Account::of(cluster, "node", None)?;
    let controller = Account::of(cluster, "controller", None)?;

    own.kubectl(&borrow(&status(&id)), &with_status(&object, "Ready")).context("a node's own")?;
    let spoken = with_status(&ns.overlay_snapshot(&id)?, "Ready");
    for (account, words) in [(&other, nodes[0].as_str()), (&unbound, "no node")] {
        account.refused(&borrow(&status(&id)), &spoken, words)?;
    }
    let patch = |what| ["patch", "overlaysnapshot", &id, "--type=merge", "-p", what];
    let spec = patch("{\"spec\":{\"squashAbove\":9}}");
    let deleted = patch("{\"spec\":{\"deleted\":true}}");
    for account in [&own, &other, &unbound] {
        account.refused(&deleted, "", "orbidden")?;
        account.refused(&["delete", "overlaysnapshot", &id], "", "orbidden")?;
        account.refused(&["create", "-f", "-"], &another(&object).to_string(), "orbidden")?;
    }
    // The API server ignores a spec that comes with a status.
    let mut both = ns.overlay_snapshot(&id)?;
    both["spec"]["deleted"] = json!(true);
    own.kubectl(&borrow(&status(&id)), &with_status(&both, "Ready"))?;
    ensure!(ns.overlay_snapshot(&id)?["spec"] == object["spec"], "a status changed the spec");

    let secret = |name| ["get", "secret", name, "--namespace", NAMESPACE];
    own.kubectl(&secret(PUSH_SECRET), "")?;
    own.refused(&secret(OTHER_SECRET), "", "orbidden")?;
    own.refused(&["get", "secrets", "--namespace", NAMESPACE], "", "orbidden")?;
    own.refused(&["get", "secret", PUSH_SECRET, "--namespace", "default"], "", "orbidden")?;
    let mine = ["--namespace", ns.namespace];
    own.refused(&[&["delete", "volumesnapshot", "ws"], &mine[..]].concat(), "", "orbidden")?;
    own.refused(&[&["get", "pods"], &mine[..]].concat(), "", "orbidden")?;
    controller.refused(&secret(PUSH_SECRET), "", "orbidden")?;

    // The policy stops an account that may do anything. The schema of the kind stops mistakes of
    // the controller.
    let admin =
        |args: &[&str], stdin: String| cluster.kubectl_cmd().args(args).stdin(stdin).output();
    let words = "only the controller of";
    refused(admin(&["create", "-f", "-"], another(&object).to_string()), words)?;
    refused(admin(&deleted, String::new()), words)?;
    refused(admin(&["delete", "overlaysnapshot", &id, "--wait=false"], String::new()), words)?;
    let failed = with_status(&ns.overlay_snapshot(&id)?, "Failed");
    refused(admin(&borrow(&status(&id)), failed), "only the driver may write")?;
    controller.refused(&spec, "", "does not change|immutable")?;
    ensure!(ns.overlay_snapshot(&id)?["spec"] == object["spec"], "the spec was changed");

    let at = format!("spec.nodeName={}", nodes[1]);
    let list = own.kubectl(&["get", "overlaysnapshots", "--field-selector", &at], "")?;
    let line = list.lines().find(|line| line.contains(&id)).context("it is not listed")?;
    for word in [&nodes[1], ns.namespace, "ws", "source", "work", "Ready", "OnNode"] {
        ensure!(line.contains(word), "no {word} in {line}");
    }
    Ok(())
}

/// Arguments that make kubectl replace the status of an OverlaySnapshot without reading it first,
/// as the driver does.
fn status(id: &str) -> [String; 5] {
    let path = format!("/apis/ovl.csi.dev/v1alpha1/overlaysnapshots/{id}/status");
    ["replace".into(), "--raw".into(), path, "-f".into(), "-".into()]
}

/// An OverlaySnapshot with another phase.
fn with_status(object: &Value, phase: &str) -> String {
    let mut object = object.clone();
    object["status"]["phase"] = json!(phase);
    object.to_string()
}

fn borrow(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// A copy of the OverlaySnapshot with another name.
fn another(object: &Value) -> Value {
    let mut another = object.clone();
    another["metadata"] = json!({ "name": "snap-of-an-attack" });
    another["status"] = Value::Null;
    another
}
