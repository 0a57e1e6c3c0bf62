//! Tests of the parser with unusual and invalid lines.

use std::path::Path;

use super::*;

const DETACHED: &str = "45 27 0:39 / /var/lib/x/mount rw,nosuid,nodev,relatime shared:7 master:2 - \
    overlay ovl-csi rw,lowerdir+=/,lowerdir+=/,upperdir=/s/u,workdir=/s/w,metacopy=on,\
    fsync=volatile";

fn parse_one(line: &str) -> Mount {
    let [mount] = parse_table(line.as_bytes()).unwrap().try_into().unwrap();
    mount
}

#[test]
fn every_field_is_read() {
    let mount = parse_one(DETACHED);
    assert_eq!((mount.id, mount.parent, mount.device), (45, 27, (0, 39)));
    assert_eq!(
        (mount.root.as_path(), mount.target.as_path()),
        (Path::new("/"), Path::new("/var/lib/x/mount"))
    );
    assert_eq!(mount.options, ["rw", "nosuid", "nodev", "relatime"]);
    assert_eq!(mount.propagation, ["shared:7", "master:2"]);
    assert_eq!((mount.fs_type.as_str(), mount.source.to_str().unwrap()), ("overlay", "ovl-csi"));
}

#[test]
fn repeated_options_keep_their_order() {
    let options = parse_one(DETACHED).super_options;
    let text: Vec<String> = options
        .iter()
        .map(|(key, value)| match value {
            Some(value) => format!("{key}={}", value.to_str().unwrap()),
            None => key,
        })
        .collect();
    assert_eq!(
        text,
        [
            "rw",
            "lowerdir+=/",
            "lowerdir+=/",
            "upperdir=/s/u",
            "workdir=/s/w",
            "metacopy=on",
            "fsync=volatile"
        ]
    );
}

#[test]
fn escapes_are_undone_after_splitting() {
    let mount = parse_one(
        r"1 2 0:3 /a\040b /t\011u\012v\134w rw - x a\040b rw,upperdir=/c\054d\075e,x=\\1\08,empty=",
    );
    assert_eq!(mount.root, Path::new("/a b"));
    assert_eq!(mount.target, Path::new("/t\tu\nv\\w"));
    assert_eq!(mount.source, "a b");
    assert_eq!(mount.super_option("upperdir").unwrap(), "/c,d=e");
    assert_eq!(mount.super_option("x").unwrap(), r"\\1\08");
    assert_eq!(mount.super_option("empty").unwrap(), "");
    assert_eq!(mount.super_option("rw"), None);
}

#[test]
fn bytes_that_are_not_utf_8_are_kept() {
    let [mount] =
        parse_table(b"1 2 0:3 / /\xff rw - ext4 /dev/\xfe rw").unwrap().try_into().unwrap();
    assert_eq!(mount.target.as_os_str().as_encoded_bytes(), b"/\xff");
    assert_eq!(mount.source.as_encoded_bytes(), b"/dev/\xfe");
}

#[test]
fn a_deleted_target_and_an_empty_source_are_parsed() {
    assert_eq!(parse_one(r"1 2 0:3 / /t\040//deleted rw - tmpfs  rw").source, "");
}

#[test]
fn the_kernels_order_is_kept_and_an_empty_table_has_no_mounts() {
    let table =
        parse_table(b"9 1 0:3 / /t rw - tmpfs a rw\n2 1 0:4 / /t rw - tmpfs b rw\n").unwrap();
    assert_eq!(table.iter().map(|mount| mount.id).collect::<Vec<_>>(), [9, 2]);
    assert_eq!(parse_table(b""), Ok(Vec::new()));
}

#[test]
fn the_error_for_a_bad_line_names_line_and_field() {
    for (line, field) in [
        ("x 2 0:3 / /t rw - tmpfs a rw", "mount id"),
        ("1 -2 0:3 / /t rw - tmpfs a rw", "parent id"),
        ("1 2 03 / /t rw - tmpfs a rw", "device"),
        ("1 2 0:3 / /t", "mount options"),
        ("1 2 0:3 / /t rw shared:1", "separator"),
        ("1 2 0:3 / /t rw - tmpfs a", "file system options"),
    ] {
        let table = format!("{DETACHED}\n{line}\n");
        let error = parse_table(table.as_bytes()).unwrap_err();
        assert_eq!((error.line, error.field), (2, field), "{error}");
        assert!(error.to_string().contains(line), "{error}");
    }
}

#[test]
fn the_mount_table_of_this_process_is_parsed() {
    let table = parse_table(&std::fs::read("/proc/self/mountinfo").unwrap()).unwrap();
    assert!(table.iter().any(|mount| mount.target == Path::new("/")));
}
