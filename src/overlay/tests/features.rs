//! The probe of the kernel's features, and plans for kernels that lack some.

use super::*;
use crate::sys::mounts::{LinuxMounts, MountApi};

fn lacking(feature: Feature) -> KernelFeatures {
    KernelFeatures::lacking([(feature, "EINVAL".to_owned())])
}

#[test]
fn an_option_that_the_kernel_lacks_is_refused_with_the_kernel_release_that_has_it() {
    let on = Options::default();
    let owner = Some(Owner { uid: 1, gid: 1 });
    for (feature, options, owner, words) in [
        (
            Feature::Volatile,
            Options { volatile: true, ..on.clone() },
            None,
            "`volatile` (EINVAL), which needs Linux 5.10",
        ),
        (Feature::Metacopy, on.clone(), None, "`metacopy` (EINVAL)"),
        (Feature::RedirectDir, on.clone(), None, "`redirectDir` (EINVAL)"),
        (Feature::Index, Options { index: true, ..on.clone() }, None, "`index` (EINVAL)"),
        (Feature::Xino, Options { xino: Xino::On, ..on.clone() }, None, "`xino` (EINVAL)"),
        (Feature::MappedLayers, on.clone(), owner, "`owner` (EINVAL), which needs Linux 5.19"),
    ] {
        let fixture = Fixture::new();
        let spec = Spec { owner, ..fixture.spec(&["a"], Some(fixture.upper()), options) };
        let plan = Plan::new(spec.clone()).unwrap();
        let error = plan.on(&lacking(feature)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.class(), Class::Precondition);
        // A missing feature that no option needs is no error.
        Plan::new(spec).unwrap().on(&lacking(Feature::ErofsDirect)).unwrap();
    }
    let fixture = Fixture::new();
    let off = Options { metacopy: false, redirect_dir: false, ..on };
    for feature in [Feature::Volatile, Feature::Metacopy, Feature::RedirectDir, Feature::Xino] {
        let spec = fixture.spec(&["a"], Some(fixture.upper()), off.clone());
        Plan::new(spec).unwrap().on(&lacking(feature)).unwrap();
    }
}

#[test]
fn a_kernel_without_uuid_null_does_not_get_the_option() {
    let fixture = Fixture::new();
    let plan = Plan::new(fixture.spec(&["a"], Some(fixture.upper()), Options::default())).unwrap();
    mount(&fixture.mounts, &plan.on(&lacking(Feature::NullUuid)).unwrap()).unwrap();
    assert!(!fixture.request().contains("uuid"), "{}", fixture.request());
}

#[test]
fn a_label_is_accepted_only_where_selinux_is_enabled() {
    let fixture = Fixture::new();
    let label = "system_u:object_r:container_file_t:s0:c1,c2".to_owned();
    let options = Options { context: Some(label.clone()), ..Options::default() };
    let plan = Plan::new(fixture.spec(&["a"], Some(fixture.upper()), options)).unwrap();
    mount(&fixture.mounts, &plan).unwrap();
    assert!(fixture.request().contains(&format!("context={label}")), "{}", fixture.request());
    let features = KernelFeatures::lacking([]);
    match plan.on(&features) {
        Ok(_) => assert!(features.selinux()),
        Err(error) => {
            assert_eq!((&error, error.class()), (&PlanError::NoSelinux, Class::Precondition));
            assert!(error.to_string().contains("SELinux"), "{error}");
        }
    }
    for label in ["", "a\"b", "a\nb"] {
        let options = Options { context: Some(label.to_owned()), ..Options::default() };
        let error = Plan::new(fixture.spec(&["a"], None, options)).unwrap_err();
        assert_eq!(error.class(), Class::Invalid);
    }
}

#[test]
fn the_layers_are_mapped_but_not_the_upper() {
    let fixture = Fixture::new();
    let spec = fixture.spec(&["a", "b"], Some(fixture.upper()), Options::default());
    let plan = Plan::new(Spec { owner: Some(Owner { uid: 1000, gid: 2000 }), ..spec }).unwrap();
    mount(&fixture.mounts, &plan).unwrap();
    let expected = "lowerdir+=b@1000:2000 lowerdir+=a@1000:2000 upperdir=upper workdir=work ";
    assert!(fixture.request().contains(expected), "{}", fixture.request());
}

#[test]
#[ignore = "needs root"]
fn privileged_the_probe_finds_all_features_and_leaves_no_mount_and_no_file() {
    let dir = TestDir::new();
    let staging = dir.dir("staging");
    let features = KernelFeatures::probe(&LinuxMounts, &staging).unwrap();
    let table = LinuxMounts.table().unwrap();
    assert!(!table.iter().any(|mount| mount.target.starts_with(dir.path())), "{table:?}");
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    // The other privileged tests need all features.
    for feature in Feature::ALL {
        assert_eq!(features.get(feature), Ok(()), "{feature:?}");
    }
    assert_eq!(features.mount_api(), MountApi::Detached);
    assert_eq!(root_usable(&staging, &features, &[]).unwrap(), []);
}

#[test]
#[ignore = "needs root"]
fn privileged_a_root_on_an_overlay_is_refused() {
    let dir = TestDir::new();
    // An upper cannot be on an overlay.
    let target = dir.dir("target");
    let fixture = Fixture::new();
    let directory = |name: &str| Arc::new(LinuxMounts.open_dir(&fixture.dir.dir(name)).unwrap());
    let stack = Stack::new(vec![plain("a", directory("a"))]).unwrap();
    let (name, upper, options) = ("vol".to_owned(), Some(fixture.upper()), Options::default());
    let plan = Plan::new(Spec { name, stack, upper, owner: None, options }).unwrap();
    LinuxMounts.attach(mount(&LinuxMounts, &plan).unwrap(), &target).unwrap();
    let features = KernelFeatures::probe(&LinuxMounts, &target).unwrap();
    let failed = root_usable(&target, &features, &[]).unwrap();
    let names: Vec<&str> = failed.iter().map(|check| check.name).collect();
    assert_eq!(names[..2], ["filesystem", "overlay"], "{failed:?}");
    let ignored = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(root_usable(&target, &features, &ignored).unwrap(), []);
}

#[test]
fn without_root_all_features_are_missing_with_the_reason() {
    if crate::sys::host::is_root() {
        return;
    }
    let dir = TestDir::new();
    let features = KernelFeatures::probe(&LinuxMounts, dir.path()).unwrap();
    assert!(features.get(Feature::Overlay).unwrap_err().contains("could not be probed"));
}
