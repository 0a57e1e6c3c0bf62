//! Connects to a cluster with a user's kubeconfig, for requests within the user's namespaces.
//!
//! A kubeconfig and the output of a credential plugin are secret, so no error quotes them. The error texts of the
//! libraries would quote them, so they are not used.
//!
//! Deliberately absent: requests that need rights on the whole cluster.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::{
    Api, Config,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
    core::{ApiResource, DynamicObject},
};
use serde_json::Value;

use super::{
    Client, ClusterError,
    api::{PAGE, optional},
    client::{CONNECT, bound},
    error::credentials,
};

impl Client {
    /// The client for the context of a kubeconfig, and the namespace of that context. The kubeconfig is `file`, else
    /// the files in `KUBECONFIG`, else `~/.kube/config`, else the ServiceAccount of this pod. The context is the
    /// current one if `context` is `None`. Runs the credential plugin that the kubeconfig names.
    ///
    /// # Errors
    /// [`ClusterError::Kubeconfig`], [`ClusterError::Credentials`], and [`ClusterError::SetUp`] for unusable TLS
    /// settings.
    pub async fn from_kubeconfig(
        file: Option<&Path>,
        context: Option<&str>,
    ) -> Result<(Self, String), ClusterError> {
        let mut config = config(file, context).await?;
        config.connect_timeout = Some(CONNECT);
        config.default_retry = false;
        let namespace = config.default_namespace.clone();
        match kube::Client::try_from(config) {
            Ok(client) => Ok((Self::of(client), namespace)),
            Err(error) => Err(credentials(&error)
                .map_or_else(|| ClusterError::SetUp(Box::new(error)), ClusterError::Credentials)),
        }
    }

    /// Reads a pod with all fields that the API server returns.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn pod_json(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ClusterError> {
        let pod = optional(bound("read a Pod", self.pods(namespace).get(name)).await)?;
        Ok(pod.map(|pod| value(&pod)))
    }

    /// Lists all pods of a namespace with all fields, in pages.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn pods_json(&self, namespace: &str) -> Result<Vec<Value>, ClusterError> {
        let (api, mut params) = (self.pods(namespace), ListParams::default().limit(PAGE));
        let mut all = Vec::new();
        loop {
            let page = bound("list Pods", api.list(&params)).await?;
            all.extend(page.items.iter().map(value));
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => params = params.continue_token(&next),
                _ => return Ok(all),
            }
        }
    }

    /// Creates a pod and returns it as the API server has stored it.
    ///
    /// # Errors
    /// The error of the API server; of class [`Conflict`](crate::error::Class::Conflict) where the name is taken.
    pub async fn create_pod(&self, namespace: &str, pod: &Value) -> Result<Value, ClusterError> {
        let pod: DynamicObject = serde_json::from_value(pod.clone())
            .map_err(|e| ClusterError::of("create a Pod", kube::Error::SerdeError(e)))?;
        let pods = self.pods(namespace);
        let made = bound("create a Pod", pods.create(&PostParams::default(), &pod)).await?;
        Ok(value(&made))
    }

    /// The untyped API of pods: the typed one would drop fields of a newer API server.
    fn pods(&self, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<ApiPod>(&());
        Api::namespaced_with(self.kube(), namespace, &resource)
    }
}

/// Never fails: a pod that was read from JSON can be written as JSON.
fn value(pod: &DynamicObject) -> Value {
    serde_json::to_value(pod).unwrap_or_default()
}

async fn config(file: Option<&Path>, context: Option<&str>) -> Result<Config, ClusterError> {
    let read = match file {
        Some(file) => Kubeconfig::read_from(file),
        None => match Kubeconfig::read() {
            // The user has no kubeconfig: this may be a pod.
            Err(error) if context.is_none() && is_missing(&error) => {
                return Config::incluster().map_err(|_| unusable(&error));
            }
            read => read,
        },
    };
    let options =
        KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let read = read.map_err(|error| unusable(&error))?;
    let config = Config::from_custom_kubeconfig(read, &options).await;
    config.map_err(|error| unusable(&error))
}

fn is_missing(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.kind() == std::io::ErrorKind::NotFound,
        KubeconfigError::FindPath => true,
        _ => false,
    }
}

fn unusable(error: &KubeconfigError) -> ClusterError {
    ClusterError::Kubeconfig(match error {
        KubeconfigError::ReadConfig(error, path) => {
            format!("cannot read the kubeconfig {}: {error}", path.display())
        }
        KubeconfigError::Parse(error) => match error.location() {
            Some(at) => {
                format!("the file is not a kubeconfig at line {} column {}", at.line(), at.column())
            }
            None => "the file is not a kubeconfig".to_owned(),
        },
        KubeconfigError::CurrentContextNotSet => {
            "the kubeconfig has no current context: choose one with --context".to_owned()
        }
        KubeconfigError::LoadContext(name) => format!("the kubeconfig has no context {name:?}"),
        KubeconfigError::LoadClusterOfContext(name) => {
            format!(
                "the context of the kubeconfig names cluster {name:?}, which the kubeconfig does not have"
            )
        }
        KubeconfigError::MissingClusterUrl => {
            "the cluster in the kubeconfig has no server".to_owned()
        }
        KubeconfigError::ParseClusterUrl(_) => {
            "the server of the cluster in the kubeconfig is not a URL".to_owned()
        }
        KubeconfigError::LoadCertificateAuthority(_) | KubeconfigError::ParseCertificates(_) => {
            "the certificate authority of the cluster in the kubeconfig cannot be used".to_owned()
        }
        KubeconfigError::LoadClientCertificate(_) | KubeconfigError::LoadClientKey(_) => {
            "the certificate or key of the user in the kubeconfig cannot be used".to_owned()
        }
        _ => "the kubeconfig is inconsistent".to_owned(),
    })
}

#[cfg(test)]
#[path = "kubeconfig_tests.rs"]
mod tests;
