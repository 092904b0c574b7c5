//! Command lines in documents: in inline code, in `sh` blocks, and behind the prompt of `console` blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What a program says of itself by `--help`.
pub(super) struct Grammar {
    program: &'static str,
    verbs: BTreeMap<String, BTreeSet<String>>,
}

impl Grammar {
    pub(super) fn ask(program: &'static str, executable: &Path) -> Result<Self> {
        let help = |verb: Option<&str>| -> Result<String> {
            let output = Command::new(executable)
                .args(verb)
                .arg("--help")
                .output()
                .with_context(|| format!("cannot run {}", executable.display()))?;
            ensure!(output.status.success(), "{program} {verb:?} --help failed");
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let mut verbs = BTreeMap::new();
        for verb in listed(&help(None)?) {
            let flags = flags(&help(Some(&verb))?);
            verbs.insert(verb, flags);
        }
        Ok(Self { program, verbs })
    }

    /// Whether a command line of this program is one; of others nothing is known.
    pub(super) fn knows(&self, words: &[String]) -> Result<(), String> {
        let Some(words) = self.after_program(words) else {
            return Ok(());
        };
        let Some(verb) = words.first().map(|word| word.trim_matches(['[', ']'])) else {
            return Ok(());
        };
        if verb.starts_with('-') {
            let top = ["--help", "-h", "--version", "-V"];
            return if top.contains(&verb) {
                Ok(())
            } else {
                Err(format!("{} has no flag {verb}", self.program))
            };
        }
        if verb == "VERB" || verb == "…" {
            return Ok(());
        }
        let Some(known) = self.verbs.get(verb) else {
            return Err(format!("{} has no verb {verb}", self.program));
        };
        for word in words[1..].iter().take_while(|word| *word != "--") {
            let word = word.trim_matches(['[', ']']);
            let flag = word.split_once('=').map_or(word, |(flag, _)| flag);
            let is_flag = flag.len() > 1 && flag.starts_with('-') && !flag.contains('…');
            if is_flag && !known.contains(flag) && !known.contains(&flag[..flag.len().min(2)]) {
                return Err(format!("{} {verb} has no flag {flag}", self.program));
            }
        }
        Ok(())
    }

    fn after_program<'a>(&self, words: &'a [String]) -> Option<&'a [String]> {
        if self.program == "cargo xtask" {
            let at = words
                .windows(2)
                .position(|pair| pair[0] == "cargo" && pair[1] == "xtask")?;
            return Some(&words[at + 2..]);
        }
        // Elsewhere it is an argument: the name of a DaemonSet.
        let begins = |at: usize| {
            at == 0
                || ["--", "sudo", "source", "exec"].contains(&words[at - 1].as_str())
                || words[at - 1].contains('=')
        };
        let at = (0..words.len()).find(|at| {
            let word = words[*at].as_str();
            (word == self.program && begins(*at))
                || ["/svc-agent", "./svc-agent"].contains(&word)
                || (word.starts_with("target/") && word.ends_with("/svc-agent"))
        })?;
        Some(&words[at + 1..])
    }
}

/// The verbs of a program's help.
fn listed(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let name = line.strip_prefix("  ")?.split_whitespace().next()?;
            (!line.starts_with("   ") && name != "help").then(|| name.to_owned())
        })
        .collect()
}

/// The flags of a verb's help: where a line begins with them.
fn flags(help: &str) -> BTreeSet<String> {
    let lines = help
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'));
    lines
        .flat_map(|line| {
            line.split_whitespace()
                .take_while(|word| word.starts_with('-'))
        })
        .map(|word| {
            word.trim_end_matches(',')
                .split(['=', '['])
                .next()
                .unwrap_or(word)
                .to_owned()
        })
        .collect()
}

/// The command lines of a document, in words, with their lines. A line ends where the shell would start another program.
pub(super) fn commands(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    let mut pending = String::new();
    // Inline code that a line has begun, and where.
    let mut span: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        if let Some(rest) = line.trim_start().strip_prefix("```") {
            block = match block {
                None => Some(rest.trim().to_owned()),
                Some(_) => None,
            };
            continue;
        }
        let whole = match block.as_deref() {
            None if line.trim().is_empty() => {
                span = None;
                continue;
            }
            None => {
                for (number, piece) in line.split('`').enumerate() {
                    span = match span.take() {
                        Some((start, code)) if number == 0 => {
                            Some((start, code + " " + piece.trim()))
                        }
                        Some((start, code)) => {
                            found.extend(parts(&code).map(|words| (start, words)));
                            None
                        }
                        None if number == 0 => None,
                        None => Some((at + 1, piece.to_owned())),
                    };
                }
                continue;
            }
            Some("sh" | "bash") => line,
            Some("console") => match line.strip_prefix("$ ") {
                Some(command) => command,
                None if !pending.is_empty() => line,
                None => continue,
            },
            Some(_) => continue,
        };
        pending.push_str(whole.trim_end_matches('\\'));
        if whole.ends_with('\\') {
            continue;
        }
        let line = std::mem::take(&mut pending);
        found.extend(parts(&line).map(|words| (at + 1, words)));
    }
    found
}

/// What a shell would run one after the other, without comments.
fn parts(line: &str) -> impl Iterator<Item = Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut words = line.split_whitespace();
    for word in words.by_ref() {
        match word {
            "#" => break,
            "|" | "||" | "&&" | "&" | ";" | ">" | ">>" | "<" | "2>" => commands.push(Vec::new()),
            word => {
                let ends = word.ends_with(';');
                let word = word
                    .trim_end_matches(';')
                    .trim_start_matches("<(")
                    .trim_start_matches("$(");
                let word = word.trim_matches(['\'', '"', ')']);
                if let (false, Some(command)) = (word.is_empty(), commands.last_mut()) {
                    command.push(word.to_owned());
                }
                if ends {
                    commands.push(Vec::new());
                }
            }
        }
    }
    commands.into_iter().filter(|words| words.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn grammar() -> Grammar {
        let help = "Usage: x\n\nCommands:\n  run    Runs.\n         More.\n  get    Gets.\n  help   Helps.\n\nOptions:\n";
        assert_eq!(listed(help), ["run", "get"]);
        let run = flags(
            "Options:\n      --xdp <XDP>\n          [default: auto]\n  -v, --verbosity <LEVEL>\n      --dry-run[=<X>]  Dry\n",
        );
        assert_eq!(
            run.iter().collect::<Vec<_>>(),
            ["--dry-run", "--verbosity", "--xdp", "-v"]
        );
        let verbs = BTreeMap::from([
            ("run".into(), run),
            ("get".into(), BTreeSet::from(["-n".into()])),
        ]);
        Grammar {
            program: "svc-agent",
            verbs,
        }
    }

    #[test]
    fn a_verb_or_a_flag_that_is_not_there_is_named() {
        let grammar = grammar();
        for good in [
            "svc-agent run --xdp=off -v 1",
            "svc-agent get services -nshop",
            "kubectl exec ds/svc-agent -- /svc-agent get services",
            "svc-agent --version",
            "svc-agent run -- --anything",
            "svc-agent run [--xdp MODE]",
            "other --flag",
            "kubectl -n kube-system rollout status daemonset/svc-agent --timeout=3s",
            "kubectl -n kube-system get daemonset svc-agent -o yaml",
        ] {
            assert_eq!(grammar.knows(&words(good)), Ok(()), "{good}");
        }
        for (bad, says) in [
            ("svc-agent runs", "svc-agent has no verb runs"),
            ("svc-agent run --xpd off", "svc-agent run has no flag --xpd"),
            ("svc-agent --node", "svc-agent has no flag --node"),
            (
                "kubectl exec x -- /svc-agent gets",
                "svc-agent has no verb gets",
            ),
        ] {
            assert_eq!(grammar.knows(&words(bad)).unwrap_err(), says);
        }
    }

    #[test]
    fn command_lines_are_found_where_documents_have_them() {
        let text = "Run `svc-agent check` or `a | svc-agent get x`, or `cargo\nxtask docs`.\n```console\n$ cargo xtask demo   # shows\nsvc-agent on both\n\
                    $ svc-agent run \\\n    --xdp off\n```\n```sh\nx && source <(svc-agent completion bash); y z\n```\n```text\nsvc-agent no\n```\n";
        let found: Vec<(usize, String)> = commands(text)
            .into_iter()
            .map(|(line, words)| (line, words.join(" ")))
            .collect();
        let expected = [
            (1, "svc-agent check"),
            (1, "svc-agent get x"),
            (1, "cargo xtask docs"),
            (4, "cargo xtask demo"),
            (7, "svc-agent run --xdp off"),
            (10, "source svc-agent completion bash"),
            (10, "y z"),
        ];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
    }
}
