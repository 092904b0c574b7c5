//! SCTP's checksum (CRC32c, RFC 9260 Appendix A) after a change of ports, without a walk over the packet.
//!
//! 1. A CRC is linear: changing bytes changes it by the CRC (from zero) of the difference of the two packets.
//! 2. That difference is four bytes of ports and then nothing but zeroes, and a zero byte multiplies a CRC by x⁸.
//! 3. So the CRC changes by `ports · x^(8·length) mod P`, and a length of 16 bits is two digits of a table of powers.

/// P without its highest term, lowest bit first: bit 31 stands for 1, bit 0 for x³¹.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;

/// x^(8n) and x^(8·256n) for a digit n of the length.
static LOW: [u32; 256] = powers(1);
static HIGH: [u32; 256] = powers(256);

/// x^(8·step·n) for every n of a digit.
const fn powers(step: u32) -> [u32; 256] {
    let mut base = ONE;
    let mut i = 0;
    while i < 8 * step {
        base = times_x(base);
        i += 1;
    }
    let mut all = [ONE; 256];
    let mut n = 1;
    while n < 256 {
        all[n] = crc32c_product(all[n - 1], base);
        n += 1;
    }
    all
}

/// Without a branch, of which the verifier would follow both sides at each of the 64 steps.
#[inline(always)]
const fn times_x(a: u32) -> u32 {
    (a >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(a & 1))
}

/// a·b mod P.
#[inline(never)]
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
pub const extern "C" fn crc32c_product(mut a: u32, mut b: u32) -> u32 {
    let mut sum = 0;
    let mut i = 0;
    while i < 32 {
        sum ^= b & 0u32.wrapping_sub(a >> 31);
        a <<= 1;
        b = times_x(b);
        i += 1;
    }
    sum
}

/// Two words in network order, as the number that a CRC starts with: lowest byte first.
#[inline(always)]
const fn number([first, second]: [u16; 2]) -> u32 {
    u16::from_le(first) as u32 | (u16::from_le(second) as u32) << 16
}

/// The checksum field of an SCTP packet of `length` bytes after its ports changed. All words as they lie in memory. A
/// field of 0 stays: the device is yet to compute the sum (CHECKSUM_PARTIAL). One packet in 2³² has that for its sum.
#[inline(always)]
pub fn update(field: [u16; 2], old: [u16; 2], new: [u16; 2], length: u16) -> [u16; 2] {
    let field = number(field);
    if field == 0 {
        return [0; 2];
    }
    let [low, high] = length.to_le_bytes();
    let power = crc32c_product(LOW[low as usize], HIGH[high as usize]);
    let crc = field ^ crc32c_product(number(old) ^ number(new), power);
    [(crc as u16).to_le(), ((crc >> 16) as u16).to_le()]
}

#[cfg(test)]
mod tests {
    use super::update;
    use crate::testing::frames::crc32c;
    use proptest::prelude::*;

    /// The field of a packet whose own is zero.
    fn field(packet: &[u8]) -> [u16; 2] {
        let crc = crc32c(packet);
        [[crc[0], crc[1]], [crc[2], crc[3]]].map(u16::from_ne_bytes)
    }

    #[test]
    fn the_plain_crc_is_that_of_rfc_3720() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aau32.to_le_bytes());
        assert_eq!(crc32c(b"123456789"), 0xe306_9283u32.to_le_bytes());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn updating_equals_recomputing(
            mut packet in prop_oneof![prop::collection::vec(any::<u8>(), 12..1_500), prop::collection::vec(any::<u8>(), 12..=65_535)],
            new: [u8; 4],
        ) {
            packet[8..12].fill(0);
            let words = |bytes: &[u8]| [[bytes[0], bytes[1]], [bytes[2], bytes[3]]].map(u16::from_ne_bytes);
            let before = field(&packet);
            let old = words(&packet);
            packet[..4].copy_from_slice(&new);
            prop_assert_eq!(update(before, old, words(&new), packet.len() as u16), field(&packet));
        }
    }

    #[test]
    fn a_sum_that_a_device_is_to_compute_stays_absent() {
        assert_eq!(update([0; 2], [1, 2], [3, 4], 100), [0; 2]);
    }
}
