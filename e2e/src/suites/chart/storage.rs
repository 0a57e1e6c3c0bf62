//! What the chart reads from a cluster before it makes the claim of its registry: whether there is a
//! default StorageClass.
//!
//! Deliberately absent: a cluster. A small server has the few objects that helm reads, so that the
//! classes are known, and any other test can run at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::env::chart::{self, NAMESPACE, RELEASE, SNAPSHOTS};
use crate::machine::process::{Cmd, Outcome};
use crate::oci::http::{Head, respond};

/// The annotation of a default class, of today and of earlier versions of Kubernetes.
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const FORMER_DEFAULT: &str = "storageclass.beta.kubernetes.io/is-default-class";

/// The claim, and what the refusal says.
const CLAIM: &str = "kind: PersistentVolumeClaim\n";
const REFUSED: &str = "the cluster has no default StorageClass for the volume of the registry: set \
                       registry.storage.className, or registry.storage.ephemeral: true";

/// Checks that the registry's claim is refused only where nothing would make its volume.
pub fn looked_up(helm: &Path, repo: &Path) -> Result<()> {
    let class = |annotation: &str, value: &str| {
        let metadata = json!({ "name": "disk", "annotations": { annotation: value } });
        json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata })
    };
    let kinds = kinds(&chart::chart(helm, repo, &["--set", &with_registry("")])?);
    for (classes, has_claim, more, rendered) in [
        (json!([]), false, "", None),
        (json!([class(DEFAULT, "false"), class("example.org/a", "true")]), false, "", None),
        (json!([class(DEFAULT, "true")]), false, "", Some(true)),
        (
            json!([class("example.org/a", "true"), class(FORMER_DEFAULT, "true")]),
            false,
            "",
            Some(true),
        ),
        // An upgrade: the claim is bound already.
        (json!([]), true, "", Some(true)),
        (json!([]), false, ",registry.storage.className=disk", Some(true)),
        (json!([]), false, ",registry.storage.ephemeral=true", Some(false)),
    ] {
        let case = format!("classes {classes}, claim {has_claim}{more}");
        let cluster = Cluster { kinds: kinds.clone(), classes, has_claim }.start()?;
        let template = Cmd::new(helm).dir(repo).args(["template", RELEASE, "charts/ovl-csi"]);
        let template = template.args(["--namespace", NAMESPACE, "--api-versions", SNAPSHOTS]);
        let template = template.args(["--dry-run=server", "--disable-openapi-validation"]);
        let template = template.args(["--kube-apiserver", &cluster]).env("KUBECONFIG", "/dev/null");
        let Outcome { status, stdout, stderr } =
            template.args(["--set", &with_registry(more)]).outcome()?;
        match rendered {
            None => ensure!(stderr.contains(REFUSED), "{case}: not refused: {stderr}"),
            Some(claim) => {
                ensure!(status.success(), "{case}: {stderr}");
                ensure!(stdout.contains(CLAIM) == claim, "{case}: another claim in {stdout}");
            }
        }
    }
    Ok(())
}

fn with_registry(more: &str) -> String {
    format!("registry.enabled=true,registry.clusterIP=10.96.0.50{more}")
}

/// The kinds in each group and version of rendered objects.
type Kinds = BTreeMap<String, BTreeSet<String>>;

fn kinds(rendered: &str) -> Kinds {
    let mut kinds = Kinds::new();
    let mut version = "";
    for line in rendered.lines() {
        if let Some(found) = line.strip_prefix("apiVersion: ") {
            version = found;
        } else if let Some(kind) = line.strip_prefix("kind: ") {
            kinds.entry(version.to_owned()).or_default().insert(kind.to_owned());
        }
    }
    for (version, kind) in [("v1", "PersistentVolumeClaim"), ("storage.k8s.io/v1", "StorageClass")]
    {
        kinds.entry(version.to_owned()).or_default().insert(kind.to_owned());
    }
    kinds
}

/// An API server that is only read.
struct Cluster {
    kinds: Kinds,
    classes: Value,
    has_claim: bool,
}

impl Cluster {
    /// Starts it, and returns its URL. It ends with the harness.
    fn start(self) -> Result<String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        let url = format!("http://{}", listener.local_addr().context("the server's own address")?);
        let cluster = Arc::new(self);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let cluster = cluster.clone();
                // A client that disconnects early is no error here.
                thread::spawn(move || cluster.serve(stream).unwrap_or_default());
            }
        });
        Ok(url)
    }

    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone().context("sharing a connection")?);
        let Some(head) = Head::read(&mut reader)? else { return Ok(()) };
        let target = head.start_line.get(1).map(String::as_str).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let json = "Content-Type: application/json\r\n";
        match self.object(path) {
            Some(object) => respond(&mut stream, "200 OK", json, &object.to_string()),
            None => {
                let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
                                     "reason": "NotFound", "code": 404 });
                respond(&mut stream, "404 Not Found", json, &status.to_string())
            }
        }
    }

    fn object(&self, path: &str) -> Option<Value> {
        let object = |kind: &str, metadata: Value, spec: Value| json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec });
        let claim =
            format!("/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/{RELEASE}-registry");
        match path {
            "/version" => Some(json!({ "major": "1", "minor": "36", "gitVersion": "v1.36.0" })),
            "/api" => Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
            "/apis" => Some(json!({ "kind": "APIGroupList", "groups": self.groups() })),
            "/api/v1/namespaces/default/services/kubernetes" => {
                Some(object("Service", json!({}), json!({ "clusterIP": "10.96.0.1" })))
            }
            "/apis/storage.k8s.io/v1/storageclasses" => Some(json!({
                "apiVersion": "storage.k8s.io/v1", "kind": "StorageClassList", "items": self.classes,
            })),
            _ if path == claim => {
                // As helm marks an object of the release.
                let labels = json!({ "app.kubernetes.io/managed-by": "Helm" });
                let annotations = json!({ "meta.helm.sh/release-name": RELEASE,
                                          "meta.helm.sh/release-namespace": NAMESPACE });
                let metadata = json!({ "labels": labels, "annotations": annotations });
                self.has_claim.then(|| object("PersistentVolumeClaim", metadata, json!({})))
            }
            _ => {
                let version = path.strip_prefix("/apis/").or(path.strip_prefix("/api/"))?;
                let kinds = self.kinds.get(version)?;
                let resource = |kind: &String| {
                    let ending = if kind.ends_with('s') { "es" } else { "s" };
                    let name = format!("{}{ending}", kind.to_lowercase());
                    json!({ "name": name, "kind": kind, "namespaced": kind != "StorageClass",
                            "verbs": ["get", "list"] })
                };
                let resources: Vec<_> = kinds.iter().map(resource).collect();
                Some(json!({ "kind": "APIResourceList", "groupVersion": version,
                             "resources": resources }))
            }
        }
    }

    fn groups(&self) -> Vec<Value> {
        let named =
            self.kinds.keys().filter_map(|version| Some((version, version.split_once('/')?)));
        let group = |(whole, (name, version)): (&String, (&str, &str))| {
            let version = json!({ "groupVersion": whole, "version": version });
            json!({ "name": name, "versions": [version], "preferredVersion": version })
        };
        named.map(group).collect()
    }
}
