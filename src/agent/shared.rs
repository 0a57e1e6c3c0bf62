//! What the reconcilers of a node share: the clients, the limits, and the credentials for a push.
//!
//! A Secret with credentials is read at the start of each push and not kept.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{engine::Failure, pushes::Pushes, spec::PushTarget};
use crate::{
    backoff::Backoff, cluster::Client, error::Class, image::Keyring, volumes::EventRecorder,
};

/// How many objects are read at a time: a new watch delivers all objects at once.
const GETS: usize = 8;

/// The key of a Secret of type `kubernetes.io/dockerconfigjson`.
const KEY: &str = ".dockerconfigjson";

/// The parts that all reconcilers share.
#[derive(Debug)]
pub(super) struct Shared<E> {
    pub(super) client: Client,
    pub(super) engine: E,
    pub(super) node: String,
    pub(super) driver: String,
    pub(super) namespace: String,
    pub(super) keyring: Keyring,
    pub(super) events: Arc<dyn EventRecorder>,
    pub(super) pushes: Pushes,
    pub(super) gets: Semaphore,
    pub(super) timing: Timing,
    /// Results of checks that the reconcilers have not seen yet, by snapshot.
    pub(super) image_states: Mutex<HashMap<String, ImageState>>,
}

impl<E> Shared<E> {
    pub(super) fn new(
        client: Client,
        engine: E,
        events: Arc<dyn EventRecorder>,
        timing: Timing,
    ) -> Self {
        Self {
            client,
            engine,
            events,
            timing,
            node: String::new(),
            driver: String::new(),
            namespace: String::new(),
            keyring: Keyring::default(),
            pushes: Pushes::new(timing.slow_interval),
            gets: Semaphore::new(GETS),
            image_states: Mutex::default(),
        }
    }

    /// Keeps the result of a check for the reconciler of the snapshot.
    pub(super) fn set_image_state(&self, snapshot: &str, state: ImageState) {
        self.image_states.lock().insert(snapshot.to_owned(), state);
    }

    /// The result of the last check, if no reconciler has taken it yet. If the process ends now, the checks after its
    /// start find the same.
    pub(super) fn take_image_state(&self, snapshot: &str) -> Option<ImageState> {
        self.image_states.lock().remove(snapshot)
    }
}

/// Whether a registry has the image of a snapshot, at the last check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageState {
    /// The registry has it.
    Present,
    /// The registry says that it does not have it.
    Missing,
}

/// The last state of a snapshot from the watch, for its reconciler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WatchState {
    /// The object is to be deleted, or is gone already.
    pub(super) deleting: bool,
}

/// The pauses and timeouts of reconcilers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// The first pause between two tries, of a [`Backoff`] up to `longest_pause`.
    pub(super) first_pause: Duration,
    /// The longest pause between two tries.
    pub(super) longest_pause: Duration,
    /// How long the deletion of a manifest is retried.
    pub(super) delete_timeout: Duration,
    /// The first pause between two updates of a push's progress. It doubles after each update.
    pub(super) progress_interval: Duration,
    /// The interval in which a push must pack, fetch or send data, or it is slow and lets other pushes run.
    pub(super) slow_interval: Duration,
    /// The time between two checks whether a registry has the image of a snapshot.
    pub(super) check_interval: Duration,
}

impl Timing {
    /// The pauses between tries.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.first_pause, self.longest_pause)
    }
}

impl<E> Shared<E> {
    /// The credentials for a push: those of its Secret come first, then the node's own.
    pub(super) async fn keyring(&self, target: &PushTarget) -> Result<Keyring, Failure> {
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
