//! A filter in front of ADDRESSES: one bit for each address, found by a hash of a few instructions. A bit that is
//! not set says that the address is not there; most packets that are not ours are told by it.

use crate::family::Addr;

/// Bits of a family's filter. With the table full, one foreign address in sixteen is looked up in vain.
const LOG2_BITS: u32 = 20;
/// The map holds cache lines: an agent that starts reads few entries.
pub type Line = [u64; 8];
const LINE_BITS: u32 = size_of::<Line>() as u32 * 8;
pub const LINES: u32 = (1 << LOG2_BITS) / LINE_BITS;

/// A bit's place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Bit(u32);

impl Bit {
    /// The bit that stands for an address. The highest bits of a product depend on all bits of an address; one product
    /// alone would put addresses in a row onto each other.
    #[inline(always)]
    pub fn of<A: Addr>(addr: &A) -> Self {
        // The multipliers of MurmurHash3's 64-bit finaliser, and SplitMix64's.
        let mut hash = quad(addr, 0);
        if A::WORDS > 4 {
            hash ^= quad(addr, 4).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        }
        hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        Self((hash >> (64 - LOG2_BITS)) as u32)
    }

    /// The index of its line.
    #[inline(always)]
    pub const fn line(self) -> u32 {
        self.0 / LINE_BITS
    }

    #[inline(always)]
    pub const fn is_set_in(self, line: &Line) -> bool {
        line[self.word()] & self.mask() != 0
    }

    pub const fn set_in(self, line: &mut Line) {
        line[self.word()] |= self.mask();
    }

    #[inline(always)]
    const fn word(self) -> usize {
        (self.0 / 64 % 8) as usize
    }

    #[inline(always)]
    const fn mask(self) -> u64 {
        1 << (self.0 % 64)
    }

    /// The first bit of a line.
    pub const fn first_of(line: u32) -> Self {
        Self(line * LINE_BITS)
    }
}

/// Up to four words of an address, from the `start`th.
#[inline(always)]
fn quad<A: Addr>(addr: &A, start: usize) -> u64 {
    let low = addr.double(start / 2) as u64;
    if A::WORDS > 2 {
        low | (addr.double(start / 2 + 1) as u64) << 32
    } else {
        low
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::family::{Family, V4, V6};

    fn bits<F: Family>(addrs: impl Iterator<Item = std::net::IpAddr>) -> usize {
        let bits: BTreeSet<Bit> = addrs
            .map(|addr| Bit::of(&F::addr_from_std(addr).expect("of the family")))
            .collect();
        assert!(bits.iter().all(|bit| bit.line() < LINES));
        bits.len()
    }

    /// A random hash of 65,536 addresses sets about 63,500 bits.
    #[test]
    fn addresses_in_a_row_seldom_share_a_bit() {
        let v4 = (0..65_536).map(|i| std::net::Ipv4Addr::from(0x0a60_0000 + i).into());
        let v6 = (0..65_536).map(|i| std::net::Ipv6Addr::from((0xfd00_0010_u128 << 96) + i).into());
        let nets =
            (0..65_536).map(|i| std::net::Ipv6Addr::from((0xfd00_u128 << 112) + (i << 64)).into());
        assert!(bits::<V4>(v4) > 60_000);
        assert!(bits::<V6>(v6) > 60_000);
        assert!(bits::<V6>(nets) > 60_000);
    }

    #[test]
    fn a_bit_lies_in_its_line() {
        let bit = Bit::of(&V4::addr_from_std([10, 96, 0, 1].into()).expect("IPv4"));
        assert!(Bit::first_of(bit.line()) <= bit && bit < Bit::first_of(bit.line() + 1));
        let mut line = Line::default();
        assert!(!bit.is_set_in(&line));
        bit.set_in(&mut line);
        assert!(bit.is_set_in(&line));
        assert_eq!(line.iter().map(|word| word.count_ones()).sum::<u32>(), 1);
    }
}
