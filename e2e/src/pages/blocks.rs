//! The fenced blocks of a page, and what the tests do with each. A comment on the line above a block says it:
//!
//! ```text
//! <!-- run -->              console: the commands are run, in the order of the page; yaml: the objects are applied
//! <!-- run: FILE -->        yaml: it is written to this file, for commands further down
//! <!-- not run: REASON -->  anything else
//! ```
//!
//! A block of `text` is a drawing or an example of output. It needs no comment.
//!
//! Deliberately absent: other crates. `tests/pages.rs` has this file as a module too.

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// The number of its first line, the fence.
    pub line: usize,
    /// The word after the fence.
    pub language: String,
    /// Its lines, without the indentation of the fence.
    pub text: String,
    /// What the tests do with it.
    pub usage: Usage,
}

/// What the tests do with a block.
#[derive(Debug, PartialEq, Eq)]
pub enum Usage {
    /// They run or apply it.
    Run,
    /// They write it to a file of this name.
    File(String),
    /// Nothing, for this reason.
    NotRun(String),
    /// Nothing, without a reason.
    Unmarked,
}

/// A command of a console block.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// What is typed after the `$`.
    pub line: String,
    /// What it prints to its standard output, as far as the page shows it.
    pub output: Vec<String>,
}

/// The blocks of a page.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let (mut above, mut indentation) = ("", None);
    for (at, line) in page.lines().enumerate() {
        match (indentation, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                indentation = Some(line.len() - line.trim_start().len());
                found.push(Block {
                    line: at + 1,
                    language: language.trim().to_owned(),
                    text: String::new(),
                    usage: usage(above),
                });
            }
            (Some(_), Some(_)) => indentation = None,
            (Some(width), None) => {
                if let Some(block) = found.last_mut() {
                    block.text.push_str(line.get(width..).unwrap_or_default());
                    block.text.push('\n');
                }
            }
            (None, None) => {}
        }
        above = line.trim();
    }
    found
}

fn usage(comment: &str) -> Usage {
    let comment = comment.strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->"));
    match comment.map(str::trim).map(|text| text.split_once(':').unwrap_or((text, ""))) {
        Some(("run", "")) => Usage::Run,
        Some(("run", file)) => Usage::File(file.trim().to_owned()),
        Some(("not run", reason)) => Usage::NotRun(reason.trim().to_owned()),
        _ => Usage::Unmarked,
    }
}

/// The commands of a console block. A line that ends with `\` goes on in the next one.
pub fn commands(text: &str) -> Vec<Command> {
    let mut found: Vec<Command> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            found.push(Command { line: command.to_owned(), output: Vec::new() });
        } else if let Some(last) = found.last_mut() {
            if last.output.is_empty() && last.line.ends_with('\\') {
                last.line.push('\n');
                last.line.push_str(line);
            } else {
                last.output.push(line.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
Text.

<!-- run -->
```console
$ one \\
  two
first

third
$ three
```

- Item:

  <!-- not run: it needs a person -->
  ```yaml
  a:
    b: 1
  ```

<!-- run: a.yaml -->
```yaml
a: 1
```

```rust
```
";

    #[test]
    fn blocks_have_the_usage_above_them() {
        let found = blocks(PAGE);
        let usages: Vec<_> = found.iter().map(|block| &block.usage).collect();
        let (file, reason) = ("a.yaml".to_owned(), "it needs a person".to_owned());
        let (file, not_run) = (Usage::File(file), Usage::NotRun(reason));
        assert_eq!(usages, [&Usage::Run, &not_run, &file, &Usage::Unmarked]);
        assert_eq!(found[1].text, "a:\n  b: 1\n");
        assert_eq!((found[0].line, found[0].language.as_str()), (4, "console"));
        assert_eq!(usage("<!-- not run: why: this -->"), Usage::NotRun("why: this".to_owned()));
    }

    #[test]
    fn commands_have_the_output_below_them() {
        let found = commands(&blocks(PAGE)[0].text);
        assert_eq!(found[0].line, "one \\\n  two");
        assert_eq!(found[0].output, ["first", "", "third"]);
        assert_eq!((found[1].line.as_str(), found[1].output.len()), ("three", 0));
    }
}
