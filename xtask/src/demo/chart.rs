//! Bars for a terminal.

use std::collections::BTreeMap;

/// Characters that all bars of a line have together.
const WIDTH: usize = 24;

/// `pod-a ████ 52  pod-c ███ 48`
pub fn bars(spread: &BTreeMap<String, usize>) -> String {
    let total: usize = spread.values().sum();
    let bar = |(who, count): (&String, &usize)| {
        let length = (count * WIDTH).div_ceil(total.max(1));
        format!("{who} {} {count}", "█".repeat(length))
    };
    spread.iter().map(bar).collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let spread = [("pod-a", 75), ("pod-b", 25)].map(|(who, count)| (who.to_owned(), count));
        assert_eq!(
            bars(&spread.into()),
            format!("pod-a {} 75  pod-b {} 25", "█".repeat(18), "█".repeat(6))
        );
    }

    #[test]
    fn nothing_has_no_bars() {
        assert_eq!(bars(&BTreeMap::new()), "");
    }
}
