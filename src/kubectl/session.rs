//! The connection of a command to its cluster.

use anyhow::anyhow;

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
        if self.impersonate.is_none() && !self.impersonate_groups.is_empty() {
            return Err(Failure::Usage(anyhow!("--as-group needs the user of --as")));
        }
        let (client, namespace) = Client::connect(&self.connection()).await?;
        let namespace = self.namespace.clone().unwrap_or(namespace);
        Ok(Session { client, namespace, driver: self.driver.clone() })
    }
}
