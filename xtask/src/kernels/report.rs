//! What the stages printed, read into a row for each kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use crate::layers::{Counts, reasons, tally};

/// How one kernel did.
pub(super) struct Row {
    name: &'static str,
    promised: bool,
    version: String,
    /// How programs hang at devices, as `svc-agent check` says.
    hooks: &'static str,
    /// Verified instructions by program; None where the kernel does not tell.
    loaded: BTreeMap<String, Option<u64>>,
    /// Programs that the verifier refuses, and why.
    refused: BTreeMap<String, String>,
    packets: Counts,
    sockets: Counts,
    complaints: Vec<String>,
    took: Duration,
}

impl Row {
    pub(super) fn read(name: &'static str, promised: bool, text: &str, took: Duration) -> Self {
        let mut row = Self {
            name,
            promised,
            version: String::new(),
            hooks: "?",
            loaded: BTreeMap::new(),
            refused: BTreeMap::new(),
            packets: Counts::default(),
            sockets: Counts::default(),
            complaints: Vec::new(),
            took,
        };
        let mut stage: Option<(&str, String)> = None;
        let mut done = false;
        for line in text.lines() {
            if let Some(version) = line.strip_prefix("== kernel ") {
                version.clone_into(&mut row.version);
            } else if let Some(name) = line.strip_prefix("== begin ") {
                stage = Some((name, String::new()));
            } else if let Some(end) = line.strip_prefix("== end ")
                && let Some((name, said)) = stage.take()
            {
                let status = end.rsplit(' ').next().unwrap_or_default();
                row.end(name, &said, status == "0");
            } else if line == "== done" {
                done = true;
            } else if let Some((_, said)) = &mut stage {
                said.push_str(line);
                said.push('\n');
            }
        }
        if !done {
            let lost = text.split_once("== lost ").map(|(_, lost)| lost.trim());
            let during = stage.map_or("before the first stage", |(name, _)| name);
            let lost = lost.unwrap_or("the stages have no end");
            row.complaints.push(format!("{during}: {lost}"));
        }
        row
    }

    fn end(&mut self, stage: &str, said: &str, fine: bool) {
        match stage {
            "check" => {
                self.hooks = if said.contains("clsact") {
                    "clsact"
                } else {
                    "tcx"
                };
                return;
            }
            "programs" => self.programs(said),
            "packets" => self.packets += tally(said),
            _ => self.sockets += tally(said),
        }
        if !fine {
            let before = self.complaints.len();
            let reasons = reasons(said).map(|reason| format!("{stage}: {reason}"));
            self.complaints.extend(reasons);
            if self.complaints.len() == before {
                let last = said.lines().rfind(|line| !line.is_empty());
                let last = last.unwrap_or("it said nothing");
                self.complaints.push(format!("{stage}: {last}"));
            }
        }
    }

    fn programs(&mut self, said: &str) {
        for line in said.lines() {
            let Some((name, what)) = line.split_once(": ") else {
                continue;
            };
            // The first one stands behind the test's name.
            let name = name.rsplit(' ').next().unwrap_or(name);
            if let Some(why) = what.strip_prefix("refused: ") {
                self.refused.insert(name.to_owned(), why.to_owned());
            } else if let Some((count, _)) = what.split_once(" verified instructions") {
                self.loaded.insert(name.to_owned(), count.parse().ok());
            }
        }
    }

    pub(super) fn is_as_promised(&self) -> bool {
        !self.promised || self.complaints.is_empty()
    }

    /// The first thing that went wrong.
    pub(super) fn complaint(&self) -> String {
        let first = self.complaints.first().map_or("nothing", String::as_str);
        format!("{} ({}): {first}", self.version, self.name)
    }

    fn cells(&self) -> [String; 8] {
        let programs = self.loaded.len() + self.refused.len();
        let most = self.loaded.iter().max_by_key(|(_, count)| **count);
        let most = most.and_then(|(name, count)| Some(format!("{} {name}", (*count)?)));
        let outcome = match (self.complaints.is_empty(), self.promised) {
            (true, _) => "ok",
            (false, true) => "FAILED",
            (false, false) => "does not run",
        };
        [
            format!("{} ({})", self.version, self.name),
            format!("{}/{programs}", self.loaded.len()),
            most.unwrap_or_else(|| "?".into()),
            short(self.packets),
            short(self.sockets),
            self.hooks.into(),
            format!("{} s", self.took.as_secs()),
            outcome.into(),
        ]
    }
}

/// `52 passed`, and what else there is.
fn short(counts: Counts) -> String {
    let mut text = format!("{} passed", counts.passed);
    for (count, what) in [(counts.failed, "failed"), (counts.skipped, "skipped")] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

const HEAD: [&str; 8] = [
    "kernel",
    "loaded",
    "most verified instructions",
    "packet tests",
    "socket tests",
    "hooks",
    "took",
    "outcome",
];

/// The matrix, the verified instructions of each program on each kernel, and what went wrong.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = columns(
        &[
            vec![HEAD.map(str::to_owned).to_vec()],
            rows.iter().map(|row| row.cells().to_vec()).collect(),
        ]
        .concat(),
    );
    let programs: BTreeSet<&String> = rows
        .iter()
        .flat_map(|row| row.loaded.keys().chain(row.refused.keys()))
        .collect();
    let head = rows.iter().map(|row| row.version.clone());
    let mut lines = vec![Vec::from_iter(
        [String::from("verified instructions")]
            .into_iter()
            .chain(head),
    )];
    for program in programs {
        let counts = rows.iter().map(|row| match row.loaded.get(program) {
            Some(Some(count)) => count.to_string(),
            Some(None) => "loaded".into(),
            None if row.refused.contains_key(program) => "refused".into(),
            None => String::new(),
        });
        lines.push([program.clone()].into_iter().chain(counts).collect());
    }
    text.push('\n');
    text += &columns(&lines);
    for row in rows {
        for (program, why) in &row.refused {
            let _ = writeln!(text, "{}: {program}: refused: {why}", row.version);
        }
        for complaint in &row.complaints {
            let _ = writeln!(text, "{}: {complaint}", row.version);
        }
    }
    text
}

fn columns(lines: &[Vec<String>]) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(row, "{cell:width$}  ");
        }
        text += row.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "== kernel 6.1.0-9-cloud-amd64\n\n== begin check\nwarning  no tcx before 6.6: programs go through clsact\n\n\
        == end check 1\n\n== begin programs\ntest budget::a ... node_xdp: 5000 verified instructions, 9 bytes of machine code\n\
        pod_egress: 700 verified instructions, 9 bytes of machine code\n\n== end programs 0\n\n== begin packets\n\
        test result: ok. 50 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out\n\n== end packets 0\n\n== begin sockets\n\
        test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out\n\n== end sockets 0\n\n== begin sockets\n\
        test result: ok. 8 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out\n\n== end sockets 0\n";

    #[test]
    fn a_kernel_that_takes_everything_is_as_promised() {
        let text = format!("{OUTPUT}== done\n");
        let row = Row::read("bookworm", true, &text, Duration::from_secs(90));
        assert!(row.is_as_promised(), "{}", row.complaint());
        assert_eq!(
            row.cells(),
            [
                "6.1.0-9-cloud-amd64 (bookworm)",
                "2/2",
                "5000 node_xdp",
                "50 passed",
                "12 passed",
                "clsact",
                "90 s",
                "ok"
            ]
        );
    }

    #[test]
    fn a_guest_that_dies_has_failed_and_says_where() {
        let text = format!(
            "{OUTPUT}== begin sockets\nrunning\n== lost the guest ended; its console:\nBUG: oops\n"
        );
        let row = Row::read("sid", true, &text, Duration::ZERO);
        assert!(!row.is_as_promised());
        assert_eq!(
            row.complaint(),
            "6.1.0-9-cloud-amd64 (sid): sockets: the guest ended; its console:\nBUG: oops"
        );
    }

    #[test]
    fn a_refused_program_is_told_with_its_reason() {
        let text = "== kernel 5.10.0\n== begin programs\nnode_xdp: refused: BPF_STX uses reserved fields\n\n== end programs 101\n== done\n";
        let promised = Row::read("a", true, text, Duration::ZERO);
        assert!(!promised.is_as_promised());
        let row = Row::read("b", false, text, Duration::ZERO);
        assert!(row.is_as_promised());
        let table = table(&[row]);
        assert!(table.contains("5.10.0: node_xdp: refused: BPF_STX uses reserved fields"));
        assert!(table.contains("does not run"));
    }
}
