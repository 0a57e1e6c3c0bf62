//! The packet filter rules that a container engine leaves, and how to remove them.
//!
//! Deliberately absent: a copy of all rules that is restored later. It would undo changes of
//! others.

use anyhow::Result;

use crate::machine::process::Cmd;

/// The policy of the FORWARD chain, `ACCEPT` or `DROP`. An engine that enables forwarding sets it.
/// A missing filter accepts.
pub fn forward_policy() -> String {
    let rules = Cmd::new("iptables-save").args(["-t", "filter"]).output().unwrap_or_default();
    policy(&rules).to_owned()
}

fn policy(rules: &str) -> &str {
    let line = rules.lines().find_map(|line| line.strip_prefix(":FORWARD "));
    line.and_then(|line| line.split(' ').next()).unwrap_or("ACCEPT")
}

/// Removes the engine's chains and every rule that mentions them or this bridge.
///
/// # Errors
/// The rules cannot be read or written.
pub fn forget_engine(bridge: &str, forward: &str) -> Result<()> {
    // An IPv6 filter may be missing. It then has nothing of the engine.
    for (save, restore, needed) in [
        ("iptables-save", "iptables-restore", true),
        ("ip6tables-save", "ip6tables-restore", false),
    ] {
        let rules = match Cmd::new(save).output() {
            Err(error) if needed => return Err(error),
            rules => rules.unwrap_or_default(),
        };
        let kept = without_engine(&rules, bridge, needed.then_some(forward));
        if kept.trim_end() != rules {
            Cmd::new(restore).stdin(kept).output()?;
        }
    }
    Ok(())
}

/// The text of `iptables-save` without the engine's part: rules that mention one of its chains or
/// the bridge. (A rule for the addresses of a network mentions its bridge too.)
fn without_engine(rules: &str, bridge: &str, forward: Option<&str>) -> String {
    let engines = |word: &str| {
        let chain = word.trim_start_matches(':');
        chain == "DOCKER" || chain.starts_with("DOCKER-") || word == bridge
    };
    let mut kept = String::new();
    for line in rules.lines().filter(|line| !line.split_whitespace().any(engines)) {
        match (line.strip_prefix(":FORWARD "), forward) {
            (Some(rest), Some(policy))
                if rest.starts_with("DROP") || rest.starts_with("ACCEPT") =>
            {
                let counters = rest.split_whitespace().nth(1).unwrap_or("[0:0]");
                kept.push_str(&format!(":FORWARD {policy} {counters}"));
            }
            _ => kept.push_str(line),
        }
        kept.push('\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [3:180]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:MINE - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o ovl-csi0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i eth1 -j MINE
COMMIT
*nat
:DOCKER - [0:0]
-A POSTROUTING -s 172.18.0.0/16 ! -o ovl-csi0 -j MASQUERADE
-A POSTROUTING -s 10.0.0.0/8 -o eth0 -j MASQUERADE
COMMIT
";

    #[test]
    fn only_the_engines_part_is_removed() {
        let kept = without_engine(RULES, "ovl-csi0", Some("ACCEPT"));
        let expected = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [3:180]
:MINE - [0:0]
-A FORWARD -i eth1 -j MINE
COMMIT
*nat
-A POSTROUTING -s 10.0.0.0/8 -o eth0 -j MASQUERADE
COMMIT
";
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_missing_filter_accepts() {
        assert_eq!(policy(RULES), "DROP");
        assert_eq!(policy(""), "ACCEPT");
    }

    #[test]
    fn rules_without_an_engine_stay_as_they_are() {
        let rules = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i br-1 -j ACCEPT\nCOMMIT\n";
        assert_eq!(without_engine(rules, "ovl-csi0", None), rules);
    }
}
