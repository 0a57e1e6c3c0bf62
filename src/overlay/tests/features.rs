//! What is found out about a kernel, and what a plan makes of it.

use super::*;
use crate::sys::mounts::{LinuxMounts, Way};

fn lacking(feature: Feature) -> Features {
    Features::lacking([(feature, "EINVAL".to_owned())])
}

#[test]
fn an_option_that_the_kernel_lacks_is_named_with_what_would_have_it() {
    let on = Options::default();
    let owner = Some(Owner { uid: 1, gid: 1 });
    for (feature, options, owner, words) in [
        (
            Feature::Volatile,
            Options { volatile: true, ..on.clone() },
            None,
            "volatile (EINVAL): it takes Linux 5.10",
        ),
        (Feature::Metacopy, on.clone(), None, "metacopy (EINVAL)"),
        (Feature::RedirectDir, on.clone(), None, "redirectDir (EINVAL)"),
        (Feature::Index, Options { index: true, ..on.clone() }, None, "index (EINVAL)"),
        (Feature::Xino, Options { xino: Xino::On, ..on.clone() }, None, "xino (EINVAL)"),
        (Feature::MappedLayers, on.clone(), owner, "owner (EINVAL): it takes Linux 5.19"),
    ] {
        let bench = Bench::new();
        let spec = Spec { owner, ..bench.spec(&["a"], Some(bench.upper()), options) };
        let plan = Plan::new(spec.clone()).unwrap();
        let error = plan.on(&lacking(feature)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.class(), Class::Precondition);
        // What is not asked for is not missed.
        Plan::new(spec).unwrap().on(&lacking(Feature::ErofsDirect)).unwrap();
    }
    let bench = Bench::new();
    let off = Options { metacopy: false, redirect_dir: false, ..on };
    for feature in [Feature::Volatile, Feature::Metacopy, Feature::RedirectDir, Feature::Xino] {
        let spec = bench.spec(&["a"], Some(bench.upper()), off.clone());
        Plan::new(spec).unwrap().on(&lacking(feature)).unwrap();
    }
}

#[test]
fn a_kernel_that_does_not_know_a_word_is_not_told_it() {
    let bench = Bench::new();
    let plan = Plan::new(bench.spec(&["a"], Some(bench.upper()), Options::default())).unwrap();
    mount(&bench.mounts, &plan.on(&lacking(Feature::NullUuid)).unwrap()).unwrap();
    assert!(!bench.request().contains("uuid"), "{}", bench.request());
}

#[test]
fn a_label_is_taken_only_where_selinux_is_on() {
    let bench = Bench::new();
    let label = "system_u:object_r:container_file_t:s0:c1,c2".to_owned();
    let options = Options { context: Some(label.clone()), ..Options::default() };
    let plan = Plan::new(bench.spec(&["a"], Some(bench.upper()), options)).unwrap();
    mount(&bench.mounts, &plan).unwrap();
    assert!(bench.request().contains(&format!("context={label}")), "{}", bench.request());
    let features = Features::lacking([]);
    match plan.on(&features) {
        Ok(_) => assert!(features.selinux()),
        Err(error) => {
            assert_eq!((&error, error.class()), (&PlanError::NoSelinux, Class::Precondition));
            assert!(error.to_string().contains("SELinux"), "{error}");
        }
    }
    for label in ["", "a\"b", "a\nb"] {
        let options = Options { context: Some(label.to_owned()), ..Options::default() };
        let error = Plan::new(bench.spec(&["a"], None, options)).unwrap_err();
        assert_eq!(error.class(), Class::Invalid);
    }
}

#[test]
fn layers_are_mapped_and_the_upper_is_not() {
    let bench = Bench::new();
    let spec = bench.spec(&["a", "b"], Some(bench.upper()), Options::default());
    let plan = Plan::new(Spec { owner: Some(Owner { uid: 1000, gid: 2000 }), ..spec }).unwrap();
    mount(&bench.mounts, &plan).unwrap();
    let expected = "lowerdir+=b@1000:2000 lowerdir+=a@1000:2000 upperdir=upper workdir=work ";
    assert!(bench.request().contains(expected), "{}", bench.request());
}

#[test]
fn an_owner_changes_places_with_root() {
    let owner = Owner { uid: 1000, gid: 0 };
    assert_eq!(owner.shows(0, 0), (1000, 0));
    assert_eq!(owner.shows(1000, 1000), (0, 1000));
    assert_eq!(owner.shows(7, 7), (7, 7));
}

#[test]
#[ignore = "needs root"]
fn privileged_this_kernel_is_tried_and_nothing_stays() {
    let dir = Scratch::new();
    let staging = dir.folder("staging");
    let features = Features::probe(&LinuxMounts, &staging).unwrap();
    let table = LinuxMounts.table().unwrap();
    assert!(!table.iter().any(|mount| mount.target.starts_with(dir.path())), "{table:?}");
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    // This suite's other tests need all of it.
    for feature in Feature::ALL {
        assert_eq!(features.get(feature), Ok(()), "{feature:?}");
    }
    assert_eq!(features.way(), Way::Detached);
    assert_eq!(root_usable(&staging, &features, &[]).unwrap(), []);
}

#[test]
#[ignore = "needs root"]
fn privileged_a_root_without_room_for_an_upper_is_refused() {
    let dir = Scratch::new();
    // An overlay takes no upper on an overlay.
    let target = dir.folder("target");
    let bench = Bench::new();
    let folder = |name: &str| Arc::new(LinuxMounts.open_dir(&bench.dir.folder(name)).unwrap());
    let stack = Stack::new(vec![plain("a", folder("a"))]).unwrap();
    let (name, upper, options) = ("vol".to_owned(), Some(bench.upper()), Options::default());
    let plan = Plan::new(Spec { name, stack, upper, owner: None, options }).unwrap();
    LinuxMounts.attach(mount(&LinuxMounts, &plan).unwrap(), &target).unwrap();
    let features = Features::probe(&LinuxMounts, &target).unwrap();
    let wrong = root_usable(&target, &features, &[]).unwrap();
    let names: Vec<&str> = wrong.iter().map(|check| check.name).collect();
    assert_eq!(names[..2], ["filesystem", "overlay"], "{wrong:?}");
    let overridden = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(root_usable(&target, &features, &overridden).unwrap(), []);
}

#[test]
fn without_root_everything_is_missing_with_the_reason() {
    if crate::sys::machine::is_root() {
        return;
    }
    let dir = Scratch::new();
    let features = Features::probe(&LinuxMounts, dir.path()).unwrap();
    assert!(features.get(Feature::Overlay).unwrap_err().contains("could not be tried"));
}
