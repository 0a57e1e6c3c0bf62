//! Patches are applied by the real `git`.

use super::{super::patch, *};

fn written(copy: &Copy, paths: &[&str]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
    let mut out = Vec::new();
    let (before, after) = (copy.before(), copy.after());
    patch(&before, &after, &copy.changes(), &paths, &mut out, &|| false).unwrap();
    String::from_utf8_lossy(&out).into_owned()
}

/// Applies a patch in the original.
fn git_apply(copy: &Copy, patch: &str) {
    let path = copy.dir.with_file_name("patch");
    fs::write(&path, patch).unwrap();
    let done = Command::new("git")
        .args(["apply", "--whitespace=nowarn"])
        .arg(&path)
        .env("GIT_CEILING_DIRECTORIES", copy.dir.parent().unwrap())
        .current_dir(&copy.dir)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}\n{patch}");
}

/// The files as git sees them: links with their targets, files with content and the executable bit.
fn files(dir: &Path) -> BTreeMap<Vec<u8>, (bool, Vec<u8>)> {
    let mut files = BTreeMap::new();
    for path in tree(dir).into_keys() {
        let at = dir.join(std::ffi::OsStr::from_bytes(&path));
        let metadata = fs::symlink_metadata(&at).unwrap();
        if metadata.is_symlink() {
            let target = fs::read_link(&at).unwrap().into_os_string();
            files.insert(path, (false, target.as_bytes().to_vec()));
        } else if metadata.is_file() {
            files.insert(path, (metadata.mode() & 0o100 != 0, fs::read(&at).unwrap()));
        }
    }
    files
}

#[test]
fn git_applies_a_patch_of_every_kind() {
    let copy = Copy::plain(|dir| {
        shell(
            dir,
            "seq 1 60 > long; seq 1 5 > mode; printf 'no end' > end; echo 1 > gone; : > empty; \
             mkdir -p d/sub; echo 2 > d/f; echo 3 > d/sub/g; ln -s d/f link; echo 4 > 'to link'; \
             ln -s x back; echo 5 > 'a b'; mkdir swap; echo 6 > swap/in; echo 7 > other; printf '\\0' > bin; echo 8 > only-mode",
        );
    });
    shell(
        &copy.merged,
        "sed -i -e 3s/^/x/ -e 5d -e 40s/$/y/ -e '$a end' long; chmod 755 mode only-mode; echo 6 >> mode; \
         printf 'no end\\nnow' > end; rm gone empty; rm -r d; ln -snf elsewhere link; rm 'to link'; \
         ln -s gone 'to link'; rm back; echo file > back; echo 6 >> 'a b'; rm -r swap; echo 9 > swap; \
         rm other; mkdir other; echo 10 > other/in; : > new-empty; echo ä > $'n\\303\\244me\\n\"q\\\\'; \
         printf '\\0\\0' > bin; mkfifo pipe; touch -d 2001-01-01 d2 ; mkdir .git; echo 1 > .git/HEAD; \
         echo x > exe; chmod 700 exe; head -c 9M /dev/zero > large",
    );
    let patch = written(&copy, &[]);
    for line in [
        "Binary files a/bin and b/bin differ",
        "Large files /dev/null and b/large differ",
        "Special files /dev/null and b/pipe differ",
        "new file mode 100755",
        "deleted file mode 120000",
        "--- a/a b\t",
        "\\ No newline at end of file",
        "diff --git \"a/n\\303\\244me\\n\\\"q\\\\\" \"b/n\\303\\244me\\n\\\"q\\\\\"",
    ] {
        assert!(patch.lines().any(|one| one == line), "{line}\n{patch}");
    }
    assert!(!patch.contains(".git/HEAD"), "{patch}");
    git_apply(&copy, &patch);
    let (mut found, mut expected) = (files(&copy.dir), files(&copy.merged));
    for files in [&mut found, &mut expected] {
        files.retain(|path, _| !matches!(&path[..], b"bin" | b"large" | b".git/HEAD"));
    }
    assert_eq!(found, expected);
}

#[test]
fn a_patch_is_restricted_to_paths() {
    let copy = Copy::plain(|dir| shell(dir, "mkdir d; echo 1 > d/a; echo 2 > d-b; echo 3 > e"));
    shell(&copy.merged, "echo x >> d/a; echo x >> d-b; echo x >> e");
    let patch = written(&copy, &["d", "e"]);
    let names: Vec<_> = patch.lines().filter(|line| line.starts_with("+++")).collect();
    assert_eq!(names, ["+++ b/d/a", "+++ b/e"]);
    assert_eq!(patch.lines().find(|line| line.starts_with("@@")), Some("@@ -1,1 +1,2 @@"));
    git_apply(&copy, &patch);
    assert_eq!(copy.lines().len(), 3, "times differ");
    assert_eq!(fs::read_to_string(copy.dir.join("e")).unwrap(), "3\nx\n");
    assert_eq!(fs::read_to_string(copy.dir.join("d-b")).unwrap(), "2\n");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn git_applies_the_patch_of_random_texts(
        before in prop::collection::vec(prop::sample::select(vec!["a\n", "b\n", "c\n", "\n", "d"]), 0..40),
        after in prop::collection::vec(prop::sample::select(vec!["a\n", "b\n", "c\n", "\n", "d"]), 0..40),
    ) {
        let copy = Copy::plain(|dir| fs::write(dir.join("f"), before.concat()).unwrap());
        fs::write(copy.merged.join("f"), after.concat()).unwrap();
        let patch = written(&copy, &[]);
        if !patch.is_empty() {
            git_apply(&copy, &patch);
        }
        prop_assert_eq!(fs::read_to_string(copy.dir.join("f")).unwrap(), after.concat());
    }
}
