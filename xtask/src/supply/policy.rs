//! deny.toml, as far as it can be judged by `cargo metadata` alone: licences, sources, banned crates.

/// A licence expression (SPDX; older crates write `/` for OR) by what may be used.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let text = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = text.split_whitespace().peekable();
    let verdict = any(&mut words, allowed);
    verdict && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut verdict = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        verdict |= all(words, allowed);
    }
    verdict
}

fn all(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut verdict = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        verdict &= one(words, allowed);
    }
    verdict
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let verdict = any(words, allowed);
        return words.next_if_eq(&")").is_some() && verdict;
    }
    let Some(name) = words.next() else {
        return false;
    };
    let licence = match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => format!("{name} WITH {exception}"),
        None => name.to_owned(),
    };
    allowed.contains(&licence)
}

/// The texts of a list of deny.toml; of tables in it, their names.
fn list(toml: &str, section: &str, key: &str) -> Option<Vec<String>> {
    let (_, rest) = toml.split_once(&format!("\n[{section}]\n"))?;
    let body = rest.split("\n[").next()?;
    let (_, rest) = body.split_once(&format!("\n{key} = ["))?;
    let body = rest.split("\n]").next()?;
    // One line's list ends where its bracket does.
    let body = match body.split_once(']') {
        Some((short, _)) if !short.contains('\n') => short,
        _ => body,
    };
    let texts = body.lines().flat_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let named = line.contains("name = ");
        let texts = line.split('"').skip(1).step_by(2);
        texts
            .take(if named { 1 } else { usize::MAX })
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    Some(texts.collect())
}

#[cfg(test)]
mod tests {
    use super::super::Crates;
    use super::*;
    use crate::image::Arch;

    const DENY: &str = include_str!("../../../deny.toml");

    fn listed(section: &str, key: &str) -> Vec<String> {
        list(DENY, section, key).unwrap_or_else(|| panic!("deny.toml has no {section}.{key}"))
    }

    #[test]
    fn every_crate_is_licensed_and_comes_from_where_it_may() {
        let crates = Crates::of(&[Arch::Amd64, Arch::Arm64]).unwrap();
        let (licences, banned) = (listed("licenses", "allow"), listed("bans", "deny"));
        let registries = listed("sources", "allow-registry");
        assert!(licences.len() > 5 && banned.len() > 2 && registries.len() == 1);
        let mut wrong = Vec::new();
        for package in crates.packages.values() {
            let what = format!("{} {}", package.name, package.version);
            match package.license.as_deref() {
                Some(licence) if is_allowed(licence, &licences) => (),
                Some(licence) => wrong.push(format!("{what}: its licence is {licence}")),
                None => wrong.push(format!("{what} names no licence")),
            }
            let from = package.source.as_deref();
            let may = from.is_none_or(|source| {
                let registry = source.strip_prefix("registry+");
                registry.is_some_and(|registry| registries.iter().any(|r| r == registry))
            });
            if !may {
                wrong.push(format!("{what} comes from {from:?}"));
            }
            if banned.contains(&package.name) {
                wrong.push(format!("{what} is banned"));
            }
        }
        assert!(wrong.is_empty(), "{}; see deny.toml", wrong.join("; "));
        assert!(crates.packages.len() > 100);
    }

    #[test]
    fn a_crate_whose_archive_has_no_checksum_is_of_this_workspace() {
        let sums = super::super::checksums().unwrap();
        let crates = Crates::of(&[Arch::HOST]).unwrap();
        for package in crates.packages.values() {
            let key = (package.name.clone(), package.version.clone());
            assert_eq!(sums.contains_key(&key), package.source.is_some(), "{key:?}");
        }
    }

    #[test]
    fn licence_expressions_are_understood() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        for (expression, verdict) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT", true),
            ("GPL-3.0-only AND MIT", false),
            ("MIT/Apache-2.0", true),
            ("Unlicense / MIT", true),
            ("(MIT OR GPL-3.0-only) AND Apache-2.0", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("MIT WITH LLVM-exception", false),
            ("MIT OR", true),
            ("MIT MIT", false),
            ("(MIT", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(expression, &allowed), verdict, "{expression:?}");
        }
    }

    #[test]
    fn lists_are_read_with_their_comments_and_tables() {
        assert!(listed("licenses", "allow").contains(&"CC0-1.0".to_owned()));
        let banned = listed("bans", "deny");
        assert!(
            banned.contains(&"openssl-sys".to_owned()) && banned.iter().all(|b| !b.contains(' '))
        );
        assert_eq!(listed("sources", "allow-git"), [""; 0]);
        assert_eq!(list(DENY, "sources", "no-such-key"), None);
    }
}
