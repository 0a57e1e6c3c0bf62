//! Real overlays with each mount API: the layers are merged and unchanged, writes go to the upper, and no layer stays
//! attached.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::sys::mounts::{LegacyMounts, LinuxMounts, MountApi, Mounts, mount_image};
use crate::sys::test_dir::erofs_image;

macro_rules! with_each_api {
    ($($case:ident)*) => {
        with_each_api!(@api privileged_detached, MountApi::Detached, $($case)*);
        with_each_api!(@api privileged_attached, MountApi::Attached, $($case)*);
        with_each_api!(@api privileged_classic, MountApi::Classic, $($case)*);
    };
    (@api $name:ident, $api:expr, $($case:ident)*) => {
        mod $name {
            use super::*;
            $(
                #[test]
                #[ignore = "needs root"]
                fn $case() {
                    with_api($api, super::$case);
                }
            )*
        }
    };
}

with_each_api! {
    layers_are_merged_and_writes_go_to_the_upper
    a_metacopy_copies_no_data_up_and_the_upper_gets_no_uuid
    a_read_only_overlay_can_have_any_number_of_layers
    an_overlay_without_layers_starts_empty
    an_overlay_can_have_as_many_layers_as_the_kernel_allows
    a_volatile_overlay_is_not_mounted_again_until_its_marker_is_removed
    a_silent_fall_back_to_read_only_is_an_error_and_leaves_no_mount
    special_characters_in_the_paths_of_upper_and_work_are_kept
    layers_with_a_file_system_id_each_keep_all_features_on
    owners_of_layers_are_mapped_and_copied_up_as_mapped
    capabilities_of_a_mapped_file_are_kept_for_its_apparent_owner
    noatime_and_noexec_are_options_of_the_mount
}

/// Runs a case, and checks that its layers are not attached any more once they are dropped.
fn with_api(api: MountApi, case: fn(&dyn Mounts, &TestDir)) {
    let dir = TestDir::new();
    if api == MountApi::Detached {
        return case(&LinuxMounts, &dir);
    }
    let lowers = dir.dir("lowers");
    let legacy = LegacyMounts::new(api, &lowers).unwrap();
    case(&legacy, &dir);
    let is_below = |mount: &mounts::Mount| mount.target.starts_with(&lowers);
    let left: Vec<_> = LinuxMounts.table().unwrap().into_iter().filter(is_below).collect();
    assert_eq!(left.len(), 1, "only the directory itself is a mount: {left:?}");
    assert!(left[0].propagation.is_empty(), "{left:?}");
    assert_eq!(fs::read_dir(&lowers).unwrap().count(), 0);
}

fn image(dir: &TestDir, id: u8, name: &str, text: &str) -> Lower {
    let path = dir.file(&format!("{id}.erofs"), erofs_image([id; 16], name, text));
    plain(&id.to_string(), Arc::new(mount_image(&LinuxMounts, &path).unwrap()))
}

fn dir_lower(dir: &TestDir, name: &str) -> Lower {
    let path = dir.dir(name);
    plain(name, Arc::new(LinuxMounts.open_dir(&path).unwrap()))
}

fn plan(layers: Vec<Lower>, upper: Option<UpperAndWork>, options: Options) -> Plan {
    let stack = Stack::new(layers).unwrap();
    Plan::new(Spec { name: "vol-1".to_owned(), stack, upper, owner: None, options }).unwrap()
}

fn pair(dir: &TestDir) -> UpperAndWork {
    UpperAndWork::new(dir.dir("upper"), dir.dir("work"))
}

fn attached(m: &dyn Mounts, dir: &TestDir, plan: &Plan) -> PathBuf {
    let target = dir.dir("target");
    m.attach(mount(m, plan).unwrap(), &target).unwrap();
    target
}

fn line(m: &dyn Mounts, target: &Path) -> mounts::Mount {
    m.table().unwrap().into_iter().rfind(|line| line.target == target).unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn layers_are_merged_and_writes_go_to_the_upper(m: &dyn Mounts, dir: &TestDir) {
    let (bottom, top) = (image(dir, 1, "below", "one"), image(dir, 2, "above", "two"));
    let plain = dir_lower(dir, "plain");
    dir.file("plain/below", "plain");
    let images = [fs::read(dir.path().join("1.erofs")), fs::read(dir.path().join("2.erofs"))];

    // Bottom first: the `below` of the image hides that of the plain directory. A repeat changes nothing.
    let layers = vec![plain.clone(), bottom.clone(), plain, bottom, top];
    let target = attached(m, dir, &plan(layers, Some(pair(dir)), Options::default()));
    assert_eq!(read(&target.join("below")), "one");
    assert_eq!(read(&target.join("above")), "two");

    fs::write(target.join("above"), "changed").unwrap();
    fs::remove_file(target.join("below")).unwrap();
    fs::write(target.join("new"), "new").unwrap();
    assert_eq!(read(&dir.path().join("upper/above")), "changed");
    assert_eq!(read(&dir.path().join("upper/new")), "new");
    assert!(!target.join("below").exists());
    assert_eq!(read(&dir.path().join("plain/below")), "plain");
    for (image, before) in ["1.erofs", "2.erofs"].iter().zip(images) {
        assert_eq!(fs::read(dir.path().join(image)).unwrap(), before.unwrap());
    }
    let line = line(m, &target);
    assert!(is_ours(&line, &dir.path().join("upper")) && is_named(&line, "vol-1"), "{line:?}");
    assert!(["nosuid", "nodev"].iter().all(|o| line.options.contains(&(*o).to_owned())));
}

fn a_metacopy_copies_no_data_up_and_the_upper_gets_no_uuid(m: &dyn Mounts, dir: &TestDir) {
    let layers = vec![image(dir, 1, "file", "text")];
    let target = attached(m, dir, &plan(layers, Some(pair(dir)), Options::default()));
    fs::set_permissions(target.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let xattr =
        |path: &Path, name: &str| rustix::fs::lgetxattr(path, name, &mut [0_u8; 64]).is_ok();
    let upper = dir.path().join("upper");
    assert!(xattr(&upper.join("file"), "trusted.overlay.metacopy"));
    assert!(!xattr(&upper, "trusted.overlay.uuid"));
    assert_eq!(read(&target.join("file")), "text");
}

fn a_read_only_overlay_can_have_any_number_of_layers(m: &dyn Mounts, dir: &TestDir) {
    for count in 0..3 {
        let layers = (0..count).map(|n| image(dir, n, &format!("file{n}"), "text")).collect();
        let target = attached(m, dir, &plan(layers, None, Options::default()));
        assert_eq!(fs::read_dir(&target).unwrap().count(), usize::from(count));
        let error = fs::write(target.join("new"), "").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert!(is_named(&line(m, &target), "vol-1"));
        m.unmount(&target).unwrap();
    }
}

fn an_overlay_without_layers_starts_empty(m: &dyn Mounts, dir: &TestDir) {
    let target = attached(m, dir, &plan(Vec::new(), Some(pair(dir)), Options::default()));
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    fs::write(target.join("new"), "new").unwrap();
    assert_eq!(read(&dir.path().join("upper/new")), "new");
}

fn an_overlay_can_have_as_many_layers_as_the_kernel_allows(m: &dyn Mounts, dir: &TestDir) {
    let layers = (0..LAYER_LIMIT).map(|n| dir_lower(dir, &format!("layers/{n}"))).collect();
    dir.file("layers/0/bottom", "bottom");
    dir.file("layers/499/top", "top");
    let target = attached(m, dir, &plan(layers, Some(pair(dir)), Options::default()));
    assert_eq!(read(&target.join("bottom")), "bottom");
    assert_eq!(read(&target.join("top")), "top");
}

fn a_volatile_overlay_is_not_mounted_again_until_its_marker_is_removed(
    m: &dyn Mounts,
    dir: &TestDir,
) {
    let volatile = Options { volatile: true, ..Options::default() };
    let plan = plan(vec![image(dir, 1, "file", "text")], Some(pair(dir)), volatile);
    let target = attached(m, dir, &plan);
    let line = line(m, &target);
    // Linux 6.18 shows `fsync=volatile`, older kernels `volatile`.
    let shown = line.super_options.iter().any(|(key, value)| {
        key == "volatile" || key == "fsync" && value.as_deref() == Some("volatile".as_ref())
    });
    assert!(shown, "{line:?}");
    fs::write(target.join("new"), "new").unwrap();
    m.unmount(&target).unwrap();

    let error = mount(m, &plan).unwrap_err();
    assert!(matches!(error, OverlayError::VolatileMarker { .. }), "{error}");
    clear_volatile_marker(&pair(dir)).unwrap();
    assert_eq!(read(&attached(m, dir, &plan).join("new")), "new");
}

/// Makes a directory immutable. On drop it is mutable again, because nothing could remove it otherwise.
struct Immutable(fs::File);

impl Immutable {
    fn new(path: &Path) -> Self {
        let directory = fs::File::open(path).unwrap();
        rustix::fs::ioctl_setflags(&directory, rustix::fs::IFlags::IMMUTABLE).unwrap();
        Self(directory)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        rustix::fs::ioctl_setflags(&self.0, rustix::fs::IFlags::empty()).unwrap();
    }
}

fn a_silent_fall_back_to_read_only_is_an_error_and_leaves_no_mount(m: &dyn Mounts, dir: &TestDir) {
    let plan = plan(vec![image(dir, 1, "file", "text")], Some(pair(dir)), Options::default());
    let immutable = Immutable::new(&dir.path().join("work"));
    let error = mount(m, &plan).unwrap_err();
    assert!(matches!(error, OverlayError::FellBackToReadOnly { .. }), "{error}");
    let upper = dir.path().join("upper");
    assert!(!m.table().unwrap().iter().any(|line| is_ours(line, &upper)));
    drop(immutable);
    attached(m, dir, &plan);
}

fn special_characters_in_the_paths_of_upper_and_work_are_kept(m: &dyn Mounts, dir: &TestDir) {
    let upper = dir.dir("a b=c\"d'é/upper");
    let pair = UpperAndWork::new(upper.clone(), dir.dir("a b=c\"d'é/work"));
    let plan = plan(vec![image(dir, 1, "file", "text")], Some(pair), Options::default());
    assert!(is_ours(&line(m, &attached(m, dir, &plan)), &upper));
}

fn layers_with_a_file_system_id_each_keep_all_features_on(m: &dyn Mounts, dir: &TestDir) {
    let layers = vec![image(dir, 1, "below", "one"), image(dir, 2, "above", "two")];
    let options = Options { index: true, xino: Xino::On, ..Options::default() };
    let target = attached(m, dir, &plan(layers, Some(pair(dir)), options));
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_eq!(device(&target.join("below")), device(&target));
    assert_eq!(device(&target.join("above")), device(&target));
    assert!(dir.path().join("work/index").exists());
    let line = line(m, &target);
    for key in ["index", "xino", "metacopy", "redirect_dir"] {
        assert_eq!(
            line.super_option(key).map(|value| value == "on"),
            Some(true),
            "{key}: {line:?}"
        );
    }
}

fn mapped(dir: &TestDir, layers: Vec<Lower>) -> Plan {
    let (owner, options) = (Some(Owner { uid: 1000, gid: 2000 }), Options::default());
    let (name, stack) = ("vol-1".to_owned(), Stack::new(layers).unwrap());
    Plan::new(Spec { name, stack, upper: Some(pair(dir)), owner, options }).unwrap()
}

fn owner(path: &Path) -> (u32, u32) {
    let file = fs::symlink_metadata(path).unwrap();
    (file.uid(), file.gid())
}

fn owners_of_layers_are_mapped_and_copied_up_as_mapped(m: &dyn Mounts, dir: &TestDir) {
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (image, plain) = (image(dir, 1, "file", "text"), dir_lower(dir, "plain"));
    for (name, id) in [("roots", 0), ("theirs", 1000), ("others", 77)] {
        chown(dir.file(&format!("plain/{name}"), ""), Some(id), Some(id * 2)).unwrap();
    }
    let target = attached(m, dir, &mapped(dir, vec![image, plain]));
    let given = Owner { uid: 1000, gid: 2000 };
    for (name, id) in [("file", 0), ("roots", 0), ("theirs", 1000), ("others", 77)] {
        assert_eq!(owner(&target.join(name)), (given.user(id), given.group(id * 2)), "{name}");
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo more >> file && chmod 600 roots"]).current_dir(&target);
    assert!(shell.uid(1000).gid(2000).status().unwrap().success());
    assert_eq!(read(&target.join("file")), "textmore\n");
    let upper = dir.path().join("upper");
    assert_eq!(
        (owner(&upper.join("file")), owner(&upper.join("roots"))),
        ((1000, 2000), (1000, 2000))
    );
    assert_eq!(owner(&dir.path().join("plain/roots")), (0, 0));
    assert_eq!(m.table().unwrap().iter().filter(|line| line.target == target).count(), 1);
}

fn capabilities_of_a_mapped_file_are_kept_for_its_apparent_owner(m: &dyn Mounts, dir: &TestDir) {
    let plain = dir_lower(dir, "plain");
    let file = dir.file("plain/tool", "");
    // Revision 2, effective, cap_net_bind_service (include/uapi/linux/capability.h).
    let mut value = [0_u8; 20];
    (value[0], value[3], value[5]) = (1, 2, 4);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&file, "security.capability", &value, flags).unwrap();
    let read = |path: &Path| {
        let mut space = [0_u8; 64];
        let length = rustix::fs::lgetxattr(path, "security.capability", &mut space).unwrap();
        space[..length].to_vec()
    };
    let target = attached(m, dir, &mapped(dir, vec![plain]));
    // Root of the layer is 1000 here, so revision 3: good where 1000 is root, and nowhere else.
    let mut shown = [&value[..], &1000_u32.to_le_bytes()].concat();
    shown[3] = 3;
    assert_eq!(read(&target.join("tool")), shown);
    fs::set_permissions(target.join("tool"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(read(&target.join("tool")), shown);
    assert_eq!(read(&dir.path().join("upper/tool")), shown);
    assert_eq!(read(&file), value);
}

fn noatime_and_noexec_are_options_of_the_mount(m: &dyn Mounts, dir: &TestDir) {
    let options = Options { noatime: true, noexec: true, ..Options::default() };
    let plan = plan(vec![image(dir, 1, "file", "text")], Some(pair(dir)), options);
    let line = line(m, &attached(m, dir, &plan));
    assert!(["noatime", "noexec"].iter().all(|o| line.options.contains(&(*o).to_owned())));
}

fn with_long_paths(dir: &TestDir, parts: usize) -> (PathBuf, Plan) {
    let deep = vec!["x".repeat(200); parts].join("/");
    let upper = dir.dir(&format!("{deep}/upper"));
    let pair = UpperAndWork::new(upper.clone(), dir.dir(&format!("{deep}/work")));
    (upper, plan(vec![image(dir, 1, "file", "text")], Some(pair), Options::default()))
}

#[test]
#[ignore = "needs root"]
fn privileged_upper_and_work_can_have_paths_as_long_as_the_mount_api_allows() {
    let dir = TestDir::new();
    let (upper, plan) = with_long_paths(&dir, 2);
    for api in [MountApi::Detached, MountApi::Classic] {
        let lowers = dir.dir(&format!("{api:?}"));
        let legacy = LegacyMounts::new(api, &lowers).unwrap();
        let m: &dyn Mounts = if api == MountApi::Detached { &LinuxMounts } else { &legacy };
        let target = attached(m, &dir, &plan);
        assert!(is_ours(&line(m, &target), &upper), "{api:?}");
        m.unmount(&target).unwrap();
    }
    let attached = LegacyMounts::new(MountApi::Attached, &dir.dir("lowers")).unwrap();
    let error = mount(&attached, &plan).unwrap_err();
    assert!(error.to_string().contains("upperdir"), "{error}");
    assert_eq!(error.class(), Class::Precondition);
    drop(plan);
}

#[test]
#[ignore = "needs root"]
fn privileged_a_path_that_cannot_be_a_text_parameter_is_refused_by_apis_that_need_one() {
    let dir = TestDir::new();
    let upper = dir.dir("a,b:c\\d/upper");
    let pair = UpperAndWork::new(upper.clone(), dir.dir("a,b:c\\d/work"));
    let plan = plan(vec![image(&dir, 1, "file", "text")], Some(pair), Options::default());
    // The layer stays attached in the directory of the first one that it was given to.
    let legacy = [MountApi::Attached, MountApi::Classic]
        .map(|api| LegacyMounts::new(api, &dir.dir(&format!("{api:?}"))).unwrap());
    for mounts in &legacy {
        let error = mount(mounts, &plan).unwrap_err().to_string();
        assert!(error.contains("comma"), "{error}");
    }
    assert!(is_ours(&line(&LinuxMounts, &attached(&LinuxMounts, &dir, &plan)), &upper));
    drop(plan);
}

#[test]
#[ignore = "needs root"]
fn privileged_options_that_mount_2_would_truncate_are_refused() {
    let dir = TestDir::new();
    let (_, plan) = with_long_paths(&dir, 10);
    let classic = LegacyMounts::new(MountApi::Classic, &dir.dir("lowers")).unwrap();
    let error = mount(&classic, &plan).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, OverlayError::Mount(MountError::DataTooLong { .. })), "{text}");
    assert!(text.contains("4095"), "{text}");
    assert_eq!(error.class(), Class::Precondition);
    drop(plan);
}

#[test]
#[ignore = "needs root"]
fn privileged_layers_that_a_killed_process_left_attached_are_detached_at_the_next_start() {
    let dir = TestDir::new();
    let lowers = dir.dir("lowers");
    let first = LegacyMounts::new(MountApi::Attached, &lowers).unwrap();
    let layers = vec![image(&dir, 1, "file", "text")];
    let target =
        attached(&first, &dir, &plan(layers.clone(), Some(pair(&dir)), Options::default()));
    // As if the process was killed: nothing is dropped.
    layers.into_iter().for_each(std::mem::forget);
    let attached_below = || {
        let table = LinuxMounts.table().unwrap();
        table.into_iter().filter(|mount| mount.target.starts_with(&lowers)).count()
    };
    assert_eq!(attached_below(), 2);
    let next = LegacyMounts::new(MountApi::Attached, &lowers).unwrap();
    assert_eq!(attached_below(), 1);
    drop(next);
    assert_eq!(attached_below(), 0);
    assert_eq!(read(&target.join("file")), "text");
}

#[test]
#[ignore = "needs root"]
fn privileged_this_kernel_refuses_the_options_that_a_plan_refuses() {
    let dir = TestDir::new();
    let on = Options::default();
    for options in [
        Options { redirect_dir: false, ..on.clone() },
        Options { nfs_export: true, index: true, ..on.clone() },
        Options { nfs_export: true, metacopy: false, ..on.clone() },
    ] {
        assert!(options.check(true).is_err());
        let tree = |path: PathBuf| Arc::new(LinuxMounts.open_dir(&path).unwrap());
        let mut params = vec![
            mounts::Param::Tree("lowerdir+", image(&dir, 1, "file", "text").dir),
            mounts::Param::Tree("upperdir", tree(dir.dir("upper"))),
            mounts::Param::Tree("workdir", tree(dir.dir("work"))),
        ];
        params.extend(options.params(true));
        let attrs = Attrs::default();
        let request = Request { fs_type: "overlay", source: "x".to_owned(), params, attrs };
        let error = LinuxMounts.create(&request).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL), "{options:?}: {error}");
    }
}
