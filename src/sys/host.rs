//! What kernel and machine this is.
//!
//! Deliberately absent: conclusions from a release number; distributions add and remove features, so those are tried.

use std::fs;

use rustix::system::uname;

/// The kernel's release: `6.18.2`.
pub fn release() -> String {
    uname().release().to_string_lossy().into_owned()
}

/// The architecture: `x86_64`.
pub fn architecture() -> String {
    uname().machine().to_string_lossy().into_owned()
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether SELinux is on: only then does the kernel have its file system, whether or not it is mounted where we see it.
pub fn selinux() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|types| {
        types.lines().any(|line| line.split_whitespace().last() == Some("selinuxfs"))
    })
}

/// How many user namespaces a user may have; `None` where the kernel has none at all.
pub fn user_namespaces() -> Option<u64> {
    fs::read_to_string("/proc/sys/user/max_user_namespaces").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel() {
        assert!(release().starts_with(|c: char| c.is_ascii_digit()), "{}", release());
        assert!(!architecture().is_empty());
    }
}
