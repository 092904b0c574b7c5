//! Durations as Go writes them (`24h`, `1m30s`, `1.5s`, `0`), which is how kube-proxy's flags have them.

use std::str::FromStr;

/// A lifetime in whole seconds, rounded up; none where it is 0, which stands for the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Option<u32>);

impl Seconds {
    pub fn or(self, default: u32) -> u32 {
        self.0.unwrap_or(default)
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("{s:?} is not a duration such as 24h, 1m30s or 0");
        let seconds = seconds(s.trim()).ok_or_else(wrong)?.ceil();
        if seconds > f64::from(u32::MAX) {
            return Err(wrong());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number between 0 and the largest u32"
        )]
        Ok(Self((seconds > 0.0).then_some(seconds as u32)))
    }
}

fn seconds(text: &str) -> Option<f64> {
    if text == "0" {
        return Some(0.0);
    }
    let (mut rest, mut total) = (text, None);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, unit) = rest.split_at(number);
        let end = unit
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(unit.len());
        let (unit, next) = unit.split_at(end);
        let scale = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = Some(total.unwrap_or(0.0) + value.parse::<f64>().ok()? * scale);
        rest = next;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in [
            ("24h", Some(86_400)),
            ("24h0m0s", Some(86_400)),
            ("1m30s", Some(90)),
            ("1.5h", Some(5_400)),
            ("250ms", Some(1)),
            ("0", None),
            ("0s", None),
        ] {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "24", "h", "-1s", "1d", "1h30", "1..5s", "99999999h"] {
            let error = text.parse::<Seconds>().expect_err(text);
            assert!(error.contains("24h"), "{error}");
        }
    }
}
