//! `ovl registry-secrets`: the password and the certificate of the chart's registry, made in the cluster when they are missing.
//!
//! ```text
//! Secret --client-secret    .dockerconfigjson  ca.crt             what nodes open the registry with, and know it by
//! Secret --server-secret    htpasswd  tls.crt  tls.key            what the registry alone reads
//! ```
//!
//! Nodes have no right to the second. Both are made together: where one of them is missing, a new password and a new CA come
//! into both. What is there is never changed, because nodes and registry read it once, at their start.

mod made;

use std::net::IpAddr;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use jiff::Timestamp;
use tokio::runtime::Runtime;

use self::made::{Login, Tls};
use super::Failure;
use crate::cluster::{Client, SecretData, SecretKind};

/// The key of a Secret of type `kubernetes.io/dockerconfigjson`.
const CONFIG: &str = ".dockerconfigjson";
const CA: &str = "ca.crt";
const HTPASSWD: &str = "htpasswd";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Make the password and the certificate of the chart's registry, where they are missing
#[derive(Debug, Args)]
pub(super) struct RegistrySecretsArgs {
    /// The namespace of both Secrets
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: String,
    /// The registry as references write it
    #[arg(long, value_name = "HOST:PORT")]
    registry: String,
    /// The address of its Service, by which nodes reach it
    #[arg(long, value_name = "IP")]
    address: IpAddr,
    /// The Secret that nodes read
    #[arg(long, value_name = "NAME")]
    client_secret: String,
    /// The Secret that the registry alone reads
    #[arg(long, value_name = "NAME")]
    server_secret: String,
    /// The certificate comes from elsewhere: make the password alone
    #[arg(long)]
    login_only: bool,
}

/// Makes what is missing; of what is there, checks that it is still good.
pub(super) fn run(args: &RegistrySecretsArgs) -> Result<(), Failure> {
    args.host().map_err(Failure::Unusable)?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let ensured = async {
        let client = Client::in_cluster().await.context("the Secrets are made in a cluster")?;
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
        let (ours, theirs) = (&self.client_secret, &self.server_secret);
        let have_client = client.secret(namespace, ours).await?;
        let have_server = client.secret(namespace, theirs).await?;
        if let (Some(have_client), Some(have_server)) = (&have_client, &have_server) {
            self.check(have_client, have_server, now).map_err(|why| {
                anyhow!(
                    "Secrets {ours} and {theirs} in namespace {namespace} cannot be used: {why:#}. Delete both, run helm again, \
                     and then `kubectl --namespace {namespace} rollout restart` the release's DaemonSet and its registry's Deployment"
                )
            })?;
            tracing::info!(namespace, ours, theirs, "both Secrets are there and stay as they are");
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
        // The registry's first: nodes that wait for theirs start when both are there.
        for (name, kind, data) in [
            (theirs, SecretKind::Opaque, server_data),
            (ours, SecretKind::DockerConfig, client_data),
        ] {
            client.put_secret(namespace, name, kind, &data).await?;
            tracing::info!(namespace, secret = name, "made");
        }
        if have_client.is_some() || have_server.is_some() {
            tracing::warn!(
                "one of the two Secrets was missing, so both are new: restart the release's DaemonSet and its registry's Deployment"
            );
        }
        Ok(())
    }

    /// Why what is there is of no use, if it is not.
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
        made::fits(&ca, &certificate, self.host()?, self.address, now)
    }
}

#[cfg(test)]
#[path = "registry_secrets/tests.rs"]
mod tests;
