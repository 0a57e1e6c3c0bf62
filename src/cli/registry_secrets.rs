//! `ovl registry-secrets`: makes the password and the certificate of the chart's registry in the cluster, unless they
//! exist.
//!
//! ```text
//! Secret --client-secret    .dockerconfigjson  ca.crt             the login of the nodes, and the CA of the registry
//! Secret --server-secret    htpasswd  tls.crt  tls.key            for the registry only
//! ```
//!
//! Nodes have no right to read the second Secret. If both Secrets exist, neither is changed, because nodes and registry
//! read them once, at their start. If one of them is missing, a new password and a new CA are written to both. Nodes
//! and registry must then be restarted.

mod contents;

use std::net::IpAddr;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use jiff::Timestamp;
use tokio::runtime::Runtime;

use self::contents::{Login, Tls};
use super::failure::Failure;
use crate::cluster::{Client, SecretData, SecretKind};

/// The key of a Secret of type `kubernetes.io/dockerconfigjson`.
const CONFIG: &str = ".dockerconfigjson";
const CA: &str = "ca.crt";
const HTPASSWD: &str = "htpasswd";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Make the password and the certificate of the chart's registry, unless both Secrets exist
#[derive(Debug, Args)]
pub(super) struct RegistrySecretsArgs {
    /// The namespace of both Secrets
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: String,
    /// The registry, as in image references
    #[arg(long, value_name = "HOST:PORT")]
    registry: String,
    /// The address of its Service, at which nodes reach it
    #[arg(long, value_name = "IP")]
    address: IpAddr,
    /// The Secret for the nodes
    #[arg(long, value_name = "NAME")]
    client_secret: String,
    /// The Secret for the registry only
    #[arg(long, value_name = "NAME")]
    server_secret: String,
    /// Make the password only; the certificate is made by another program, such as cert-manager
    #[arg(long)]
    login_only: bool,
}

/// Writes both Secrets if one of them is missing. Otherwise checks that they are still valid.
pub(super) fn run(args: &RegistrySecretsArgs) -> Result<(), Failure> {
    args.host().map_err(Failure::Unusable)?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let ensured = async {
        let client = Client::in_cluster().await.context("the Secrets need a cluster")?;
        args.ensure(&client, Timestamp::now()).await
    };
    Ok(runtime.block_on(ensured)?)
}

impl RegistrySecretsArgs {
    /// The registry's name without its port.
    fn host(&self) -> anyhow::Result<&str> {
        match self.registry.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(host),
            _ => bail!("--registry {} is not HOST:PORT", self.registry),
        }
    }

    async fn ensure(&self, client: &Client, now: Timestamp) -> anyhow::Result<()> {
        let namespace = self.namespace.as_str();
        let (client_secret, server_secret) = (&self.client_secret, &self.server_secret);
        let old_client = client.secret(namespace, client_secret).await?;
        let old_server = client.secret(namespace, server_secret).await?;
        if let (Some(old_client), Some(old_server)) = (&old_client, &old_server) {
            self.check(old_client, old_server, now).map_err(|why| {
                anyhow!(
                    "Secrets {client_secret} and {server_secret} in namespace {namespace} cannot be used: {why:#}. Delete both, run \
                     helm again, and then `kubectl --namespace {namespace} rollout restart` the release's DaemonSet and its \
                     registry's Deployment"
                )
            })?;
            tracing::info!(
                namespace,
                client_secret,
                server_secret,
                "both Secrets exist and are not changed"
            );
            return Ok(());
        }
        let login = Login::new(&self.registry)?;
        let mut client_data = vec![(CONFIG, login.docker_config)];
        let mut server_data = vec![(HTPASSWD, login.htpasswd)];
        if !self.login_only {
            let tls = Tls::new(self.host()?, self.address, now)?;
            client_data.push((CA, tls.ca));
            server_data.extend([(CERTIFICATE, tls.certificate), (KEY, tls.key)]);
        }
        // The registry's Secret first: nodes wait for theirs, so they start when both exist.
        for (name, kind, data) in [
            (server_secret, SecretKind::Opaque, server_data),
            (client_secret, SecretKind::DockerConfig, client_data),
        ] {
            client.put_secret(namespace, name, kind, &data).await?;
            tracing::info!(namespace, secret = name, "made");
        }
        if old_client.is_some() || old_server.is_some() {
            tracing::warn!(
                "one of the two Secrets was missing, so both are new; restart the release's DaemonSet and its registry's Deployment"
            );
        }
        Ok(())
    }

    /// Checks that existing Secrets are complete and that the certificate is valid.
    fn check(
        &self,
        client: &SecretData,
        server: &SecretData,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let key = |secret: &'_ SecretData, name: &str, key: &str| match secret.get(key) {
            Some(value) => Ok(value.to_owned()),
            None => Err(anyhow!("{name} has no {key}")),
        };
        key(client, &self.client_secret, CONFIG)?;
        key(server, &self.server_secret, HTPASSWD)?;
        if self.login_only {
            return Ok(());
        }
        key(server, &self.server_secret, KEY)?;
        let ca = key(client, &self.client_secret, CA)?;
        let certificate = key(server, &self.server_secret, CERTIFICATE)?;
        contents::fits(&ca, &certificate, self.host()?, self.address, now)
    }
}

#[cfg(test)]
#[path = "registry_secrets/tests.rs"]
mod tests;
