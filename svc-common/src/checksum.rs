//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624), over words in network order.
//!
//! 1. A checksum field holds the complement of the one's complement sum of all words it covers.
//! 2. One's complement sums do not care about byte order, so words are added as they lie in memory.
//! 3. Changing words `old` to `new` changes the sum by `new - old`, which in one's complement is `new + !old`.

/// How the sum of covered words changed: an unfolded one's complement sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delta(pub u32);

impl Delta {
    #[inline(always)]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u32 + new as u32)
    }

    /// An address that takes another's place.
    #[inline(always)]
    pub fn words<A: crate::family::Addr>(self, old: &A, new: &A) -> Self {
        Self(self.0 + difference(old, new))
    }

    /// Whether it leaves every checksum as it is: zero has two forms in one's complement.
    #[inline(always)]
    pub fn is_none(self) -> bool {
        matches!(fold(self.0), 0 | 0xffff)
    }

    /// The checksum field after the change.
    #[inline(always)]
    pub fn apply(self, field: u16) -> u16 {
        !fold(!field as u32 + fold(self.0) as u32)
    }

    /// The same for UDP, where zero means "no checksum" (RFC 768; RFC 8200 §8.1).
    #[inline(always)]
    pub fn apply_udp(self, field: u16) -> u16 {
        if field == 0 {
            return 0;
        }
        match self.apply(field) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

#[inline(always)]
fn difference<A: crate::family::Addr>(old: &A, new: &A) -> u32 {
    // Two words at a time: carries between them are what folding adds anyway.
    let mut sum = 0_u64;
    let mut i = 0;
    while i < A::WORDS / 2 {
        sum += !old.double(i) as u64 + new.double(i) as u64;
        i += 1;
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    // At most 0x1_0000_0006: four halves, each small enough to be added to more of them.
    (sum & 0xffff) as u32 + (sum >> 16 & 0xffff) as u32 + (sum >> 32) as u32
}

/// Folds a 32-bit sum of words to 16 bits.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Adds words to an unfolded sum.
#[inline(always)]
pub fn sum(mut sum: u32, words: &[u16]) -> u32 {
    let mut i = 0;
    while i < words.len() {
        sum += words[i] as u32;
        i += 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(words: &[u16]) -> u16 {
        !fold(words.iter().map(|w| *w as u32).sum())
    }

    proptest! {
        #[test]
        fn updating_equals_recomputing(mut words in prop::collection::vec(any::<u16>(), 2..700), at in any::<prop::sample::Index>(), new: u16) {
            let at = at.index(words.len());
            let before = full(&words);
            let delta = Delta::default().word(words[at], new);
            words[at] = new;
            let (updated, recomputed) = (delta.apply(before), full(&words));
            // 0x0000 and 0xffff are the same number; only an all-zero packet has the second.
            prop_assert!(updated == recomputed || (words.iter().all(|w| *w == 0)) || (updated ^ recomputed) == 0xffff);
            prop_assert_eq!(fold(words.iter().map(|w| *w as u32).sum::<u32>() + updated as u32), 0xffff);
        }

        #[test]
        fn a_udp_checksum_never_becomes_absent(field in 1u16.., old: u16, new: u16) {
            prop_assert_ne!(Delta::default().word(old, new).apply_udp(field), 0);
        }
    }

    #[test]
    fn an_absent_udp_checksum_stays_absent() {
        assert_eq!(Delta::default().word(1, 2).apply_udp(0), 0);
    }
}
