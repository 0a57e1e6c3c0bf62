//! Fuzz targets of layers: the tar, its extended headers, whiteouts, and a comparison with other readers of tars.

#![allow(clippy::unwrap_used, clippy::panic)] // a target fails by panicking

use std::{collections::BTreeMap, io::Read as _};

use super::{
    Format, InvalidLayer, LayersBelow, Limits, ListedKind, LookupBelow, UnpackError, Unpacked,
    entry::{Entry, Kind},
    layer_to_erofs_with_layers_below, list, native_to_erofs,
    path::EntryPath,
    pax::{Extended, check_global},
    pipe,
    reader::Reader,
    sparse::Sparse,
    whiteout::Meaning,
};
use crate::{
    digest::Digest,
    erofs::{
        Special, Time,
        fuzzing::{memory_file, read_back},
        test_reader::{Content, Read},
    },
};

/// Longer inputs find nothing that shorter ones do not, and take longer.
const INPUT_MOST: usize = 64 << 10;

fn limits() -> Limits {
    Limits { tar_bytes: 1 << 20, zstd_window: 20, entries: 1_000, depth: 64, ..Limits::default() }
}

/// The layers below the lowest layer.
struct Nothing;

impl LayersBelow for Nothing {
    fn find(&self, _: &[u8], _: usize) -> std::io::Result<LookupBelow> {
        Ok(LookupBelow::Nothing)
    }
}

fn unpack(data: &[u8], format: Format) -> Result<(Unpacked, Read), UnpackError> {
    let image = memory_file();
    let unpacked = match format {
        Format::Portable => {
            layer_to_erofs_with_layers_below(data, [7; 16], &image, &limits(), &Nothing)?
        }
        Format::Native => native_to_erofs(data, [7; 16], &image, &limits())?,
    };
    Ok((unpacked, read_back(&image, unpacked.image_bytes)))
}

/// A layer that is unpacked is an image that reads back, with what a list of the layer says.
pub fn tar(data: &[u8]) -> bool {
    if data.len() > INPUT_MOST {
        return false;
    }
    check_layer(data, Format::Native);
    check_layer(data, Format::Portable)
}

/// Whether the layer is accepted.
fn check_layer(data: &[u8], format: Format) -> bool {
    let mut entries = Vec::new();
    let listed = list(data, format, &limits(), |entry| entries.push(entry));
    let (unpacked, image) = match unpack(data, format) {
        Ok(done) => done,
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control), "{error}");
            return false;
        }
    };
    assert_eq!(listed.unwrap(), unpacked.diff_id);
    assert!(unpacked.entries >= entries.len() as u64);
    // Names that resolve to themselves: without links on their way, and named once.
    let plain =
        |what: &ListedKind| matches!(what, ListedKind::File { .. } | ListedKind::Dir { .. });
    let mut names: Vec<_> = entries.iter().map(|entry| &entry.path).collect();
    names.sort();
    names.dedup();
    if names.len() < entries.len() || !entries.iter().all(|entry| plain(&entry.what)) {
        return true;
    }
    let is_file = |what: &ListedKind| matches!(what, ListedKind::File { .. });
    let files: Vec<_> = entries.iter().filter(|entry| is_file(&entry.what)).collect();
    // A file that a later name has as a directory is replaced.
    if files
        .iter()
        .any(|file| names.iter().any(|name| name.starts_with(&[&file.path[..], b"/"].concat())))
    {
        return true;
    }
    for entry in &entries {
        let found = &image.names[&entry.path];
        assert_eq!((found.mode & 0o7777, found.uid, found.gid), (entry.mode, entry.uid, entry.gid));
        match (&entry.what, &found.content) {
            (ListedKind::File { size, content: Some(digest), .. }, Content::File(bytes)) => {
                assert_eq!((*size, *digest), (bytes.len() as u64, Digest::of(bytes)));
            }
            (ListedKind::File { content: None, .. }, Content::File(_))
            | (ListedKind::Dir { .. }, Content::Dir) => {}
            (what, content) => panic!("{what:?} became {content:?}"),
        }
    }
    true
}

/// Extended headers that are accepted print to records that mean the same.
pub fn pax(data: &[u8]) -> bool {
    drop(check_global(data));
    let mut extended = Extended::default();
    extended.long_name(data.to_vec());
    assert!(!extended.long_name.unwrap().contains(&0));
    let mut extended = Extended::default();
    if extended.pax(data).is_err() {
        return false;
    }
    if extended.sparse.is_some() {
        return true;
    }
    let mut again = Extended::default();
    again.pax(&print(&extended)).unwrap();
    assert_eq!(again, extended);
    true
}

fn print(extended: &Extended) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut put = |key: &str, value: Vec<u8>| records.push((key.into(), value));
    for (key, text) in [("path", &extended.path), ("linkpath", &extended.link)] {
        text.iter().for_each(|text| put(key, text.clone()));
    }
    for (key, number) in [("size", extended.size), ("uid", extended.uid), ("gid", extended.gid)] {
        number.iter().for_each(|number| put(key, number.to_string().into()));
    }
    if let Some(Time { seconds, nanos }) = extended.mtime {
        let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let (sign, total) = (if total < 0 { "-" } else { "" }, total.unsigned_abs());
        let text = format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000);
        put("mtime", text.into());
    }
    if let Some(map) = &extended.data {
        let numbers: Vec<_> = map.iter().map(u64::to_string).collect();
        put("OVL.data", numbers.join(",").into());
    }
    for (name, value) in &extended.xattrs {
        records.push(([b"SCHILY.xattr.", &name[..]].concat(), value.clone()));
    }
    records.iter().flat_map(|(key, value)| record(key, value)).collect()
}

/// A pax record; its length includes its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let len = (1..).map(|digits| rest + digits).find(|len| rest + len.to_string().len() == *len);
    [len.unwrap().to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Each line is the name of a file. A name has one meaning, and no name of an image is a whiteout's.
pub fn whiteout(data: &[u8]) -> bool {
    if data.len() > 4 << 10 {
        return false;
    }
    let names: Vec<_> = data.split(|b| *b == b'\n').filter(|name| !name.is_empty()).collect();
    let mut layer = Vec::new();
    for name in &names {
        if let Ok(path) = EntryPath::new(name) {
            check_meaning(&path);
        }
        push(&mut layer, name);
    }
    layer.resize(layer.len() + 1024, 0);
    let Ok((_, image)) = unpack(&layer, Format::Portable) else { return false };
    for path in image.names.keys() {
        assert!(path.split(|b| *b == b'/').all(|part| !part.starts_with(b".wh.")));
    }
    // In a native layer, the name of a whiteout is a name like others.
    if let [name] = names[..]
        && let Ok((_, image)) = unpack(&layer, Format::Native)
    {
        let path = EntryPath::new(name).unwrap();
        assert!(image.names.contains_key(path.as_bytes()));
    }
    true
}

fn check_meaning(path: &EntryPath) {
    let parts: Vec<_> = path.parts().collect();
    let Some((last, above)) = parts.split_last() else { return };
    let is_mark = |part: &&[u8]| part.starts_with(b".wh.");
    match Meaning::of(path) {
        Ok(Meaning::Entry) => assert!(!parts.iter().any(is_mark)),
        Ok(Meaning::Whiteout(name)) => {
            assert_eq!([b".wh.", name].concat(), *last);
            assert!(!matches!(name, b"" | b"." | b"..") && !above.iter().any(is_mark));
        }
        Ok(Meaning::Opaque) => assert!(*last == b".wh..wh..opq" && !above.iter().any(is_mark)),
        Ok(Meaning::Internal) => assert!(parts.iter().any(|part| part.starts_with(b".wh..wh."))),
        Err(why) => assert!(matches!(why, InvalidLayer::Whiteout) && parts.iter().any(is_mark)),
    }
}

/// Appends an empty file with its name in a pax record.
fn push(layer: &mut Vec<u8>, name: &[u8]) {
    let records = record(b"path", name);
    for (kind, content) in [(b'x', &records[..]), (b'0', b"")] {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().linkflag = [kind];
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        layer.extend_from_slice(header.as_bytes());
        layer.extend_from_slice(content);
        layer.resize(layer.len().next_multiple_of(512), 0);
    }
}

/// An entry as a reader of tars sees it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    name: Vec<u8>,
    /// As the type byte of ustar; `0` for every regular file.
    kind: u8,
    /// The target of a link; empty for others.
    target: Vec<u8>,
    size: u64,
    content: Digest,
}

/// What another reader sees.
enum Other {
    /// The whole archive.
    Whole(Vec<Seen>),
    /// It refuses the archive, or reads something in it differently for a known reason.
    Apart,
}

/// An archive that is accepted here, by the `tar` crate and by `tar-core` has the same entries for all. Returns whether
/// both others read it as a whole.
///
/// Known differences, at which the comparison ends:
///
/// - the size of an entry that is not a regular file: the others skip so many bytes of content;
/// - sparse files: the `tar` crate does not know those of pax, and returns others with their holes;
/// - a pax key that occurs twice, or has an empty value or a newline in its value: here the last one counts, and an
///   empty one means "as in the header";
/// - a GNU long name with a NUL: here it ends there;
/// - extended headers without the magic of ustar or GNU: entries for the others;
/// - global headers between the parts of one entry.
pub fn differential(data: &[u8]) -> bool {
    if data.len() > INPUT_MOST {
        return false;
    }
    let Some(ours) = ours(data) else { return false };
    let mut compared = 0;
    if let Other::Whole(seen) = by_tar(data) {
        assert_eq!(ours, seen, "the `tar` crate reads another archive");
        compared += 1;
    }
    if let Other::Whole(seen) = by_tar_core(data) {
        assert_eq!(ours, seen, "tar-core reads another archive");
        compared += 1;
    }
    compared == 2
}

/// The entries. `None` for an archive that is refused, or has a sparse file.
fn ours(data: &[u8]) -> Option<Vec<Seen>> {
    let limits = limits();
    let share = limits.budget.share();
    let (mut seen, mut is_sparse) = (Vec::new(), false);
    pipe::run(data, &limits, &share, |stream| {
        let mut reader = Reader::new(stream, &limits);
        while let Some(entry) = reader.next()? {
            is_sparse |= matches!(entry.kind, Kind::Sparse(_));
            seen.push(our_entry(entry, &mut reader)?);
        }
        reader.finish()
    })
    .ok()?;
    (!is_sparse).then_some(seen)
}

fn our_entry(entry: Entry, reader: &mut Reader<'_>) -> Result<Seen, UnpackError> {
    let name = entry.name.as_bytes().to_vec();
    let mut content = Vec::new();
    let (kind, target) = match entry.kind {
        Kind::File(_) | Kind::Mapped(_) | Kind::Sparse(Sparse { .. }) => (b'0', Vec::new()),
        Kind::Dir => (b'5', Vec::new()),
        Kind::Symlink(target) => (b'2', target),
        Kind::Link(target) => (b'1', target.as_bytes().to_vec()),
        Kind::Special(Special::Fifo) => (b'6', Vec::new()),
        Kind::Special(Special::BlockDevice(..)) => (b'4', Vec::new()),
        Kind::Special(_) | Kind::Whiteout => (b'3', Vec::new()),
    };
    if kind == b'0' {
        reader.content(|piece| {
            content.extend_from_slice(piece);
            Ok(())
        })?;
    }
    Ok(Seen { name, kind, target, size: content.len() as u64, content: Digest::of(&content) })
}

/// An entry of another reader; `None` for one that is read differently here for a known reason.
fn seen(name: &[u8], kind: u8, target: &[u8], size: u64, content: &[u8]) -> Option<Seen> {
    let kind = match kind {
        0 if name.ends_with(b"/") => b'5',
        0 | b'7' => b'0',
        b'0'..=b'6' => kind,
        // Extended headers that are not taken as such.
        _ => return None,
    };
    if name.contains(&0) || target.contains(&0) || (kind != b'0' && size > 0) {
        return None;
    }
    let target = match kind {
        // The path that it means, because the others return it as it is written.
        b'1' => EntryPath::new(target).ok()?.as_bytes().to_vec(),
        b'2' => target.to_vec(),
        _ => Vec::new(),
    };
    Some(Seen { name: name.to_vec(), kind, target, size, content: Digest::of(content) })
}

fn by_tar(data: &[u8]) -> Other {
    let (mut archive, mut all) = (tar::Archive::new(data), Vec::new());
    let Ok(entries) = archive.entries() else { return Other::Apart };
    for entry in entries {
        let Ok(mut entry) = entry else { return Other::Apart };
        let mut content = Vec::new();
        if entry.size() > INPUT_MOST as u64 || entry.read_to_end(&mut content).is_err() {
            return Other::Apart;
        }
        let mut keys = BTreeMap::new();
        if let Ok(Some(records)) = entry.pax_extensions() {
            for record in records {
                let Ok(record) = record else { return Other::Apart };
                if record.value_bytes().is_empty()
                    || keys.insert(record.key_bytes().to_vec(), ()).is_some()
                {
                    return Other::Apart;
                }
            }
        }
        let target = entry.link_name_bytes().unwrap_or_default();
        let kind = entry.header().as_old().linkflag[0];
        match seen(&entry.path_bytes(), kind, &target, entry.size(), &content) {
            Some(seen) => all.push(seen),
            None => return Other::Apart,
        }
    }
    Other::Whole(all)
}

fn by_tar_core(data: &[u8]) -> Other {
    use tar_core::{
        PaxExtensions,
        parse::{ParseEvent, Parser},
    };
    let (mut parser, mut rest, mut all) = (Parser::with_defaults(), data, Vec::new());
    loop {
        let (consumed, entry) = match parser.parse(rest) {
            Ok(ParseEvent::Entry { consumed, entry }) => (consumed, entry),
            Ok(ParseEvent::End { .. }) => return Other::Whole(all),
            // The end without its marker.
            Ok(ParseEvent::NeedData { .. }) if rest.iter().all(|b| *b == 0) => {
                return Other::Whole(all);
            }
            _ => return Other::Apart,
        };
        let mut keys = BTreeMap::new();
        for record in entry.pax.map(PaxExtensions::new).into_iter().flatten() {
            let Ok(record) = record else { return Other::Apart };
            if record.value_bytes().is_empty()
                || keys.insert(record.key_bytes().to_vec(), ()).is_some()
            {
                return Other::Apart;
            }
        }
        let Some(content) = rest.get(consumed..).and_then(|rest| rest.get(..entry.size as usize))
        else {
            return Other::Apart;
        };
        let kind = rest[consumed - 512 + 156];
        let target = entry.link_target.as_deref().unwrap_or_default();
        match seen(&entry.path, kind, target, entry.size, content) {
            Some(seen) => all.push(seen),
            None => return Other::Apart,
        }
        let next = consumed + content.len().next_multiple_of(512);
        rest = rest.get(next..).unwrap_or_default();
    }
}
