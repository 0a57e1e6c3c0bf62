//! The registry in the cluster: what creates its Secrets, who reads them, and that no template
//! creates one.
//!
//! Deliberately absent: the Secrets themselves. `ovl registry-secrets` creates them in a cluster
//! (`cases`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::objects::{self, RIGHTS, Role};
use super::settings;
use crate::env::chart;

/// Values for a release with its registry.
const WITH: &str = "registry.enabled=true,registry.clusterIP=10.96.0.50";

/// Roles that it adds: nodes read the push credential, the Job creates two Secrets.
const MORE: &[Role] = &[
    ("Role", "-node-push", &["\"\": secrets: \"ovl-csi-registry-client\": get"]),
    (
        "Role",
        "-registry-secrets",
        &[
            "\"\": secrets: \"ovl-csi-registry-client\",\"ovl-csi-registry-server\": get, patch",
            "\"\": secrets: create",
        ],
    ),
];

/// Secrets of the cluster administrator.
const OWN: &str = "registry.existingSecret=login,registry.existingServerSecret=itself";

/// A certificate from cert-manager.
const ISSUED: &str = "registry.certManager.issuer.name=internal";

fn chart(helm: &Path, repo: &Path, more: &[&str]) -> Result<String> {
    let set = [WITH].iter().chain(more).copied().collect::<Vec<_>>().join(",");
    chart::chart(helm, repo, &["--set", &set])
}

/// Functions of templates whose result changes from one rendering to the next.
const RANDOM: &[&str] = &[
    "rand",
    "uuidv4",
    "genPrivateKey",
    "genCA",
    "genSelfSignedCert",
    "genSignedCert",
    "derivePassword",
    "htpasswd",
    "bcrypt",
    "encryptAES",
    "now",
    "shuffle",
    "getHostByName",
];

/// Checks that two renderings are the same, without and with the registry. A password or a key made
/// by a template would differ each time: a GitOps controller then never finds the release in sync.
pub fn twice(helm: &Path, repo: &Path) -> Result<()> {
    for values in [&[][..], &["--values", settings::EVERYTHING]] {
        let (first, second) =
            (chart::chart(helm, repo, values)?, chart::chart(helm, repo, values)?);
        ensure!(first == second, "two renderings with {values:?} differ");
    }
    let templates = repo.join("charts/ovl-csi/templates");
    for file in fs::read_dir(&templates)?.chain(fs::read_dir(templates.join("tests"))?) {
        let path = file?.path();
        if path.is_dir() {
            continue;
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        if let Some(function) = calls(&text, RANDOM) {
            bail!("{} calls {function}, whose result changes", path.display());
        }
    }
    for more in [&[][..], &[OWN], &[ISSUED]] {
        let (first, second) = (chart(helm, repo, more)?, chart(helm, repo, more)?);
        ensure!(first == second, "two renderings with {more:?} differ");
        let object = |object: &str| object.contains("\nkind: Secret\n");
        ensure!(!first.split("---\n").any(object), "the chart has a Secret in it with {more:?}");
    }
    Ok(())
}

/// Checks what creates its Secrets, and that nodes and registry have only their own.
pub fn secrets(helm: &Path, repo: &Path) -> Result<()> {
    let made = chart(helm, repo, &[])?;
    objects::rights(&made, &[RIGHTS, MORE].concat())?;
    let hooks = made.matches("helm.sh/hook: pre-install,pre-upgrade,pre-rollback\n").count();
    ensure!(hooks == 4, "{hooks} objects are the hook's, for account, role, binding and Job");
    let node = part(&made, "kind: DaemonSet\n")?;
    let server = part(&made, "\n  name: ovl-csi-registry\n  namespace: kube-system\n")?;
    ensure!(!node.contains("registry-server") && !server.contains("registry-client"), "{made}");

    let own = chart(helm, repo, &[OWN])?;
    ensure!(
        !own.contains("  name: ovl-csi-registry-secrets\n"),
        "a Job makes what its owner has: {own}"
    );
    let of = |text: &str, secret: &str| text.contains(&format!("name: {secret}\n"));
    ensure!(of(part(&own, "kind: DaemonSet\n")?, "login") && of(&own, "itself"), "{own}");
    ensure!(
        chart(helm, repo, &["registry.existingSecret=login"]).is_err(),
        "one of two was accepted"
    );

    let issued = chart(helm, repo, &[ISSUED])?;
    ensure!(issued.contains("- --login-only\n"), "two make the certificate: {issued}");
    ensure!(of(part(&issued, "kind: DaemonSet\n")?, "ovl-csi-registry-tls"), "{issued}");
    Ok(())
}

/// Checks that its traffic is encrypted, and who may connect to it.
pub fn reached(helm: &Path, repo: &Path) -> Result<()> {
    let usual = chart(helm, repo, &[])?;
    ensure!(usual.contains("server = \"https://10.96.0.50:5000\"\n"), "no https in:\n{usual}");
    ensure!(!usual.contains("http://"), "plain http in:\n{usual}");
    ensure!(usual.contains("key: /etc/ovl-registry/tls.key, minimumtls: tls1.2"), "{usual}");
    ensure!(!usual.contains("kind: NetworkPolicy\n"), "an unrequested policy");
    let enabled = "registry.networkPolicy.enabled=true";
    let refused = chart(helm, repo, &[enabled]);
    let words = refused.err().map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(words.contains("registry.networkPolicy.nodeCIDRs is empty"), "{words}");
    let nodes = chart(helm, repo, &[enabled, "registry.networkPolicy.nodeCIDRs={10.1.0.0/16}"])?;
    ensure!(nodes.contains("    - ipBlock:\n        cidr: \"10.1.0.0/16\"\n"), "{nodes}");
    Ok(())
}

/// Checks where its images are: on a claim that stays, unless the values request a directory of its
/// pod.
pub fn stored(helm: &Path, repo: &Path) -> Result<()> {
    const CLAIM: &str = "kind: PersistentVolumeClaim\n";
    let usual = chart(helm, repo, &[])?;
    let claim = part(&usual, CLAIM)?;
    ensure!(claim.contains("storage: 20Gi\n"), "another size: {claim}");
    ensure!(!claim.contains("storageClassName"), "not the cluster's default class: {claim}");
    ensure!(claim.contains("helm.sh/resource-policy: keep\n"), "it is deleted: {claim}");
    let registry = "\n  name: ovl-csi-registry\n  namespace: kube-system\n";
    let server = part(&usual, registry)?;
    ensure!(server.contains("claimName: ovl-csi-registry\n"), "the claim is not used: {server}");
    ensure!(server.contains("type: Recreate\n"), "two pods could use the claim: {server}");

    let ephemeral = chart(helm, repo, &["registry.storage.ephemeral=true"])?;
    ensure!(!ephemeral.contains(CLAIM), "an unused claim: {ephemeral}");
    let server = part(&ephemeral, registry)?;
    ensure!(server.contains("- name: images\n        emptyDir: {}\n"), "{server}");
    Ok(())
}

/// The first of these functions that a template calls.
fn calls<'f>(template: &str, functions: &[&'f str]) -> Option<&'f str> {
    let actions = template.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
    let code = actions.filter(|action| !action.trim_start_matches(['-', ' ']).starts_with("/*"));
    // Texts are not code.
    let code = code.map(|action| action.split('"').step_by(2).collect::<Vec<_>>().join(" "));
    let code: Vec<String> = code.collect();
    let mut words = code.iter().flat_map(|code| {
        // Not the names of variables and fields, which begin with `$` or `.`.
        code.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '$' | '.'))
    });
    words.find_map(|word| {
        let is_it = |function: &&&str| match **function {
            "rand" => word.starts_with("rand"),
            function => word == function,
        };
        functions.iter().find(is_it).copied()
    })
}

/// The last object that contains a text.
fn part<'a>(rendered: &'a str, text: &str) -> Result<&'a str> {
    let part = rendered.split("---\n").filter(|object| object.contains(text)).last();
    part.ok_or_else(|| anyhow::anyhow!("no object with {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_of_a_random_function_is_found() {
        for (template, found) in [
            ("a: {{ randAlphaNum 20 }}", Some("rand")),
            ("{{- $p := genCA \"now\" 3 -}}", Some("genCA")),
            ("{{ include \"x\" (dict \"now\" .now) | quote }}", None),
            ("{{/* now */}}\nnow: {{ $now }}", None),
            ("{{- if (htpasswd .a .b) }}", Some("htpasswd")),
        ] {
            assert_eq!(calls(template, RANDOM), found, "{template}");
        }
    }
}
