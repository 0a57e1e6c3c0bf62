//! The README of the chart, made from its values, their comments and their schema.
//!
//! Deliberately absent: a parser of YAML. helm has one, and the comments are lines.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::yaml;
use crate::machine::harness::Harness;

/// The file, relative to the sources.
const FILE: &str = "charts/ovl-csi/README.md";

/// Its text, with a place for the values.
const TEMPLATE: &str = include_str!("../../assets/chart-readme.md");

const PLACE: &str = "{{values}}";

/// The values and their schema, relative to the sources.
const VALUES: &str = "charts/ovl-csi/values.yaml";
const SCHEMA: &str = "charts/ovl-csi/values.schema.json";

/// A value with its comment.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    path: Vec<String>,
    /// The lines of the comment above it, without `#` and a space.
    comment: Vec<String>,
}

/// Writes the file.
///
/// # Errors
/// helm failed, or a file cannot be read or written.
pub fn write(h: &Harness, repo: &Path) -> Result<()> {
    fs::write(repo.join(FILE), text(h, repo)?).with_context(|| format!("writing {FILE}"))
}

/// Checks that the file is current.
///
/// # Errors
/// It is not, or helm failed.
pub fn check(h: &Harness, repo: &Path) -> Result<()> {
    let have = fs::read_to_string(repo.join(FILE)).with_context(|| format!("reading {FILE}"))?;
    ensure!(have == text(h, repo)?, "{FILE} is not current; run `cargo xtask render`");
    Ok(())
}

fn text(h: &Harness, repo: &Path) -> Result<String> {
    let read =
        |file: &str| fs::read_to_string(repo.join(file)).with_context(|| format!("reading {file}"));
    let values = read(VALUES)?;
    let defaults = yaml::as_json(h, &values)?;
    let schema: Value = serde_json::from_str(&read(SCHEMA)?).with_context(|| SCHEMA.to_owned())?;
    Ok(TEMPLATE.replace(PLACE, sections(&entries(&values), &defaults, &schema).trim_end()))
}

/// All values with the comments above them, in the order of the file.
fn entries(values: &str) -> Vec<Entry> {
    let (mut entries, mut path, mut comment) = (Vec::new(), Vec::new(), Vec::new());
    for line in values.lines() {
        let trimmed = line.trim_start();
        let depth = (line.len() - trimmed.len()) / 2;
        if let Some(text) = trimmed.strip_prefix('#') {
            comment.push(text.strip_prefix(' ').unwrap_or(text).to_owned());
            continue;
        }
        let above = std::mem::take(&mut comment);
        let key = trimmed.split_once(':').filter(|_| !trimmed.starts_with("- "));
        if let Some((key, _)) = key {
            path.truncate(depth);
            path.push(key.trim_matches('"').to_owned());
            entries.push(Entry { path: path.clone(), comment: above });
        }
    }
    entries
}

/// A section for each value at the top, with a table of those below it.
fn sections(entries: &[Entry], defaults: &Value, schema: &Value) -> String {
    let mut out = String::new();
    for top in entries.iter().filter(|entry| entry.path.len() == 1) {
        let name = &top.path[0];
        let below: Vec<_> =
            entries.iter().filter(|e| e.path.len() > 1 && e.path[0] == *name).collect();
        let rows = below.iter().filter(|entry| {
            let is_part = below.iter().any(|e| is_below(entry, e) && !has_comments(&below, e));
            !is_part && (!entry.comment.is_empty() || !has_comments(&below, entry))
        });
        let rows: Vec<_> = rows.filter(|_| has_comments(&below, top)).collect();
        out.push_str(&format!("### `{name}`\n\n"));
        if rows.is_empty() {
            out.push_str(&format!("{}\n\n", kind_and_default(top, defaults, schema)));
        }
        let (prose, example) = split(&top.comment);
        out.push_str(&paragraphs(&prose, &example));
        if !rows.is_empty() {
            out.push_str("| value | type | default | description |\n|---|---|---|---|\n");
            out.extend(rows.iter().map(|entry| row(entry, &below, defaults, schema)));
            out.push('\n');
        }
        for entry in rows {
            let (_, example) = split(&entry.comment);
            if !example.is_empty() {
                out.push_str(&format!("`{}`:\n\n{}", entry.path.join("."), code(&example)));
            }
        }
    }
    out
}

/// Whether a value is below another one.
fn is_below(entry: &Entry, above: &Entry) -> bool {
    entry.path.len() > above.path.len() && entry.path.starts_with(&above.path)
}

/// Whether a value below this one has a comment.
fn has_comments(all: &[&Entry], above: &Entry) -> bool {
    all.iter().any(|entry| is_below(entry, above) && !entry.comment.is_empty())
}

fn row(entry: &Entry, all: &[&Entry], defaults: &Value, schema: &Value) -> String {
    let default = match has_comments(all, entry) {
        true => String::new(),
        false => format!("`{}`", default(entry, defaults)),
    };
    let (prose, _) = split(&entry.comment);
    format!(
        "| `{}` | {} | {default} | {} |\n",
        entry.path.join("."),
        kind(entry, schema),
        escaped(&prose.join(" ")).replace('|', "\\|"),
    )
}

fn kind_and_default(entry: &Entry, defaults: &Value, schema: &Value) -> String {
    let (kind, default) = (kind(entry, schema), default(entry, defaults));
    if kind.is_empty() {
        format!("Default: `{default}`")
    } else {
        format!("{kind}, default: `{default}`")
    }
}

fn default(entry: &Entry, defaults: &Value) -> String {
    let found = entry.path.iter().try_fold(defaults, |value, key| value.get(key));
    found.unwrap_or(&Value::Null).to_string()
}

/// The type of a value, or its words, from the schema.
fn kind(entry: &Entry, schema: &Value) -> String {
    let found = entry.path.iter().try_fold(schema, |at, key| {
        let at = resolved(schema, at);
        let pattern = || at["patternProperties"].as_object()?.values().next();
        at["properties"].get(key).or_else(pattern).or_else(|| at.get("additionalProperties"))
    });
    let found = resolved(schema, found.unwrap_or(&Value::Null));
    let any_of = found["allOf"].get(0).or_else(|| found["anyOf"].get(0));
    let found = any_of.map_or(found, |first| resolved(schema, first));
    match (found["enum"].as_array(), found["type"].as_str()) {
        (Some(words), _) => {
            let words = words.iter().map(|word| format!("`{word}`"));
            words.collect::<Vec<_>>().join(", ")
        }
        (None, Some(kind)) => kind.to_owned(),
        (None, None) => String::new(),
    }
}

/// What a reference of the schema refers to.
fn resolved<'s>(schema: &'s Value, at: &'s Value) -> &'s Value {
    let pointer = at["$ref"].as_str().and_then(|to| to.strip_prefix('#'));
    pointer.and_then(|pointer| schema.pointer(pointer)).unwrap_or(at)
}

/// The prose of a comment, and its lines that are indented: examples and tables.
fn split(comment: &[String]) -> (Vec<&str>, Vec<&str>) {
    let lines = comment.iter().map(String::as_str).filter(|line| !line.is_empty());
    let (example, prose): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with(' '));
    let prose = prose.into_iter().map(|line| line.trim_end_matches("Example:").trim_end());
    (prose.filter(|line| !line.is_empty()).collect(), example)
}

fn paragraphs(prose: &[&str], example: &[&str]) -> String {
    let mut out = String::new();
    if !prose.is_empty() {
        out.push_str(&format!("{}\n\n", escaped(&prose.join(" "))));
    }
    if !example.is_empty() {
        out.push_str(&code(example));
    }
    out
}

fn code(lines: &[&str]) -> String {
    let lines = lines.iter().map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line)));
    format!("```text\n{}```\n\n", lines.collect::<String>())
}

/// Prose in which a word in angle brackets is no tag of HTML.
fn escaped(prose: &str) -> String {
    let outside = prose.split('`').enumerate().map(|(at, part)| match at % 2 {
        0 => part.replace('<', "\\<"),
        _ => part.to_owned(),
    });
    outside.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const VALUES: &str = "# A name.\nname: a\n\n# What for.\n# Example:\n#   list: [1]\nlist: []\n\nmap:\n  # One.\n  one: 1\n  \
                          two:\n    three: <x>\n    four: |4\n";

    #[test]
    fn a_value_has_the_comment_above_it() {
        let found = entries(VALUES);
        let paths: Vec<_> = found.iter().map(|entry| entry.path.join(".")).collect();
        assert_eq!(
            paths,
            ["name", "list", "map", "map.one", "map.two", "map.two.three", "map.two.four"]
        );
        assert_eq!(found[1].comment, ["What for.", "Example:", "  list: [1]"]);
        assert!(found[4].comment.is_empty());
    }

    #[test]
    fn values_at_the_top_have_sections_and_the_others_rows() {
        let defaults =
            json!({ "name": "a", "list": [], "map": { "one": 1, "two": { "three": "<x>" } } });
        let schema = json!({
            "definitions": { "text": { "type": "string" } },
            "properties": {
                "name": { "$ref": "#/definitions/text" },
                "map": { "properties": { "one": { "enum": [1, 2] } } },
            },
        });
        let text = sections(&entries(VALUES), &defaults, &schema);
        for part in [
            "### `name`\n\nstring, default: `\"a\"`\n\nA name.\n\n",
            "### `list`\n\nDefault: `[]`\n\nWhat for.\n\n```text\nlist: [1]\n```\n\n",
            "### `map`\n\n| value |",
            "| `map.one` | `1`, `2` | `1` | One. |\n",
            "| `map.two` |  | `{\"three\":\"<x>\"}` |  |\n",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(!text.contains("map.two.three"), "{text}");
    }
}
