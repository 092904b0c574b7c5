//! Columns as kubectl aligns them: as wide as their widest cell, three blanks apart.

use super::Item;

pub(super) fn render<T: Item>(items: &[T], columns: &[&str]) -> String {
    if items.is_empty() {
        return "nothing found\n".into();
    }
    let rows: Vec<Vec<String>> = items.iter().map(Item::cells).collect();
    let header: Vec<String> = columns.iter().map(|c| (*c).to_owned()).collect();
    let width = |i: usize| {
        rows.iter()
            .chain([&header])
            .map(|row| row[i].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in [&header].into_iter().chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:width$}   ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}
