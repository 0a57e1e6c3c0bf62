//! Real overlays: read merged, written above, the layers as they were.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::sys::mounts::{LinuxMounts, mount_image};
use crate::sys::scratch::erofs_image;

fn image(dir: &Scratch, id: u8, name: &str, text: &str) -> Lower {
    let path = dir.file(&format!("{id}.erofs"), erofs_image([id; 16], name, text));
    Lower { id: id.to_string(), dir: Arc::new(mount_image(&LinuxMounts, &path).unwrap()) }
}

fn folder(dir: &Scratch, name: &str) -> Lower {
    let path = dir.folder(name);
    Lower { id: name.to_owned(), dir: Arc::new(LinuxMounts.open_dir(&path).unwrap()) }
}

fn plan(layers: Vec<Lower>, upper: Option<Upper>, options: Options) -> Plan {
    let stack = Stack::new(layers).unwrap();
    Plan::new(Spec { name: "vol-1".to_owned(), stack, upper, options }).unwrap()
}

fn pair(dir: &Scratch) -> Upper {
    Upper::new(dir.folder("upper"), dir.folder("work"))
}

fn attached(dir: &Scratch, plan: &Plan) -> PathBuf {
    let target = dir.folder("target");
    LinuxMounts.attach(mount(&LinuxMounts, plan).unwrap(), &target).unwrap();
    target
}

fn line(target: &Path) -> mounts::Mount {
    LinuxMounts.table().unwrap().into_iter().rfind(|line| line.target == target).unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
#[ignore = "needs root"]
fn privileged_layers_are_read_merged_and_written_above() {
    let dir = Scratch::new();
    let (bottom, top) = (image(&dir, 1, "below", "one"), image(&dir, 2, "above", "two"));
    let plain = folder(&dir, "plain");
    dir.file("plain/below", "plain");
    let images = [fs::read(dir.path().join("1.erofs")), fs::read(dir.path().join("2.erofs"))];

    // Bottom first: the plain folder's `below` is hidden by the image's. A repeat changes nothing.
    let layers = vec![plain.clone(), bottom.clone(), plain, bottom, top];
    let target = attached(&dir, &plan(layers, Some(pair(&dir)), Options::default()));
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
    let line = line(&target);
    assert!(is_ours(&line, &dir.path().join("upper")) && is_named(&line, "vol-1"), "{line:?}");
    assert!(["nosuid", "nodev"].iter().all(|o| line.options.contains(&(*o).to_owned())));
}

#[test]
#[ignore = "needs root"]
fn privileged_a_metacopy_moves_no_data_and_the_upper_stays_without_an_uuid() {
    let dir = Scratch::new();
    let layers = vec![image(&dir, 1, "file", "text")];
    let target = attached(&dir, &plan(layers, Some(pair(&dir)), Options::default()));
    fs::set_permissions(target.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let xattr =
        |path: &Path, name: &str| rustix::fs::lgetxattr(path, name, &mut [0_u8; 64]).is_ok();
    let upper = dir.path().join("upper");
    assert!(xattr(&upper.join("file"), "trusted.overlay.metacopy"));
    assert!(!xattr(&upper, "trusted.overlay.uuid"));
    assert_eq!(read(&target.join("file")), "text");
}

#[test]
#[ignore = "needs root"]
fn privileged_read_only_takes_any_number_of_layers() {
    for count in 0..3 {
        let dir = Scratch::new();
        let layers = (0..count).map(|n| image(&dir, n, &format!("file{n}"), "text")).collect();
        let target = attached(&dir, &plan(layers, None, Options::default()));
        assert_eq!(fs::read_dir(&target).unwrap().count(), usize::from(count));
        let error = fs::write(target.join("new"), "").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert!(is_named(&line(&target), "vol-1"));
    }
}

#[test]
#[ignore = "needs root"]
fn privileged_a_volume_may_start_empty() {
    let dir = Scratch::new();
    let target = attached(&dir, &plan(Vec::new(), Some(pair(&dir)), Options::default()));
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    fs::write(target.join("new"), "new").unwrap();
    assert_eq!(read(&dir.path().join("upper/new")), "new");
}

#[test]
#[ignore = "needs root"]
fn privileged_three_hundred_layers_are_fine() {
    let dir = Scratch::new();
    let layers = (0..300).map(|n| folder(&dir, &format!("layers/{n}"))).collect();
    dir.file("layers/0/bottom", "bottom");
    dir.file("layers/299/top", "top");
    let target = attached(&dir, &plan(layers, Some(pair(&dir)), Options::default()));
    assert_eq!(read(&target.join("bottom")), "bottom");
    assert_eq!(read(&target.join("top")), "top");
}

#[test]
#[ignore = "needs root"]
fn privileged_volatile_is_shown_and_has_to_be_forgotten() {
    let dir = Scratch::new();
    let volatile = Options { volatile: true, ..Options::default() };
    let plan = plan(vec![image(&dir, 1, "file", "text")], Some(pair(&dir)), volatile);
    let target = attached(&dir, &plan);
    let line = line(&target);
    // Linux 6.18 shows `fsync=volatile`, older kernels `volatile`.
    let shown = line.super_options.iter().any(|(key, value)| {
        key == "volatile" || key == "fsync" && value.as_deref() == Some("volatile".as_ref())
    });
    assert!(shown, "{line:?}");
    fs::write(target.join("new"), "new").unwrap();
    LinuxMounts.unmount(&target).unwrap();

    let error = mount(&LinuxMounts, &plan).unwrap_err();
    assert!(matches!(error, OverlayError::VolatileMarker { .. }), "{error}");
    forget_volatile(&pair(&dir)).unwrap();
    assert_eq!(read(&attached(&dir, &plan).join("new")), "new");
}

/// Makes a folder immutable, and mutable again at the end: else nothing could remove it.
struct Immutable(fs::File);

impl Immutable {
    fn new(path: &Path) -> Self {
        let folder = fs::File::open(path).unwrap();
        rustix::fs::ioctl_setflags(&folder, rustix::fs::IFlags::IMMUTABLE).unwrap();
        Self(folder)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        rustix::fs::ioctl_setflags(&self.0, rustix::fs::IFlags::empty()).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn privileged_a_silent_fall_back_to_read_only_is_found_and_nothing_stays() {
    let dir = Scratch::new();
    let plan = plan(vec![image(&dir, 1, "file", "text")], Some(pair(&dir)), Options::default());
    let immutable = Immutable::new(&dir.path().join("work"));
    let error = mount(&LinuxMounts, &plan).unwrap_err();
    assert!(matches!(error, OverlayError::FellBackToReadOnly { .. }), "{error}");
    let upper = dir.path().join("upper");
    assert!(!LinuxMounts.table().unwrap().iter().any(|line| is_ours(line, &upper)));
    drop(immutable);
    attached(&dir, &plan);
}

#[test]
#[ignore = "needs root"]
fn privileged_upper_and_work_may_have_long_paths() {
    let dir = Scratch::new();
    let deep = format!("{}/{}", "x".repeat(200), "y".repeat(200));
    let upper = dir.folder(&format!("{deep}/upper"));
    let pair = Upper::new(upper.clone(), dir.folder(&format!("{deep}/work")));
    let plan = plan(vec![image(&dir, 1, "file", "text")], Some(pair), Options::default());
    assert!(is_ours(&line(&attached(&dir, &plan)), &upper));
}

#[test]
#[ignore = "needs root"]
fn privileged_the_rules_we_check_are_rules_of_this_kernel() {
    let dir = Scratch::new();
    let on = Options::default();
    for options in [
        Options { redirect_dir: false, ..on },
        Options { nfs_export: true, index: true, ..on },
        Options { nfs_export: true, metacopy: false, ..on },
    ] {
        assert!(options.check(true).is_err());
        let tree = |path: PathBuf| Arc::new(LinuxMounts.open_dir(&path).unwrap());
        let mut params = vec![
            mounts::Param::Tree("lowerdir+", image(&dir, 1, "file", "text").dir),
            mounts::Param::Tree("upperdir", tree(dir.folder("upper"))),
            mounts::Param::Tree("workdir", tree(dir.folder("work"))),
        ];
        params.extend(options.params());
        let attrs = Attrs::default();
        let request = Request { fs_type: "overlay", source: "x".to_owned(), params, attrs };
        let error = LinuxMounts.create(&request).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL), "{options:?}: {error}");
    }
}
