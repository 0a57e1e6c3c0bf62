//! Images that a registry has lost: found by the checks, and pushed again or reported. With the fakes of `reconcile`.

use std::{
    collections::BTreeSet,
    sync::{Mutex, atomic::Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    checks,
    reconcile_tests::{OVERLAYS, SHORT, World, record, with_repository},
    shared::{ImageState, Timing},
};
use crate::{digest::Digest, error::Class};

const INTERVAL: Duration = Duration::from_millis(40);

/// A node that checks its images all the time.
fn checking_world() -> World {
    let mut world = World::new();
    world.timing = Timing { check_interval: INTERVAL, ..SHORT };
    world
}

/// The same with a snapshot that is pushed to `r.io/ws`.
async fn with_pushed_snapshot() -> World {
    let mut world = checking_world();
    world.start();
    world.put("snap-1", with_repository());
    world.phase("snap-1", "Ready").await;
    world
}

/// The image of a snapshot in a repository.
fn pushed_image(repository: &str) -> String {
    format!("{repository}@{}", Digest::of(b"manifest"))
}

impl World {
    /// Adds a snapshot that an earlier process has pushed.
    fn put_pushed(&self, name: &str, repository: &str, namespace: &str, phase: &str) {
        let source =
            json!({ "namespace": namespace, "pod": "build", "podUid": "u-1", "volume": "ws" });
        self.put(name, json!({ "repository": repository, "source": source }));
        let image = pushed_image(repository);
        let status = json!({ "phase": phase, "image": image, "pushedBytes": 7 });
        self.api.patch(&format!("{OVERLAYS}/{name}/status"), json!({ "status": status }));
    }

    fn lose(&self, repository: &str) {
        self.node.0.lost.lock().unwrap().insert(repository.to_owned());
    }

    fn bring_back(&self, repository: &str) {
        self.node.0.lost.lock().unwrap().remove(repository);
    }

    fn pushes(&self, name: &str) -> usize {
        let push = format!("push {name}");
        self.node.done().iter().filter(|done| **done == push).count()
    }

    fn checks_of(&self, repository: &str) -> usize {
        self.node.0.checks.lock().unwrap().iter().filter(|(_, of)| of == repository).count()
    }

    /// Waits until an image was checked some more times.
    async fn more_checks(&self, repository: &str, count: usize) {
        let before = self.checks_of(repository);
        self.until("more checks", |world| world.checks_of(repository) >= before + count).await;
    }

    /// How often a phase was written.
    fn writes_of(&self, phase: &str) -> usize {
        let requests = self.api.requests();
        requests.iter().filter(|request| request.body["status"]["phase"] == phase).count()
    }
}

#[tokio::test]
async fn an_image_that_the_registry_lost_is_pushed_again() {
    let world = with_pushed_snapshot().await;
    world.more_checks("r.io/ws", 2).await;
    assert_eq!(world.pushes("snap-1"), 1, "the registry has it");
    let image = world.status("snap-1")["image"].clone();
    world.lose("r.io/ws");
    world.until("another push", |world| world.pushes("snap-1") == 2).await;
    world.phase("snap-1", "Ready").await;
    let status = world.status("snap-1");
    assert_eq!((&status["image"], &status["message"]), (&image, &Value::Null));
    assert_eq!(status["pushedBytes"], 7);
    for r#type in ["Pushed", "Ready"] {
        assert_eq!(world.condition("snap-1", r#type), ("True".into(), "Pushed".into()));
    }
    let requests = world.api.requests();
    let said = requests.iter().find(|request| {
        let message = request.body["status"]["message"].as_str().unwrap_or_default();
        message.contains("is not in the registry any more; it is pushed again")
    });
    let said = &said.unwrap().body["status"];
    assert_eq!(said["phase"], "Pushing");
    let is_ready = |condition: &&Value| condition["type"] == "Ready";
    let ready = said["conditions"].as_array().unwrap().iter().find(is_ready).unwrap();
    assert_eq!(ready["status"], "False");
    world.more_checks("r.io/ws", 2).await;
    assert_eq!(world.pushes("snap-1"), 2, "the registry has it again");
}

#[tokio::test]
async fn a_lost_image_without_its_layers_is_reported_once_and_ready_when_it_is_back() {
    for has_record in [true, false] {
        let world = with_pushed_snapshot().await;
        if has_record {
            world.node.0.incomplete.store(true, Ordering::SeqCst);
        } else {
            world.node.forget_record("snap-1");
        }
        world.lose("r.io/ws");
        world.phase("snap-1", "NotInRegistry").await;
        let status = world.status("snap-1");
        let image = pushed_image("r.io/ws");
        assert_eq!(status["image"], image);
        let want = format!(
            "image {image} is not in the registry any more, and it cannot be pushed again: node node-1 does not have \
             all its layers; put the image back into the registry, or take a new snapshot"
        );
        assert_eq!(status["message"], want);
        for r#type in ["Pushed", "Ready"] {
            let condition = world.condition("snap-1", r#type);
            assert_eq!(condition, ("False".into(), "NotInRegistry".into()), "{type}");
        }
        world.more_checks("r.io/ws", 3).await;
        assert_eq!((world.writes_of("NotInRegistry"), world.pushes("snap-1")), (1, 1));

        world.bring_back("r.io/ws");
        world.phase("snap-1", "Ready").await;
        assert_eq!(world.condition("snap-1", "Ready"), ("True".into(), "Pushed".into()));
        assert_eq!(world.status("snap-1")["message"], Value::Null);
        assert_eq!(world.pushes("snap-1"), 1, "it was not pushed by this node");
    }
}

#[tokio::test]
async fn layers_that_are_back_are_pushed() {
    let world = with_pushed_snapshot().await;
    world.node.0.incomplete.store(true, Ordering::SeqCst);
    world.lose("r.io/ws");
    world.phase("snap-1", "NotInRegistry").await;
    world.node.0.incomplete.store(false, Ordering::SeqCst);
    world.phase("snap-1", "Ready").await;
    assert_eq!(world.pushes("snap-1"), 2);
}

#[tokio::test]
async fn a_lost_image_that_cannot_be_packed_is_reported_with_the_reason() {
    let world = with_pushed_snapshot().await;
    world.node.fail("pack", &[Class::Invalid; 1000]);
    world.lose("r.io/ws");
    let is_known = |world: &World| {
        let message = world.status("snap-1")["message"].to_string();
        message.contains("it cannot be pushed again: pack failed; put the image back")
    };
    world.until("the reason", is_known).await;
    assert!(world.events().iter().all(|event| !event.contains("SnapshotFailed")));
}

#[tokio::test]
async fn a_registry_that_does_not_say_whether_it_has_an_image_changes_nothing() {
    let world = with_pushed_snapshot().await;
    let classes = [Class::Unavailable, Class::Denied, Class::Internal, Class::Precondition];
    world.node.fail("check", &classes);
    world.more_checks("r.io/ws", classes.len() + 2).await;
    assert_eq!(world.status("snap-1")["phase"], "Ready");
    assert_eq!((world.pushes("snap-1"), world.writes_of("Ready")), (1, 1));
}

/// The check that found it belongs to an earlier process, and the next one has not checked yet.
#[tokio::test]
async fn a_push_that_was_begun_for_a_lost_image_continues_after_a_restart() {
    let mut world = with_pushed_snapshot().await;
    world.node.fail("push", &[Class::Unavailable; 100_000]);
    world.lose("r.io/ws");
    world.until("some tries", |world| world.pushes("snap-1") > 3).await;
    assert_eq!(world.status("snap-1")["phase"], "Pushing");
    world.kill().await;
    world.timing = SHORT;
    world.node.stop_failing("push");
    let before = world.pushes("snap-1");
    world.start();
    world.phase("snap-1", "Ready").await;
    assert_eq!(world.pushes("snap-1"), before + 1);
}

#[tokio::test]
async fn a_snapshot_that_is_deleted_is_not_pushed_again() {
    let world = with_pushed_snapshot().await;
    world.node.fail("push", &[Class::Unavailable; 100_000]);
    world.lose("r.io/ws");
    world.until("a try", |world| world.pushes("snap-1") > 1).await;
    world.patch("snap-1", json!({ "deleted": true }));
    world.phase("snap-1", "Deleted").await;
    world.lose("r.io/ws");
    let checks = world.checks_of("r.io/ws");
    sleep(INTERVAL * 3).await;
    assert_eq!(world.checks_of("r.io/ws"), checks);
}

/// A tenant can control its registry and let it not respond.
#[tokio::test]
async fn a_silent_registry_delays_no_other_namespace() {
    let mut world = checking_world();
    for n in 0..20 {
        let repository = format!("silent.io/ws-{n}");
        world.node.0.silent.lock().unwrap().insert(repository.clone());
        world.put_pushed(&format!("snap-{n}"), &repository, "ci", "Ready");
    }
    world.put_pushed("snap-other", "r.io/ws", "other", "Ready");
    let mut lost = record(&"snap-other".parse().unwrap(), 1);
    lost.source.namespace = "other".to_owned();
    lost.pushed = Some(pushed_image("r.io/ws"));
    world.node.put(lost);
    world.lose("r.io/ws");
    world.start();
    world.until("the push", |world| world.pushes("snap-other") == 1).await;
    // A new snapshot of the namespace is pushed meanwhile.
    world.put("snap-new", with_repository());
    world.phase("snap-new", "Ready").await;
    let checks = world.node.0.checks.lock().unwrap().clone();
    let silent = checks.iter().filter(|(_, of)| of.starts_with("silent.io")).count();
    assert_eq!(silent, 1, "a namespace has one check at a time");
}

#[tokio::test]
async fn each_image_is_checked_once_in_a_round_at_its_own_moment() {
    let interval = Duration::from_millis(200);
    let mut world = World::new();
    world.timing = Timing { check_interval: interval, ..SHORT };
    for (name, phase) in [
        ("a", "Ready"),
        ("b", "Ready"),
        ("c", "Ready"),
        ("d", "NotInRegistry"),
        ("failed", "Failed"),
        ("pushing", "Pushing"),
    ] {
        world.put_pushed(name, &format!("r.io/{name}"), "ci", phase);
    }
    world.put("local", json!({}));
    world.put("of-another-node", json!({ "nodeName": "node-2", "repository": "r.io/other" }));

    let names = ["r.io/a", "r.io/b", "r.io/c", "r.io/d"];
    let notified = Mutex::new(BTreeSet::new());
    let notify = |name: &str| {
        notified.lock().unwrap().insert(name.to_owned());
    };
    let (start, shared) = (Instant::now(), world.shared());
    let three_rounds = |world: &World| names.iter().all(|name| world.checks_of(name) >= 3);
    tokio::select! {
        never = checks::run(&shared, notify) => match never {},
        () = world.until("three rounds", three_rounds) => {}
    }

    let checks = world.node.0.checks.lock().unwrap().clone();
    let checked: BTreeSet<_> = checks.iter().map(|(_, of)| of.as_str()).collect();
    assert_eq!(checked, BTreeSet::from(names));
    // A busy machine makes a check late, and nothing makes it early.
    for (place, name) in (0..).zip(names) {
        let moments = checks.iter().filter(|(_, of)| of == name).map(|(at, _)| at);
        for (round, at) in (0..).zip(moments) {
            let earliest = start + interval * round + interval / 4 * place;
            assert!(*at >= earliest, "{name} in round {round}: {:?}", *at - start);
        }
    }
    // The only one whose state is new: its image is back.
    assert_eq!(*notified.lock().unwrap(), BTreeSet::from(["d".to_owned()]));
    assert_eq!(shared.take_image_state("d"), Some(ImageState::Present));
}
