//! A directory with stores, and what a test needs of it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::unmount::unmount_below;

pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let root = std::env::temp_dir().canonicalize().unwrap();
        Self(TempDir::with_prefix_in("ovl-images-", root).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `ovl` with one of the stores of the test.
    pub(crate) fn command(&self, store: &str, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovl"));
        command.args(words).env("OVL_ROOT", self.path(store)).env("HOME", self.0.path());
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// What `ovl` prints to its standard output, and to its standard error. It must succeed.
    pub(crate) fn ovl_said(&self, store: &str, words: &[&str]) -> (String, String) {
        let done = self.command(store, words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {done:?}");
        let text = |bytes| String::from_utf8(bytes).unwrap().trim_end().to_owned();
        (text(done.stdout), text(done.stderr))
    }

    pub(crate) fn ovl(&self, store: &str, words: &[&str]) -> String {
        self.ovl_said(store, words).0
    }

    pub(crate) fn json(&self, store: &str, words: &[&str]) -> serde_json::Value {
        let text = self.ovl(store, &[words, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// What lines of shell print in the directory of the test.
    pub(crate) fn sh(&self, lines: &str) -> String {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", lines]).current_dir(self.0.path());
        let done = shell.stdin(Stdio::null()).env("HOME", self.0.path()).output().unwrap();
        assert!(done.status.success(), "{lines}: {done:?}");
        String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
    }

    /// Everything about a tree: path, type, mode, owner, size, mtime, attributes, content and hard links. Without the root, whose
    /// mtime a mount changes, and whose mode podman sets.
    pub(crate) fn tree(&self, root: &Path) -> String {
        let script = r#"cd "$ROOT"
            find . -mindepth 1 \( -type d -printf '%p %y %m %U:%G %T@\n' \) -o -printf '%p %y %m %U:%G %s %T@ %n %l\n' | sort
            find . \( -type b -o -type c \) -exec stat -c '%n %t:%T' {} + | sort
            getfattr --absolute-names -Rhd -m '^(user|security\.capability|trusted\.mine)' -e hex . 2>&1
            find . -type f -exec sha256sum {} + | sort
            find . -type f -links +1 -printf '%i %p\n' | sort -k2 | awk '{ if (!($1 in n)) n[$1] = $2; print n[$1], $2 }'"#;
        self.sh(&format!("ROOT={}\n{script}", root.display()))
    }

    /// The tree of an image of a store.
    pub(crate) fn tree_of(&self, store: &str, image: &str) -> String {
        self.ovl(store, &["create", "looked-at", image]);
        let tree = self.tree_of_workspace(store, "looked-at");
        self.ovl(store, &["scrub", "looked-at"]);
        tree
    }

    pub(crate) fn tree_of_workspace(&self, store: &str, name: &str) -> String {
        let at = PathBuf::from(self.ovl(store, &["mount", name]));
        let tree = self.tree(&at);
        self.ovl(store, &["umount", name]);
        tree
    }

    /// The ChainID of the stack with most layers.
    pub(crate) fn chain(&self, store: &str, name: &str) -> String {
        let all = self.json(store, &["layer", "ls"]);
        let has = |chain: &&serde_json::Value| {
            chain["names"].as_array().unwrap().iter().any(|known| known == name)
        };
        let all = all.as_array().unwrap();
        let found = all.iter().find(has).unwrap_or_else(|| panic!("{name} is not in {all:#?}"));
        found["chainID"].as_str().unwrap().to_owned()
    }

    /// Makes two layers with all types of entries, as the images `base` in the store `store`. GNU tar writes them.
    pub(crate) fn image(&self, store: &str) -> String {
        self.sh(
            r#"mkdir -p one/etc/deep one/dev two/etc two/gone two/srv
            printf 'a\0b' > one/etc/file; chown 1000:2000 one/etc/file; chmod 4755 one/etc/file
            ln one/etc/file one/etc/second; ln -s ../etc/file one/etc/link
            setfattr -n user.colour -v red one/etc/file; touch -d @1500000000.123456789 one/etc/file
            truncate -s 3M one/etc/holes; printf end >> one/etc/holes
            mkfifo one/dev/pipe; mknod one/dev/null c 1 3; mknod one/dev/disk b 7 5
            mkdir one/gone; echo x > one/gone/x; echo old > one/etc/old; echo y > one/etc/deep/y
            chmod 1777 one/etc/deep; touch -d @1400000000 one/etc/deep one/etc
            echo new > two/etc/new; touch two/etc/.wh.old two/gone/.wh..wh..opq; echo z > two/gone/z
            cp one/etc/file two/srv/copy; setfattr -n user.other -v 1 two/srv
            head -c 300000 /dev/urandom > two/srv/random; touch -d @5 two/srv/random
            for layer in one two; do tar --create --file $layer.tar --xattrs --format=pax --directory $layer .; done"#,
        );
        let first = self.ovl(store, &["layer", "apply", "none", "one.tar"]);
        self.ovl(store, &["layer", "apply", &first, "two.tar"])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        unmount_below(self.0.path());
    }
}
