//! The differences as a table in Markdown: a line for all questions that differ in the same way for the same reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use xtask::traffic::Protocol;

use super::choices;
use super::matrix::{Question, VARIANTS};
use super::survey::Found;

pub struct Table {
    pub text: String,
    /// Differences that no choice explains.
    pub unexplained: Vec<String>,
}

/// What the questions of a line have in common.
type Line = (String, &'static str, String, String, String);

#[derive(Default)]
struct Scope {
    variants: BTreeSet<usize>,
    clients: BTreeSet<&'static str>,
    ways: BTreeSet<String>,
    count: usize,
}

pub fn table(questions: &[Question], theirs: &[Found], ours: &[Found]) -> Table {
    let mut lines: BTreeMap<Line, Scope> = BTreeMap::new();
    let mut unexplained = Vec::new();
    let mut differences = 0;
    for ((question, theirs), ours) in questions.iter().zip(theirs).zip(ours) {
        if theirs == ours {
            continue;
        }
        differences += 1;
        let choice = choices::of(question, theirs, ours);
        let why = choice.map_or("**nobody chose this**".to_owned(), |choice| {
            format!("{}: {}", choice.row, choice.why)
        });
        if choice.is_none() {
            unexplained.push(format!(
                "{}; {} from {} by {}: kube-proxy: {theirs}; svcplane: {ours}",
                VARIANTS[question.variant].name,
                question.frontend.name(),
                question.client,
                way(question),
            ));
        }
        let key = (
            why,
            question.frontend.name(),
            clients(question),
            theirs.to_string(),
            ours.to_string(),
        );
        let scope = lines.entry(key).or_default();
        scope.variants.insert(question.variant);
        scope.clients.insert(question.client);
        scope.ways.insert(way(question));
        scope.count += 1;
    }
    Table {
        text: text(questions.len(), differences, &lines),
        unexplained,
    }
}

fn text(questions: usize, differences: usize, lines: &BTreeMap<Line, Scope>) -> String {
    let mut text = format!(
        "\n{questions} questions; {differences} are answered differently:\n\n\
         | asked at | by | Services | kube-proxy | svcplane | why |\n| --- | --- | --- | --- | --- | --- |\n"
    );
    for ((why, frontend, _, theirs, ours), scope) in lines {
        let clients: Vec<_> = scope.clients.iter().map(|client| role(client)).collect();
        let variants: Vec<_> = match scope.variants.len() == VARIANTS.len() {
            true => vec!["all"],
            false => scope
                .variants
                .iter()
                .map(|index| VARIANTS[*index].name)
                .collect(),
        };
        let ways: Vec<_> = scope.ways.iter().map(String::as_str).collect();
        let ways = if ways.len() == 4 {
            String::new()
        } else {
            format!(" ({})", ways.join(", "))
        };
        writeln!(
            text,
            "| {frontend}{ways} | {} | {} | {} | {} | {why} |",
            clients.join("; "),
            variants.join("; "),
            words(theirs),
            words(ours),
        )
        .expect("a String takes all");
    }
    text.push('\n');
    text
}

fn clients(question: &Question) -> String {
    question.client.to_owned()
}

fn role(client: &str) -> &str {
    match client {
        "own-1" => "a pod here (pod 1)",
        "own-2" => "a pod here (pod 2)",
        "other-2" => "a pod there",
        other => other,
    }
}

fn words(found: &str) -> String {
    found
        .replace("own-1", "pod 1 here")
        .replace("own-2", "pod 2 here")
        .replace("other-1", "pod there")
        .replace("other-2", "the pod there")
}

fn way(question: &Question) -> String {
    let protocol = match question.protocol {
        Some(Protocol::Tcp) => "TCP",
        Some(Protocol::Udp) => "UDP",
        None => "echo",
    };
    format!("{protocol} {}", if question.v6 { "IPv6" } else { "IPv4" })
}
