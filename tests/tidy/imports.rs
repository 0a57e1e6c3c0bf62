//! Which file uses which, found in the text of the files.
//!
//! An import counts for the file that defines the item, so a re-export hides no cycle. Declaring a module is no use of
//! it, and neither is a re-export.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::words;

/// The files of a crate by module path. The file at the root of the crate has the empty path.
pub struct Crate(BTreeMap<String, File>);

/// The code of a file, without tests, comments and text.
struct File {
    imports: Vec<Import>,
    /// All but the imports.
    code: String,
}

/// One name that a `use` brings in.
struct Import {
    name: String,
    path: Vec<String>,
    is_public: bool,
}

impl Crate {
    /// The crate of these files, by their paths below its `src`. A file that only tests compile does not belong to it.
    pub fn new<'t>(files: impl IntoIterator<Item = (&'t Path, &'t str)>) -> Self {
        let (mut known, mut only_tests) = (BTreeMap::new(), Vec::new());
        for (path, text) in files {
            let module = module_of(path);
            let (code, tests) = without_tests(&without_text(text));
            only_tests.extend(tests.iter().map(|name| below(&module, name)));
            known.insert(module, code);
        }
        let is_test =
            |module: &str| only_tests.iter().any(|test| module == test || is_below(module, test));
        known.retain(|module, _| !is_test(module));
        Self(known.into_iter().map(|(module, code)| (module, File::new(&code))).collect())
    }

    /// The modules of the crate that have a file.
    pub fn modules(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// The files whose items each file uses.
    pub fn uses(&self) -> BTreeMap<String, BTreeSet<String>> {
        let modules = self.0.iter();
        modules.map(|(module, file)| (module.clone(), self.used_by(module, file))).collect()
    }

    fn used_by(&self, module: &str, file: &File) -> BTreeSet<String> {
        let known: BTreeSet<_> = words(&file.code).collect();
        // A re-export is a use where the file needs the name itself.
        let imports = file.imports.iter();
        let imports = imports.filter(|one| !one.is_public || known.contains(&*one.name));
        let imported = imports.map(|import| import.path.clone());
        let named = paths(&file.code).map(|path| path.split("::").map(str::to_owned).collect());
        let used = imported.chain(named).filter_map(|path: Vec<_>| {
            let path = self.absolute(module, &path, 0)?;
            self.definition(&path, 0)
        });
        used.filter(|used| used != module).collect()
    }

    /// The path from the root of the crate that `path` stands for in `module`. `None` if it leads to another crate.
    fn absolute(&self, module: &str, path: &[String], depth: usize) -> Option<Vec<String>> {
        let (head, rest) = path.split_first()?;
        let mut here: Vec<_> = words(module).map(str::to_owned).collect();
        match head.as_str() {
            "crate" => return Some(rest.to_vec()),
            "self" | "super" => {
                let supers = path.iter().take_while(|part| *part == "super").count();
                here.truncate(here.len().checked_sub(supers)?);
                here.extend_from_slice(&path[supers.max(1)..]);
                return Some(here);
            }
            _ => {}
        }
        let imports = &self.0.get(module)?.imports;
        let import = imports.iter().find(|import| import.name == *head && import.path != path);
        if let Some(import) = import.filter(|_| depth < 9) {
            let mut path = self.absolute(module, &import.path, depth + 1)?;
            path.extend_from_slice(rest);
            return Some(path);
        }
        here.push(head.clone());
        let child = here.join("::");
        here.extend_from_slice(rest);
        self.0.contains_key(&child).then_some(here)
    }

    /// The file that defines the item at `path`. `None` for a module itself.
    fn definition(&self, path: &[String], depth: usize) -> Option<String> {
        let mut prefixes = (1..=path.len()).rev().map(|len| (path[..len].join("::"), &path[len..]));
        let (module, rest) = prefixes.find(|(module, _)| self.0.contains_key(module))?;
        let (name, rest) = rest.split_first()?;
        let imports = &self.0[&module].imports;
        let Some(import) = imports.iter().find(|import| import.name == *name) else {
            return Some(module);
        };
        assert!(depth < 9, "{module} imports {name} from itself");
        let mut path = self.absolute(&module, &import.path, 0)?;
        path.extend_from_slice(rest);
        self.definition(&path, depth + 1)
    }
}

impl File {
    fn new(mut code: &str) -> Self {
        let (mut imports, mut rest) = (Vec::new(), String::new());
        while let Some(at) = code.find("use ") {
            let start = code[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let before = code[start..at].trim();
            let is_import = before.is_empty()
                || before == "pub"
                || (before.starts_with("pub(") && before.ends_with(')'));
            let (name, tree) = code.split_at(at + "use ".len());
            code = tree;
            if is_import {
                rest.push_str(&name[..start]);
                let (tree, after) = tree.split_once(';').unwrap_or((tree, ""));
                add_imports(tree, &[], !before.is_empty(), &mut imports);
                code = after;
            } else {
                rest.push_str(name);
            }
        }
        rest.push_str(code);
        Self { imports, code: rest }
    }
}

/// Adds each name of the `use` tree `tree`, below the path `above`.
fn add_imports(tree: &str, above: &[String], is_public: bool, found: &mut Vec<Import>) {
    let tree = tree.trim().trim_start_matches("::");
    if let Some(group) = tree.strip_prefix('{') {
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                ',' | '}' if depth == 0 => {
                    add_imports(&group[start..at], above, is_public, found);
                    start = at + 1;
                }
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
        }
        return;
    }
    assert!(!tree.starts_with('*'), "`use {}::*` hides which names are used", above.join("::"));
    let Some(name) = words(tree).next() else { return };
    let rest = tree[name.len()..].trim();
    let mut path = above.to_vec();
    if name != "self" || above.is_empty() {
        path.push(name.to_owned());
    }
    match rest.strip_prefix("::") {
        Some(rest) => add_imports(rest, &path, is_public, found),
        None => {
            let alias = rest.strip_prefix("as ").unwrap_or(&path[path.len() - 1]).to_owned();
            found.push(Import { name: alias, path, is_public });
        }
    }
}

/// All paths of two names or more in the code.
fn paths(code: &str) -> impl Iterator<Item = &str> {
    let is_in_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let paths = code.split(move |c| !is_in_path(c)).map(|path| path.trim_end_matches(':'));
    paths.filter(|path| !path.starts_with(':') && path.contains("::"))
}

/// The module path of a file: `a::b` for `a/b.rs` and `a/b/mod.rs`. Empty for the root of a crate.
pub fn module_of(file: &Path) -> String {
    let names = file.with_extension("");
    let names = names.iter().map(|name| name.to_str().unwrap());
    names.filter(|name| !["mod", "main", "lib"].contains(name)).collect::<Vec<_>>().join("::")
}

/// The path of a name in `module`.
fn below(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

/// Whether `module` is anywhere below `parent`.
fn is_below(module: &str, parent: &str) -> bool {
    parent.is_empty() || module.strip_prefix(parent).is_some_and(|rest| rest.starts_with("::"))
}

/// Whether `module` is directly below `parent`.
pub fn is_child(module: &str, parent: &str) -> bool {
    let name = module.rsplit_once("::").map_or(module, |(_, name)| name);
    !module.is_empty() && module == below(parent, name)
}

/// Code without comments, texts and characters.
fn without_text(code: &str) -> String {
    let (mut out, mut rest) = (String::new(), code);
    while let Some(at) = rest.find(['/', '"', '\'']) {
        let before = &rest[..at];
        out.push_str(before);
        rest = &rest[at..];
        let skipped = match rest.as_bytes()[0] {
            b'/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            b'/' => 1,
            b'"' => end_of_text(before, rest),
            _ => end_of_char(rest),
        };
        rest = &rest[skipped..];
    }
    out + rest
}

/// The length of the text at the start of `code`, with its quotes. It can be a raw one, by what is before it.
fn end_of_text(before: &str, code: &str) -> usize {
    let prefix = before.trim_end_matches('#');
    if prefix.ends_with('r') {
        let end = format!("\"{}", &before[prefix.len()..]);
        return code[1..].find(&end).map_or(code.len(), |at| 1 + at + end.len());
    }
    let mut is_escaped = false;
    for (at, c) in code.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The length of the character at the start of `code`, with its quotes. The quote of a lifetime alone has the length 1.
fn end_of_char(code: &str) -> usize {
    let mut inner = code.char_indices().skip(1);
    match (inner.next(), inner.next()) {
        (Some((_, '\\')), Some(_)) => inner.find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1),
        (_, Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// Code without the items that only tests and fuzz targets compile, and the names of the modules among them.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let (mut out, mut modules, mut rest) = (String::new(), Vec::new(), code);
    let attributes = ["#[cfg(test)]", "#[cfg(any(test, fuzzing))]", "#[cfg(fuzzing)]"];
    while let Some((at, attribute)) =
        attributes.iter().filter_map(|a| rest.find(a).map(|at| (at, a))).min()
    {
        out.push_str(&rest[..at]);
        let item = &rest[at + attribute.len()..];
        let (item, after) = item.split_at(end_of_item(item));
        if !item.contains('{') {
            let mut words = words(item).skip_while(|word| *word != "mod");
            modules.extend(words.nth(1).map(str::to_owned));
        }
        rest = after;
    }
    (out + rest, modules)
}

/// The length of the item at the start of `code`.
fn end_of_item(code: &str) -> usize {
    let is_import = words(code).find(|word| *word != "pub" && *word != "crate") == Some("use");
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 && (c == ';' || (c == '}' && !is_import)) {
            return at + 1;
        }
    }
    code.len()
}
