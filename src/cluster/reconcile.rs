//! Calls a function for each value that changed, on kube's `applier`. That is kube's `Controller` without a watch of its
//! own: here the values come from several watches.
//!
//! kube's part: one call at a time for one name, a limited number of calls at once, one more call after a change during
//! a call, and calls after a pause.

use std::{borrow::Cow, convert::Infallible, sync::Arc};

use futures::{Stream, StreamExt as _};
use k8s_openapi::{ClusterResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
pub use kube::runtime::controller::Action;
use kube::{
    Resource,
    runtime::{
        applier,
        controller::{Config, Error},
        reflector::{ObjectRef, Store, store::Writer},
        watcher::Event,
    },
};
use parking_lot::Mutex;

use super::overlay_snapshot::OverlaySnapshot;

/// Values by the name of their OverlaySnapshot, in a cache of kube. Cheap values: each read clones one.
#[derive(Debug)]
pub struct Values<T: Clone + Send + Sync + 'static> {
    values: Store<Named<T>>,
    writer: Mutex<Writer<Named<T>>>,
}

/// A value as a resource for kube: the OverlaySnapshot of this name. It need not exist in the cluster yet.
#[derive(Debug, Clone)]
struct Named<T> {
    metadata: ObjectMeta,
    value: T,
}

impl<T: Clone + Send + Sync + 'static> Default for Values<T> {
    fn default() -> Self {
        let mut writer = Writer::<Named<T>>::new(());
        // An empty list: kube may read the cache from now on. The caller decides when it is complete.
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        Self { values: writer.as_reader(), writer: Mutex::new(writer) }
    }
}

impl<T: Clone + Send + Sync + 'static> Values<T> {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<T> {
        self.values.get(&ObjectRef::new(name)).map(|named| named.value.clone())
    }

    /// Changes the value of a name: `change` gets the known one, and `None` removes it. No other change comes between.
    pub fn update<R>(&self, name: &str, change: impl FnOnce(Option<T>) -> (Option<T>, R)) -> R {
        let mut writer = self.writer.lock();
        let known = self.values.get(&ObjectRef::new(name));
        let (value, result) = change(known.as_ref().map(|named| named.value.clone()));
        match (value, known) {
            (Some(value), _) => {
                let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
                writer.apply_watcher_event(&Event::Apply(Named { metadata, value }));
            }
            (None, Some(known)) => writer.apply_watcher_event(&Event::Delete(Named::clone(&known))),
            (None, None) => {}
        }
        result
    }

    /// The names of the values that `wanted` accepts, in no order.
    pub fn names(&self, wanted: impl Fn(&T) -> bool) -> Vec<String> {
        let all = self.values.state().into_iter().filter(|named| wanted(&named.value));
        all.filter_map(|named| named.metadata.name.clone()).collect()
    }

    /// Calls `reconcile` for each name of `names` that has a value, until `names` ends and the running calls have
    /// ended. The result of a call says when to call again without a change; `error_policy` says it for an error.
    /// Calls `absent` for a name without a value.
    pub async fn reconcile<R, E>(
        &self,
        names: impl Stream<Item = String> + Send + 'static,
        concurrency: u16,
        reconcile: impl Fn(String, T) -> R + Send,
        error_policy: impl Fn(&str, &E) -> Action + Send + Sync,
        absent: impl Fn(&str) + Send,
    ) where
        R: Future<Output = Result<Action, E>> + Send,
        E: std::error::Error + Send + 'static,
    {
        let names = names.map(|name| Ok::<_, Infallible>(ObjectRef::<Named<T>>::new(&name)));
        let call = |named: Arc<Named<T>>, _: Arc<()>| {
            let name = named.metadata.name.clone().unwrap_or_default();
            Box::pin(reconcile(name, named.value.clone()))
        };
        let failed = |named: Arc<Named<T>>, error: &E, _: Arc<()>| {
            error_policy(named.metadata.name.as_deref().unwrap_or_default(), error)
        };
        let config = Config::default().concurrency(concurrency);
        let results = applier(call, failed, Arc::default(), self.values.clone(), names, config);
        let done = results.for_each(|result| {
            if let Err(Error::ObjectNotFound(object)) = result {
                absent(&object.name);
            }
            std::future::ready(())
        });
        done.await;
    }
}

impl<T> Resource for Named<T> {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        OverlaySnapshot::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        OverlaySnapshot::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        OverlaySnapshot::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        OverlaySnapshot::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
