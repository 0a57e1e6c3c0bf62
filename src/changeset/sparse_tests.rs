//! Sparse files in every form, and all ways in which their maps can be wrong.

use super::testing::{Tar, unpack, unpack_with};
use super::{Limits, Unpacked, layer_to_erofs};
use crate::digest::DiffId;
use crate::erofs::test_reader::Content;
use crate::error::Class;

const SIZE: u64 = 1 << 20;

/// Pieces of a map: offsets and lengths.
type Map = Vec<(u64, u64)>;

fn stored(map: &Map) -> Vec<u8> {
    (0..map.iter().map(|(_, len)| len).sum()).map(|i: u64| (i % 250) as u8 + 1).collect()
}

/// The file that a map and its content stand for.
fn whole(size: u64, map: &Map) -> Vec<u8> {
    let (mut whole, mut content) = (vec![0; size as usize], stored(map).into_iter());
    for (offset, len) in map {
        whole[*offset as usize..][..*len as usize].fill_with(|| content.next().unwrap());
    }
    whole
}

fn records(records: &[(&str, String)]) -> Tar {
    let records: Vec<_> = records.iter().map(|(key, value)| (*key, value.as_bytes())).collect();
    Tar::new().pax(&records)
}

fn joined(map: &Map) -> String {
    let parts: Vec<_> = map.iter().map(|(offset, len)| format!("{offset},{len}")).collect();
    parts.join(",")
}

/// The map of pax 1.0, and the content after it.
fn lines(map: &Map) -> Vec<u8> {
    let mut text = format!("{}\n", map.len());
    for (offset, len) in map {
        text += &format!("{offset}\n{len}\n");
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(stored(map));
    bytes
}

/// The file "holes" in each form.
fn forms(size: u64, map: &Map) -> [(&'static str, Tar); 4] {
    let content = stored(map);
    let mut pairs = vec![
        ("GNU.sparse.size", size.to_string()),
        ("GNU.sparse.numblocks", map.len().to_string()),
    ];
    for (offset, len) in map {
        pairs.push(("GNU.sparse.offset", offset.to_string()));
        pairs.push(("GNU.sparse.numbytes", len.to_string()));
    }
    let one = [
        ("GNU.sparse.size", size.to_string()),
        ("GNU.sparse.numblocks", map.len().to_string()),
        ("GNU.sparse.name", "holes".to_owned()),
        ("GNU.sparse.map", joined(map)),
    ];
    let in_content = [
        ("GNU.sparse.major", "1".to_owned()),
        ("GNU.sparse.minor", "0".to_owned()),
        ("GNU.sparse.name", "holes".to_owned()),
        ("GNU.sparse.realsize", size.to_string()),
    ];
    [
        ("old", Tar::new().old_sparse("holes", size, map, &content)),
        ("0.0", records(&pairs).file("holes", &content)),
        ("0.1", records(&one).file("GNUSparseFile.1/holes", &content)),
        ("1.0", records(&in_content).file("GNUSparseFile.1/holes", &lines(map))),
    ]
}

#[test]
fn holes_are_kept_in_every_form() {
    let scattered: Map = (0..60).map(|i| (i * 16_384 + i, 100)).collect();
    for map in [
        vec![],
        vec![(SIZE, 0)],
        vec![(0, 10)],
        vec![(0, 512), (SIZE - 512, 512)],
        vec![(5000, 10_000), (300_000, 1), (SIZE, 0)],
        vec![(0, SIZE)],
        scattered,
    ] {
        for (form, tar) in forms(SIZE, &map) {
            let tar = tar.file("after", b"it").end();
            let (unpacked, image) = unpack(&tar).unwrap();
            let found = &image.names[b"holes".as_slice()].content;
            assert!(*found == Content::File(whole(SIZE, &map)), "{form}: {map:?}");
            let after = &image.names[b"after".as_slice()].content;
            assert_eq!(*after, Content::File(b"it".to_vec()), "{form}: {map:?}");
            assert_eq!((unpacked.diff_id, unpacked.entries), (DiffId::of(&tar), 2));
            let content: u64 = map.iter().map(|(_, len)| len.next_multiple_of(4096) + 4096).sum();
            assert!(unpacked.image_bytes <= content + 3 * 4096, "{form}: {unpacked:?}");
        }
    }
}

fn unpack_unread(tar: &[u8]) -> Unpacked {
    let image = tempfile::tempfile().unwrap();
    layer_to_erofs(tar, [7; 16], &image, &Limits::default()).unwrap()
}

#[test]
fn a_sparse_file_of_5_gib_takes_only_the_space_of_its_data() {
    let (size, map) = (5 << 30, vec![(4096, 3), ((5 << 30) - 7, 7)]);
    for (form, tar) in forms(size, &map) {
        let unpacked = unpack_unread(&tar.end());
        assert!(unpacked.image_bytes < 1 << 20, "{form}: {unpacked:?}");
    }
}

fn refused(tar: Tar, why: &str, class: Class) {
    let error = unpack(&tar.end()).unwrap_err();
    assert!(error.to_string().contains("holes\""), "{error}");
    assert!(error.to_string().contains(why), "{why}: {error}");
    assert_eq!(error.class(), class, "{error}");
}

#[test]
fn contradictory_maps_are_refused() {
    for (map, why) in [
        (vec![(0, 10), (5, 10)], "overlap"),
        (vec![(512, 10), (0, 10)], "not in order"),
        (vec![(SIZE - 5, 10)], "beyond its size"),
        (vec![(SIZE + 1, 0)], "beyond its size"),
    ] {
        for (_, tar) in forms(SIZE, &map) {
            refused(tar, why, Class::Corrupt);
        }
    }
    let huge = format!("{},{}", u64::MAX, 2);
    let map = |map: &str| {
        let size = ("GNU.sparse.size", "1000".to_owned());
        records(&[size, ("GNU.sparse.map", map.to_owned())]).file("holes", b"xy")
    };
    refused(map(&huge), "beyond its size", Class::Corrupt);
    refused(map("0,1"), "does not match the bytes", Class::Corrupt);
    refused(map("0,3"), "does not match the bytes", Class::Corrupt);
    refused(map("0,2,5"), "cannot be read", Class::Corrupt);
    unpack(&map("0,2").end()).unwrap();
}

#[test]
fn contradictory_records_are_refused() {
    let of = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        records(&pairs)
    };
    let size = ("GNU.sparse.size", "1000");
    for (tar, why) in [
        (of(&[("GNU.sparse.map", "0,2")]), "has no file size"),
        (of(&[size, ("GNU.sparse.realsize", "1001")]), "disagree on its size"),
        (of(&[size, ("GNU.sparse.numblocks", "2"), ("GNU.sparse.map", "0,2")]), "sparse map"),
        (of(&[size, ("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")]), "unknown form"),
        (of(&[size, ("GNU.sparse.major", "1"), ("GNU.sparse.map", "0,2")]), "unknown form"),
    ] {
        refused(tar.file("holes", b"xy"), why, Class::Corrupt);
    }
    for key in [
        &[("GNU.sparse.numbytes", "1")][..],
        &[("GNU.sparse.offset", "1"), ("GNU.sparse.offset", "1")],
        &[("GNU.sparse.map", "0,x")],
        &[("GNU.sparse.map", "-1,1")],
        &[("GNU.sparse.odd", "1")],
    ] {
        let error = unpack(&of(key).file("holes", b"").end()).unwrap_err();
        assert!(error.to_string().contains("sparse map that cannot be read"), "{key:?}: {error}");
    }
    let pax = || of(&[size, ("GNU.sparse.map", "0,0")]);
    refused(pax().dir("holes"), "disagree on its type", Class::Corrupt);
    refused(pax().old_sparse("holes", 5, &[], b""), "disagree on its type", Class::Corrupt);
    refused(Tar::new().plain(b'S', "holes"), "not GNU tar's", Class::Corrupt);
}

#[test]
fn unreadable_maps_before_the_content_are_refused() {
    let of = |content: &[u8]| {
        let mut content = content.to_vec();
        content.resize(content.len().next_multiple_of(512), 0);
        let keys = ["GNU.sparse.major", "GNU.sparse.realsize"].map(|key| (key, "1".to_owned()));
        records(&keys).file("holes", &content)
    };
    for content in [b"".as_slice(), b"1\n0\n", b"x\n", b"1\n-1\n1\n", &[b'1'; 2048], b"\n"] {
        refused(of(content), "cannot be read", Class::Corrupt);
    }
    refused(of(b"262145\n"), "262,144 pieces", Class::Corrupt);
    refused(of(b"1\n0\n2\n"), "beyond its size", Class::Corrupt);
    let whole = of(b"1\n0\n1\n").0;
    assert!(unpack(&whole[..whole.len() - 100]).is_err());
    let map: Map = (0..10).map(|i| (i * 10, 1)).collect();
    let old = Tar::new().old_sparse("holes", 100, &map, &stored(&map)).0;
    let error = unpack(&old[..1000]).unwrap_err();
    assert!(error.to_string().contains("middle"), "{error}");
}

#[test]
fn a_file_longer_than_a_tar_may_be_is_refused() {
    let limits = Limits { tar_bytes: SIZE - 1, ..Limits::default() };
    for (form, tar) in forms(SIZE, &vec![(0, 1)]) {
        let error = unpack_with(tar.end().as_slice(), &limits).unwrap_err();
        assert!(error.to_string().contains("sparse file of more than"), "{form}: {error}");
        assert_eq!(error.class(), Class::Precondition);
    }
}
