//! Checks of what distributions set differently.
//!
//! Deliberately absent: checks without which the directory cannot hold a store. These settings decide what programs of
//! normal users can do, or refuse single operations.

use super::report::Check;
use crate::sys::host;

/// The least useful number of mounts in a mount namespace. A volume needs one or two, a command in a workspace about 20.
const MIN_MOUNTS: u64 = 1000;

/// What decides about overlays of normal users: `None` where the kernel does not have the setting.
#[derive(Debug, Clone, Copy, Default)]
struct Userns {
    /// `user.max_user_namespaces`
    most: Option<u64>,
    /// `kernel.unprivileged_userns_clone`: Debian, Arch
    clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`: Ubuntu
    restricted: Option<u64>,
}

impl Userns {
    fn of_this_machine() -> Self {
        Self {
            most: host::user_namespaces(),
            clone: host::sysctl("kernel.unprivileged_userns_clone"),
            restricted: host::sysctl("kernel.apparmor_restrict_unprivileged_userns"),
        }
    }

    /// Whether a normal user can make a user namespace, and mount an overlay in it. Linux has allowed the second part since
    /// 5.11, and every kernel on which this program works is later.
    fn overlay(self) -> Result<String, (String, &'static str)> {
        let no = |why: &str, fix| Err((why.to_owned(), fix));
        match self {
            Self { most: None, .. } => no(
                "the kernel has no user namespaces",
                "boot a kernel with CONFIG_USER_NS if normal users need overlays, as with rootless podman",
            ),
            Self { most: Some(0), .. } => no(
                "user.max_user_namespaces is 0",
                "raise this sysctl if normal users need overlays, as with rootless podman",
            ),
            Self { clone: Some(0), .. } => no(
                "kernel.unprivileged_userns_clone is 0",
                "set this sysctl to 1 if normal users need overlays, as with rootless podman",
            ),
            Self { restricted: Some(1), .. } => no(
                "kernel.apparmor_restrict_unprivileged_userns is 1: only programs with an AppArmor profile that has `userns` \
                 can do it",
                "give such programs a profile if normal users need overlays, as with rootless podman",
            ),
            _ => Ok(
                "normal users can mount overlays in user namespaces; ovl needs root all the same"
                    .to_owned(),
            ),
        }
    }
}

/// The checks.
pub(super) fn checks() -> Vec<Check> {
    let (overlay, fix) = match Userns::of_this_machine().overlay() {
        Ok(detail) => (Ok(detail), ""),
        Err((why, fix)) => (Err(why), fix),
    };
    let mounts = match host::sysctl("fs.mount-max") {
        Some(most) if most < MIN_MOUNTS => Err(format!("fs.mount-max is {most}")),
        Some(most) => Ok(format!("{most} at most in a mount namespace")),
        None => Ok("no limit is known".to_owned()),
    };
    let apparmor = match host::apparmor_profile() {
        Some(profile) => Err(format!("this process is confined by the profile {profile}")),
        None => Ok("no profile confines this process".to_owned()),
    };
    vec![
        Check::new("unprivileged-overlay", overlay, fix),
        Check::new("mounts", mounts, "raise the sysctl fs.mount-max to 1000 or more"),
        Check::new(
            "apparmor",
            apparmor,
            "if mounts are refused, run it without this profile; in Kubernetes in a privileged container",
        ),
        selinux(),
    ]
}

fn selinux() -> Check {
    let detail = match (host::selinux(), host::selinux_enforces()) {
        (false, _) => "it is needed only if pods must have SELinux labels",
        (true, Some(true)) => "enforcing; the mount option context= of the kubelet is used",
        (true, Some(false)) => "permissive; the mount option context= of the kubelet is used",
        (true, None) => "the mount option context= of the kubelet is used",
    };
    let check = Check::new("selinux", Ok(detail.to_owned()), "");
    Check { off: !host::selinux(), ..check }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_that_keeps_normal_users_from_overlays_is_named() {
        let usual = Userns { most: Some(1000), ..Userns::default() };
        let why = |settings: Userns| settings.overlay().unwrap_err().0;
        assert!(usual.overlay().is_ok());
        assert!(Userns { clone: Some(1), restricted: Some(0), ..usual }.overlay().is_ok());
        assert!(why(Userns { clone: Some(0), ..usual }).contains("unprivileged_userns_clone"));
        assert!(why(Userns { restricted: Some(1), ..usual }).contains("AppArmor"));
        assert!(why(Userns { most: Some(0), ..usual }).contains("max_user_namespaces"));
        assert!(why(Userns::default()).contains("no user namespaces"));
    }
}
