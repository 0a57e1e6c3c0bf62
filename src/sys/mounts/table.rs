//! Parses the kernel's mount table, `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
//!
//! Order and repeated keys are kept, because an overlay shows `lowerdir+=` once per layer. The functions are pure: they
//! read no files. Deliberately absent: lookups. Callers search the table themselves.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id, unique while it exists.
    pub id: u64,
    /// The id of the mount it is attached to.
    pub parent: u64,
    /// Major and minor number of the file system.
    pub device: (u32, u32),
    /// The directory within the file system that is the root of this mount.
    pub root: PathBuf,
    /// The mount point, as this process sees it.
    pub target: PathBuf,
    /// Options of the mount itself: `rw`, `nosuid`, …
    pub options: Vec<String>,
    /// Propagation: `shared:1`, `master:2`, …; empty for a private mount.
    pub propagation: Vec<String>,
    /// The type of the file system.
    pub fs_type: String,
    /// The source given at the mount: a device, an image or only a name.
    pub source: OsString,
    /// Options of the file system (superblock options).
    pub super_options: SuperOptions,
}

impl Mount {
    /// The value of the first file system option `key`. `None` if the option is absent or has no value.
    pub fn super_option(&self, key: &str) -> Option<OsString> {
        let named = |option: &&[u8]| match option.strip_prefix(key.as_bytes()) {
            Some(rest) => matches!(rest, [] | [b'=', ..]),
            None => false,
        };
        let option = self.super_options.0.split(|&b| b == b',').find(named)?;
        option.get(key.len() + 1..).map(|value| OsString::from_vec(unescape(value)))
    }
}

/// Options of a file system as the kernel writes them, parsed on demand.
///
/// An overlay has one option for each layer. Of a table with hundreds of overlays, a caller usually needs the options
/// of one.
#[derive(Clone, PartialEq, Eq)]
pub struct SuperOptions(Box<[u8]>);

impl SuperOptions {
    /// Options in the kernel's format.
    pub(super) fn raw(text: Vec<u8>) -> Self {
        Self(text.into())
    }

    /// The keys with their values, in order and with repeated keys.
    pub fn iter(&self) -> impl Iterator<Item = (String, Option<OsString>)> {
        // Split before unescaping: a comma or an equals sign inside a value is escaped.
        let pair = |option: &[u8]| match option.iter().position(|&b| b == b'=') {
            Some(at) => {
                (text(&option[..at]), Some(OsString::from_vec(unescape(&option[at + 1..]))))
            }
            None => (text(option), None),
        };
        self.0.split(|&b| b == b',').map(pair)
    }
}

impl fmt::Debug for SuperOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Writes options in the kernel's format, for the fake.
#[cfg(test)]
impl FromIterator<(String, Option<OsString>)> for SuperOptions {
    fn from_iter<T: IntoIterator<Item = (String, Option<OsString>)>>(options: T) -> Self {
        let escape = |byte: &u8| match byte {
            b',' | b'=' | b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![*byte],
        };
        let written = options.into_iter().map(|(key, value)| {
            let value = value.map(|value| value.into_vec().iter().flat_map(escape).collect());
            let value = value.map(|value: Vec<u8>| [b"=".as_slice(), &value].concat());
            [key.into_bytes(), value.unwrap_or_default()].concat()
        });
        Self(written.collect::<Vec<_>>().join(&b',').into())
    }
}

/// A line of the mount table does not have the format of proc_pid_mountinfo(5).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of the mount table has no valid {field}: {text:?}")]
pub struct TableError {
    /// The number of the line, counted from 1.
    pub line: usize,
    /// The field that is missing or malformed.
    pub field: &'static str,
    /// The whole line.
    pub text: String,
}

/// Parses a whole mount table. A single bad line is an error, because missing a mount is worse than stopping.
pub fn parse_table(bytes: &[u8]) -> Result<Vec<Mount>, TableError> {
    bytes
        .split(|&b| b == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| {
            parse_line(line).map_err(|field| TableError {
                line: index + 1,
                field,
                text: String::from_utf8_lossy(line).into_owned(),
            })
        })
        .collect()
}

fn parse_line(line: &[u8]) -> Result<Mount, &'static str> {
    let mut fields = line.split(|&b| b == b' ');
    let mut next = |name| fields.next().ok_or(name);
    let id = number(next("mount id")?).ok_or("mount id")?;
    let parent = number(next("parent id")?).ok_or("parent id")?;
    let device = device(next("device")?).ok_or("device")?;
    let root = path(next("root")?);
    let target = path(next("mount point")?);
    let options = list(next("mount options")?);
    let mut propagation = Vec::new();
    loop {
        match next("separator")? {
            b"-" => break,
            tag => propagation.push(text(tag)),
        }
    }
    let fs_type = text(next("file system type")?);
    let source = unescape(next("source")?);
    let super_options = SuperOptions(next("file system options")?.into());
    let source = OsString::from_vec(source);
    Ok(Mount {
        id,
        parent,
        device,
        root,
        target,
        options,
        propagation,
        fs_type,
        source,
        super_options,
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn list(field: &[u8]) -> Vec<String> {
    field.split(|&b| b == b',').map(text).collect()
}

/// Undoes the kernel's escapes `\ooo`, three octal digits. A backslash before anything else is kept.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
