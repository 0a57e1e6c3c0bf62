//! Prints and creates forks.

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::{
    failure::Failure, print, session::Session, snapshot_view::Snapshot, workload::kind_name,
};
use crate::cluster::{JsonKind, snapshot_api::VolumeSnapshot};

/// The format in which forks are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ForkFormat {
    /// One YAML document per object
    Yaml,
    /// One JSON list
    Json,
    /// The kind and the name of each object
    Name,
}

impl ForkFormat {
    /// Prints objects that are not created.
    pub(super) fn print(self, objects: Vec<Value>) -> Result<(), Failure> {
        match self {
            Self::Yaml => print::out(&yaml(&objects)?)?,
            Self::Json => print::json(&object_list(objects))?,
            Self::Name => {
                print::out(
                    &objects.iter().map(|object| resource(object) + "\n").collect::<String>(),
                )?;
            }
        }
        Ok(())
    }
}

impl Session {
    /// Checks that no object has one of the names, before a snapshot is taken.
    pub(super) async fn check_free(&self, kind: JsonKind, names: &[String]) -> Result<(), Failure> {
        for name in names {
            if let Some(existing) = self.client.json(kind, Some(&self.namespace), name).await? {
                return Err(anyhow!(
                    "{} exists already in namespace {}; use another --name-prefix, or delete it first",
                    resource(&existing),
                    self.namespace
                )
                .into());
            }
        }
        Ok(())
    }

    /// Creates the forks, and returns them as the API server has stored them.
    pub(super) async fn apply(
        &self,
        kind: JsonKind,
        forks: &[Value],
        output: ForkFormat,
    ) -> Result<Vec<Value>, Failure> {
        let mut made = Vec::new();
        for fork in forks {
            let fork_name = resource(fork);
            let created = self.client.create_json(kind, &self.namespace, fork).await;
            let created = created.with_context(|| {
                let total = forks.len();
                format!("cannot create {fork_name}; {} of {total} were created", made.len())
            })?;
            match output {
                ForkFormat::Yaml => print::out(&format!("{fork_name} created\n"))?,
                ForkFormat::Name => print::out(&format!("{fork_name}\n"))?,
                ForkFormat::Json => {}
            }
            made.push(created);
        }
        if output == ForkFormat::Json {
            print::json(&object_list(made.clone()))?;
        }
        Ok(made)
    }

    /// Makes Kubernetes delete the snapshot when the last of these objects is deleted.
    pub(super) async fn delete_with(&self, snapshot: &Snapshot, forks: &[Value]) {
        let owner = |fork: &Value| {
            json!({
                "apiVersion": fork["apiVersion"],
                "kind": fork["kind"],
                "name": fork["metadata"]["name"],
                "uid": fork["metadata"]["uid"],
            })
        };
        let owners: Vec<_> = forks.iter().map(owner).collect();
        let Snapshot { name, uid, .. } = snapshot;
        let changes = json!({ "metadata": { "uid": uid, "ownerReferences": owners } });
        let patched = self.client.patch::<VolumeSnapshot>(Some(&self.namespace), name, &changes);
        print::note(&match patched.await {
            Ok(_) => {
                let retained = snapshot.retained().map(|retained| format!(". But {retained}"));
                format!(
                    "note: snapshot {name} is deleted with the last fork; --keep-snapshot would keep it{}",
                    retained.unwrap_or_default()
                )
            }
            Err(error) => {
                format!("note: snapshot {name} stays when the forks are deleted: {error}")
            }
        });
    }
}

/// An object as kubectl names it, such as `pod/demo` and `deployment.apps/web`.
fn resource(object: &Value) -> String {
    let [api_version, kind, name] =
        [&object["apiVersion"], &object["kind"], &object["metadata"]["name"]]
            .map(|value| value.as_str().unwrap_or_default());
    format!("{}/{name}", kind_name(api_version, kind))
}

fn object_list(objects: Vec<Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": objects })
}

fn yaml(objects: &[Value]) -> anyhow::Result<String> {
    let documents = objects.iter().map(|object| {
        let text = serde_saphyr::to_string(object).context("a fork cannot be written as YAML")?;
        Ok(format!("---\n{text}"))
    });
    documents.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_the_name_that_kubectl_gives_it() {
        for (api, kind, name) in [
            ("v1", "Pod", "pod/a"),
            ("apps/v1", "Deployment", "deployment.apps/a"),
            (
                "snapshot.storage.k8s.io/v1",
                "VolumeSnapshot",
                "volumesnapshot.snapshot.storage.k8s.io/a",
            ),
        ] {
            let object = json!({ "apiVersion": api, "kind": kind, "metadata": { "name": "a" } });
            assert_eq!(resource(&object), name);
        }
    }

    #[test]
    fn printed_yaml_reads_back_as_the_same_pods() {
        let odd = [
            "true",
            "1",
            "1e3",
            "null",
            "~",
            "",
            "a: b",
            "- a",
            "#c",
            "0x1f",
            "on",
            "a\nb\n",
            " x",
            "'",
            "\"",
            "2026-01-02",
        ];
        let pods: Vec<_> = odd.iter().map(|text| json!({ "metadata": { "name": text }, *text: [text, { "k": text }], "n": [1, true, null, []], "m": {} })).collect();
        let text = yaml(&pods).unwrap();
        let read: Vec<Value> = text
            .split_inclusive("---\n")
            .map(|document| document.trim_end_matches("---\n"))
            .filter(|document| !document.is_empty())
            .map(|document| serde_saphyr::from_str(document).unwrap())
            .collect();
        assert_eq!(read, pods);
    }
}
