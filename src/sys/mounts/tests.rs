//! Tests that need one of the implementations: file content, busy mounts, failures that a test wants.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::error::Class;
use crate::sys::Errno;
use crate::sys::test_dir::{TestDir, erofs_image};

fn tmpfs() -> Request {
    let attrs = Attrs::default();
    Request { fs_type: "tmpfs", source: "ovl-test".to_owned(), params: Vec::new(), attrs }
}

fn errno_of<T: fmt::Debug>(result: Result<T, MountError>) -> Option<Errno> {
    result.unwrap_err().errno()
}

#[test]
fn the_fake_fails_the_nth_call_and_changes_nothing() {
    let (dir, mounts) = (TestDir::new(), FakeMounts::default());
    let target = dir.dir("target");
    mounts.fail(Call::Create, 2, Errno::ENOMEM);
    mounts.create(&tmpfs()).unwrap();
    assert_eq!(errno_of(mounts.create(&tmpfs())), Some(Errno::ENOMEM));

    mounts.fail(Call::Attach, 1, Errno::EPERM);
    let mount = mounts.create(&tmpfs()).unwrap();
    assert_eq!(errno_of(mounts.attach(mount, &target)), Some(Errno::EPERM));
    assert_eq!(mounts.table().unwrap(), []);

    mounts.attach(mounts.create(&tmpfs()).unwrap(), &target).unwrap();
    mounts.fail(Call::Unmount, 1, Errno::EIO);
    assert_eq!(errno_of(mounts.unmount(&target)), Some(Errno::EIO));
    assert_eq!(mounts.table().unwrap().len(), 1);
    mounts.unmount(&target).unwrap();
    assert_eq!(mounts.requests(), ["tmpfs ovl-test [] "; 4]);
}

#[test]
fn the_fake_is_busy_for_the_given_number_of_attempts() {
    let (dir, mounts) = (TestDir::new(), FakeMounts::default());
    let target = dir.dir("target");
    mounts.attach(mounts.create(&tmpfs()).unwrap(), &target).unwrap();
    mounts.be_busy(7); // the first call makes six attempts, the second call is refused once
    let error = mounts.unmount(&target).unwrap_err();
    assert!(matches!(error, MountError::Busy { .. }), "{error}");
    assert_eq!(error.class(), Class::Busy);
    mounts.unmount(&target).unwrap();
}

#[test]
fn the_fake_makes_read_only_file_systems() {
    let mounts = FakeMounts::default();
    mounts.make_read_only(true);
    let mount = mounts.create(&tmpfs()).unwrap();
    assert!(!mounts.writable(&mount).unwrap());
}

#[test]
fn an_image_is_first_mounted_with_direct_io() {
    let (dir, mounts) = (TestDir::new(), FakeMounts::default());
    let image = dir.file("layer.erofs", "");
    mounts.fail(Call::Create, 1, Errno::EINVAL);
    mount_image(&mounts, &image).unwrap();
    let line = format!("erofs {} [ro,nosuid,nodev] ", image.display());
    assert_eq!(mounts.requests(), [format!("{line}directio"), line]);
}

#[test]
fn an_image_is_mounted_by_a_loop_device_on_a_kernel_that_needs_one() {
    let (dir, mounts) = (TestDir::new(), FakeMounts::default());
    mounts.fail(Call::Create, 1, Errno::ENOTBLK);
    mount_image(&mounts, &dir.file("layer.erofs", "")).unwrap();
    let last = mounts.requests().pop().unwrap();
    assert_eq!(last, "erofs /dev/loop7 [ro,nosuid,nodev] ro");
}

#[test]
#[ignore = "needs root"]
fn privileged_an_image_on_a_loop_device_is_read_and_its_device_is_freed() {
    let dir = TestDir::new();
    let image = dir.file("layer.erofs", erofs_image([7; 16], "hello", "from the device\n"));
    let target = dir.dir("target");
    let devices = || {
        let shows_image = |entry: &fs::DirEntry| {
            fs::read_to_string(entry.path().join("loop/backing_file"))
                .is_ok_and(|file| Path::new(file.trim()) == image)
        };
        fs::read_dir("/sys/block").unwrap().map(Result::unwrap).filter(shows_image).count()
    };
    let mount = mount_image_by(&LinuxMounts, &image, Backing::Loop).unwrap();
    assert_eq!(devices(), 1);
    LinuxMounts.attach(mount, &target).unwrap();
    assert_eq!(fs::read_to_string(target.join("hello")).unwrap(), "from the device\n");
    LinuxMounts.unmount(&target).unwrap();
    // The kernel frees a file system and its device a moment after the last user ends.
    for _ in 0..100 {
        if devices() == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("the loop device still exists");
}

#[test]
#[ignore = "needs root"]
fn privileged_an_image_is_read_and_refuses_writes() {
    let dir = TestDir::new();
    let image = dir.file("layer.erofs", erofs_image([7; 16], "hello", "from the image\n"));
    let target = dir.dir("target");
    let mount = mount_image(&LinuxMounts, &image).unwrap();
    assert!(!LinuxMounts.writable(&mount).unwrap());
    LinuxMounts.attach(mount, &target).unwrap();
    assert_eq!(fs::read_to_string(target.join("hello")).unwrap(), "from the image\n");
    let refused = File::create(target.join("new")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
#[ignore = "needs root"]
fn privileged_an_image_is_read_where_direct_io_is_not_possible() {
    let dir = TestDir::new();
    let memory = dir.dir("memory");
    // ramfs has no direct I/O.
    LinuxMounts
        .attach(LinuxMounts.create(&Request { fs_type: "ramfs", ..tmpfs() }).unwrap(), &memory)
        .unwrap();
    let image = dir.file("memory/layer.erofs", erofs_image([7; 16], "hello", "text"));
    let target = dir.dir("target");
    LinuxMounts.attach(mount_image(&LinuxMounts, &image).unwrap(), &target).unwrap();
    assert_eq!(fs::read_to_string(target.join("hello")).unwrap(), "text");
}

#[test]
#[ignore = "needs root"]
fn privileged_a_file_that_is_not_an_image_is_refused() {
    let dir = TestDir::new();
    let error = mount_image(&LinuxMounts, &dir.file("layer.erofs", [0; 8192])).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EINVAL), "{error}");
}

#[test]
#[ignore = "needs root"]
fn privileged_a_mount_with_an_open_file_is_busy_and_not_unmounted() {
    let dir = TestDir::new();
    let target = dir.dir("target");
    LinuxMounts.attach(LinuxMounts.create(&tmpfs()).unwrap(), &target).unwrap();
    let open = File::create(target.join("file")).unwrap();
    let error = LinuxMounts.unmount(&target).unwrap_err();
    assert!(matches!(error, MountError::Busy { .. }), "{error}");
    drop(open);
    LinuxMounts.unmount(&target).unwrap();
}

#[test]
#[ignore = "needs root"]
fn privileged_the_error_for_a_busy_mount_names_the_mount_within_it() {
    let dir = TestDir::new();
    let target = dir.dir("target");
    LinuxMounts.attach(LinuxMounts.create(&tmpfs()).unwrap(), &target).unwrap();
    let within = target.join("within");
    std::fs::create_dir(&within).unwrap();
    LinuxMounts.attach(LinuxMounts.create(&tmpfs()).unwrap(), &within).unwrap();
    let error = LinuxMounts.unmount(&target).unwrap_err().to_string();
    assert!(error.contains(&format!("mounted within it, at {}", within.display())), "{error}");
    LinuxMounts.unmount(&within).unwrap();
    LinuxMounts.unmount(&target).unwrap();
}

#[test]
#[ignore = "needs root"]
fn privileged_a_refusal_names_the_option_and_contains_the_kernels_log() {
    let request = Request { params: vec![Param::Text("size", "many".to_owned())], ..tmpfs() };
    let text = LinuxMounts.create(&request).unwrap_err().to_string();
    assert!(text.contains("size=many") && text.contains("EINVAL"), "{text}");
    assert!(text.contains("the kernel says: tmpfs: Bad value for 'size'"), "{text}");
}

#[test]
#[ignore = "needs root"]
fn privileged_an_option_that_takes_no_descriptor_is_a_missing_feature() {
    let root = Arc::new(LinuxMounts.open_dir(Path::new("/")).unwrap());
    let request = Request { params: vec![Param::Tree("size", root)], ..tmpfs() };
    let error = LinuxMounts.create(&request).unwrap_err();
    assert!(matches!(error, MountError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("6.13"), "{error}");
}

#[test]
#[ignore = "needs root"]
fn privileged_a_tmpfs_is_limited_to_its_size() {
    let dir = TestDir::new();
    let target = dir.dir("target");
    let memory = super::tmpfs("ovl-test", Some(64 << 10), Some(4));
    LinuxMounts.attach(LinuxMounts.create(&memory).unwrap(), &target).unwrap();
    let full = fs::write(target.join("file"), [1; 65 << 10]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let space = crate::sys::statfs::of(&target).unwrap();
    assert_eq!((space.kind(), space.total, space.inodes), (Some("tmpfs"), 64 << 10, 4));
}
