//! Facts about the kernel and the machine.
//!
//! Deliberately absent: conclusions from the kernel release. Distributions add and remove features, so features are
//! probed.

use std::fs;

use rustix::system::uname;

/// The release of the running kernel, such as `6.18.2` (`uname -r`).
pub fn release() -> String {
    uname().release().to_string_lossy().into_owned()
}

/// The machine's architecture, such as `x86_64` (`uname -m`).
pub fn architecture() -> String {
    uname().machine().to_string_lossy().into_owned()
}

/// Whether the effective user of this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether SELinux is on. Only then does the kernel list `selinuxfs`, whether or not this process sees it mounted.
pub fn selinux() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|types| {
        types.lines().any(|line| line.split_whitespace().last() == Some("selinuxfs"))
    })
}

/// The number of user namespaces that a user may have. `None` if the kernel is built without them.
pub fn user_namespaces() -> Option<u64> {
    fs::read_to_string("/proc/sys/user/max_user_namespaces").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_and_architecture_are_read() {
        assert!(release().starts_with(|c: char| c.is_ascii_digit()), "{}", release());
        assert!(!architecture().is_empty());
    }
}
