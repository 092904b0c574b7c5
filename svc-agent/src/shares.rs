//! Weights → how often each backend stands in a run (B13). Pure, and the same on every node.
//!
//! Weights are divided by what they have in common: 100 and 50 are two slots and one. A run stays within
//! `most` slots; larger ones are rounded to that, and every backend keeps at least one slot.

/// How many slots a weighted run of so many backends has at most, but for rounding.
fn most(backends: usize) -> u64 {
    (backends * 32).clamp(256, 4096).max(backends * 2) as u64
}

/// Slots per backend. Weights are at least 1.
pub fn shares(weights: &[u16]) -> Vec<u64> {
    let common = weights.iter().copied().map(u64::from).fold(0, gcd).max(1);
    let reduced: Vec<u64> = weights.iter().map(|w| u64::from(*w) / common).collect();
    let (total, most) = (reduced.iter().sum::<u64>(), most(weights.len()));
    if total <= most {
        return reduced;
    }
    let rounded = |weight: u64| ((weight * most + total / 2) / total).max(1);
    reduced.into_iter().map(rounded).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A round in which each backend comes as often as its share says, as evenly as it goes (smooth weighted round-robin):
/// a a b a c a a, not a a a a a b c.
pub fn round(shares: &[u64]) -> Vec<usize> {
    let total: u64 = shares.iter().sum();
    let mut lags = vec![0_i64; shares.len()];
    (0..total)
        .filter_map(|_| {
            for (lag, share) in lags.iter_mut().zip(shares) {
                *lag += share.cast_signed();
            }
            // Of equal ones the first.
            let next = (0..lags.len()).rev().max_by_key(|&i| lags[i])?;
            lags[next] -= total.cast_signed();
            Some(next)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_are_a_slot_each() {
        assert_eq!(shares(&[1, 1, 1]), [1, 1, 1]);
        assert_eq!(shares(&[700, 700]), [1, 1]);
        assert!(shares(&[]).is_empty() && round(&[]).is_empty());
    }

    #[test]
    fn weights_are_divided_by_what_they_have_in_common() {
        assert_eq!(shares(&[100, 50, 25]), [4, 2, 1]);
        assert_eq!(shares(&[3, 2]), [3, 2]);
    }

    #[test]
    fn a_run_that_would_be_too_long_is_rounded_and_leaves_nobody_out() {
        assert_eq!(shares(&[1000, 999]), [128, 128]);
        assert_eq!(shares(&[1000, 1]), [256, 1]);
        let mixed: Vec<u16> = (0..1000).map(|i| i % 1000 + 1).collect();
        let slots: u64 = shares(&mixed).iter().sum();
        assert!((4096..=5200).contains(&slots), "{slots}");
    }

    #[test]
    fn a_round_is_as_even_as_it_goes() {
        let letters = |shares: &[u64]| -> String {
            round(shares).iter().map(|i| ["a", "b", "c"][*i]).collect()
        };
        assert_eq!(letters(&[5, 1, 1]), "aabacaa");
        assert_eq!(letters(&[1, 1, 1]), "abc");
        assert_eq!(letters(&[2, 1]), "aba");
        assert_eq!(letters(&[1, 3]), "babb");
    }

    #[test]
    fn a_round_has_every_share() {
        let shares = [7, 1, 4, 2];
        let round = round(&shares);
        for (i, share) in shares.into_iter().enumerate() {
            assert_eq!(round.iter().filter(|n| **n == i).count() as u64, share);
        }
    }
}
