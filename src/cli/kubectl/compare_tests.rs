//! Comparisons of trees with whiteouts, opaque directories, and replaced and moved directories.

use super::*;
use crate::{
    changeset::{Listed, ListedKind},
    digest::Digest,
};

fn entry(path: &str, what: ListedKind) -> Listed {
    let path = path.as_bytes().to_vec();
    Listed { path, what, mode: 0o644, uid: 0, gid: 0, xattrs: Vec::new() }
}

fn file(path: &str, text: &str) -> Listed {
    let content = Some(Digest::of(text.as_bytes()));
    entry(path, ListedKind::File { size: text.len() as u64, content, from: None })
}

fn dir(path: &str) -> Listed {
    entry(path, ListedKind::Dir { opaque: false, from: None })
}

fn whiteout(path: &str) -> Listed {
    entry(path, ListedKind::Whiteout)
}

fn opaque(path: &str) -> Listed {
    entry(path, ListedKind::Dir { opaque: true, from: None })
}

fn moved(path: &str, from: &str) -> Listed {
    entry(path, ListedKind::Dir { opaque: false, from: Some(from.as_bytes().to_vec()) })
}

fn bare(path: &str, from: Option<&str>) -> Listed {
    let from = from.map(|from| from.as_bytes().to_vec());
    entry(path, ListedKind::File { size: 4, content: None, from })
}

type Layers<'l> = &'l [&'l [Listed]];

fn with_layers(mut side: Side, layers: Layers<'_>) -> Side {
    layers.iter().for_each(|layer| side.put(layer.to_vec()));
    side
}

fn lines(first: &Side, second: &Side) -> Vec<String> {
    let line = |one: Difference| {
        let path = String::from_utf8(one.path).unwrap();
        let properties = one.properties.join("+");
        format!("{} {path} {properties}", one.change.letters()).trim_end().to_owned()
    };
    compare(first, second).into_iter().map(line).collect()
}

/// The differences between two sides on an unknown base.
fn unknown(first: Layers<'_>, second: Layers<'_>) -> Vec<String> {
    lines(&with_layers(Side::default(), first), &with_layers(Side::default(), second))
}

/// The differences between two sides on a base that was read.
fn on(base: Layers<'_>, first: Layers<'_>, second: Layers<'_>) -> Vec<String> {
    let base = with_layers(Side::on_nothing(), base);
    lines(&with_layers(base.clone(), first), &with_layers(base, second))
}

const NONE: [&str; 0] = [];

#[test]
fn a_path_that_only_one_side_names_can_be_in_the_base_too() {
    let layer = [dir("d"), file("d/new", "x"), whiteout("old"), opaque("e"), file("e/f", "x")];
    assert_eq!(unknown(&[], &[&layer]), ["AC d", "AC d/new", "AC e emptied", "AC e/f", "D old"]);
    assert_eq!(unknown(&[&layer], &[]), ["CD d", "CD d/new", "CD e", "CD e/f", "A old"]);
    assert_eq!(unknown(&[&layer], &[&layer]), NONE);
}

#[test]
fn with_the_base_each_change_is_exact() {
    let base = [
        dir("d"),
        file("d/a", "1"),
        file("d/b", "1"),
        file("old", "1"),
        dir("e"),
        file("e/g", "1"),
    ];
    let layer = [
        dir("d"),
        file("d/a", "2"),
        file("d/c", "1"),
        whiteout("old"),
        opaque("e"),
        file("e/f", "x"),
    ];
    let same = ["C d/a content", "A d/c", "A e/f", "D e/g", "D old"];
    assert_eq!(on(&[&base], &[], &[&layer]), same);
    assert_eq!(on(&[&base], &[&layer], &[]), ["C d/a content", "D d/c", "D e/f", "A e/g", "A old"]);
}

#[test]
fn each_property_that_differs_is_named() {
    let plain = file("f", "text");
    let cases = [
        (file("f", "TEXT"), "C f content"),
        (file("f", "texts"), "C f size+content"),
        (Listed { mode: 0o755, ..plain.clone() }, "C f mode"),
        (Listed { gid: 5, ..plain.clone() }, "C f owner"),
        (
            Listed { xattrs: vec![(b"user.a".to_vec(), b"b".to_vec())], ..plain.clone() },
            "C f xattrs",
        ),
        (entry("f", ListedKind::Symlink(b"text".to_vec())), "C f type"),
        (dir("f"), "C f type"),
        (entry("f", ListedKind::Special(Special::Fifo)), "C f type"),
    ];
    for (other, line) in cases {
        let found = on(&[std::slice::from_ref(&plain)], &[], &[&[other]]);
        assert_eq!(found, [line]);
    }
    let links = ["a", "b"].map(|to| entry("l", ListedKind::Symlink(to.into())));
    assert_eq!(unknown(&[&[links[0].clone()]], &[&[links[1].clone()]]), ["C l content"]);
}

#[test]
fn a_whiteout_hides_the_layers_below_whatever_its_position_in_the_tar() {
    let base = [dir("d"), file("d/a", "1")];
    // A directory replaces a hidden one, whose entries stay hidden.
    for layer in
        [[whiteout("d"), dir("d"), file("d/b", "1")], [dir("d"), file("d/b", "1"), whiteout("d")]]
    {
        assert_eq!(on(&[&base], &[], &[&layer]), ["D d/a", "A d/b"]);
        assert_eq!(unknown(&[], &[&layer]), ["AC d emptied", "AC d/b"]);
    }
    // The same in two layers, and without an entry for the directory.
    assert_eq!(
        on(&[&base], &[], &[&[whiteout("d")], &[file("d/b", "1")]]),
        ["C d mode", "D d/a", "A d/b"]
    );
    // A removed directory is one line.
    assert_eq!(on(&[&base], &[], &[&[whiteout("d")]]), ["D d"]);
    assert_eq!(on(&[&base], &[], &[&[file("d", "")]]), ["C d type", "D d/a"]);
    assert_eq!(on(&[&[file("d", "")]], &[], &[&[file("d/a", "1")]]), ["C d type+mode", "A d/a"]);
    let root = [entry("", ListedKind::OpaqueDir), file("x", "1")];
    assert_eq!(on(&[&base], &[], &[&root]), ["D d", "A x"]);
    assert_eq!(unknown(&[&[file("y", "1")]], &[&root]), ["AC x", "D y"]);
}

#[test]
fn a_hidden_directory_stays_hidden_in_later_layers() {
    let first: Layers<'_> = &[&[file("d/a", "1")]];
    let second: Layers<'_> = &[&[opaque("d")], &[dir("d"), file("d/b", "1")]];
    assert_eq!(unknown(first, second), ["AC d emptied", "D d/a", "AC d/b"]);
}

#[test]
fn a_moved_directory_has_the_entries_of_its_old_path() {
    let base = [dir("a"), file("a/f", "1"), dir("a/s"), file("a/s/g", "1"), file("b", "1")];
    let layer = [whiteout("a"), moved("n", "a"), whiteout("n/s/g"), file("n/h", "1")];
    assert_eq!(on(&[&base], &[], &[&layer]), ["D a", "A n", "A n/f", "A n/h", "A n/s"]);
    // With an unknown base it is only known that the content is that of another path.
    assert_eq!(unknown(&[], &[&[moved("n", "a"), file("n/h", "1")]]), ["AC n", "AC n/h"]);
    let twice: Layers<'_> = &[&[moved("n", "a")], &[whiteout("n"), moved("m/o", "n"), dir("m")]];
    assert_eq!(on(&[&base], &[], twice), ["A m", "A m/o", "A m/o/f", "A m/o/s", "A m/o/s/g"]);
    let swapped = [moved("a", "c"), moved("c", "a")];
    let two = [dir("a"), file("a/1", "x"), dir("c"), file("c/2", "x")];
    assert_eq!(on(&[&two], &[], &[&swapped]), ["D a/1", "A a/2", "A c/1", "D c/2"]);
}

#[test]
fn a_file_without_content_has_the_content_of_the_layer_below() {
    let base = [file("a", "text"), file("b", "text")];
    let chmod = Listed { mode: 0o600, ..bare("a", None) };
    assert_eq!(on(&[&base], &[], &[&[chmod]]), ["C a mode"]);
    let renamed = [whiteout("a"), bare("c", Some("a"))];
    assert_eq!(on(&[&base], &[], &[&renamed]), ["D a", "A c"]);
    assert_eq!(on(&[&base], &[&[whiteout("a"), file("c", "text")]], &[&renamed]), NONE);
    assert_eq!(unknown(&[&[bare("a", None)]], &[&[bare("a", None)]]), NONE);
    assert_eq!(unknown(&[&[bare("a", None)]], &[&[bare("a", Some("b"))]]), ["C a content"]);
}

#[test]
fn a_hard_link_is_compared_as_the_file_that_it_links_to() {
    let link = |path: &str, to: &str| entry(path, ListedKind::Link(to.into()));
    let linked = [file("a", "text"), link("b", "a")];
    assert_eq!(on(&[], &[&linked], &[&[file("a", "text"), file("b", "text")]]), NONE);
    assert_eq!(unknown(&[&[link("b", "a")]], &[&[link("b", "c")]]), ["C b content"]);
}
