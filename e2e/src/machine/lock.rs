//! The lock that admits one run of the harness at a time: two runs would share cluster names, the engine and the cache.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The machine's lock file. It stays after a run.
const LOCK: &str = "/run/lock/ovl-csi-e2e.lock";

/// Longer than a run that must build everything.
const LONGEST_RUN: Duration = Duration::from_secs(2 * 3600);

/// Time between two attempts to take the lock.
const POLL: Duration = Duration::from_secs(1);

/// The lock. A drop releases it.
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock. Waits for the run that has it, and passes its name to `waiting`.
    ///
    /// # Errors
    /// The lock file cannot be opened or written, or a run has the lock for longer than
    /// [`LONGEST_RUN`].
    pub fn take(waiting: impl FnOnce(&str)) -> Result<Self> {
        let path = Path::new(LOCK);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
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

/// Polls, because a blocking call has no timeout.
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
