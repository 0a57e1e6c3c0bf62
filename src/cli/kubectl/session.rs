//! The connection of a command to its cluster.

use super::{args::ClusterArgs, failure::Failure};
use crate::cluster::Client;

/// The client of a cluster, with the namespace and the driver of this command.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) driver: String,
}

impl ClusterArgs {
    /// Connects to the cluster, with what kubectl would use where an argument is missing.
    pub(super) async fn connect(&self) -> Result<Session, Failure> {
        let (file, context) = (self.kubeconfig.as_deref(), self.context.as_deref());
        let (client, namespace) = Client::from_kubeconfig(file, context).await?;
        let namespace = self.namespace.clone().unwrap_or(namespace);
        Ok(Session { client, namespace, driver: self.driver.clone() })
    }
}
