//! The address families. All that differs between IPv4 and IPv6 in a table is said here; header layouts are in
//! [`crate::wire`]. Everything else is written once, generic over [`Family`].

use core::fmt::Debug;
use core::hash::Hash;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// An address as `N` 16-bit words in network byte order, as they lie in a header. The Internet checksum adds such
/// words as they are. Aligned to four bytes, so that tables and stack move it by that much: what a look-up hashes by
/// fours must have been written by fours, or the processor waits for the halves to come together. Only
/// [`crate::packet`] meets it where no more than two bytes of alignment hold.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ip<const N: usize>(pub [u16; N]);

// SAFETY: an even number of u16, as asserted below, has no padding and no invalid bit pattern.
unsafe impl<const N: usize> Zeroable for Ip<N> {}
// SAFETY: as above; Ip is Copy and 'static.
unsafe impl<const N: usize> Pod for Ip<N> {}

/// A port (or any 16-bit header field) in network byte order. It cannot be compared with a host-order number.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct Port(pub u16);

impl Port {
    /// From a host-order number.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// As a host-order number.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An address of one family.
pub trait Addr: Pod + Eq + Ord + Hash + Debug {
    /// Number of words.
    const WORDS: usize;
    /// Word `i` in network order, read from memory when asked: left to itself, LLVM makes 128-bit vectors of addresses,
    /// which the BPF backend takes apart again all over its 512 bytes of stack.
    ///
    /// # Panics
    /// Past the last word.
    fn word(&self, i: usize) -> u16;
    /// Words `2 * i` and the one behind it, as they lie in memory.
    ///
    /// # Panics
    /// Past the last word.
    fn double(&self, i: usize) -> u32;
    /// `*self = *from`, four bytes at a time: LLVM calls `memcpy` for 16 bytes.
    fn set(&mut self, from: &Self);
    /// Whether both are the same, as numbers of four bytes.
    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        let mut difference = 0;
        let mut i = 0;
        while i < Self::WORDS / 2 {
            difference |= self.double(i) ^ other.double(i);
            i += 1;
        }
        difference == 0
    }
    /// All zeroes: "no address".
    const UNSPECIFIED: Self;
}

impl<const N: usize> Addr for Ip<N> {
    const WORDS: usize = N;

    #[inline(always)]
    fn word(&self, i: usize) -> u16 {
        // SAFETY: a reference to a word is valid for reads.
        unsafe { (&raw const self.0[i]).read_volatile() }
    }

    #[inline(always)]
    fn double(&self, i: usize) -> u32 {
        const {
            assert!(
                N.is_multiple_of(2) && size_of::<Self>() == 2 * N,
                "no padding"
            )
        };
        assert!(i < N / 2, "past the last word");
        // SAFETY: in bounds by the above, aligned by the type.
        unsafe { (&raw const self.0).cast::<u32>().add(i).read_volatile() }
    }

    #[inline(always)]
    fn set(&mut self, from: &Self) {
        let mut i = 0;
        while i < N / 2 {
            let double = from.double(i);
            // SAFETY: in bounds and aligned, as in `double`.
            unsafe { (&raw mut self.0).cast::<u32>().add(i).write(double) };
            i += 1;
        }
    }

    const UNSPECIFIED: Self = Self([0; N]);
}

/// An IP version.
pub trait Family: Copy + Ord + Hash + Debug + crate::wire::IpHeader + 'static {
    /// 4 or 6.
    const VERSION: u8;

    fn addr_from_std(addr: IpAddr) -> Option<Self::Addr>;
    fn addr_to_std(addr: Self::Addr) -> IpAddr;
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct V4;
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct V6;

impl Family for V4 {
    const VERSION: u8 = 4;

    fn addr_from_std(addr: IpAddr) -> Option<Ip<2>> {
        match addr {
            IpAddr::V4(a) => Some(Ip(bytemuck::cast(a.octets()))),
            IpAddr::V6(_) => None,
        }
    }
    fn addr_to_std(addr: Ip<2>) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(bytemuck::cast::<_, [u8; 4]>(addr.0)))
    }
}

impl Family for V6 {
    const VERSION: u8 = 6;

    fn addr_from_std(addr: IpAddr) -> Option<Ip<8>> {
        match addr {
            IpAddr::V6(a) => Some(Ip(bytemuck::cast(a.octets()))),
            IpAddr::V4(_) => None,
        }
    }
    fn addr_to_std(addr: Ip<8>) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(bytemuck::cast::<_, [u8; 16]>(addr.0)))
    }
}
