//! The differences as a table in Markdown: a line for all questions that differ in the same way for the same reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use xtask::traffic::Protocol;

use super::choices;
use super::matrix::{Frontend, Question, VARIANTS};
use super::survey::Found;

pub struct Table {
    pub text: String,
    /// Differences that no choice explains.
    pub unexplained: Vec<String>,
}

/// Why, what kube-proxy does, what svcplane does.
type Difference = (String, String, String);
/// The Services and the protocols and families that something holds for.
type Scope = (BTreeSet<usize>, BTreeSet<String>);

pub fn table(questions: &[Question], theirs: &[Found], ours: &[Found]) -> Table {
    let mut scopes: BTreeMap<(Difference, Frontend, &str), Scope> = BTreeMap::new();
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
        let difference = (why, words(theirs, question), words(ours, question));
        let key = (difference, question.frontend, question.client);
        let (variants, ways) = scopes.entry(key).or_default();
        variants.insert(question.variant);
        ways.insert(way(question));
    }
    // What differs in the same way for the same Services is one line.
    let mut lines: BTreeMap<(Difference, Scope), BTreeMap<Frontend, Vec<&str>>> = BTreeMap::new();
    for ((difference, frontend, client), scope) in scopes {
        let asked = lines.entry((difference, scope)).or_default();
        asked.entry(frontend).or_default().push(role(client));
    }
    Table {
        text: text(questions.len(), differences, &lines),
        unexplained,
    }
}

fn text(
    questions: usize,
    differences: usize,
    lines: &BTreeMap<(Difference, Scope), BTreeMap<Frontend, Vec<&str>>>,
) -> String {
    let mut text = format!(
        "\n{questions} questions were asked of each; {differences} are answered differently:\n\n\
         | why | kube-proxy | svcplane | asked at, by | Services |\n| --- | --- | --- | --- | --- |\n"
    );
    for (((why, theirs, ours), (variants, ways)), asked) in lines {
        let asked: Vec<_> = asked
            .iter()
            .map(|(frontend, clients)| format!("{} by {}", frontend.name(), clients.join(", ")))
            .collect();
        let ways: Vec<_> = ways.iter().map(String::as_str).collect();
        let ways = match ways[..] {
            ["TCP IPv4", "TCP IPv6", "UDP IPv4", "UDP IPv6"] => String::new(),
            ["TCP IPv4", "TCP IPv6"] => " (TCP)".to_owned(),
            ["UDP IPv4", "UDP IPv6"] => " (UDP)".to_owned(),
            ["echo IPv4", "echo IPv6"] => " (echo)".to_owned(),
            _ => format!(" ({})", ways.join(", ")),
        };
        let variants: Vec<_> = variants.iter().map(|index| VARIANTS[*index].name).collect();
        writeln!(
            text,
            "| {why} | {theirs} | {ours} | {}{ways} | {} |",
            asked.join("; "),
            variants.join("; "),
        )
        .expect("a String takes all");
    }
    text.push('\n');
    text
}

fn role(client: &str) -> &str {
    match client {
        "own-1" => "pod 1 here",
        "own-2" => "pod 2 here",
        "other-2" => "a pod there",
        other => other,
    }
}

/// A finding for readers; the client is called so whoever it is.
fn words(found: &Found, question: &Question) -> String {
    found
        .to_string()
        .replace(&format!("sees {}", question.client), "sees its client")
        .replace("own-1", "pod 1 here")
        .replace("own-2", "pod 2 here")
        .replace("other-1", "the pod there")
}

fn way(question: &Question) -> String {
    let protocol = match question.protocol {
        Some(Protocol::Tcp) => "TCP",
        Some(Protocol::Udp) => "UDP",
        None => "echo",
    };
    format!("{protocol} {}", if question.v6 { "IPv6" } else { "IPv4" })
}
