//! Objects as JSON, for the kubectl plugin: a typed object would drop the fields of a newer API server.
//!
//! Deliberately absent: requests that need rights on the whole cluster, except those of completion and of the node of a
//! fork.

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{Event, Namespace, Node, Pod},
};
use kube::{
    Api, Resource,
    api::{ListParams, PostParams},
    core::{ApiResource, DynamicObject},
};
use serde_json::Value;

use super::{
    Client, ClusterError,
    api::{PAGE, optional},
};

/// A kind that the plugin reads or creates as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonKind {
    /// `v1` Pod.
    Pod,
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `apps/v1` DaemonSet.
    DaemonSet,
    /// `batch/v1` Job.
    Job,
    /// `batch/v1` CronJob.
    CronJob,
    /// `v1` Event.
    Event,
    /// `v1` Namespace, which is in no namespace.
    Namespace,
    /// `v1` Node, which is in no namespace.
    Node,
}

/// Which objects of a kind are listed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection<'a> {
    /// A label selector, such as `app=web`.
    pub labels: Option<&'a str>,
    /// A field selector, such as `involvedObject.uid=…`.
    pub fields: Option<&'a str>,
}

impl JsonKind {
    fn resource(self) -> ApiResource {
        fn of<K: Resource<DynamicType = ()>>() -> ApiResource {
            ApiResource::erase::<K>(&())
        }
        match self {
            Self::Pod => of::<Pod>(),
            Self::Deployment => of::<Deployment>(),
            Self::StatefulSet => of::<StatefulSet>(),
            Self::DaemonSet => of::<DaemonSet>(),
            Self::Job => of::<Job>(),
            Self::CronJob => of::<CronJob>(),
            Self::Event => of::<Event>(),
            Self::Namespace => of::<Namespace>(),
            Self::Node => of::<Node>(),
        }
    }

    /// The version of its API and its name, as objects have them: `apps/v1` and `Deployment`.
    pub fn type_names(self) -> (String, String) {
        let resource = self.resource();
        (resource.api_version, resource.kind)
    }

    /// The requests in words, for errors: read, list and create.
    fn requests(self) -> [&'static str; 3] {
        match self {
            Self::Pod => ["read a Pod", "list Pods", "create a Pod"],
            Self::Deployment => ["read a Deployment", "list Deployments", "create a Deployment"],
            Self::StatefulSet => {
                ["read a StatefulSet", "list StatefulSets", "create a StatefulSet"]
            }
            Self::DaemonSet => ["read a DaemonSet", "list DaemonSets", "create a DaemonSet"],
            Self::Job => ["read a Job", "list Jobs", "create a Job"],
            Self::CronJob => ["read a CronJob", "list CronJobs", "create a CronJob"],
            Self::Event => ["read an Event", "list Events", "create an Event"],
            Self::Namespace => ["read a Namespace", "list Namespaces", "create a Namespace"],
            Self::Node => ["read a Node", "list Nodes", "create a Node"],
        }
    }
}

impl Client {
    /// Reads an object with all fields that the API server returns. `None` if there is none of this name. The namespace of
    /// a cluster-scoped object is `None`.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn json(
        &self,
        kind: JsonKind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Value>, ClusterError> {
        let [read, ..] = kind.requests();
        let object = self.bound(read, self.untyped(kind, namespace).get(name)).await;
        Ok(optional(object)?.map(|object| value(&object)))
    }

    /// Lists the objects of a kind in a namespace with all fields, in pages; in all namespaces, or those of a kind that
    /// is in no namespace, for `None`.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn json_list(
        &self,
        kind: JsonKind,
        namespace: Option<&str>,
        selection: Selection<'_>,
    ) -> Result<Vec<Value>, ClusterError> {
        let api = self.untyped(kind, namespace);
        let mut params = ListParams::default().limit(PAGE);
        params.label_selector = selection.labels.map(str::to_owned);
        params.field_selector = selection.fields.map(str::to_owned);
        let [_, list, _] = kind.requests();
        let mut all = Vec::new();
        loop {
            let page = self.bound(list, api.list(&params)).await?;
            all.extend(page.items.iter().map(value));
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => params = params.continue_token(&next),
                _ => return Ok(all),
            }
        }
    }

    /// Creates an object and returns it as the API server has stored it.
    ///
    /// # Errors
    /// The error of the API server; of class [`Conflict`](crate::error::Class::Conflict) where the name is taken.
    pub async fn create_json(
        &self,
        kind: JsonKind,
        namespace: &str,
        object: &Value,
    ) -> Result<Value, ClusterError> {
        let [_, _, create] = kind.requests();
        let object: DynamicObject = serde_json::from_value(object.clone())
            .map_err(|e| ClusterError::of(create, kube::Error::SerdeError(e)))?;
        let api = self.untyped(kind, Some(namespace));
        let params = PostParams { dry_run: self.is_dry_run(), ..PostParams::default() };
        let made = self.bound(create, api.create(&params, &object)).await?;
        Ok(value(&made))
    }

    fn untyped(&self, kind: JsonKind, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = kind.resource();
        match namespace {
            Some(namespace) => Api::namespaced_with(self.kube(), namespace, &resource),
            None => Api::all_with(self.kube(), &resource),
        }
    }
}

/// Never fails: an object that was read from JSON can be written as JSON.
fn value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}
