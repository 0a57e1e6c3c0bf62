//! Facts about the kernel and the machine.
//!
//! Deliberately absent: conclusions from the kernel release. Distributions add and remove features, so features are
//! probed.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use rustix::system::uname;

use super::durable::at;

/// The release of the running kernel, such as `6.18.2` (`uname -r`).
pub fn release() -> String {
    uname().release().to_string_lossy().into_owned()
}

/// The version of the running kernel, which distributions number themselves (`uname -v`).
pub fn version() -> String {
    uname().version().to_string_lossy().into_owned()
}

/// The name of the distribution, such as `Debian GNU/Linux 13 (trixie)`, from os-release(5). `None` without the file.
pub fn distribution() -> Option<String> {
    let files = ["/etc/os-release", "/usr/lib/os-release"];
    let text = files.into_iter().find_map(|file| fs::read_to_string(file).ok())?;
    pretty_name(&text)
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = |key: &str| {
        let mut lines = os_release.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("NAME")).filter(|name| !name.is_empty())
}

/// The number of a sysctl, such as `kernel.unprivileged_userns_clone`. `None` if this kernel does not have it.
pub fn sysctl(name: &str) -> Option<u64> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Whether this kernel has the file system, built in or as a module that it can load. `None` if that cannot be seen.
pub fn has_file_system(name: &str) -> Option<bool> {
    let listed = fs::read_to_string("/proc/filesystems").ok()?;
    if listed.lines().any(|line| line.split_whitespace().last() == Some(name)) {
        return Some(true);
    }
    let modules = Path::new("/lib/modules").join(release()).join("modules.dep");
    let module = format!("/{name}.ko");
    Some(fs::read_to_string(modules).ok()?.lines().any(|line| line.contains(&module)))
}

/// The AppArmor profile that confines this process. `None` if none does.
pub fn apparmor_profile() -> Option<String> {
    let files = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"];
    let is_on = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    is_on.ok().filter(|text| text.trim() == "Y")?;
    let profile = files.into_iter().find_map(|file| fs::read_to_string(file).ok())?;
    let profile = profile.trim_end_matches(['\0', '\n']);
    (profile != "unconfined" && !profile.is_empty()).then(|| profile.to_owned())
}

/// Whether SELinux refuses what its policy does not allow. `None` if this process does not see that.
pub fn selinux_enforces() -> Option<bool> {
    Some(fs::read_to_string("/sys/fs/selinux/enforce").ok()?.trim() == "1")
}

/// The machine's architecture, such as `x86_64` (`uname -m`).
pub fn architecture() -> String {
    uname().machine().to_string_lossy().into_owned()
}

/// A new random UUID, as text.
pub fn random_uuid() -> io::Result<String> {
    let source = Path::new("/proc/sys/kernel/random/uuid");
    Ok(fs::read_to_string(source).map_err(at("read", source))?.trim_end().to_owned())
}

/// The effective user id of this process.
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
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
    sysctl("user.max_user_namespaces")
}

/// The addresses of this machine, in the network namespace of this process. They can change at any time.
///
/// # Errors
/// The kernel's table of IPv4 routes cannot be read.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let v4 = v4_addresses(&fs::read_to_string("/proc/net/fib_trie")?);
    // A kernel without IPv6 does not have the file.
    let v6 = v6_addresses(&fs::read_to_string("/proc/net/if_inet6").unwrap_or_default());
    Ok(v4.into_iter().chain(v6).collect())
}

/// The addresses that the kernel delivers locally. Each leaf of the trie is an address, followed by its routes.
fn v4_addresses(trie: &str) -> Vec<IpAddr> {
    let (mut leaf, mut found) = (None, Vec::new());
    for line in trie.lines().map(str::trim_start) {
        match line.strip_prefix("|-- ") {
            Some(text) => leaf = text.parse::<Ipv4Addr>().ok(),
            None if line.starts_with("/32 host LOCAL") => found.extend(leaf.map(IpAddr::V4)),
            None => {}
        }
    }
    // The trie can have a leaf in two tables.
    found.sort_unstable();
    found.dedup();
    found
}

/// The address of each line: 32 hexadecimal digits.
fn v6_addresses(list: &str) -> Vec<IpAddr> {
    let digits = list.lines().filter_map(|line| line.split_whitespace().next());
    let bits = digits.filter_map(|digits| u128::from_str_radix(digits, 16).ok());
    bits.map(|bits| IpAddr::V6(Ipv6Addr::from(bits))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_the_machine_are_those_of_local_routes_and_interfaces() {
        let trie = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 192.0.2.2
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
Local:
        |-- 192.0.2.2
           /32 host LOCAL
";
        assert_eq!(v4_addresses(trie), ["192.0.2.2".parse::<IpAddr>().unwrap()]);
        let list = "fd000000000000000000000000000002 04 40 00 82     eth0\n";
        assert_eq!(v6_addresses(list), ["fd00::2".parse::<IpAddr>().unwrap()]);
        assert!(addresses().unwrap().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }

    #[test]
    fn the_name_of_a_distribution_is_the_one_for_people() {
        let name = |text: &str| pretty_name(text);
        let debian = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n";
        assert_eq!(name(debian).as_deref(), Some("Debian GNU/Linux 13 (trixie)"));
        assert_eq!(name("NAME='Small'\nID=small\n").as_deref(), Some("Small"));
        assert_eq!(name("ID=none\n"), None);
    }

    #[test]
    fn the_file_systems_of_the_kernel_are_found() {
        assert_eq!(has_file_system("proc"), Some(true));
        assert_ne!(has_file_system("no-such-file-system"), Some(true));
        assert_eq!(sysctl("kernel.no_such_setting"), None);
    }

    #[test]
    fn release_and_architecture_are_read() {
        assert!(release().starts_with(|c: char| c.is_ascii_digit()), "{}", release());
        assert!(!architecture().is_empty());
    }
}
