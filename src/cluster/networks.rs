//! Finds the networks of the cluster's Services and the addresses of its API server.

use k8s_openapi::api::{discovery::v1::EndpointSlice, networking::v1::ServiceCIDR};
use kube::{Api, api::ListParams};

use super::{
    Client, ClusterError,
    api::{PAGE, optional},
};

impl Client {
    /// The networks of the cluster's Services and the addresses of its API server. The networks come from
    /// `ServiceCIDR`, which Kubernetes serves since 1.33; before that there are none. The addresses come from the
    /// EndpointSlice `default/kubernetes`, which the API servers maintain.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn own_networks(&self) -> Result<Vec<String>, ClusterError> {
        let cidrs = Api::<ServiceCIDR>::all(self.kube());
        let params = ListParams::default().limit(PAGE);
        let cidrs = optional(self.bound("list ServiceCIDRs", cidrs.list(&params)).await)?;
        let of_cidr = |cidr: ServiceCIDR| cidr.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
        let mut networks: Vec<_> =
            cidrs.into_iter().flat_map(|list| list.items).flat_map(of_cidr).collect();
        let slices = Api::<EndpointSlice>::namespaced(self.kube(), "default");
        let slice = optional(
            self.bound("read the EndpointSlice kubernetes", slices.get("kubernetes")).await,
        )?;
        let endpoints = slice.into_iter().filter_map(|slice| slice.endpoints).flatten();
        networks.extend(endpoints.flat_map(|endpoint| endpoint.addresses));
        Ok(networks)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fake::FakeApi;

    #[tokio::test]
    async fn own_networks_are_the_service_cidrs_and_the_api_server() {
        let api = FakeApi::default();
        let read = || async { api.client().own_networks().await.unwrap() };
        assert_eq!(read().await, [""; 0], "neither a ServiceCIDR nor the slice exists");
        api.put(
            "/apis/networking.k8s.io/v1/servicecidrs",
            json!({ "metadata": { "name": "kubernetes" },
                    "spec": { "cidrs": ["10.96.0.0/16", "fd00::/108"] } }),
        );
        api.put(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({ "metadata": { "name": "kubernetes", "namespace": "default" }, "addressType": "IPv4",
                    "endpoints": [{ "addresses": ["192.0.2.1"] }, { "addresses": ["192.0.2.2"] }] }),
        );
        assert_eq!(read().await, ["10.96.0.0/16", "fd00::/108", "192.0.2.1", "192.0.2.2"]);
    }

    #[tokio::test]
    async fn a_cluster_without_service_cidrs_still_has_its_api_server() {
        let api = FakeApi::responding(&[404]);
        api.put(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({ "metadata": { "name": "kubernetes", "namespace": "default" }, "addressType": "IPv4",
                    "endpoints": [{ "addresses": ["192.0.2.1"] }] }),
        );
        assert_eq!(api.client().own_networks().await.unwrap(), ["192.0.2.1"]);
        let api = FakeApi::responding(&[403]);
        assert!(api.client().own_networks().await.is_err());
    }
}
