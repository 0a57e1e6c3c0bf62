//! The merged tree as a plain directory.

use super::{super::ExportError, *};
use crate::workspaces::export::export;

/// The names of each file that has several.
pub(super) fn links(dir: &Path) -> Vec<Vec<Vec<u8>>> {
    let mut files = BTreeMap::<u64, Vec<Vec<u8>>>::new();
    for path in tree(dir).into_keys() {
        let at = dir.join(std::ffi::OsStr::from_bytes(&path));
        let metadata = fs::symlink_metadata(at).unwrap();
        if !metadata.is_dir() {
            files.entry(metadata.ino()).or_default().push(path);
        }
    }
    let mut found: Vec<_> = files.into_values().filter(|names| names.len() > 1).collect();
    found.sort();
    found
}

fn assert_exported(copy: &Copy, to: &Path) {
    assert_eq!(tree(to), tree(&copy.merged));
    assert_eq!(links(to), links(&copy.merged));
    for path in tree(&copy.merged).into_keys() {
        let mtime = |root: &Path| {
            let at = root.join(std::ffi::OsStr::from_bytes(&path));
            let metadata = fs::symlink_metadata(at).unwrap();
            (metadata.mtime(), metadata.mtime_nsec())
        };
        assert_eq!(mtime(to), mtime(&copy.merged), "{}", path.escape_ascii());
    }
}

#[test]
fn a_tree_is_exported_with_links_holes_and_times() {
    let copy = Copy::plain(|_| {});
    shell(
        &copy.merged,
        "mkdir -p a/b c; echo 1 > a/f; ln a/f c/g; ln a/f z; ln -s a/f link; mkfifo pipe; chmod 4711 z; \
         truncate -s 4M holes; echo end >> holes; setfattr -n user.colour -v red a; \
         touch -d 2001-02-03 a/b a c; chmod 1777 c; touch -hd 2002-02-02 link; chmod 500 .",
    );
    let to = copy.dir.with_file_name("to");
    export(&copy.after(), None, &to, &|| false).unwrap();
    assert_exported(&copy, &to);
    assert_eq!(links(&to).len(), 1);
    let holes = fs::metadata(to.join("holes")).unwrap();
    assert!(holes.blocks() * 512 < 1 << 20, "{} blocks", holes.blocks());
    // An empty directory is used, and no other.
    let empty = copy.dir.with_file_name("empty");
    fs::create_dir(&empty).unwrap();
    export(&copy.after(), None, &empty, &|| false).unwrap();
    assert_exported(&copy, &empty);
    let again = export(&copy.after(), None, &to, &|| false);
    assert!(matches!(&again, Err(ExportError::NotEmpty(dir)) if *dir == to), "{again:?}");
    let nowhere = export(&copy.after(), None, &to.join("none/x"), &|| false).unwrap_err();
    assert!(nowhere.to_string().contains("none/x"), "{nowhere}");
    let stopped = export(&copy.after(), None, &copy.dir.with_file_name("stopped"), &|| true);
    assert!(matches!(stopped, Err(ExportError::Stopped)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[ignore = "needs root"]
    fn privileged_random_copies_are_exported(
        base in prop::collection::vec(work(), 0..15),
        works in prop::collection::vec(work(), 0..25),
    ) {
        let copy = worked_in(base, &works);
        let (to, layers) = (copy.dir.with_file_name("to"), copy.layers());
        export(&copy.after(), layers.last(), &to, &|| false).unwrap();
        assert_exported(&copy, &to);
    }
}
