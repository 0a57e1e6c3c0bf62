//! A namespace of a test environment, and the pods in it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::environment::Environment;
use super::node::{Mount, Node};
use super::pods::{POD_TIMEOUT, Pod, is_ready};
use crate::cluster::kind::Cluster;
use crate::machine::process::Cmd;
use crate::machine::wait::wait_for;

/// A namespace in an environment.
#[derive(Clone, Copy)]
pub struct TestNamespace<'a> {
    /// The environment.
    pub env: &'a Environment,
    /// Its name.
    pub namespace: &'a str,
}

impl<'a> TestNamespace<'a> {
    /// The cluster.
    pub fn cluster(&self) -> &'a Cluster {
        &self.env.cluster
    }

    /// Runs `kubectl` in the namespace and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error quotes what it said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.cluster().kubectl(&[&["--namespace", self.namespace], args].concat())
    }

    /// Runs `kubectl … -o json` in the namespace and returns the object.
    ///
    /// # Errors
    /// It failed or printed no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        self.cluster().kubectl_json(&[&["--namespace", self.namespace], args].concat())
    }

    /// `kubectl ovl` in the namespace, with these arguments.
    pub fn kubectl_ovl(&self, args: &[&str]) -> Cmd {
        let plugin = Cmd::new(&self.env.program).arg("kubectl");
        let plugin = plugin.arg("--kubeconfig").arg(&self.cluster().kubeconfig);
        plugin.args(["--namespace", self.namespace]).args(args)
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// kubectl or the API refused it.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let kubectl = self.cluster().kubectl_cmd().args(["--namespace", self.namespace]);
        kubectl.args(["apply", "-f", "-"]).stdin(manifest).output().map(drop)
    }

    /// Creates a pod and does not wait. Returns its UID.
    ///
    /// # Errors
    /// The API refused it.
    pub fn create(&self, pod: &Pod) -> Result<String> {
        self.apply(&pod.manifest())?;
        self.uid(&pod.name)
    }

    /// Creates a pod and waits until it is Ready. Returns its UID.
    ///
    /// # Errors
    /// The API refused it, or it is not Ready in time.
    pub fn start(&self, pod: &Pod) -> Result<String> {
        self.apply(&pod.manifest())?;
        self.ready(&pod.name)
    }

    /// A pod's UID.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn uid(&self, pod: &str) -> Result<String> {
        let pod = self.json(&["get", "pod", pod])?;
        let uid = pod.pointer("/metadata/uid").and_then(Value::as_str);
        uid.map(str::to_owned).context("it has no uid")
    }

    /// Waits until a pod is Ready and returns its UID.
    ///
    /// # Errors
    /// The pod is not Ready in time. The error has its warnings.
    pub fn ready(&self, name: &str) -> Result<String> {
        self.ready_within(name, POD_TIMEOUT)
    }

    /// As [`TestNamespace::ready`], with another timeout.
    ///
    /// # Errors
    /// As [`TestNamespace::ready`].
    pub fn ready_within(&self, name: &str, limit: Duration) -> Result<String> {
        wait_for(&format!("pod {name} to be ready"), limit, || {
            let pod = self.json(&["get", "pod", name])?;
            ensure!(is_ready(&pod), "it is {}; {}", pod["status"]["phase"], self.warnings(name)?);
            let uid = pod.pointer("/metadata/uid").and_then(Value::as_str);
            Ok(Some(uid.context("it has no uid")?.to_owned()))
        })
    }

    /// The Events of a pod, as `kubectl describe` shows them: a line for each Event, with its
    /// reason.
    ///
    /// # Errors
    /// The API server does not respond.
    pub fn events(&self, pod: &str, also: &str) -> Result<Vec<String>> {
        let selector = format!("involvedObject.name={pod}{also}");
        let events = self.json(&["get", "events", "--field-selector", &selector])?;
        let events = events.get("items").and_then(Value::as_array).into_iter().flatten();
        let words = |event: &Value| {
            let word = |key| event.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("{}: {}", word("reason"), word("message"))
        };
        Ok(events.map(words).collect())
    }

    /// The warnings of a pod, in one line.
    ///
    /// # Errors
    /// As [`TestNamespace::events`].
    pub fn warnings(&self, pod: &str) -> Result<String> {
        let events = self.events(pod, ",type=Warning")?;
        Ok(if events.is_empty() { "no warnings".into() } else { events.join("; ") })
    }

    /// The warnings about an object that is in no namespace.
    ///
    /// # Errors
    /// As [`TestNamespace::events`].
    pub fn warnings_about(&self, name: &str) -> Result<Vec<Value>> {
        let selector = format!("involvedObject.name={name},type=Warning");
        let get = ["get", "events", "--namespace", "default", "--field-selector", &selector];
        let events = self.cluster().kubectl_json(&get)?;
        Ok(events["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until an Event of a pod contains each of these words, in any case. A word may have
    /// alternatives, separated by `|`.
    ///
    /// # Errors
    /// There is no such Event in time. The error quotes the Events.
    pub fn wait_for_event(&self, pod: &str, words: &[&str]) -> Result<()> {
        self.wait_for_event_within(pod, words, POD_TIMEOUT)
    }

    /// As [`TestNamespace::wait_for_event`], with another timeout.
    ///
    /// # Errors
    /// As there.
    pub fn wait_for_event_within(&self, pod: &str, words: &[&str], limit: Duration) -> Result<()> {
        let fits = |event: &String| {
            let event = event.to_lowercase();
            let has = |word: &str| event.contains(&word.to_lowercase());
            words.iter().all(|word| word.split('|').any(has))
        };
        wait_for(&format!("an Event of pod {pod} with {words:?}"), limit, || {
            let events = self.events(pod, "")?;
            ensure!(events.iter().any(fits), "its Events are {events:?}");
            Ok(Some(()))
        })
    }

    /// Runs a shell command in a pod and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error quotes what it said.
    pub fn shell(&self, pod: &str, command: &str) -> Result<String> {
        self.kubectl(&["exec", pod, "--", "sh", "-c", command])
    }

    /// Waits until a command succeeds in a pod.
    ///
    /// # Errors
    /// The command does not succeed in time.
    pub fn wait_for_command(&self, pod: &str, command: &str) -> Result<()> {
        wait_for(&format!("`{command}` to hold in {pod}"), POD_TIMEOUT, || {
            self.shell(pod, command).map(Some)
        })
        .map(drop)
    }

    /// Runs commands in a pod, all in one call, and checks that each prints exactly the given text.
    ///
    /// # Errors
    /// The first command with other output.
    pub fn expect_output(&self, pod: &str, facts: &[(&str, &str)]) -> Result<()> {
        const END: &str = "--end of a fact--";
        let commands = facts.iter().map(|(command, _)| format!("({command}) 2>&1; echo {END}\n"));
        let output = self.shell(pod, &commands.collect::<String>())?;
        let mut output = output.split(END).map(str::trim);
        for (command, want) in facts {
            let output = output.next().unwrap_or_default();
            ensure!(output == *want, "`{command}` in pod {pod} prints `{output}`, not `{want}`");
        }
        Ok(())
    }

    /// The node of a pod.
    ///
    /// # Errors
    /// There is no such pod, or it is on no node yet.
    pub fn node(&self, pod: &str) -> Result<Node<'a>> {
        let pod = self.json(&["get", "pod", pod])?;
        let name = pod.pointer("/spec/nodeName").and_then(Value::as_str);
        Ok(Node::new(self.cluster(), name.context("the pod is on no node yet")?))
    }

    /// The one mount of a pod's volume.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn mount(&self, pod: &str) -> Result<Mount> {
        self.node(pod)?.volume_mount(&self.uid(pod)?)
    }

    /// Deletes a pod and waits until it is gone from the API server. By then the kubelet has seen
    /// its volumes unmounted. A missing pod is no error.
    ///
    /// # Errors
    /// It is still there at the timeout.
    pub fn delete(&self, name: &str) -> Result<()> {
        let time = format!("{}s", POD_TIMEOUT.as_secs());
        let delete = ["delete", "pod", name, "--ignore-not-found", "--wait", "--timeout", &time];
        self.kubectl(&delete).map(drop)
    }

    /// Creates or changes a Secret with a dockerconfigjson.
    ///
    /// # Errors
    /// The API refused it.
    pub fn docker_secret(&self, name: &str, config: &str) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name },
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": { ".dockerconfigjson": config },
        });
        self.apply(&secret.to_string())
    }
}
