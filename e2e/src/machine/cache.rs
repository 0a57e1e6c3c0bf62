//! The cache of everything that is slow to build. It is outside any clone.
//!
//! ```text
//! <root>/                $OVL_CACHE, else $XDG_CACHE_HOME/ovl-csi, else ~/.cache/ovl-csi
//!   products/<name>-<version>-<hash of the recipe>/    built in tmp/, committed by rename
//!   tmp/                                               temporary files, removed by the next run
//!   logs/<step>.log                                    the last run of each step
//!   go/ go-build/                                      GOPATH and GOCACHE
//!   zig/                                               what zig and cargo-zigbuild keep
//!   target/                                            the driver's CARGO_TARGET_DIR
//!   cross-target/                                      the same of programs that are released
//!   apt/<architecture>/                                package lists of other architectures
//!   docker/                                            data of the engine, if it is ours
//! ```
//!
//! Only the holder of the machine's lock (`lock`) uses it. Deliberately absent: expiry. A changed
//! recipe makes a new directory, and `clean --cache` removes all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The root directory of the cache.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// What identifies a product. Another name, version or input gives another directory.
pub struct Recipe<'a> {
    /// Its name, as in a file name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Everything else that determines its bytes.
    pub inputs: &'a [&'a str],
}

impl Recipe<'_> {
    /// The name of the product's directory. Inputs are hashed with their lengths, so text that
    /// moves from one input to the next changes the hash.
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        for input in [self.name, self.version].iter().chain(self.inputs) {
            hash.update((input.len() as u64).to_le_bytes());
            hash.update(input.as_bytes());
        }
        let short = &hex::encode(hash.finalize())[..12];
        format!("{}-{}-{short}", self.name, self.version)
    }
}

impl Cache {
    /// Finds and creates the root.
    ///
    /// # Errors
    /// None of the three variables is set, or the directory cannot be created.
    pub fn open() -> Result<Self> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let found = root(var("OVL_CACHE"), var("XDG_CACHE_HOME"), var("HOME"));
        let root = found.context("no place for the cache: set OVL_CACHE to a directory")?;
        for part in ["products", "tmp", "logs"] {
            let dir = root.join(part);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(Self { root })
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where steps write their logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// `CARGO_TARGET_DIR` for builds of the driver. A fresh clone finds its dependencies built.
    pub fn cargo_target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// Links to programs, for the `PATH` of a user.
    pub fn programs(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// Where zig and cargo-zigbuild keep what they compile for each target.
    pub fn zig(&self) -> PathBuf {
        self.root.join("zig")
    }

    /// As [`Cache::cargo_target`], of programs that are compiled for other targets and released. They have other flags.
    pub fn cross_target(&self) -> PathBuf {
        self.root.join("cross-target")
    }

    /// The product of a recipe. If it is missing, `make` fills an empty temporary directory, which
    /// is then renamed into place. No incomplete product is ever visible.
    ///
    /// # Errors
    /// The error of `make`, or a directory that cannot be created or renamed.
    pub fn product(
        &self,
        recipe: &Recipe<'_>,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let key = recipe.key();
        let place = self.root.join("products").join(&key);
        if place.is_dir() {
            return Ok(place);
        }
        let aside = self.scratch(&key)?;
        make(&aside)?;
        fs::rename(&aside, &place)
            .with_context(|| format!("moving {} to {}", aside.display(), place.display()))?;
        Ok(place)
    }

    /// The product's directory, if it exists.
    pub fn find(&self, recipe: &Recipe<'_>) -> Option<PathBuf> {
        Some(self.root.join("products").join(recipe.key())).filter(|place| place.is_dir())
    }

    /// An empty directory for temporary files. The next run removes it.
    ///
    /// # Errors
    /// It cannot be emptied or created.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join("tmp").join(format!("{name}.{}", std::process::id()));
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("emptying {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    /// Removes the temporary files of an interrupted run. Only for the holder of the lock.
    ///
    /// # Errors
    /// A file in it cannot be removed.
    pub fn sweep(&self) -> Result<()> {
        let tmp = self.root.join("tmp");
        fs::remove_dir_all(&tmp).with_context(|| format!("removing {}", tmp.display()))?;
        fs::create_dir(&tmp).with_context(|| format!("making {}", tmp.display()))
    }
}

fn root(own: Option<PathBuf>, xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    own.or_else(|| xdg.map(|dir| dir.join("ovl-csi")))
        .or_else(|| home.map(|dir| dir.join(".cache/ovl-csi")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn key(name: &str, version: &str, inputs: &[&str]) -> String {
        Recipe { name, version, inputs }.key()
    }

    #[test]
    fn a_key_names_the_product_and_follows_every_input() {
        let one = key("kind", "v1", &["a", "b"]);
        assert!(one.starts_with("kind-v1-"), "{one}");
        assert_eq!(one, key("kind", "v1", &["a", "b"]));
        for other in [key("kind", "v1", &["ab", ""]), key("kind", "v1", &["a"])] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn the_root_is_ours_then_the_users() {
        let path = |p: &str| Some(PathBuf::from(p));
        assert_eq!(root(path("/o"), path("/x"), path("/h")), path("/o"));
        assert_eq!(root(None, path("/x"), path("/h")), path("/x/ovl-csi"));
        assert_eq!(root(None, None, path("/h")), path("/h/.cache/ovl-csi"));
        assert_eq!(root(None, None, None), None);
    }

    #[test]
    fn a_product_that_failed_is_not_there() -> Result<()> {
        let root = std::env::temp_dir().join(format!("ovl-cache-test-{}", std::process::id()));
        let cache = Cache { root: root.clone() };
        fs::create_dir_all(root.join("products"))?;
        let recipe = Recipe { name: "thing", version: "1", inputs: &[] };
        let failed = cache.product(&recipe, |dir| {
            fs::write(dir.join("half"), "")?;
            bail!("no more")
        });
        assert!(failed.is_err() && cache.find(&recipe).is_none());
        let made = cache.product(&recipe, |dir| Ok(fs::write(dir.join("whole"), "")?))?;
        assert!(made.join("whole").exists() && !made.join("half").exists());
        fs::remove_dir_all(root)?;
        Ok(())
    }
}
