//! Reads the Secret with the credentials for a push. It is read at the start of each push and not kept.

use super::{controller::Shared, engine::Failure, spec::Target};
use crate::{cluster::Client, error::Class, image::Keyring};

/// The key of a Secret of type `kubernetes.io/dockerconfigjson`.
const KEY: &str = ".dockerconfigjson";

impl<E> Shared<E> {
    /// The credentials for a push: those of its Secret come first, then the node's own.
    pub(super) async fn keyring(&self, target: &Target) -> Result<Keyring, Failure> {
        let own = match &target.secret {
            Some(name) => keyring(&self.client, &self.namespace, name).await?,
            None => Keyring::default(),
        };
        Ok(own.and(&self.keyring))
    }
}

/// The credentials of a Secret in the driver's own namespace.
async fn keyring(client: &Client, namespace: &str, name: &str) -> Result<Keyring, Failure> {
    let subject = || format!("Secret {name} in namespace {namespace}, which pushSecretName names");
    let secret = client.secret(namespace, name).await.map_err(|error| {
        let class = error.class();
        let advice = match class {
            Class::Denied => "; list it in the chart's snapshots.pushSecrets",
            _ => "",
        };
        Failure::new(class, format!("{}: {error}{advice}", subject()))
    })?;
    let Some(secret) = secret else {
        return Err(Failure::new(Class::NotFound, format!("there is no {}", subject())));
    };
    let Some(config) = secret.get(KEY) else {
        let why =
            format!("{} has no {KEY}; make it of type kubernetes.io/dockerconfigjson", subject());
        return Err(Failure::new(Class::Precondition, why));
    };
    let read = Keyring::from_docker_config(config);
    read.map_err(|error| Failure::new(Class::Precondition, format!("{}: {error}", subject())))
}
