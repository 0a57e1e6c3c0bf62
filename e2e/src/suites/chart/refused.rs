//! Values that the chart must refuse.
//!
//! Deliberately absent: the effect of valid values (`settings`).

use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::env::chart;

/// The arguments of helm, and the word with which the refusal names the setting.
pub const REFUSED: &[(&[&str], &str)] = &[
    (&["--set", "drivername=a.b"], "drivername"),
    (&["--set", "driverName=Ovl.CSI"], "driverName"),
    (&["--set", "driverName=a/../b"], "driverName"),
    (&["--set", "kubeletDir=var/lib/kubelet"], "kubeletDir"),
    (&["--set", "storeDir=/var/../etc"], "storeDir"),
    (&["--set", "storeDir=/var/lib/"], "storeDir"),
    (&["--set", "nameOverride=Layers"], "nameOverride"),
    (&["--set", "fullnameOverride=-x"], "fullnameOverride"),
    (&["--set", "image.pullPolicy=Sometimes"], "pullPolicy"),
    (&["--set", "image.digest=x"], "digest"),
    (&["--set", "imagePullSecrets=key"], "imagePullSecrets"),
    (&["--set-json", r#"registries={"http://r.example":"x"}"#], "without https://"),
    (&["--set-json", r#"registries={"r.example/path":"x"}"#], "without a path"),
    (&["--set-json", r#"registries={"../etc":"x"}"#], r#"the key "../etc" is not a registry"#),
    (&["--set-json", r#"registries={"R.example":"x"}"#], "in lower case"),
    (&["--set-json", r#"registries={"r.example":{}}"#], "registries"),
    (&["--set-json", r#"registries={"registry":"x"}"#], "with a dot or a port"),
    (&["--set-json", r#"registries={"r.example":{"cert":"x"}}"#], "registries"),
    (&["--set-json", r#"registries={"r.example":{"ca":"/etc/ca.crt"}}"#], "registries"),
    (&["--set-json", UNUSED], "do not use it"),
    (&["--set", "extraCA=/etc/ca.crt"], "extraCA"),
    (&["--set", "proxy.https=socks5://proxy.example:1080"], "https"),
    (&["--set", "proxy.http=proxy.example:3128"], "http"),
    (&["--set", "proxy.noProxy=corp.example"], "noProxy"),
    (&["--set-json", r#"proxy.noProxy=["a.example,b.example"]"#], "noProxy"),
    (&["--set", "proxy.existingSecret=Mine"], "existingSecret"),
    (&["--set", "proxy.existingSecret=a,proxy.https=http://p.example"], "leave these empty"),
    (&["--set", "credentials.existingSecret=Mine"], "existingSecret"),
    (&["--set", "credentials.key=a/b"], "key"),
    (&["--set", "credentials.trustFor=soon"], "trustFor"),
    (&["--set", "credentials.password=x"], "password"),
    (&["--set", "layerStorage=tar"], "layerStorage"),
    // The names of an earlier version.
    (&["--set", "layerForm=dir"], "layerForm"),
    (&["--set-json", r#"overrideChecks=["filesystem"]"#], "overrideChecks"),
    (&["--set", "defaults.size=much"], "size"),
    (&["--set-string", "defaults.size=0"], "size"),
    (&["--set", "defaults.inodes=-1"], "inodes"),
    (&["--set-string", "defaults.volatile=true"], "volatile"),
    (&["--set", "disk.highPercent=100"], "highPercent"),
    (&["--set", "disk.lowPercent=0"], "lowPercent"),
    (&["--set", "disk.high=80"], "high"),
    (&["--set", "disk.minFreePercent=0"], "minFreePercent"),
    (&["--set", "disk.highPercent=96"], "minFreePercent"),
    (&["--set", "disk.highPercent=60,disk.lowPercent=70"], "lowPercent"),
    (&["--set", "policy.allowedImages.default=*"], "default"),
    (&["--set-json", r#"policy.allowedImages.default=["a b"]"#], "default"),
    (&["--set-json", r#"policy.allowedImages.default=["a\"b"]"#], "default"),
    (&["--set-json", r#"policy.allowedImages.namespaces={"CI":["*"]}"#], "namespaces"),
    (&["--set-json", r#"policy.allowedImages.namespaces={"ci":"*"}"#], "ci"),
    (&["--set", "policy.refusedImages=*"], "refusedImages"),
    (&["--set-string", "policy.refuseUserNamespaces=no"], "refuseUserNamespaces"),
    (&["--set-string", "policy.checkAttributes=yes"], "checkAttributes"),
    (&["--set-string", "registry.allowImages=yes"], "allowImages"),
    (&["--set-string", "seLinuxMount=true"], "seLinuxMount"),
    (&["--set", "openshift.ephemeralVolumeProfile=all"], "ephemeralVolumeProfile"),
    (&["--set-string", "events=false"], "events"),
    (&["--set-string", "snapshots.enabled=yes"], "enabled"),
    (&["--set", "snapshots.class=x"], "class"),
    (&["--set", "snapshots.classes.Fast.default=true"], "classes"),
    (&["--set", "snapshots.classes.a.deletionPolicy=Keep"], "deletionPolicy"),
    (&["--set", "snapshots.classes.a.parameters.format=tar"], "format"),
    (&["--set", "snapshots.classes.a.parameters.compression=xz"], "compression"),
    (&["--set", "snapshots.classes.a.parameters.consistency=maybe"], "consistency"),
    (&["--set", "snapshots.classes.a.parameters.freezeTimeout=soon"], "freezeTimeout"),
    (&["--set", "snapshots.classes.a.parameters.freezeTimeout=0s"], "freezeTimeout"),
    (&["--set", "snapshots.classes.a.parameters.freezeTimeout=60001ms"], "freezeTimeout"),
    (&["--set", "snapshots.classes.a.parameters.freezeTimeout=61s"], "freezeTimeout"),
    (&["--set", "snapshots.classes.a.parameters.freezeTimeout=2m"], "freezeTimeout"),
    (&["--set", "snapshots.classes.a.parameters.onFreezeTimeout=wait"], "onFreezeTimeout"),
    (&["--set", LIVE], "freezeTimeout and onFreezeTimeout have no effect"),
    (&["--set-string", "snapshots.classes.a.parameters.squashAbove=0"], "squashAbove"),
    (&["--set-string", "snapshots.classes.a.parameters.squashAbove=251"], "squashAbove"),
    (&["--set", "snapshots.classes.a.parameters.squash=yes"], "squash"),
    (&["--set", "snapshots.classes.a.parameters.repository=r.example/a:1"], "repository"),
    (&["--set", "snapshots.classes.a.parameters.repository=r.example/{user\\}"], "repository"),
    (&["--set", "snapshots.classes.a.parameters.pushSecretName=key"], "no repository"),
    (&["--set", UNREADABLE], "pushSecrets"),
    (&["--set", "snapshots.pushSecrets=key"], "pushSecrets"),
    (&["--set-json", r#"snapshots.pushSecrets=[""]"#], "pushSecrets"),
    (&["--set", "snapshots.onUninstall=force"], "onUninstall"),
    (&["--set", "snapshots.controller.replicas=0"], "replicas"),
    (&["--set", "snapshots.snapshotter.timeout=long"], "timeout"),
    (&["--set", "snapshots.snapshotter.image.tag="], "tag"),
    (&["--set-string", "crds.install=false"], "install"),
    (&["--set-string", "rbac.aggregateClusterRoles=false"], "aggregateClusterRoles"),
    (&["--set", "registry.enabled=true"], "registry.clusterIP"),
    (&["--set", "registry.clusterIP=here"], "clusterIP"),
    (&["--set", "registry.password=open-sesame"], "password"),
    (&["--set", "registry.existingSecret=Mine"], "existingSecret"),
    (&["--set", "registry.certManager.issuer.names=x"], "names"),
    (&["--set", "registry.networkPolicy.nodeCIDRs={10.0.0.1}"], "nodeCIDRs"),
    (&["--set", "snapshots.snapshotter.image.digest=sha256:1"], "digest"),
    (&["--set", "registry.storage.size=much"], "size"),
    (&["--set", NO_STORAGE], "registry.storage.ephemeral: true"),
    (&["--set-string", "registry.storage.ephemeral=yes"], "ephemeral"),
    (&["--set", "registry.nodePort=30500"], "nodePort"),
    (&["--set-json", r#"ignoredChecks=["colour"]"#], "'trusted-xattr'"),
    (&["--set", "log.format=xml"], "format"),
    (&["--set", "log.level=blah"], "level"),
    (&["--set", "log.level=ovl::image"], "level"),
    (&["--set-json", r#"log={"level":"info,ovl=loud"}"#], "level"),
    (&["--set", "healthPort=0"], "healthPort"),
    (&["--set-string", "healthPort=9808"], "healthPort"),
    (&["--set", "metrics.port=70000"], "port"),
    (&["--set", "metrics.address=node"], "address"),
    (&["--set", "metrics.enabled=true,metrics.port=9808"], "healthPort"),
    (&["--set", "metrics.serviceMonitor.enabled=true"], "metrics.enabled"),
    (&["--set", "metrics.serviceMonitor.interval=often"], "interval"),
    (&["--set", "metrics.prometheusRule.enabled=true"], "metrics.enabled"),
    (&["--set", "metrics.dashboard.label=x"], "label"),
    (&["--set", "otlpEndpoint=collector:4317"], "otlpEndpoint"),
    (&["--set", "networkPolicy.to=all"], "to"),
    (&["--set-json", r#"networkPolicy.from=[{"pods":{}}]"#], "pods"),
    (&["--set", "priorityClassName=1"], "priorityClassName"),
    (&["--set", "tolerations=all"], "tolerations"),
    (&["--set-json", r#"tolerations=[{"operater":"Exists"}]"#], "operater"),
    (&["--set", "nodeSelector.disk=1"], "disk"),
    (&["--set", "affinity.nodes=x"], "nodes"),
    (&["--set", "resources.limits.memory=lots"], "memory"),
    (&["--set", "updateStrategy.type=Recreate"], "updateStrategy"),
    (&["--set", "updateStrategy.rollingUpdate.maxSurge=1"], "maxSurge"),
    (&["--set", "updateStrategy.rollingUpdate.maxUnavailable=half"], "maxUnavailable"),
    (&["--set", "global.imageRegistry=https://r.example"], "imageRegistry"),
    (&["--set", "serviceAccount.annotations.a=1"], "annotations"),
    (&["--set", "extraArgs={log=debug}"], "extraArgs"),
    (&["--set-json", r#"extraEnv=[{"key":"A"}]"#], "extraEnv"),
    (&["--set-json", r#"extraEnv=[{"name":"A-B"}]"#], "name"),
    (&["--set", "snapshots.snapshotter.extraArgs={v}"], "extraArgs"),
    (&["--set", "commonLabels.app\\.kubernetes\\.io/name=x"], "app.kubernetes.io/name"),
    (&["--set", "extraObjects={1}"], "extraObjects"),
    (&["--set", "podAnnotations.a=1"], "podAnnotations"),
    (&["--set", "podLabels.app\\.kubernetes\\.io/name=x"], "app.kubernetes.io/name"),
    (&["--set-string", "test.image="], "image"),
    (&["--set-string", "test.volumeImage=a b"], "volumeImage"),
    (&["--set", LONG], "at most 107 bytes"),
];

/// A CA that the hosts.toml beside it does not use.
const UNUSED: &str = r#"registries={"r.example":{"hosts":"server = \"https://r.example\"",
                        "ca":"-----BEGIN CERTIFICATE-----\nx"}}"#;

/// A timeout for a freeze that does not take place.
const LIVE: &str = "snapshots.classes.a.parameters.consistency=live,\
                    snapshots.classes.a.parameters.freezeTimeout=2s";

/// A Secret that nodes may not read.
const UNREADABLE: &str = "snapshots.classes.a.parameters.repository=r.example/a,\
                          snapshots.classes.a.parameters.pushSecretName=key";

/// A registry without a place for its images.
const NO_STORAGE: &str =
    "registry.enabled=true,registry.clusterIP=10.96.0.50,registry.storage.size=";

/// Each part is short enough. The path of the socket, which they form together, is not.
const LONG: &str = "kubeletDir=/var/lib/a-subdir-with-a-long-name/and-another-one/kubelet,\
                    driverName=a-driver-whose-name-is-as-long-as-a-name-may-be.example.org";

/// Checks that helm refuses the values and says why.
pub fn check(helm: &Path, repo: &Path, values: &[&str], word: &str) -> Result<()> {
    match chart::chart(helm, repo, values) {
        Ok(_) => bail!("helm accepted it"),
        Err(error) => {
            let words = format!("{error:#}");
            // The error quotes the command first, then the output of helm.
            let output = words.split_once("failed").map_or("", |(_, output)| output);
            ensure!(output.contains(word), "the refusal does not name {word}: {output}");
            Ok(())
        }
    }
}
