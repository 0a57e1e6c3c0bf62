//! The cluster as a user has it: by a kubeconfig, and within the namespaces that are theirs.
//!
//! What a kubeconfig or a credential plugin holds is secret, so neither is ever quoted: the libraries' own words would.
//!
//! Deliberately absent: anything that a user without rights on the whole cluster may not ask.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::{
    Api, Config,
    api::{ListParams, PostParams},
    client::AuthError,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
    core::{ApiResource, DynamicObject},
};
use serde_json::Value;

use super::{
    Client, ClusterError,
    client::{CONNECT, bound},
    kind::{PAGE, there},
};

impl Client {
    /// The cluster of a kubeconfig's context, and the namespace that goes with it: of `file`, else of those in `KUBECONFIG`, else of
    /// `~/.kube/config`, else this pod's own. The context is the current one if none is named. A credential plugin that the
    /// kubeconfig names is run.
    ///
    /// # Errors
    /// [`ClusterError::Kubeconfig`], [`ClusterError::Credentials`], and [`ClusterError::SetUp`] for what TLS does not take.
    pub async fn of_user(
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

    /// A pod with every field that the API server has of it.
    ///
    /// # Errors
    /// The API server's.
    pub async fn whole_pod(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ClusterError> {
        let pod = there(bound("read a Pod", self.pods(namespace).get(name)).await)?;
        Ok(pod.map(|pod| value(&pod)))
    }

    /// All pods of a namespace, likewise.
    ///
    /// # Errors
    /// The API server's.
    pub async fn whole_pods(&self, namespace: &str) -> Result<Vec<Value>, ClusterError> {
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

    /// Makes a pod; answers it as the API server has it.
    ///
    /// # Errors
    /// The API server's; of class [`Conflict`](crate::fault::Class::Conflict) where the name is taken.
    pub async fn create_pod(&self, namespace: &str, pod: &Value) -> Result<Value, ClusterError> {
        let pod: DynamicObject = serde_json::from_value(pod.clone())
            .map_err(|e| ClusterError::of("create a Pod", kube::Error::SerdeError(e)))?;
        let pods = self.pods(namespace);
        let made = bound("create a Pod", pods.create(&PostParams::default(), &pod)).await?;
        Ok(value(&made))
    }

    /// Not by their type, which drops the fields of a newer API server.
    fn pods(&self, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<ApiPod>(&());
        Api::namespaced_with(self.kube(), namespace, &resource)
    }
}

/// Never an error: what came as JSON goes as JSON.
fn value(pod: &DynamicObject) -> Value {
    serde_json::to_value(pod).unwrap_or_default()
}

async fn config(file: Option<&Path>, context: Option<&str>) -> Result<Config, ClusterError> {
    let read = match file {
        Some(file) => Kubeconfig::read_from(file),
        None => match Kubeconfig::read() {
            // No file of the user's: perhaps a pod.
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
            format!("the kubeconfig {} cannot be read: {error}", path.display())
        }
        KubeconfigError::Parse(error) => match error.location() {
            Some(at) => {
                format!("it is no kubeconfig at line {} column {}", at.line(), at.column())
            }
            None => "it is no kubeconfig".to_owned(),
        },
        KubeconfigError::CurrentContextNotSet => {
            "the kubeconfig has no current context: choose one with --context".to_owned()
        }
        KubeconfigError::LoadContext(name) => format!("the kubeconfig has no context {name:?}"),
        KubeconfigError::LoadClusterOfContext(name) => {
            format!("the kubeconfig has no cluster {name:?}, which its context names")
        }
        KubeconfigError::MissingClusterUrl => "the cluster has no server in it".to_owned(),
        KubeconfigError::ParseClusterUrl(_) => "the cluster's server in it is no URL".to_owned(),
        KubeconfigError::LoadCertificateAuthority(_) | KubeconfigError::ParseCertificates(_) => {
            "the cluster's certificate authority in it cannot be used".to_owned()
        }
        KubeconfigError::LoadClientCertificate(_) | KubeconfigError::LoadClientKey(_) => {
            "the user's certificate or key in it cannot be used".to_owned()
        }
        _ => "the kubeconfig contradicts itself".to_owned(),
    })
}

/// The sentence for credentials that cannot be had, if that is what went wrong.
pub(super) fn credentials(error: &kube::Error) -> Option<String> {
    let error = match error {
        kube::Error::Auth(error) => error,
        kube::Error::Service(error) => error.downcast_ref::<AuthError>()?,
        _ => return None,
    };
    Some(match error {
        AuthError::AuthExecStart(error) => {
            format!("the credential plugin that it names cannot be run: {error}")
        }
        AuthError::AuthExecRun { out, .. } => {
            format!("the credential plugin that it names failed ({}): run it by itself", out.status)
        }
        AuthError::ReadTokenFile(error, path) => {
            format!("its token file {} cannot be read: {error}", path.display())
        }
        _ => {
            "what it says of the user cannot be used, or its plugin gave nothing usable".to_owned()
        }
    })
}

#[cfg(test)]
#[path = "user_tests.rs"]
mod tests;
