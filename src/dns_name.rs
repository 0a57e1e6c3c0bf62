//! The names of Kubernetes objects: DNS labels and DNS subdomains (RFC 1123), in lower case.
//!
//! Deliberately absent: the names of servers, which are in `registry_name`. They may have upper case and are made
//! canonical.

/// The longest DNS label, in bytes.
pub const LABEL_MAX: usize = 63;

/// The longest DNS subdomain, in bytes. The names of most objects are DNS subdomains.
pub const SUBDOMAIN_MAX: usize = 253;

/// Whether a text is a DNS label: 1 to 63 lower-case letters, digits and `-`, with no `-` at either end.
pub fn is_label(text: &str) -> bool {
    text.len() <= LABEL_MAX && is_part(text)
}

/// Whether a text is a valid name for most kinds of objects: labels joined by dots, at most 253 bytes. Kubernetes limits
/// the length of the whole name, not of its labels. Such a name is safe as a part of a path.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_MAX && text.split('.').all(is_part)
}

fn is_part(part: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [part.bytes().next(), part.bytes().last()];
    part.bytes().all(|b| is_inner(b) || b == b'-')
        && ends.into_iter().all(|end| end.is_some_and(is_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subdomain_has_no_path_separators_and_at_most_253_characters() {
        let longest = "a".repeat(253);
        for good in ["a", "ci-ws-1", "a.b-c.9", longest.as_str()] {
            assert!(is_subdomain(good), "{good:?}");
        }
        let longer = "a".repeat(254);
        for bad in [
            "", ".", "..", "../x", "a/b", "a..b", "a.", "-a", "a.-b", "A", "a_b", "a b", "ä",
            &longer,
        ] {
            assert!(!is_subdomain(bad) && !is_label(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_label_has_no_dots_and_at_most_63_characters() {
        let (longest, longer) = ("a".repeat(63), "a".repeat(64));
        for (text, good) in
            [("a", true), ("9-b", true), (&longest, true), (&longer, false), ("a.b", false)]
        {
            assert_eq!(is_label(text), good, "{text:?}");
        }
    }
}
