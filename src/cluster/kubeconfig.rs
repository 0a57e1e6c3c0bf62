//! Connects to a cluster with a user's kubeconfig, for requests within the user's namespaces.
//!
//! A kubeconfig and the output of a credential plugin are secret, so no error quotes them. The error texts of the
//! libraries would quote them, so they are not used.
//!
//! Deliberately absent: requests that need rights on the whole cluster.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use kube::{
    Config,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use url::Url;

use super::{Client, ClusterError, client::CONNECT, error::credentials};
use crate::http_proxy::HttpProxies;

/// How a user connects to a cluster: the options that kubectl has too. What is absent comes from the kubeconfig.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// The kubeconfig, else the files in `KUBECONFIG`, else `~/.kube/config`, else the ServiceAccount of this pod.
    pub kubeconfig: Option<PathBuf>,
    /// The name of the context.
    pub context: Option<String>,
    /// The name of a cluster of the kubeconfig, in place of the context's.
    pub cluster: Option<String>,
    /// The name of a user of the kubeconfig, in place of the context's.
    pub user: Option<String>,
    /// The URL of the API server, in place of the cluster's.
    pub server: Option<String>,
    /// A bearer token, in place of all credentials of the user.
    pub token: Option<BearerToken>,
    /// The user to impersonate.
    pub impersonate: Option<String>,
    /// The groups of the user to impersonate.
    pub impersonate_groups: Vec<String>,
    /// The timeout of each request.
    pub request_timeout: Option<Duration>,
}

/// A token with which a user authenticates. `Debug` does not show it.
#[derive(Clone)]
pub struct BearerToken(String);

impl From<String> for BearerToken {
    fn from(token: String) -> Self {
        Self(token)
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken")
    }
}

impl Client {
    /// The client of a user, and the namespace of the user's context. Runs the credential plugin that the kubeconfig
    /// names. The proxy is the `proxy-url` of the cluster, else the one of the environment ([`HttpProxies`]).
    ///
    /// # Errors
    /// [`ClusterError::Kubeconfig`], [`ClusterError::Credentials`], and [`ClusterError::SetUp`] for unusable TLS
    /// settings.
    pub async fn connect(connection: &Connection) -> Result<(Self, String), ClusterError> {
        let mut config = config(connection).await?;
        if let Some(user) = &connection.impersonate {
            config.auth_info.impersonate = Some(user.clone());
            let groups = &connection.impersonate_groups;
            config.auth_info.impersonate_groups = (!groups.is_empty()).then(|| groups.clone());
        }
        config.connect_timeout = Some(CONNECT);
        config.default_retry = false;
        let namespace = config.default_namespace.clone();
        let client = match kube::Client::try_from(config) {
            Ok(client) => Self::of(client),
            Err(error) => {
                let setup = |error| ClusterError::SetUp(Box::new(error));
                return Err(
                    credentials(&error).map_or_else(|| setup(error), ClusterError::Credentials)
                );
            }
        };
        Ok(match connection.request_timeout {
            Some(timeout) => (client.with_timeout(timeout), namespace),
            None => (client, namespace),
        })
    }
}

impl Connection {
    /// The names of the contexts of the kubeconfig; none where it cannot be read.
    pub fn contexts(&self) -> Vec<String> {
        let read = match &self.kubeconfig {
            Some(file) => Kubeconfig::read_from(file),
            None => Kubeconfig::read(),
        };
        let contexts = read.map(|read| read.contexts).unwrap_or_default();
        contexts.into_iter().map(|context| context.name).collect()
    }
}

async fn config(connection: &Connection) -> Result<Config, ClusterError> {
    let mut config = found_config(connection).await?;
    if let Some(BearerToken(token)) = &connection.token {
        let token = Some(token.clone().into());
        config.auth_info = AuthInfo { token, ..AuthInfo::default() };
    }
    Ok(config)
}

/// The config of the kubeconfig, or of this pod.
async fn found_config(connection: &Connection) -> Result<Config, ClusterError> {
    let Connection { kubeconfig, context, cluster, user, .. } = connection;
    let options = KubeConfigOptions {
        context: context.clone(),
        cluster: cluster.clone(),
        user: user.clone(),
    };
    let server = connection.server.as_deref().map(server_url).transpose()?;
    let names_nothing = [context, cluster, user].into_iter().all(Option::is_none);
    let read = match kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => match Kubeconfig::read() {
            // The user has no kubeconfig: this may be a pod.
            Err(error) if names_nothing && is_missing(&error) => {
                return match server {
                    Some(server) => with_proxy(Config::new(uri(&server)?)),
                    None => Config::incluster().map_err(|_| unusable(&error)),
                };
            }
            read => read,
        },
    };
    let read = read.map_err(|error| unusable(&error))?;
    let has_own_proxy = has_proxy(&read, &options);
    let config = Config::from_custom_kubeconfig(read, &options).await;
    let mut config = config.map_err(|error| unusable(&error))?;
    if let Some(server) = server {
        config.cluster_url = uri(&server)?;
    }
    if has_own_proxy { Ok(config) } else { with_proxy(config) }
}

/// Checks the URL of --server.
fn server_url(text: &str) -> Result<Url, ClusterError> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "https" | "http"));
    url.ok_or_else(|| {
        ClusterError::Kubeconfig(format!(
            "the server {text:?} is not a URL: write https://HOST or https://HOST:PORT"
        ))
    })
}

fn uri<U: FromStr>(url: &Url) -> Result<U, ClusterError> {
    let unusable = || ClusterError::Kubeconfig(format!("the server {url} cannot be used"));
    url.as_str().parse().map_err(|_| unusable())
}

/// The config with the proxy of the environment.
fn with_proxy(mut config: Config) -> Result<Config, ClusterError> {
    // kube compares NO_PROXY with the proxy itself and not with the server, and takes no proxy without a scheme.
    let proxies = HttpProxies::from_env().map_err(|e| ClusterError::Kubeconfig(e.to_string()))?;
    let server = Url::parse(&config.cluster_url.to_string()).ok();
    let proxy = server.as_ref().and_then(|server| proxies.of(server));
    config.proxy_url = proxy.and_then(|proxy| proxy.as_str().parse().ok());
    Ok(config)
}

/// Whether the cluster has a `proxy-url`, which has priority over the environment.
fn has_proxy(kubeconfig: &Kubeconfig, options: &KubeConfigOptions) -> bool {
    let name = options.context.as_ref().or(kubeconfig.current_context.as_ref());
    let context = kubeconfig.contexts.iter().find(|it| Some(&it.name) == name);
    let of_context = context.and_then(|it| it.context.as_ref()).map(|it| &it.cluster);
    let cluster = options.cluster.as_ref().or(of_context);
    let cluster = kubeconfig.clusters.iter().find(|it| Some(&it.name) == cluster);
    let proxy = cluster.and_then(|it| it.cluster.as_ref()).and_then(|it| it.proxy_url.as_deref());
    proxy.is_some_and(|proxy| !proxy.is_empty())
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
        KubeconfigError::ParseProxyUrl(_) => {
            "the proxy-url of the cluster in the kubeconfig, or HTTPS_PROXY, is not a URL".to_owned()
        }
        KubeconfigError::ParseNoProxy(_) => {
            "NO_PROXY has an empty or invalid entry: write hosts and networks with one comma between them"
                .to_owned()
        }
        _ => "the kubeconfig is inconsistent".to_owned(),
    })
}

#[cfg(test)]
#[path = "kubeconfig_tests.rs"]
mod tests;
