//! Directories that need no overlay are packed.

use std::{
    fs,
    io::{self, Write},
    os::unix::{ffi::OsStrExt as _, fs::symlink, net::UnixListener},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::*;
use crate::{
    changeset::testing::unpack_with,
    changeset::{Limits, UnpackError, Unpacked},
    erofs::test_reader::{Content, Read},
    sys::test_dir::TestDir,
};

fn unpack(out: &[u8]) -> (Unpacked, Read) {
    unpack_with(out, &Limits::default()).unwrap()
}

fn at<'r>(read: &'r Read, path: &str) -> &'r crate::erofs::test_reader::Found {
    read.names.get(path.as_bytes()).unwrap_or_else(|| panic!("{path} is missing"))
}

/// A directory with everything that can be made without root.
fn everything(scratch: &TestDir) -> PathBuf {
    let root = scratch.dir("all");
    let long = "n".repeat(255);
    scratch.dir(&format!("all/{long}/{long}/deep"));
    fs::write(root.join(format!("{long}/{long}/deep/file")), "deep").unwrap();
    fs::write(root.join("file"), vec![7; 300_000]).unwrap();
    give(&root.join("file"), 0o4755, (1_700_000_000, 123_456_789), &[("user.colour", b"gr\0\n=n")]);
    fs::hard_link(root.join("file"), root.join("second")).unwrap();
    fs::write(root.join("old"), "").unwrap();
    give(&root.join("old"), 0o600, (-2, 500_000_000), &[]);
    symlink("file", root.join("link")).unwrap();
    symlink(format!("/{}", "t/".repeat(150)), root.join("long-link")).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"odd \xff\n\\name")), "odd").unwrap();
    assert!(Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
    // A socket is left out, because no process listens on it any more.
    drop(UnixListener::bind(root.join("socket")).unwrap());
    root
}

#[test]
fn a_packed_tree_is_unpacked_unchanged() {
    let scratch = TestDir::new();
    let root = everything(&scratch);
    for format in [Format::Portable, Format::Native] {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let (packed, out) = pack_dir(&root, &packing(format, compression)).unwrap();
            let (unpacked, read) = unpack(&out);
            assert_eq!((unpacked.diff_id, unpacked.tar_bytes), (packed.diff_id, packed.tar_bytes));
            assert_eq!(unpacked.entries, packed.entries);
            let file = at(&read, "file");
            assert_eq!((file.mode & 0o7777, file.nlink), (0o4755, 2));
            assert_eq!(file.content, Content::File(vec![7; 300_000]));
            assert_eq!(file.mtime, (1_700_000_000, 123_456_789));
            assert_eq!(file.xattrs[&b"user.colour"[..]], b"gr\0\n=n");
            assert_eq!(at(&read, "old").mtime, (-2, 500_000_000));
            assert_eq!(at(&read, "link").content, Content::Symlink(b"file".to_vec()));
            let far = format!("/{}", "t/".repeat(150)).into_bytes();
            assert_eq!(at(&read, "long-link").content, Content::Symlink(far));
            assert!(read.names.contains_key(&b"odd \xff\n\\name"[..]));
            let long = "n".repeat(255);
            let deep = at(&read, &format!("{long}/{long}/deep/file"));
            assert_eq!(deep.content, Content::File(b"deep".to_vec()));
            assert_eq!(at(&read, "pipe").mode & 0o170_000, 0o010_000);
        }
    }
}

#[test]
fn a_tree_that_hides_everything_below_is_packed_as_such() {
    let scratch = TestDir::new();
    let root = scratch.dir("root");
    scratch.dir("root/sub");
    fs::write(root.join("sub/file"), "text").unwrap();
    for hides_below in [false, true] {
        let (_, out) = pack_dir(&root, &PackOptions { hides_below, ..PORTABLE }).unwrap();
        let (unpacked, read) = unpack(&out);
        assert_eq!(unpacked.opaque_root, hides_below);
        assert_eq!(at(&read, "sub/file").content, Content::File(b"text".to_vec()));
    }
}

#[test]
fn equal_trees_give_equal_bytes() {
    let scratch = TestDir::new();
    let root = everything(&scratch);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let once = pack_dir(&root, &packing(Format::Portable, compression)).unwrap();
        let twice = pack_dir(&root, &packing(Format::Portable, compression)).unwrap();
        assert!(once == twice, "{compression:?}");
    }
    let clamped = PackOptions { clamp: Some(1_000), ..PORTABLE };
    let (_, read) = unpack(&pack_dir(&root, &clamped).unwrap().1);
    assert_eq!(at(&read, "file").mtime, (1_000, 0));
    assert_eq!(at(&read, "old").mtime, (-2, 500_000_000));
}

#[test]
fn gnu_tar_reads_packed_layers() {
    let scratch = TestDir::new();
    let root = everything(&scratch);
    let holes = fs::File::create(root.join("holes")).unwrap();
    holes.set_len(3 << 20).unwrap();
    (&holes).write_all(b"begin").unwrap();
    for format in [Format::Portable, Format::Native] {
        // Making a device needs root. In a native layer it stands for the socket.
        fs::remove_file(root.join("socket")).unwrap_or_default();
        let (packed, out) = pack_dir(&root, &packing(format, Compression::Zstd)).unwrap();
        let tar = scratch.file("layer.tar.zst", &out);
        let listed = Command::new("tar").arg("--zstd").arg("-tf").arg(&tar).output().unwrap();
        // GNU tar reports the keyword that it does not know.
        let output = String::from_utf8_lossy(&listed.stderr).into_owned();
        assert!(output.lines().all(|line| line.ends_with("keyword 'OVL.data'")), "{output}");
        assert!(listed.status.success(), "{listed:?}");
        let lines = listed.stdout.split(|b| *b == b'\n').filter(|line| !line.is_empty()).count();
        assert_eq!(lines as u64, packed.entries);
        let to = scratch.dir(&format!("out-{format:?}"));
        let mut tool = Command::new("tar");
        tool.args(["--zstd", "--xattrs", "--xattrs-include=user.*", "-xpf"]).arg(&tar);
        let done = tool.arg("-C").arg(&to).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let mut diff = Command::new("diff");
        let same = diff.args(["-r", "--no-dereference"]).arg(&root).arg(&to).output().unwrap();
        // GNU tar reports of pipes on both sides that they are pipes.
        let output = String::from_utf8_lossy(&same.stdout).into_owned();
        assert!(output.lines().all(|line| line.contains("is a fifo")), "{output}");
        // What GNU tar unpacks is packed into the same layer again.
        if format == Format::Portable {
            assert_eq!(pack_dir(&to, &PORTABLE).unwrap().0.entries, packed.entries);
        }
    }
}

#[test]
fn holes_are_kept() {
    let scratch = TestDir::new();
    let root = scratch.dir("sparse");
    let file = fs::File::create(root.join("disk")).unwrap();
    file.set_len(100 << 20).unwrap();
    for at in [0, 50 << 20] {
        io::Seek::seek(&mut &file, io::SeekFrom::Start(at)).unwrap();
        (&file).write_all(&[1; 5_000]).unwrap();
    }
    fs::File::create(root.join("empty")).unwrap().set_len(100 << 20).unwrap();
    for (format, most) in [(Format::Portable, 201 << 20), (Format::Native, 1 << 20)] {
        let packing = packing(format, Compression::Zstd);
        let (packed, out) = pack_dir(&root, &packing).unwrap();
        assert!(packed.tar_bytes < most, "{format:?}: {}", packed.tar_bytes);
        let image = tempfile::tempfile().unwrap();
        let unpacked = crate::changeset::layer_to_erofs(&*out, [7; 16], &image, &Limits::default());
        let unpacked = unpacked.unwrap();
        assert!(unpacked.image_bytes < 16 << 20, "{format:?}: {}", unpacked.image_bytes);
        assert_eq!(unpacked.diff_id, packed.diff_id);
    }
}

#[test]
fn written_zeros_are_packed_as_holes() {
    let scratch = TestDir::new();
    let root = scratch.dir("zeros");
    let mut content = vec![0; 200 << 20];
    fs::write(root.join("all"), &content).unwrap();
    content.truncate(1 << 20);
    content[70_000] = 1;
    content[900_000] = 2;
    fs::write(root.join("some"), &content).unwrap();
    for format in [Format::Portable, Format::Native] {
        let (packed, out) = pack_dir(&root, &packing(format, Compression::Zstd)).unwrap();
        let (unpacked, read) = unpack(&out);
        assert_eq!(unpacked.diff_id, packed.diff_id);
        assert!(unpacked.image_bytes < 1 << 20, "{}", unpacked.image_bytes);
        assert!(at(&read, "some").content == Content::File(content.clone()), "{format:?}");
        let Content::File(all) = &at(&read, "all").content else { panic!("no file") };
        assert!(all.len() == 200 << 20 && all.iter().all(|byte| *byte == 0), "{format:?}");
    }
}

#[test]
fn a_tree_that_no_reader_accepts_is_not_packed() {
    let scratch = TestDir::new();
    let root = scratch.dir("much");
    fs::write(root.join("file"), "same line\n".repeat(50_000)).unwrap();
    fs::write(root.join("small"), "").unwrap();
    give(&root.join("small"), 0o600, (1, 0), &[("user.a", &[7; 300])]);
    let tree = LinuxMounts.open_dir(&root).unwrap();
    let packs = |limits: &Limits| {
        let (packing, mut out) = (packing(Format::Portable, Compression::Zstd), Vec::new());
        let packed = pack(&[&tree], &tree, &packing, limits, &mut out);
        packed.map(|packed| (packed, out))
    };
    let (packed, out) = packs(&Limits::default()).unwrap();
    let some = Limits::default();
    for (limits, fits, words) in [
        (Limits { tar_bytes: packed.tar_bytes - 1, ..some.clone() }, false, "larger than"),
        (Limits { tar_bytes: 499_999, ..some.clone() }, false, "has 488.2 KiB"),
        (Limits { tar_bytes: packed.tar_bytes, ..some.clone() }, true, ""),
        // All but the root.
        (
            Limits { entries: packed.entries - 2, ..some.clone() },
            false,
            "files and directories, and no node",
        ),
        (Limits { entries: packed.entries - 1, ..some.clone() }, true, ""),
        (Limits { xattr_bytes: 305, ..some.clone() }, false, "take 306 bytes, and 305"),
        (Limits { xattr_bytes: 306, ..some.clone() }, true, ""),
    ] {
        let read = unpack_with(&*out, &limits);
        assert_eq!(read.is_ok(), fits, "{limits:?}");
        match packs(&limits) {
            Ok(_) => assert!(fits, "{limits:?}"),
            Err(error) => {
                assert_eq!(error.class(), crate::error::Class::Precondition);
                assert!(!fits && error.to_string().contains(words), "{error}");
            }
        }
    }
}

#[test]
fn a_name_that_hides_others_is_packed_in_a_native_layer_only() {
    let scratch = TestDir::new();
    for name in [".wh.x", ".wh..wh..opq", ".wh."] {
        let root = scratch.dir("reserved");
        scratch.file(&format!("reserved/{name}"), "content");
        let error = pack_dir(&root, &PORTABLE).unwrap_err();
        assert!(matches!(error, PackError::Reserved(_)), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.to_string().contains("format: native"), "{error}");
        let (_, out) = pack_dir(&root, &NATIVE).unwrap();
        let image = tempfile::tempfile().unwrap();
        let limits = Limits::default();
        let native = crate::changeset::native_to_erofs;
        native(out.as_slice(), [7; 16], &image, &limits).unwrap();
        let image = crate::erofs::Image::open(&image).unwrap();
        let found = image.inode(image.root()).unwrap();
        let mut names = Vec::new();
        let found = image.dir(&found, |name, _| {
            names.push(name.to_vec());
            Ok(())
        });
        found.unwrap();
        assert_eq!(names, [name.as_bytes()]);
        fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn a_name_that_no_tar_can_hold_is_refused_with_its_path() {
    let scratch = TestDir::new();
    let root = scratch.dir("odd");
    scratch.file("odd/file", "");
    give(&root.join("file"), 0o644, (0, 0), &[("user.a=b", b"")]);
    let error = pack_dir(&root, &PORTABLE).unwrap_err();
    assert!(matches!(error, PackError::Xattr { .. }), "{error}");
    assert!(error.to_string().contains("\"file\"") && error.to_string().contains("user.a=b"));
    let deep = scratch.dir("deep");
    fs::create_dir_all(deep.join("d/".repeat(256))).unwrap();
    pack_dir(&deep, &PORTABLE).unwrap();
    fs::create_dir(deep.join("d/".repeat(257))).unwrap();
    for packing in [PORTABLE, NATIVE] {
        let error = pack_dir(&deep, &packing).unwrap_err();
        assert!(matches!(error, PackError::Deep(_)), "{error}");
    }
    let trees = [&LinuxMounts.open_dir(&root).unwrap(), &LinuxMounts.open_dir(&deep).unwrap()];
    let error = pack(&trees, trees[0], &NATIVE, &Limits::default(), &mut io::sink()).unwrap_err();
    assert!(matches!(error, PackError::Several(2)), "{error}");
}

#[test]
fn a_failing_output_ends_the_packing() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let scratch = TestDir::new();
    let root = scratch.dir("large");
    fs::write(root.join("file"), vec![3; 8 << 20]).unwrap();
    let tree = LinuxMounts.open_dir(&root).unwrap();
    for space in [0, 100, 3 << 20] {
        let error =
            pack(&[&tree], &tree, &PORTABLE, &Limits::default(), &mut Full(space)).unwrap_err();
        assert!(matches!(error, PackError::Output(_)), "{error}");
        assert_eq!(error.class(), crate::error::Class::Exhausted);
    }
}

#[test]
fn a_wrong_map_of_holes_is_refused() {
    use crate::changeset::testing::{Tar, unpack};
    let file = |map: &str, content: &[u8]| {
        let tar = Tar::new().pax(&[("OVL.data", map.as_bytes())]).file("file", content);
        unpack(&tar.end())
    };
    let content = [&[0; 100][..], &[5; 50], &[0; 850]].concat();
    for map in ["100,50", "0,1000", "90,100", "100,20,120,30", "100,50,1000,0"] {
        let (_, read) = file(map, &content).unwrap();
        assert_eq!(at(&read, "file").content, Content::File(content.clone()), "{map}");
    }
    assert_eq!(at(&file("", &[0; 10]).unwrap().1, "file").content, Content::File(vec![0; 10]));
    for map in [
        "",
        "100,49",
        "101,49",
        "120,30,100,20",
        "100",
        "900,101",
        "a,b",
        "0,18446744073709551615,1,1",
    ] {
        let error = file(map, &content).unwrap_err();
        assert!(matches!(error, UnpackError::Entry { .. }), "{map}: {error}");
    }
    let dir = Tar::new().pax(&[("OVL.data", b"")]).dir("directory");
    assert!(unpack(&dir.end()).is_err());
}

#[test]
fn the_error_for_an_unreadable_tree_names_its_path() {
    let scratch = TestDir::new();
    let (own, merged) = (scratch.dir("own"), scratch.dir("merged"));
    scratch.file("own/file", "");
    let open = |path| LinuxMounts.open_dir(path).unwrap();
    let error =
        pack(&[&open(&own)], &open(&merged), &PORTABLE, &Limits::default(), &mut io::sink())
            .unwrap_err();
    assert!(matches!(error, PackError::Unseen(_)), "{error}");
    assert!(error.to_string().contains("\"file\""), "{error}");
}

/// In a container the system's directory for temporary files may be small, or read-only.
#[test]
fn the_names_of_a_large_directory_spill_where_the_caller_says() {
    let (tree, spilled) = (TestDir::new(), TestDir::new());
    let deep = tree.dir("a/b/c/d/e/f/g");
    for n in 0..400 {
        fs::write(deep.join(format!("{n:0200}")), "").unwrap();
    }
    let (empty, upper) = (TestDir::new(), LinuxMounts.open_dir(tree.path()).unwrap());
    let empty = LinuxMounts.open_dir(empty.path()).unwrap();
    let count = |scratch| {
        let (limits, mut found) = (Limits { scratch, ..Limits::default() }, 0);
        let layers = vec![crate::sys::tree_reader::Entry::root(&upper).unwrap()];
        let (first, second) = (&empty, &upper);
        let comparison = Comparison { first, second, layers, hides_all: false, times: false };
        compare(comparison, &limits, &|| false, &mut |_| found += 1).map(|()| found)
    };
    let asked = Arc::<AtomicU64>::default();
    let asking = asked.clone();
    let scratch = crate::spill::Scratch::new(spilled.path()).with_limit(move |bytes| {
        asking.fetch_add(bytes, Relaxed);
        Ok(())
    });
    assert_eq!(count(scratch).unwrap(), 7 + 400);
    assert!(asked.load(Relaxed) > 400 * 200);
    let nowhere = crate::spill::Scratch::new(spilled.path().join("absent"));
    let error = count(nowhere).unwrap_err();
    assert!(error.to_string().contains("/absent"), "{error}");
}
