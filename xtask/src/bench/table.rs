//! Tables: aligned on a terminal, and as Markdown.

use std::fmt::Write;

/// A table; the first column is left-aligned, as are those before the first number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub title: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// How to read it; a sentence or two below.
    pub note: String,
}

impl Table {
    pub fn new<C: Into<String>>(
        title: impl Into<String>,
        columns: impl IntoIterator<Item = C>,
    ) -> Self {
        Self {
            title: title.into(),
            columns: columns.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether a column holds numbers: most of what is in it starts with a digit.
    fn is_number(&self, column: usize) -> bool {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let cells: Vec<&String> = cells.filter(|cell| !cell.is_empty()).collect();
        let digits = |cell: &&&String| {
            cell.trim_start_matches(['-', '−', '+', '≤', ' ', '~'])
                .starts_with(|c: char| c.is_ascii_digit())
        };
        cells.iter().filter(digits).count() * 2 > cells.len()
    }

    pub fn terminal(&self) -> String {
        let mut text = format!("\n{}\n", self.title);
        let lines: Vec<&Vec<String>> = [&self.columns].into_iter().chain(&self.rows).collect();
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for (number, line) in lines.iter().enumerate() {
            let mut out = String::from(" ");
            for (column, width) in widths.iter().enumerate() {
                let cell = line.get(column).map_or("", String::as_str);
                let space = " ".repeat(width - cell.chars().count());
                let (before, after) = match self.is_number(column) {
                    true => (space.as_str(), ""),
                    false => ("", space.as_str()),
                };
                let _ = write!(out, " {before}{cell}{after} ");
            }
            let _ = writeln!(text, "{}", out.trim_end());
            if number == 0 {
                let rule = widths.iter().map(|width| width + 2).sum::<usize>();
                let _ = writeln!(text, "  {}", "─".repeat(rule.saturating_sub(2)));
            }
        }
        if !self.note.is_empty() {
            let _ = writeln!(text, "  {}", self.note);
        }
        text
    }

    pub fn markdown(&self) -> String {
        let mut text = format!("**{}**\n\n", self.title);
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        text += &line(&self.columns);
        let rule = (0..self.columns.len()).map(|column| match self.is_number(column) {
            true => "---:".to_owned(),
            false => "---".to_owned(),
        });
        text += &line(&rule.collect::<Vec<_>>());
        for row in &self.rows {
            text += &line(row);
        }
        if !self.note.is_empty() {
            let _ = write!(text, "\n{}\n", self.note);
        }
        text
    }
}

/// A number with as many digits as matter.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "—".into();
    }
    match value.abs() {
        a if a >= 1e4 => grouped(value.round() as i64),
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// 1,234,567.
pub fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::from(if value < 0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size as people write it: 10, 64k, 1M.
pub fn size(value: u64) -> String {
    match value {
        v if v >= 1 << 20 && v.is_multiple_of(1 << 20) => format!("{}M", v >> 20),
        v if v >= 1 << 10 && v.is_multiple_of(1 << 10) => format!("{}k", v >> 10),
        v if v >= 1_000_000 && v.is_multiple_of(1_000_000) => format!("{}M", v / 1_000_000),
        v if v >= 1_000 && v.is_multiple_of(1_000) => format!("{}k", v / 1_000),
        v => v.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_right_and_words_left() {
        let mut table = Table::new("T", ["name", "ns"]);
        table.row(["a", "1,000"]);
        table.row(["long", "5"]);
        assert_eq!(
            table.terminal(),
            "\nT\n  name     ns\n  ───────────\n  a     1,000\n  long      5\n"
        );
        assert_eq!(
            table.markdown(),
            "**T**\n\n| name | ns |\n| --- | ---: |\n| a | 1,000 |\n| long | 5 |\n"
        );
    }

    #[test]
    fn numbers_are_written_for_people() {
        let written = [0.123, 5.0, 12.34, 123.4, 12_345.6, -1_234_567.0].map(number);
        assert_eq!(
            written,
            ["0.12", "5.00", "12.3", "123", "12,346", "-1,234,567"]
        );
        assert_eq!(
            [1, 1_000, 65_536, 1 << 20].map(size),
            ["1", "1k", "64k", "1M"]
        );
    }
}
