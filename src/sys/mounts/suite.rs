//! Tests of [`Mounts`] that run against the fake and against the kernel.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::error::Class;
use crate::sys::Errno;
use crate::sys::test_dir::TestDir;

macro_rules! suite {
    ($($case:ident)*) => {
        mod fake_mounts {
            $(
                #[test]
                fn $case() {
                    super::$case(&super::FakeMounts::default(), &super::TestDir::new());
                }
            )*
        }
        mod privileged_linux {
            $(
                #[test]
                #[ignore = "needs root"]
                fn $case() {
                    super::$case(&super::LinuxMounts, &super::TestDir::new());
                }
            )*
        }
    };
}

suite! {
    an_attached_mount_is_in_the_table_until_it_is_unmounted
    attributes_are_in_the_table_and_obeyed
    nothing_is_stacked_on_a_mount
    a_clone_is_a_second_mount_of_the_same_file_system
    a_target_must_be_named_without_symlinks
    a_plain_directory_is_never_attached
    a_path_that_is_not_mounted_is_not_found
    an_unknown_type_is_unsupported
    a_text_over_the_limit_is_refused
    the_kernels_limit_of_layers_applies
    a_layer_given_twice_is_refused
    an_overlay_shows_its_upper_whatever_the_length_of_the_path
    one_upper_in_two_overlays_is_not_refused
    a_volatile_overlay_leaves_a_marker_that_blocks_the_next
    options_that_overlay_refuses_return_einval
    a_missing_image_is_not_found
    an_id_mapped_mount_leaves_the_tree_unchanged
    an_invalid_id_cannot_be_an_owner
    a_tmpfs_has_limits_and_mode_0700
}

fn tmpfs(attrs: Attrs) -> Request {
    let params = vec![Param::Text("size", "64k".to_owned())];
    Request { fs_type: "tmpfs", source: "ovl-test".to_owned(), params, attrs }
}

fn overlay(params: Vec<Param>) -> Request {
    let attrs = Attrs::default();
    Request { fs_type: "overlay", source: "ovl-test".to_owned(), params, attrs }
}

fn dir_tree(mounts: &dyn Mounts, path: &Path) -> Arc<Detached> {
    fs::create_dir_all(path).unwrap();
    Arc::new(mounts.open_dir(path).unwrap())
}

fn on_upper(mounts: &dyn Mounts, dir: &Path, extra: &[Param]) -> Request {
    let mut params: Vec<Param> =
        [("lowerdir+", "lower"), ("upperdir", "upper"), ("workdir", "work")]
            .map(|(key, name)| Param::Tree(key, dir_tree(mounts, &dir.join(name))))
            .into();
    params.extend_from_slice(extra);
    overlay(params)
}

fn shown(mounts: &dyn Mounts, target: &Path) -> Vec<Mount> {
    mounts.table().unwrap().into_iter().filter(|mount| mount.target == target).collect()
}

fn an_attached_mount_is_in_the_table_until_it_is_unmounted(mounts: &dyn Mounts, dir: &TestDir) {
    let target = dir.dir("a target");
    let mount = mounts.create(&tmpfs(Attrs::default())).unwrap();
    assert!(mounts.writable(&mount).unwrap());
    assert_eq!(shown(mounts, &target), []);

    mounts.attach(mount, &target).unwrap();
    let [line] = shown(mounts, &target).try_into().unwrap();
    assert_eq!((line.fs_type.as_str(), line.source.as_os_str()), ("tmpfs", "ovl-test".as_ref()));

    mounts.unmount(&target).unwrap();
    assert_eq!(shown(mounts, &target), []);
}

fn attributes_are_in_the_table_and_obeyed(mounts: &dyn Mounts, dir: &TestDir) {
    let target = dir.dir("target");
    let attrs = Attrs { read_only: true, nosuid: true, nodev: true, noexec: true, noatime: true };
    let mount = mounts.create(&tmpfs(attrs)).unwrap();
    assert!(!mounts.writable(&mount).unwrap());
    mounts.attach(mount, &target).unwrap();
    let options = shown(mounts, &target)[0].options.clone();
    assert_eq!(options, ["ro", "nosuid", "nodev", "noexec", "noatime"]);
}

fn nothing_is_stacked_on_a_mount(mounts: &dyn Mounts, dir: &TestDir) {
    let target = dir.dir("target");
    mounts.attach(mounts.create(&tmpfs(Attrs::default())).unwrap(), &target).unwrap();
    let again = mounts.attach(mounts.create(&tmpfs(Attrs::default())).unwrap(), &target);
    assert!(matches!(again, Err(MountError::Occupied { .. })), "{again:?}");
    assert_eq!(shown(mounts, &target).len(), 1);
}

fn a_clone_is_a_second_mount_of_the_same_file_system(mounts: &dyn Mounts, dir: &TestDir) {
    let (first, second) = (dir.dir("first"), dir.dir("second"));
    let attrs = Attrs { nosuid: true, ..Attrs::default() };
    mounts.attach(mounts.create(&tmpfs(attrs)).unwrap(), &first).unwrap();
    mounts.attach(mounts.clone_of(&first).unwrap(), &second).unwrap();
    mounts.unmount(&first).unwrap();
    let [line] = shown(mounts, &second).try_into().unwrap();
    assert_eq!(line.fs_type, "tmpfs");
    assert!(line.options.contains(&"nosuid".to_owned()));
}

fn a_target_must_be_named_without_symlinks(mounts: &dyn Mounts, dir: &TestDir) {
    let real = dir.dir("real/target");
    symlink(dir.dir("real"), dir.path().join("link")).unwrap();
    symlink(&real, dir.path().join("last")).unwrap();
    dir.file("file", "");
    for (name, why) in [
        ("link/target", "a part of its path is a symlink"),
        ("last", "it may be a symlink"),
        ("real/../real/target", "`..`"),
        ("file", "not a directory"),
        ("missing", "does not exist"),
    ] {
        let target = dir.path().join(name);
        let error = mounts.attach(mounts.create(&tmpfs(Attrs::default())).unwrap(), &target);
        let text = error.unwrap_err().to_string();
        assert!(text.contains(why), "{name}: {text}");
    }
    let relative = mounts.attach(mounts.create(&tmpfs(Attrs::default())).unwrap(), Path::new("x"));
    assert!(relative.unwrap_err().to_string().contains("not absolute"));
    assert_eq!(shown(mounts, &real), []);
}

fn a_plain_directory_is_never_attached(mounts: &dyn Mounts, dir: &TestDir) {
    let target = dir.dir("target");
    let plain = mounts.open_dir(&dir.dir("plain")).unwrap();
    assert_eq!(mounts.attach(plain, &target).unwrap_err().errno(), Some(Errno::EINVAL));
    // A mount that is attached elsewhere is not moved through its directory.
    let other = dir.dir("other");
    mounts.attach(mounts.create(&tmpfs(Attrs::default())).unwrap(), &other).unwrap();
    let root = mounts.open_dir(&other).unwrap();
    assert_eq!(mounts.attach(root, &target).unwrap_err().errno(), Some(Errno::EINVAL));
    assert_eq!(shown(mounts, &other).len(), 1);
}

fn a_path_that_is_not_mounted_is_not_found(mounts: &dyn Mounts, dir: &TestDir) {
    let mounted = dir.dir("mounted");
    mounts.attach(mounts.create(&tmpfs(Attrs::default())).unwrap(), &mounted).unwrap();
    symlink(&mounted, dir.path().join("link")).unwrap();
    dir.dir("empty");
    for name in ["empty", "missing", "missing/parent", "link"] {
        let error = mounts.unmount(&dir.path().join(name)).unwrap_err();
        assert!(matches!(error, MountError::NotMounted { .. }), "{name}: {error}");
        assert_eq!(error.class(), Class::NotFound);
    }
    let clone = mounts.clone_of(&dir.path().join("empty"));
    assert!(matches!(clone, Err(MountError::NotMounted { .. })), "{clone:?}");
    assert_eq!(shown(mounts, &mounted).len(), 1);
}

fn an_unknown_type_is_unsupported(mounts: &dyn Mounts, _: &TestDir) {
    let request = Request { fs_type: "nosuchfs", ..tmpfs(Attrs::default()) };
    let error = mounts.create(&request).unwrap_err();
    assert!(matches!(error, MountError::Unsupported { errno: Errno::ENODEV, .. }), "{error}");
    assert_eq!(error.class(), Class::Precondition);
}

fn a_text_over_the_limit_is_refused(mounts: &dyn Mounts, _: &TestDir) {
    let fits = Request { source: "x".repeat(TEXT_LIMIT), ..tmpfs(Attrs::default()) };
    mounts.create(&fits).unwrap();
    let error = mounts.create(&Request { source: "x".repeat(TEXT_LIMIT + 1), ..fits }).unwrap_err();
    assert!(matches!(error, MountError::TooLong { key: "source", length: 256 }), "{error}");
}

fn the_kernels_limit_of_layers_applies(mounts: &dyn Mounts, dir: &TestDir) {
    let lower = |n| Param::Tree("lowerdir+", dir_tree(mounts, &dir.path().join(n)));
    let mut params: Vec<Param> = (0..500).map(|n: u32| lower(n.to_string())).collect();
    mounts.create(&overlay(params.clone())).unwrap();
    params.push(lower("500".to_owned()));
    let error = mounts.create(&overlay(params)).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.errno(), Some(Errno::EINVAL));
    assert!(text.contains("lowerdir+") && text.contains("EINVAL"), "{text}");
    assert!(text.contains("the kernel says: overlay: too many lower directories"), "{text}");
}

fn a_layer_given_twice_is_refused(mounts: &dyn Mounts, dir: &TestDir) {
    let lower = Param::Tree("lowerdir+", dir_tree(mounts, &dir.path().join("lower")));
    let error = mounts.create(&overlay(vec![lower.clone(), lower])).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ELOOP), "{error}");
}

fn an_overlay_shows_its_upper_whatever_the_length_of_the_path(m: &dyn Mounts, dir: &TestDir) {
    let deep = dir.dir(&format!("{}/a b,c=d\\/{}", "x".repeat(200), "y".repeat(200)));
    let target = dir.dir("target");
    let detached = Arc::new(m.create(&tmpfs(Attrs::default())).unwrap());
    let mut request = on_upper(m, &deep, &[Param::Text("uuid", "null".to_owned())]);
    request.params.insert(1, Param::Tree("lowerdir+", detached));
    m.attach(m.create(&request).unwrap(), &target).unwrap();

    let [line] = shown(m, &target).try_into().unwrap();
    assert_eq!(line.super_option("upperdir").unwrap(), deep.join("upper").as_os_str());
    assert_eq!(line.super_option("workdir").unwrap(), deep.join("work").as_os_str());
    let lowers = line.super_options.iter().filter(|(key, _)| key == "lowerdir+");
    let lowers: Vec<PathBuf> = lowers.map(|(_, value)| value.unwrap().into()).collect();
    assert_eq!(lowers, [deep.join("lower"), "/".into()]);
}

fn one_upper_in_two_overlays_is_not_refused(mounts: &dyn Mounts, dir: &TestDir) {
    let index_off = [Param::Text("index", "off".to_owned())];
    let request = on_upper(mounts, dir.path(), &index_off);
    let _first = mounts.create(&request).unwrap();
    mounts.create(&request).unwrap();
}

fn a_volatile_overlay_leaves_a_marker_that_blocks_the_next(mounts: &dyn Mounts, dir: &TestDir) {
    let target = dir.dir("target");
    let volatile = on_upper(mounts, dir.path(), &[Param::Flag("volatile")]);
    mounts.attach(mounts.create(&volatile).unwrap(), &target).unwrap();
    let line = &shown(mounts, &target)[0];
    let is_volatile = line.super_options.iter().any(|(key, value)| {
        key == "volatile" || key == "fsync" && value.as_deref() == Some("volatile".as_ref())
    });
    assert!(is_volatile, "{line:?}");
    mounts.unmount(&target).unwrap();
    assert!(dir.path().join("work/work/incompat/volatile").exists());
    let next = mounts.create(&on_upper(mounts, dir.path(), &[])).unwrap_err();
    assert_eq!(next.errno(), Some(Errno::EINVAL), "{next}");
}

fn options_that_overlay_refuses_return_einval(mounts: &dyn Mounts, dir: &TestDir) {
    let tree = |key, name| Param::Tree(key, dir_tree(mounts, &dir.path().join(name)));
    let text = |key, value: &str| Param::Text(key, value.to_owned());
    let (on, off) = ("on", "off");
    let cases = [
        ("a single layer and no upper", vec![tree("lowerdir+", "lower")]),
        ("no layer", vec![tree("upperdir", "upper"), tree("workdir", "work")]),
        ("no work", vec![tree("lowerdir+", "lower"), tree("upperdir", "upper")]),
        (
            "work in upper",
            vec![
                tree("lowerdir+", "lower"),
                tree("upperdir", "upper"),
                tree("workdir", "upper/work"),
            ],
        ),
        (
            "metacopy alone",
            on_upper(mounts, dir.path(), &[text("metacopy", on), text("redirect_dir", off)]).params,
        ),
        (
            "metacopy and nfs_export",
            on_upper(
                mounts,
                dir.path(),
                &[text("metacopy", on), text("index", on), text("nfs_export", on)],
            )
            .params,
        ),
        (
            "nfs_export alone",
            on_upper(
                mounts,
                dir.path(),
                &[text("metacopy", off), text("index", off), text("nfs_export", on)],
            )
            .params,
        ),
    ];
    for (name, params) in cases {
        let error = mounts.create(&overlay(params)).expect_err(name);
        assert_eq!(error.errno(), Some(Errno::EINVAL), "{name}: {error}");
    }
}

fn a_missing_image_is_not_found(mounts: &dyn Mounts, dir: &TestDir) {
    let error = mount_image(mounts, &dir.path().join("missing.erofs")).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENOENT), "{error}");
}

fn an_id_mapped_mount_leaves_the_tree_unchanged(mounts: &dyn Mounts, dir: &TestDir) {
    let (tree, target) = (dir.dir("tree"), dir.dir("target"));
    let plain = mounts.open_dir(&tree).unwrap();
    let layer = Arc::new(mounts.idmapped(&plain, 1000, 2000).unwrap());
    // The tree itself is unchanged and can be mapped again.
    mounts.idmapped(&plain, u32::MAX - 1, 0).unwrap();
    let mut request = on_upper(mounts, dir.path(), &[]);
    request.params.insert(0, Param::Tree("lowerdir+", layer));
    mounts.attach(mounts.create(&request).unwrap(), &target).unwrap();
    assert_eq!(shown(mounts, &target).len(), 1);
    assert_eq!(shown(mounts, &tree), []);
}

fn an_invalid_id_cannot_be_an_owner(mounts: &dyn Mounts, dir: &TestDir) {
    let tree = mounts.open_dir(&dir.dir("tree")).unwrap();
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        let error = mounts.idmapped(&tree, uid, gid).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL), "{error}");
    }
}

fn a_tmpfs_has_limits_and_mode_0700(mounts: &dyn Mounts, dir: &TestDir) {
    let target = dir.dir("target");
    let memory = super::tmpfs("ovl-test", Some(1 << 20), Some(10));
    mounts.attach(mounts.create(&memory).unwrap(), &target).unwrap();
    let line = &shown(mounts, &target)[0];
    assert!(["700", "0700"].map(Into::into).contains(&line.super_option("mode").unwrap()));
    assert!(line.super_option("size").is_some() && line.super_option("nr_inodes").is_some());
    assert!(["rw", "nosuid", "nodev"].iter().all(|o| line.options.contains(&(*o).to_owned())));
}
