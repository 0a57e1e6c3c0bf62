//! Typed requests (get, list, create, patch, delete) for the kinds of objects that are read and written whole.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Client, ClusterError,
    overlay_diff::{OverlayDiff, OverlayDiffResult},
    overlay_snapshot::OverlaySnapshot,
    snapshot_api::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
};
use crate::error::Class;

/// The number of objects in one page of a list.
pub(super) const PAGE: u32 = 500;

/// An object that [`Client`] reads and writes.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The requests in words, for errors.
    #[doc(hidden)]
    const REQUEST: ApiRequest;

    /// The API of this kind in a namespace; in all namespaces for `None`.
    #[doc(hidden)]
    fn api(client: &Client, namespace: Option<&str>) -> Api<Self>;
}

/// The requests about one kind in words: a verb and the kind, such as `read the VolumeSnapshot`.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct ApiRequest {
    read: &'static str,
    list: &'static str,
    create: &'static str,
    change: &'static str,
    delete: &'static str,
    pub(super) watch: &'static str,
}

macro_rules! kinds {
    ($($kind:ident, $many:literal, $api:expr;)*) => {$(
        impl Kind for $kind {
            const REQUEST: ApiRequest = ApiRequest {
                read: concat!("read the ", stringify!($kind)),
                list: concat!("list ", $many),
                create: concat!("create the ", stringify!($kind)),
                change: concat!("change the ", stringify!($kind)),
                delete: concat!("delete the ", stringify!($kind)),
                watch: concat!("watch ", $many),
            };

            fn api(client: &Client, namespace: Option<&str>) -> Api<Self> {
                $api(client.kube(), namespace)
            }
        }
    )*};
}

kinds! {
    VolumeSnapshot, "VolumeSnapshots", namespaced;
    OverlayDiff, "OverlayDiffs", namespaced;
    OverlayDiffResult, "OverlayDiffResults", namespaced;
    VolumeSnapshotContent, "VolumeSnapshotContents", |client, _| Api::all(client);
    VolumeSnapshotClass, "VolumeSnapshotClasses", |client, _| Api::all(client);
    OverlaySnapshot, "OverlaySnapshots", |client, _| Api::all(client);
}

/// The API of a namespaced kind in a namespace; in all namespaces for `None`.
fn namespaced<T>(client: kube::Client, namespace: Option<&str>) -> Api<T>
where
    T: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}

impl Client {
    /// Reads an object; `None` if there is none of this name. The namespace of a cluster-scoped object is `None`.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn get<T: Kind>(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<T>, ClusterError> {
        optional(self.bound(T::REQUEST.read, T::api(self, namespace).get(name)).await)
    }

    /// Lists all objects of the kind in all namespaces, in pages.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn list<T: Kind>(&self) -> Result<Vec<T>, ClusterError> {
        self.list_in(None).await
    }

    /// Lists all objects of the kind in one namespace, in pages; in all namespaces for `None`.
    ///
    /// # Errors
    /// The error of the API server; of class [`Class::Denied`] for a namespace that the user may not read.
    pub async fn list_in<T: Kind>(&self, namespace: Option<&str>) -> Result<Vec<T>, ClusterError> {
        self.list_pages(namespace, ListParams::default()).await
    }

    /// Lists as [`Self::list_in`] does the objects that match a label selector such as `app=web`.
    ///
    /// # Errors
    /// As [`Self::list_in`].
    pub async fn list_labelled<T: Kind>(
        &self,
        namespace: Option<&str>,
        labels: &str,
    ) -> Result<Vec<T>, ClusterError> {
        self.list_pages(namespace, ListParams::default().labels(labels)).await
    }

    /// Lists the objects of the kind that match a field selector such as `spec.nodeName=node-1`, in pages.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn list_selected<T: Kind>(&self, fields: &str) -> Result<Vec<T>, ClusterError> {
        self.list_pages(None, ListParams::default().fields(fields)).await
    }

    async fn list_pages<T: Kind>(
        &self,
        namespace: Option<&str>,
        params: ListParams,
    ) -> Result<Vec<T>, ClusterError> {
        let api = T::api(self, namespace);
        let (mut all, mut params) = (Vec::new(), params.limit(PAGE));
        loop {
            let page = self.bound(T::REQUEST.list, api.list(&params)).await?;
            all.extend(page.items);
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => params = params.continue_token(&next),
                _ => return Ok(all),
            }
        }
    }

    /// Creates an object in the namespace of its metadata.
    ///
    /// # Errors
    /// The error of the API server; of class [`Class::Conflict`] where the name is taken.
    pub async fn create<T: Kind>(&self, object: &T) -> Result<T, ClusterError> {
        let api = T::api(self, object.namespace().as_deref());
        let params = PostParams { dry_run: self.is_dry_run(), ..PostParams::default() };
        self.bound(T::REQUEST.create, api.create(&params, object)).await
    }

    /// Changes an object by a merge patch (RFC 7386). A `metadata.uid` in the patch must be the uid of the object.
    /// Returns `None` if there is no such object.
    ///
    /// # Errors
    /// The error of the API server; of class [`Class::Conflict`] if the object of that name has another uid.
    pub async fn patch<T: Kind>(
        &self,
        namespace: Option<&str>,
        name: &str,
        changes: &Value,
    ) -> Result<Option<T>, ClusterError> {
        let api = T::api(self, namespace);
        let params = PatchParams { dry_run: self.is_dry_run(), ..PatchParams::default() };
        let patch = Patch::Merge(changes);
        optional(self.bound(T::REQUEST.change, api.patch(name, &params, &patch)).await)
    }

    /// Changes the `status` of an object, as [`Self::patch`] does the rest.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn patch_status<T: Kind>(
        &self,
        namespace: Option<&str>,
        name: &str,
        changes: &Value,
    ) -> Result<Option<T>, ClusterError> {
        let api = T::api(self, namespace);
        let params = PatchParams { dry_run: self.is_dry_run(), ..PatchParams::default() };
        let patch = Patch::Merge(changes);
        optional(self.bound(T::REQUEST.change, api.patch_status(name, &params, &patch)).await)
    }

    /// Deletes the object of this name and uid. It is no error if the object is gone, or if another object has the
    /// name.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn delete<T: Kind>(
        &self,
        namespace: Option<&str>,
        name: &str,
        uid: &str,
    ) -> Result<(), ClusterError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            dry_run: self.is_dry_run(),
            ..DeleteParams::default()
        };
        let api = T::api(self, namespace);
        match self.bound(T::REQUEST.delete, api.delete(name, &params)).await {
            Err(error) if !matches!(error.class(), Class::NotFound | Class::Conflict) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Turns an error of class [`Class::NotFound`] into `None`.
pub(super) fn optional<T>(result: Result<T, ClusterError>) -> Result<Option<T>, ClusterError> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.class() == Class::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
