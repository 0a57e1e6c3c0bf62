//! What the process may have of the machine.
//!
//! Deliberately absent: any limit that only another user or a cgroup can raise.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::disable_transparent_huge_pages;

/// Takes as many open files as the system allows this process; each layer in use holds one for as long as it runs.
/// Answers how many that are; `None` for no limit.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum)
}

/// How many open files this process may have at most; `None` for no limit.
pub fn open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Has the kernel give this process no memory by 2 MiB at a time (prctl(2), PR_SET_THP_DISABLE). A thread that waits for a disk
/// uses some tens of KiB, and a hundred of them would hold a hundred such pages.
pub fn refuse_huge_pages() -> io::Result<()> {
    Ok(disable_transparent_huge_pages(true)?)
}

#[cfg(test)]
mod tests {
    use rustix::thread::transparent_huge_pages_are_disabled;

    use super::*;

    #[test]
    fn memory_comes_by_small_pages() {
        refuse_huge_pages().unwrap();
        assert!(transparent_huge_pages_are_disabled().unwrap());
    }

    #[test]
    fn all_that_is_allowed_is_taken() {
        let most = raise_open_files().unwrap();
        assert_eq!((getrlimit(Resource::Nofile).current, open_files()), (most, most));
    }
}
