//! Numbers as people read them.

/// As `3.4 MB`, with decimal units, as Docker and registries count, and never more than there is: `1.9 MB` is less than two.
pub fn bytes(count: u64) -> String {
    let (mut unit, mut tenths) = ("B", u128::from(count) * 10);
    for next in ["kB", "MB", "GB", "TB", "PB"] {
        if tenths < 10_000 {
            break;
        }
        (unit, tenths) = (next, tenths / 1000);
    }
    match unit {
        "B" => format!("{count} B"),
        unit => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_as_people_read_them() {
        for (count, said) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_999_999, "1.9 MB"),
            (1_000_000_000, "1.0 GB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(bytes(count), said);
        }
    }
}
