//! Where everything that is slow to make is kept, outside any clone.
//!
//! ```text
//! <root>/                $OVL_CACHE, else $XDG_CACHE_HOME/ovl-csi, else ~/.cache/ovl-csi
//!   products/<name>-<version>-<hash of the recipe>/    made aside, committed by rename
//!   tmp/                                               work in progress, emptied by the next run
//!   logs/<step>.log                                    the last run of each step
//!   go/ go-build/                                      GOPATH and GOCACHE
//!   target/                                            the driver's CARGO_TARGET_DIR
//!   docker/                                            data of the engine, if it is ours
//! ```
//!
//! One lock file for the machine (`/run/lock/ovl-csi-e2e.lock`) admits one run at a time: two
//! would share cluster names and the engine as well as this folder.
//! Deliberately absent: expiry. A changed recipe makes a new folder, `clean --cache` drops all.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

/// The machine's lock file; it stays, empty, after a run.
const LOCK: &str = "/run/lock/ovl-csi-e2e.lock";

/// Longer than a run takes that has everything to build.
const LONGEST_RUN: Duration = Duration::from_secs(2 * 3600);

/// How often a held lock is tried.
const POLL: Duration = Duration::from_secs(1);

/// The cache's root folder.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// What identifies a product: another name, version or input makes another folder.
pub struct Recipe<'a> {
    /// What it is, as in a file name.
    pub name: &'a str,
    /// The version it is of.
    pub version: &'a str,
    /// Everything else that decides its bytes.
    pub inputs: &'a [&'a str],
}

impl Recipe<'_> {
    /// The product's folder name. Inputs are hashed with their lengths, so that moving text from
    /// one to the next is a change.
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
    /// Finds and makes the root.
    ///
    /// # Errors
    /// None of the three variables is set, or the folder cannot be made.
    pub fn open() -> Result<Self> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let found = root(var("OVL_CACHE"), var("XDG_CACHE_HOME"), var("HOME"));
        let root = found.context("no place for the cache: set OVL_CACHE to a folder")?;
        for part in ["products", "tmp", "logs"] {
            let dir = root.join(part);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(Self { root })
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where steps write their logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// `CARGO_TARGET_DIR` for builds of the driver: a fresh clone finds its dependencies built.
    pub fn cargo_target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// The product of a recipe, made first unless it is there. `make` fills an empty folder
    /// aside, which is renamed into place when it is complete: no half of a product is ever seen.
    ///
    /// # Errors
    /// What `make` returns, or a folder that cannot be made or renamed.
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

    /// The product's folder if it is there.
    pub fn have(&self, recipe: &Recipe<'_>) -> Option<PathBuf> {
        Some(self.root.join("products").join(recipe.key())).filter(|place| place.is_dir())
    }

    /// An empty folder for work in progress, gone with the next run at the latest.
    ///
    /// # Errors
    /// It cannot be emptied or made.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join("tmp").join(format!("{name}.{}", std::process::id()));
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("emptying {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    /// Throws away what an interrupted run left half made. Only for the holder of the [`Lock`].
    ///
    /// # Errors
    /// Something in it cannot be removed.
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

/// The right to be the one run on this machine; let go when dropped.
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock, waiting for the run that has it; `waiting` is told who that is.
    ///
    /// # Errors
    /// The lock file cannot be opened or written, or a run has it for longer than one may take.
    pub fn take(waiting: impl FnOnce(&str)) -> Result<Self> {
        let path = Path::new(LOCK);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.with_context(|| format!("opening the lock {LOCK}"))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, Errno::EWOULDBLOCK)) => {
                let holder = fs::read_to_string(path).unwrap_or_default();
                waiting(&format!("waiting for {LOCK}, held by {}", holder.trim()));
                wait(file)?
            }
            Err((_, errno)) => bail!("locking {LOCK}: {errno}"),
        };
        let me = format!("process {} ({})\n", std::process::id(), command_line());
        let written = file.set_len(0).and_then(|()| file.rewind());
        written.and_then(|()| file.write_all(me.as_bytes())).context("signing the lock file")?;
        Ok(Self { _file: file })
    }
}

/// Tries again and again, because a call that waits could not give up.
fn wait(mut file: File) -> Result<Flock<File>> {
    let since = Instant::now();
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => bail!("locking {LOCK}: {errno}"),
        };
        if since.elapsed() > LONGEST_RUN {
            let holder = fs::read_to_string(LOCK).unwrap_or_default();
            let minutes = LONGEST_RUN.as_secs() / 60;
            bail!("waited {minutes} min for {LOCK}, now held by {}: is it stuck?", holder.trim());
        }
        thread::sleep(POLL);
    }
}

fn command_line() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo xtask {}", args.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(failed.is_err() && cache.have(&recipe).is_none());
        let made = cache.product(&recipe, |dir| Ok(fs::write(dir.join("whole"), "")?))?;
        assert!(made.join("whole").exists() && !made.join("half").exists());
        fs::remove_dir_all(root)?;
        Ok(())
    }
}
