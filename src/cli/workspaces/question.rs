//! Questions to a person at a terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

/// Asks a question, and returns whether the person wrote yes. False without a terminal.
pub(super) fn ask(question: &str) -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    let asked = write!(io::stderr(), "{question} [y/N] ").and_then(|()| io::stderr().flush());
    let mut line = String::new();
    let read = asked.and_then(|()| io::stdin().lock().read_line(&mut line));
    read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes" | "Yes")
}
