//! Fuzz target of `/etc/passwd` and `/etc/group`.

use super::users::Files;

/// A text that names a user, `/etc/passwd` and `/etc/group`, with a zero byte between them. A user who is found can be
/// given to the kernel.
pub fn users(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(3, '\0').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let (wanted, passwd, group) = (next(), next(), next());
    let Ok(account) = (Files { passwd, group }).account(&wanted, "the workspace") else {
        return false;
    };
    let user = account.user;
    // To the kernel, this number means "no user".
    assert!(user.uid != u32::MAX && user.gid != u32::MAX && !user.groups.contains(&u32::MAX));
    assert!(user.groups.is_sorted());
    assert!(user.home.is_absolute() && account.shell.is_none_or(|shell| shell.is_absolute()));
    let (name, group) = wanted.split_once(':').unwrap_or((&wanted, ""));
    assert!(group.is_empty() || user.groups.is_empty());
    assert!(account.name.is_none_or(|found| found == name) || name.parse() == Ok(user.uid));
    true
}
