//! Device name patterns: `*` is any run of characters, `?` any one.

use std::convert::Infallible;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }
}

impl FromStr for Glob {
    type Err = Infallible;

    fn from_str(s: &str) -> Result<Self, Infallible> {
        Ok(Self(s.trim().to_owned()))
    }
}

/// Greedy with one point of return, the last star: enough, because a later star can make up for all that an earlier
/// one could.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                star = Some((p, n));
                p += 1;
            }
            (Some(&c), _) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            (_, Some((star_p, star_n))) => {
                star = Some((star_p, star_n + 1));
                p = star_p + 1;
                n = star_n + 1;
            }
            (_, None) => return false,
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, slow and obvious.
    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=name.len()).any(|i| naive(rest, &name[i..])),
            ([b'?', rest @ ..], [_, name @ ..]) => naive(rest, name),
            ([c, rest @ ..], [d, name @ ..]) => c == d && naive(rest, name),
            ([], _) | (_, []) => false,
        }
    }

    #[test]
    fn device_names_match_the_patterns_that_people_write() {
        let matches = |glob: &str, name| glob.parse::<Glob>().unwrap().matches(name);
        assert!(
            matches("eth*", "eth0")
                && matches("eth?", "eth1")
                && matches("*", "lo")
                && matches("en*s?", "enp0s3")
        );
        assert!(
            !matches("eth?", "eth10")
                && !matches("eth*", "veth0")
                && !matches("", "eth0")
                && !matches("eth0", "eth")
        );
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(pattern in "[ab*?]{0,7}", name in "[ab]{0,9}") {
            prop_assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
