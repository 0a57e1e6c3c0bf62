//! Resource limits of this process.
//!
//! Deliberately absent: limits that only another user or a cgroup can raise.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::disable_transparent_huge_pages;

/// Raises the soft limit of open files to the hard limit. Each layer in use needs one open file.
///
/// Returns the new limit, `None` for no limit.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum)
}

/// The hard limit of open files of this process. `None` for no limit.
pub fn open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Turns off transparent huge pages of 2 MiB for this process (prctl(2), PR_SET_THP_DISABLE).
///
/// A thread that waits for a disk uses some tens of KiB. With huge pages, a hundred of them could hold a hundred pages
/// of 2 MiB.
pub fn refuse_huge_pages() -> io::Result<()> {
    Ok(disable_transparent_huge_pages(true)?)
}

#[cfg(test)]
mod tests {
    use rustix::thread::transparent_huge_pages_are_disabled;

    use super::*;

    #[test]
    fn huge_pages_are_turned_off() {
        refuse_huge_pages().unwrap();
        assert!(transparent_huge_pages_are_disabled().unwrap());
    }

    #[test]
    fn the_limit_of_open_files_is_raised_to_the_hard_limit() {
        let limit = raise_open_files().unwrap();
        assert_eq!((getrlimit(Resource::Nofile).current, open_files()), (limit, limit));
    }
}
