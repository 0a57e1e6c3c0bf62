//! What the driver's own accounts may do, tried with their own tokens, and what the cluster's owner
//! is stopped from doing by accident.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cases::killed::Driver;
use crate::cases::{Case, When};
use crate::cluster::Cluster;
use crate::engine::RUN_DIR;
use crate::pods::{Pod, Scene};
use crate::render::{NAMESPACE, RELEASE};
use crate::stage::{OTHER_SECRET, PUSH_SECRET};

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-attacks",
    what: "the accounts of nodes and of the controller try what they may not",
    when: When::Together,
    play,
};

/// Somebody with a token.
struct Account<'a> {
    cluster: &'a Cluster,
    kubeconfig: PathBuf,
}

impl<'a> Account<'a> {
    /// One of the release's accounts, with a token as its pod on a node has it, or with one for nobody.
    fn of(cluster: &'a Cluster, component: &str, pod: Option<&str>) -> Result<Self> {
        let account = format!("{RELEASE}-{component}");
        let token = ["create", "token", &account, "--namespace", NAMESPACE];
        let bound = pod.map(|pod| ["--bound-object-kind", "Pod", "--bound-object-name", pod]);
        let token =
            cluster.kubectl(&[&token[..], bound.as_ref().map_or(&[], |b| &b[..])].concat())?;
        let mut config = cluster.kubectl_json(&["config", "view", "--raw"])?;
        // The administrator's certificate would win.
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

    /// Runs `kubectl` as it.
    fn kubectl(&self, args: &[&str], stdin: &str) -> Result<String> {
        let kubectl = crate::process::Cmd::new(&self.cluster.ground.kubectl);
        let kubectl = kubectl.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        kubectl.stdin(stdin).output()
    }

    /// Checks that something is refused, with one of these words.
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
        Ok(said) => bail!("it was let: {said}"),
        Err(error) => {
            let said = format!("{error:#}");
            let fits = words.split('|').any(|word| said.contains(word));
            ensure!(fits, "refused with other words than {words}: {said}");
            Ok(())
        }
    }
}

fn play(scene: &Scene<'_>) -> Result<()> {
    let (cluster, nodes) = (scene.cluster(), &scene.stage.cluster.nodes);
    scene.start(&Pod::new("source", json!({ "image": scene.stage.image })).on(&nodes[1]))?;
    let id = scene.snapshot("ws", "source", "local")?.id()?;
    let order = scene.order(&id)?;
    let on = |node: &str| -> Result<Account<'_>> {
        Account::of(cluster, "node", Some(&Driver::on(scene.stage, node)?.pod))
    };
    let (own, other) = (on(&nodes[1])?, on(&nodes[0])?);
    let unbound = Account::of(cluster, "node", None)?;
    let controller = Account::of(cluster, "controller", None)?;

    own.kubectl(&borrow(&status(&id)), &with_status(&order, "Ready")).context("a node's own")?;
    let spoken = with_status(&scene.order(&id)?, "Ready");
    for (account, words) in [(&other, nodes[0].as_str()), (&unbound, "no node")] {
        account.refused(&borrow(&status(&id)), &spoken, words)?;
    }
    let patch = |what| ["patch", "overlaysnapshot", &id, "--type=merge", "-p", what];
    let spec = patch("{\"spec\":{\"squashAbove\":9}}");
    let deleted = patch("{\"spec\":{\"deleted\":true}}");
    for account in [&own, &other, &unbound] {
        account.refused(&deleted, "", "orbidden")?;
        account.refused(&["delete", "overlaysnapshot", &id], "", "orbidden")?;
        account.refused(&["create", "-f", "-"], &another(&order).to_string(), "orbidden")?;
    }
    // What comes with a status is not even read.
    let mut both = scene.order(&id)?;
    both["spec"]["deleted"] = json!(true);
    own.kubectl(&borrow(&status(&id)), &with_status(&both, "Ready"))?;
    ensure!(scene.order(&id)?["spec"] == order["spec"], "a status changed the spec");

    let secret = |name| ["get", "secret", name, "--namespace", NAMESPACE];
    own.kubectl(&secret(PUSH_SECRET), "")?;
    own.refused(&secret(OTHER_SECRET), "", "orbidden")?;
    own.refused(&["get", "secrets", "--namespace", NAMESPACE], "", "orbidden")?;
    own.refused(&["get", "secret", PUSH_SECRET, "--namespace", "default"], "", "orbidden")?;
    let mine = ["--namespace", scene.namespace];
    own.refused(&[&["delete", "volumesnapshot", "ws"], &mine[..]].concat(), "", "orbidden")?;
    own.refused(&[&["get", "pods"], &mine[..]].concat(), "", "orbidden")?;
    controller.refused(&secret(PUSH_SECRET), "", "orbidden")?;

    // Whoever may do anything is stopped by the policy; the controller, where it errs, by the kind itself.
    let admin =
        |args: &[&str], stdin: String| cluster.kubectl_cmd().args(args).stdin(stdin).output();
    let words = "controller alone";
    refused(admin(&["create", "-f", "-"], another(&order).to_string()), words)?;
    refused(admin(&deleted, String::new()), words)?;
    refused(admin(&["delete", "overlaysnapshot", &id, "--wait=false"], String::new()), words)?;
    let failed = with_status(&scene.order(&id)?, "Failed");
    refused(admin(&borrow(&status(&id)), failed), "the driver alone")?;
    controller.refused(&spec, "", "does not change|immutable")?;
    ensure!(scene.order(&id)?["spec"] == order["spec"], "somebody changed the spec");

    let at = format!("spec.nodeName={}", nodes[1]);
    let list = own.kubectl(&["get", "overlaysnapshots", "--field-selector", &at], "")?;
    let line = list.lines().find(|line| line.contains(&id)).context("it is not listed")?;
    for word in [&nodes[1], scene.namespace, "source", "work", "Ready"] {
        ensure!(line.contains(word), "no {word} in {line}");
    }
    Ok(())
}

/// Has kubectl write an order's status as a driver does, without reading it first.
fn status(id: &str) -> [String; 5] {
    let path = format!("/apis/ovl.csi.dev/v1alpha1/overlaysnapshots/{id}/status");
    ["replace".into(), "--raw".into(), path, "-f".into(), "-".into()]
}

/// An order with another phase.
fn with_status(order: &Value, phase: &str) -> String {
    let mut order = order.clone();
    order["status"]["phase"] = json!(phase);
    order.to_string()
}

fn borrow(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// The same order once more.
fn another(order: &Value) -> Value {
    let mut another = order.clone();
    another["metadata"] = json!({ "name": "snap-of-an-attack" });
    another["status"] = Value::Null;
    another
}
