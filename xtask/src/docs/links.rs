//! Links between documents, and to their headings.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// The targets of `[text](target)` outside of code, with their lines.
pub(super) fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (line, prose) in prose(text) {
        let mut rest = prose;
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else {
                break;
            };
            found.push((line, target));
            rest = after;
        }
    }
    found
}

/// The lines that are not in fenced code, by their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        (!code && !fence).then_some((at + 1, line))
    })
}

/// Whether a link in `file` has a file below `sources`, and in it the heading that it names. Other sites are not asked.
pub(super) fn leads_somewhere(sources: &Path, file: &Path, target: &str) -> Result<(), String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let to = match path {
        "" => file.to_owned(),
        path => normal(&file.parent().unwrap_or(Path::new("")).join(path)),
    };
    let place = sources.join(&to);
    if !place.exists() {
        return Err(format!(
            "{target} leads to no file: there is no {}",
            to.display()
        ));
    }
    if heading.is_empty() {
        return Ok(());
    }
    let text = fs::read_to_string(&place).map_err(|error| format!("{target}: {error}"))?;
    if anchors(&text).iter().any(|anchor| anchor == heading) {
        return Ok(());
    }
    Err(format!("{target}: {} has no such heading", to.display()))
}

fn normal(path: &Path) -> PathBuf {
    let mut to = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(to.pop()),
            Component::CurDir => (),
            part => to.push(part),
        }
    }
    to
}

/// What headings are called in links: small letters, blanks as hyphens, without other punctuation; repeated ones numbered.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let name: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let again = anchors.iter().filter(|known| {
            let rest = known.strip_prefix(&name);
            rest.is_some_and(|rest| {
                rest.is_empty()
                    || rest
                        .strip_prefix('-')
                        .is_some_and(|n| n.parse::<u32>().is_ok())
            })
        });
        let count = again.count();
        anchors.push(if count == 0 {
            name
        } else {
            format!("{name}-{count}")
        });
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_prose_are_found_and_those_of_code_are_not() {
        let text = "See [a](b.md) and [c](d.md#e).\n```text\n[x](y)\n```\n| [f](#g) |\n";
        assert_eq!(links(text), [(1, "b.md"), (1, "d.md#e"), (5, "#g")]);
    }

    #[test]
    fn headings_are_called_as_github_calls_them() {
        let text = "# What `check` says\n## Past the host's stack: `--host-routing`\n## Tests\n## Tests\n#no\n```\n# code\n```\n";
        assert_eq!(
            anchors(text),
            [
                "what-check-says",
                "past-the-hosts-stack---host-routing",
                "tests",
                "tests-1"
            ]
        );
    }

    #[test]
    fn a_link_that_leads_nowhere_is_named() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let leads = |target| leads_somewhere(sources, Path::new("docs/operations.md"), target);
        assert_eq!(leads("../README.md#two-commands"), Ok(()));
        assert_eq!(leads("performance.md"), Ok(()));
        assert_eq!(leads("#what-check-says"), Ok(()));
        assert_eq!(leads("https://kubernetes.io"), Ok(()));
        assert_eq!(
            leads("nowhere.md").unwrap_err(),
            "nowhere.md leads to no file: there is no docs/nowhere.md"
        );
        assert_eq!(
            leads("#nothing").unwrap_err(),
            "#nothing: docs/operations.md has no such heading"
        );
    }
}
