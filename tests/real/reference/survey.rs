//! Asks one side's questions, all clients at once, and puts the answers into words that both sides share.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use xtask::programs::workspace_binary;
use xtask::topology::Topology;
use xtask::traffic::{Answer, Outcome, Request};

use super::matrix::{CLIENTS, Question, questions};
use super::side::Side;

/// Longer than a SYN waits for its answer before it is sent again.
const TIMEOUT: &str = "1600";
/// Each UDP request has a port of its own: a port that came round again would meet the flow of another question.
/// Below are the ports that nodes masquerade with.
const FIRST_PORT: usize = 32_768;

/// What became of a question's requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// Who answered, and whom they saw.
    Answered(BTreeSet<(String, String)>),
    /// One and the same all the time.
    KeptByOne,
    Refused,
    Silent,
    Failed(String),
    Mixed(BTreeSet<String>),
}

impl Found {
    pub fn answered(&self) -> Option<&BTreeSet<(String, String)>> {
        match self {
            Self::Answered(who) => Some(who),
            _ => None,
        }
    }

    pub fn sees_the_frontend(&self) -> bool {
        self.answered()
            .is_some_and(|who| who.iter().any(|(_, seen)| seen == "the frontend"))
    }

    pub fn is_silent_at_times(&self) -> bool {
        match self {
            Self::Mixed(what) => what.contains("silence"),
            _ => *self == Self::Silent,
        }
    }

    pub fn is_not_permitted(&self) -> bool {
        *self == Self::Failed("operation not permitted".to_owned())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(who) => {
                let who: Vec<_> = who
                    .iter()
                    .map(|(by, seen)| match by.as_str() {
                        "echo" => "answered".to_owned(),
                        _ => format!("{by} sees {seen}"),
                    })
                    .collect();
                f.write_str(&who.join(", "))
            }
            Self::KeptByOne => f.write_str("always the same endpoint"),
            Self::Refused => f.write_str("refused"),
            Self::Silent => f.write_str("silence"),
            Self::Failed(why) => write!(f, "fails: {why}"),
            Self::Mixed(what) => {
                let what: Vec<_> = what.iter().map(String::as_str).collect();
                write!(f, "now {}", what.join(", now "))
            }
        }
    }
}

/// The findings, in the order of the questions.
pub fn survey(topology: &Topology, side: &Side) -> Result<Vec<Found>> {
    let questions = questions();
    let mut answers: Vec<Vec<Answer>> = vec![Vec::new(); questions.len()];
    let surveys: Vec<_> = CLIENTS
        .iter()
        .map(|client| ask(topology, side, client, &questions))
        .collect::<Result<_>>()?;
    for survey in surveys {
        let output = survey.wait_with_output()?;
        ensure!(output.status.success(), "a survey failed");
        for line in String::from_utf8(output.stdout)?.lines() {
            let (number, answer) = line.split_once(' ').context("an odd line of a survey")?;
            answers[number.parse::<usize>()?].push(answer.parse()?);
        }
    }
    Ok(questions
        .iter()
        .zip(&answers)
        .map(|(question, answers)| found(side, question, answers))
        .collect())
}

fn ask(
    topology: &Topology,
    side: &Side,
    client: &'static str,
    questions: &[Question],
) -> Result<std::process::Child> {
    let mut command = topology.command(side.name(client), workspace_binary("xtask")?)?;
    let mut child = command
        .args(["survey", "--timeout-ms", TIMEOUT, "--at-once", "48"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a survey")?;
    let mut stdin = child.stdin.take().context("a survey has no stdin")?;
    let mut port = FIRST_PORT;
    for (number, question) in questions.iter().enumerate() {
        if question.client == client {
            let source_port = u16::try_from(port)?;
            port += question.count();
            let request = Request {
                source_port,
                number,
                protocol: question.protocol,
                to: side.to(question),
                count: question.count(),
            };
            writeln!(stdin, "{request}")?;
        }
    }
    Ok(child)
}

fn found(side: &Side, question: &Question, answers: &[Answer]) -> Found {
    let mut who = BTreeSet::new();
    let mut others = BTreeSet::new();
    for answer in answers {
        match &answer.outcome {
            Outcome::Answered { by, seen, .. } => {
                who.insert((side.role(by).to_owned(), side.who(seen.ip(), question)));
            }
            Outcome::Refused => drop(others.insert(Found::Refused)),
            Outcome::TimedOut => drop(others.insert(Found::Silent)),
            Outcome::Failed(why) => {
                let why = why.split(" (os error").next().unwrap_or(why).to_lowercase();
                others.insert(Found::Failed(why));
            }
        }
    }
    // Which of them it is may differ.
    let answered = match question.keeps_one() && who.len() == 1 {
        true => Found::KeptByOne,
        false => Found::Answered(who.clone()),
    };
    match (who.is_empty(), others.len()) {
        (false, 0) => answered,
        (true, 1) => others.pop_first().expect("there is one"),
        _ => {
            let mut all: BTreeSet<String> = others.iter().map(Found::to_string).collect();
            if !who.is_empty() {
                all.insert(answered.to_string());
            }
            Found::Mixed(all)
        }
    }
}
