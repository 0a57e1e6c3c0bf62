//! Trees compared: what whiteouts, opaque folders, replaced and moved folders do to what is known.

use super::*;
use crate::{
    changeset::{Listed, What},
    digest::Digest,
};

fn say(path: &str, what: What) -> Listed {
    let path = path.as_bytes().to_vec();
    Listed { path, what, mode: 0o644, uid: 0, gid: 0, xattrs: Vec::new() }
}

fn file(path: &str, text: &str) -> Listed {
    let content = Some(Digest::of(text.as_bytes()));
    say(path, What::File { size: text.len() as u64, content, from: None })
}

fn folder(path: &str) -> Listed {
    say(path, What::Folder { opaque: false, from: None })
}

fn gone(path: &str) -> Listed {
    say(path, What::Gone)
}

fn opaque(path: &str) -> Listed {
    say(path, What::Folder { opaque: true, from: None })
}

fn moved(path: &str, from: &str) -> Listed {
    say(path, What::Folder { opaque: false, from: Some(from.as_bytes().to_vec()) })
}

fn bare(path: &str, from: Option<&str>) -> Listed {
    let from = from.map(|from| from.as_bytes().to_vec());
    say(path, What::File { size: 4, content: None, from })
}

type Layers<'l> = &'l [&'l [Listed]];

fn grown(mut side: Side, layers: Layers<'_>) -> Side {
    layers.iter().for_each(|layer| side.put(layer.to_vec()));
    side
}

fn lines(first: &Side, second: &Side) -> Vec<String> {
    let line = |one: Difference| {
        let path = String::from_utf8(one.path).unwrap();
        let respects = one.respects.join("+");
        format!("{} {path} {respects}", one.change.letters()).trim_end().to_owned()
    };
    compare(first, second).into_iter().map(line).collect()
}

/// What differs between two sides on a base that nobody knows.
fn unknown(first: Layers<'_>, second: Layers<'_>) -> Vec<String> {
    lines(&grown(Side::default(), first), &grown(Side::default(), second))
}

/// What differs between two sides on a base that was read.
fn on(base: Layers<'_>, first: Layers<'_>, second: Layers<'_>) -> Vec<String> {
    let base = grown(Side::on_nothing(), base);
    lines(&grown(base.clone(), first), &grown(base, second))
}

const NONE: [&str; 0] = [];

#[test]
fn what_only_one_side_names_may_be_in_the_base() {
    let layer = [folder("d"), file("d/new", "x"), gone("old"), opaque("e"), file("e/f", "x")];
    assert_eq!(unknown(&[], &[&layer]), ["AC d", "AC d/new", "AC e emptied", "AC e/f", "D old"]);
    assert_eq!(unknown(&[&layer], &[]), ["CD d", "CD d/new", "CD e", "CD e/f", "A old"]);
    assert_eq!(unknown(&[&layer], &[&layer]), NONE);
}

#[test]
fn with_the_base_nothing_is_unknown() {
    let base = [
        folder("d"),
        file("d/a", "1"),
        file("d/b", "1"),
        file("old", "1"),
        folder("e"),
        file("e/g", "1"),
    ];
    let layer = [
        folder("d"),
        file("d/a", "2"),
        file("d/c", "1"),
        gone("old"),
        opaque("e"),
        file("e/f", "x"),
    ];
    let same = ["C d/a content", "A d/c", "A e/f", "D e/g", "D old"];
    assert_eq!(on(&[&base], &[], &[&layer]), same);
    assert_eq!(on(&[&base], &[&layer], &[]), ["C d/a content", "D d/c", "D e/f", "A e/g", "A old"]);
}

#[test]
fn every_respect_is_named() {
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
        (say("f", What::Symlink(b"text".to_vec())), "C f type"),
        (folder("f"), "C f type"),
        (say("f", What::Special(Special::Fifo)), "C f type"),
    ];
    for (other, line) in cases {
        let found = on(&[std::slice::from_ref(&plain)], &[], &[&[other]]);
        assert_eq!(found, [line]);
    }
    let links = ["a", "b"].map(|to| say("l", What::Symlink(to.into())));
    assert_eq!(unknown(&[&[links[0].clone()]], &[&[links[1].clone()]]), ["C l content"]);
}

#[test]
fn a_whiteout_hides_what_is_below_it_in_whatever_order_the_tar_has_them() {
    let base = [folder("d"), file("d/a", "1")];
    // A folder takes a hidden one's place: what that had is gone.
    for layer in
        [[gone("d"), folder("d"), file("d/b", "1")], [folder("d"), file("d/b", "1"), gone("d")]]
    {
        assert_eq!(on(&[&base], &[], &[&layer]), ["D d/a", "A d/b"]);
        assert_eq!(unknown(&[], &[&layer]), ["AC d emptied", "AC d/b"]);
    }
    // The same with a layer between, and without an entry for the folder.
    assert_eq!(
        on(&[&base], &[], &[&[gone("d")], &[file("d/b", "1")]]),
        ["C d mode", "D d/a", "A d/b"]
    );
    // A whole folder is one line.
    assert_eq!(on(&[&base], &[], &[&[gone("d")]]), ["D d"]);
    assert_eq!(on(&[&base], &[], &[&[file("d", "")]]), ["C d type", "D d/a"]);
    assert_eq!(on(&[&[file("d", "")]], &[], &[&[file("d/a", "1")]]), ["C d type+mode", "A d/a"]);
    let root = [say("", What::Emptied), file("x", "1")];
    assert_eq!(on(&[&base], &[], &[&root]), ["D d", "A x"]);
    assert_eq!(unknown(&[&[file("y", "1")]], &[&root]), ["AC x", "D y"]);
}

#[test]
fn a_hidden_folder_stays_hidden_in_later_layers() {
    let first: Layers<'_> = &[&[file("d/a", "1")]];
    let second: Layers<'_> = &[&[opaque("d")], &[folder("d"), file("d/b", "1")]];
    assert_eq!(unknown(first, second), ["AC d emptied", "D d/a", "AC d/b"]);
}

#[test]
fn a_moved_folder_shows_what_was_elsewhere() {
    let base = [folder("a"), file("a/f", "1"), folder("a/s"), file("a/s/g", "1"), file("b", "1")];
    let layer = [gone("a"), moved("n", "a"), gone("n/s/g"), file("n/h", "1")];
    assert_eq!(on(&[&base], &[], &[&layer]), ["D a", "A n", "A n/f", "A n/h", "A n/s"]);
    // Of an unknown base it is known only that it is another path's.
    assert_eq!(unknown(&[], &[&[moved("n", "a"), file("n/h", "1")]]), ["AC n", "AC n/h"]);
    let twice: Layers<'_> = &[&[moved("n", "a")], &[gone("n"), moved("m/o", "n"), folder("m")]];
    assert_eq!(on(&[&base], &[], twice), ["A m", "A m/o", "A m/o/f", "A m/o/s", "A m/o/s/g"]);
    let swapped = [moved("a", "c"), moved("c", "a")];
    let two = [folder("a"), file("a/1", "x"), folder("c"), file("c/2", "x")];
    assert_eq!(on(&[&two], &[], &[&swapped]), ["D a/1", "A a/2", "A c/1", "D c/2"]);
}

#[test]
fn a_file_without_content_has_that_of_the_layer_below() {
    let base = [file("a", "text"), file("b", "text")];
    let chmod = Listed { mode: 0o600, ..bare("a", None) };
    assert_eq!(on(&[&base], &[], &[&[chmod]]), ["C a mode"]);
    let renamed = [gone("a"), bare("c", Some("a"))];
    assert_eq!(on(&[&base], &[], &[&renamed]), ["D a", "A c"]);
    assert_eq!(on(&[&base], &[&[gone("a"), file("c", "text")]], &[&renamed]), NONE);
    assert_eq!(unknown(&[&[bare("a", None)]], &[&[bare("a", None)]]), NONE);
    assert_eq!(unknown(&[&[bare("a", None)]], &[&[bare("a", Some("b"))]]), ["C a content"]);
}

#[test]
fn a_hard_link_is_the_file_that_it_links_to() {
    let link = |path: &str, to: &str| say(path, What::Link(to.into()));
    let linked = [file("a", "text"), link("b", "a")];
    assert_eq!(on(&[], &[&linked], &[&[file("a", "text"), file("b", "text")]]), NONE);
    assert_eq!(unknown(&[&[link("b", "a")]], &[&[link("b", "c")]]), ["C b content"]);
}
