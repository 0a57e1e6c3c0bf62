//! Tables: columns as wide as their widest cell, or narrower to fit the terminal.

use std::fmt::Write as _;

use anstyle::Style;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The space between two columns.
const GAP: usize = 2;
/// A column is not made narrower than this.
const NARROWEST: usize = 8;
/// Marks a truncated cell.
const ELLIPSIS: char = '…';

/// A cell of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) style: Style,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: Style::new() }
    }
}

/// The width of the terminal, if stdout is one.
pub(super) fn terminal_width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(usize::from(width.0))
}

/// The widths of the columns of a table. The widest columns become narrower until the table has at most `limit` columns
/// of a terminal.
pub(super) fn widths(rows: &[Vec<Cell>], limit: Option<usize>) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.text.width()).max().unwrap_or(0)
    };
    let mut widths: Vec<_> = (0..columns).map(width).collect();
    let Some(limit) = limit else { return widths };
    let gaps = GAP * columns.saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > NARROWEST) else {
            break;
        };
        *widest -= 1;
    }
    widths
}

/// Draws rows with columns of these widths.
pub(super) fn draw(rows: &[Vec<Cell>], widths: &[usize]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
        for (column, (cell, width)) in row.iter().zip(widths).enumerate().take(last + 1) {
            let shown = truncated(&cell.text, *width);
            let fill = if column == last { 0 } else { width - shown.width() + GAP };
            let _ = write!(line, "{}{shown}{:#}{:fill$}", cell.style, cell.style, "");
        }
        let _ = writeln!(text, "{line}");
    }
    text
}

/// A whole table of plain text, however wide.
pub(crate) fn plain(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<_>> =
        rows.iter().map(|row| row.iter().map(|cell| Cell::from(cell.as_str())).collect()).collect();
    draw(&rows, &widths(&rows, None))
}

/// The text, or as much of it as fits into a width with an ellipsis.
fn truncated(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let (mut shown, mut left) = (String::new(), width.saturating_sub(1));
    for c in text.chars() {
        let Some(rest) = left.checked_sub(c.width().unwrap_or(0)) else { break };
        shown.push(c);
        left = rest;
    }
    shown.push(ELLIPSIS);
    shown
}

#[cfg(test)]
mod tests {
    use anstyle::AnsiColor;

    use super::*;

    #[test]
    fn the_columns_of_a_table_are_aligned() {
        let rows = [["NAME", "AGE"], ["└─ a", "1s"], ["日本語", "2s"], ["b", ""]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(plain(&rows), "NAME    AGE\n└─ a    1s\n日本語  2s\nb\n");
    }

    #[test]
    fn a_table_is_fitted_to_the_terminal_by_its_widest_columns() {
        let rows: Vec<Vec<Cell>> =
            [["a", &"b".repeat(40), "Ready"], ["c", "日本語日本語日本語", "x"]]
                .map(|row| row.map(Cell::from).to_vec())
                .to_vec();
        for (limit, columns) in [(None, 40), (Some(80), 40), (Some(30), 20), (Some(3), NARROWEST)] {
            let widths = widths(&rows, limit);
            assert_eq!(widths, [1, columns, 5], "{limit:?}");
            let text = draw(&rows, &widths);
            let most = text.lines().map(|line| line.width()).max().unwrap();
            assert!(most <= columns + 10, "{text}");
        }
        let text = draw(&rows, &[1, 9, 5]);
        assert_eq!(text, "a  bbbbbbbb…  Ready\nc  日本語日…  x\n");
    }

    #[test]
    fn a_style_does_not_change_the_width() {
        let red = Cell { text: "x".to_owned(), style: AnsiColor::Red.on_default() };
        let rows = [vec![red, "y".into()], vec!["long".into(), "z".into()]];
        let text = draw(&rows, &widths(&rows, None));
        assert_eq!(text, "\u{1b}[31mx\u{1b}[0m     y\nlong  z\n");
    }
}
