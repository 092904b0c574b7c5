//! Columns as kubectl aligns them: as wide as their widest cell, three blanks apart.

use super::Item;

pub(super) fn render<T: Item>(items: &[T], header: &[&str]) -> String {
    if items.is_empty() {
        return "nothing found\n".into();
    }
    let rows: Vec<Vec<String>> = items.iter().map(Item::cells).collect();
    columns(header, &rows)
}

/// Rows below their header. Cells that the header has no name for are left out.
pub fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|c| (*c).to_owned()).collect();
    let width = |i: usize| {
        rows.iter()
            .chain([&header])
            .filter_map(|row| row.get(i))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for row in [&header].into_iter().chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:width$}   ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}
