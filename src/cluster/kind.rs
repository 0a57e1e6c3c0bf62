//! The kinds of objects that are read and written whole, and the requests about them.

use std::fmt::Debug;

use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Client, ClusterError,
    client::bound,
    overlay_snapshot::OverlaySnapshot,
    snapshot_api::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
};
use crate::fault::Class;

/// How many objects come with one answer to a list.
pub(super) const PAGE: u32 = 500;

/// An object that [`Client`] reads and writes.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The verbs with the kind's name, for what goes wrong.
    #[doc(hidden)]
    const ASKED: Asked;

    /// Where objects of this kind are; all of them where no namespace is given.
    #[doc(hidden)]
    fn api(client: &Client, namespace: Option<&str>) -> Api<Self>;
}

/// What is asked of the API server about one kind, in words.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Asked {
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
            const ASKED: Asked = Asked {
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
    VolumeSnapshot, "VolumeSnapshots", |client, namespace: Option<&str>| match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    VolumeSnapshotContent, "VolumeSnapshotContents", |client, _| Api::all(client);
    VolumeSnapshotClass, "VolumeSnapshotClasses", |client, _| Api::all(client);
    OverlaySnapshot, "OverlaySnapshots", |client, _| Api::all(client);
}

impl Client {
    /// The object of this name, if there is one. The namespace of what is in none is `None`.
    ///
    /// # Errors
    /// The API server's.
    pub async fn get<T: Kind>(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<T>, ClusterError> {
        there(bound(T::ASKED.read, T::api(self, namespace).get(name)).await)
    }

    /// All objects of the kind, in pages, from all namespaces.
    ///
    /// # Errors
    /// The API server's.
    pub async fn list<T: Kind>(&self) -> Result<Vec<T>, ClusterError> {
        self.list_in(None).await
    }

    /// The same of one namespace; of all of them for `None`.
    ///
    /// # Errors
    /// The API server's; of class [`Class::Denied`] for a namespace that is not the user's.
    pub async fn list_in<T: Kind>(&self, namespace: Option<&str>) -> Result<Vec<T>, ClusterError> {
        let api = T::api(self, namespace);
        let (mut all, mut params) = (Vec::new(), ListParams::default().limit(PAGE));
        loop {
            let page = bound(T::ASKED.list, api.list(&params)).await?;
            all.extend(page.items);
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => params = params.continue_token(&next),
                _ => return Ok(all),
            }
        }
    }

    /// Makes the object, in the namespace that it names.
    ///
    /// # Errors
    /// The API server's; of class [`Class::Conflict`] where the name is taken.
    pub async fn create<T: Kind>(&self, object: &T) -> Result<T, ClusterError> {
        let api = T::api(self, object.namespace().as_deref());
        bound(T::ASKED.create, api.create(&PostParams::default(), object)).await
    }

    /// Changes an object by a merge patch (RFC 7386); a `metadata.uid` in it has to be the object's. `None`: there is no such object.
    ///
    /// # Errors
    /// The API server's; of class [`Class::Conflict`] where it is another object of that name.
    pub async fn patch<T: Kind>(
        &self,
        namespace: Option<&str>,
        name: &str,
        changes: &Value,
    ) -> Result<Option<T>, ClusterError> {
        let api = T::api(self, namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(changes));
        there(bound(T::ASKED.change, api.patch(name, &params, &patch)).await)
    }

    /// The same for the part `status` of an object.
    ///
    /// # Errors
    /// The API server's.
    pub async fn patch_status<T: Kind>(
        &self,
        namespace: Option<&str>,
        name: &str,
        changes: &Value,
    ) -> Result<Option<T>, ClusterError> {
        let api = T::api(self, namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(changes));
        there(bound(T::ASKED.change, api.patch_status(name, &params, &patch)).await)
    }

    /// Deletes the object of this name and uid. That it is gone, or another has its name, is fine.
    ///
    /// # Errors
    /// The API server's.
    pub async fn delete<T: Kind>(
        &self,
        namespace: Option<&str>,
        name: &str,
        uid: &str,
    ) -> Result<(), ClusterError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = T::api(self, namespace);
        match bound(T::ASKED.delete, api.delete(name, &params)).await {
            Err(error) if !matches!(error.class(), Class::NotFound | Class::Conflict) => Err(error),
            _ => Ok(()),
        }
    }
}

/// `None` for what is not there.
pub(super) fn there<T>(answer: Result<T, ClusterError>) -> Result<Option<T>, ClusterError> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.class() == Class::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
