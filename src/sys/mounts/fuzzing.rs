//! Fuzz target of the mount table.

#![allow(clippy::unwrap_used)] // a target fails by panicking

use std::os::unix::ffi::OsStrExt as _;

use super::{Mount, parse_table};

/// A table that is parsed prints to a table that is parsed as the same mounts.
pub fn mountinfo(data: &[u8]) -> bool {
    match parse_table(data) {
        Ok(mounts) => {
            let printed: Vec<u8> = mounts.iter().flat_map(print).collect();
            let again = parse_table(&printed).unwrap();
            assert_eq!(again.len(), mounts.len());
            for (one, other) in mounts.iter().zip(&again) {
                let options = |mount: &Mount| mount.super_options.iter().collect::<Vec<_>>();
                assert_eq!(options(one), options(other));
                let super_options = one.super_options.clone();
                assert_eq!(*one, Mount { super_options, ..other.clone() });
                for (key, _) in options(one) {
                    let mut all = options(one).into_iter();
                    let first = all.find(|(other, _)| *other == key).and_then(|(_, value)| value);
                    // A key is found as the kernel writes it: these bytes are never escaped.
                    let is_plain = key.bytes().all(|b| b.is_ascii_lowercase());
                    let found = one.super_option(&key);
                    assert!(!is_plain || key.is_empty() || found == first || data.contains(&b'\\'));
                }
            }
            true
        }
        Err(error) => {
            assert!(error.line >= 1 && !error.field.is_empty());
            false
        }
    }
}

/// A mount as a line of the table. Every byte that could separate or escape is escaped.
fn print(mount: &Mount) -> Vec<u8> {
    let list = |texts: &[String]| {
        texts.iter().map(|text| escaped(text.as_bytes())).collect::<Vec<_>>().join(",")
    };
    let (root, target) = (mount.root.as_os_str(), mount.target.as_os_str());
    let mut fields = vec![
        mount.id.to_string(),
        mount.parent.to_string(),
        format!("{}:{}", mount.device.0, mount.device.1),
        escaped(root.as_bytes()),
        escaped(target.as_bytes()),
        list(&mount.options),
    ];
    fields.extend(mount.propagation.iter().map(|tag| escaped(tag.as_bytes())));
    let options = mount.super_options.iter().map(|(key, value)| match value {
        Some(value) => format!("{}={}", escaped(key.as_bytes()), escaped(value.as_bytes())),
        None => escaped(key.as_bytes()),
    });
    let fs_type = escaped(mount.fs_type.as_bytes());
    fields.extend(["-".into(), fs_type, escaped(mount.source.as_bytes())]);
    fields.push(options.collect::<Vec<_>>().join(","));
    (fields.join(" ") + "\n").into_bytes()
}

fn escaped(bytes: &[u8]) -> String {
    let escape = |byte: &u8| match byte {
        b if b.is_ascii_alphanumeric() => char::from(*b).to_string(),
        b => format!("\\{b:03o}"),
    };
    bytes.iter().map(escape).collect()
}
