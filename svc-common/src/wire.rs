//! Header layouts: offsets in bytes, and the few fields that the packet line reads.

use crate::family::{Addr, Family, Ip, Port, V4, V6};
use crate::packet::Packet;

pub const ETH_LEN: usize = 14;
/// EtherTypes in network order, as they lie in the frame.
pub const ETH_P_IP: u16 = 0x0800u16.to_be();
pub const ETH_P_IPV6: u16 = 0x86ddu16.to_be();

pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
const IPV6_HOP_BY_HOP: u8 = 0;
const IPV6_ROUTING: u8 = 43;
const IPV6_FRAGMENT: u8 = 44;
const IPV6_DESTINATION: u8 = 60;
/// Hop-by-hop, routing, destination options, AH, mobility, HIP, shim6: a transport header may hide behind these.
const IPV6_EXTENSIONS: [u8; 7] = [0, 43, 60, 51, 135, 139, 140];

pub mod tcp {
    pub const SEQ: usize = 4;
    pub const ACK_SEQ: usize = 8;
    pub const OFFSET: usize = 12;
    pub const FLAGS: usize = 13;
    pub const CHECKSUM: usize = 16;
    pub const LEN: usize = 20;

    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

pub mod udp {
    pub const CHECKSUM: usize = 6;
    pub const LEN: usize = 8;
}

pub mod sctp {
    pub const CHECKSUM: usize = 8;
}

pub mod icmp {
    pub const TYPE: usize = 0;
    pub const CHECKSUM: usize = 2;
    /// Length of the header of an error, before the packet that it quotes.
    pub const LEN: usize = 8;
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Part {
    #[default]
    Whole,
    /// Carries the transport header.
    First,
    /// Carries none.
    Later,
}

/// What an IP header carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Payload {
    pub proto: u8,
    /// Offset of the transport header.
    pub l4: usize,
    pub part: Part,
    /// Identifies the datagram that this is a part of; 0 for a whole one.
    pub id: u32,
}

impl Payload {
    /// Whether `proto` is an IPv6 extension header at which the walk ended.
    #[inline(always)]
    pub fn is_extension(&self) -> bool {
        IPV6_EXTENSIONS.contains(&self.proto) || self.proto == IPV6_FRAGMENT
    }
}

/// What an ICMP error says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreachable {
    Port,
    /// Bigger than the next hop's MTU.
    TooBig,
    TimeExceeded,
}

/// What differs between the IP headers.
pub trait IpHeader: Sized {
    type Addr: Addr;
    /// Length without options.
    const LEN: usize;
    const SRC: usize;
    const DST: usize;
    const TTL: usize;
    /// EtherType in network order.
    const ETHERTYPE: u16;
    /// The protocol number of this family's ICMP.
    const ICMP: u8;

    fn is_loopback(addr: &Self::Addr) -> bool;
    fn payload(packet: &Packet, l3: usize) -> Option<Payload>;
    /// The length field's worth: bytes from the start of the IP header to the end of the packet.
    fn total_len(packet: &Packet, l3: usize) -> Option<u16>;
    fn is_icmp_error(icmp_type: u8) -> bool;
    /// ICMP types of a ping and its answer.
    const ECHO_REQUEST: u8;
    const ECHO_REPLY: u8;
    /// Type and code in network order. An MTU goes into the second word behind the checksum, in both families.
    fn unreachable(what: Unreachable) -> u16;
    /// Corrects the IP header's own checksum, where it has one.
    fn fix_header(packet: &Packet, l3: usize, delta: crate::checksum::Delta) -> Option<()>;
    /// Decrements TTL or hop limit; None when it would reach zero.
    fn decrement_ttl(packet: &Packet, l3: usize) -> Option<()>;
    /// Overwrites TTL or hop limit.
    fn set_ttl(packet: &Packet, l3: usize, ttl: u8) -> Option<()>;
    /// Writes a fresh header without options for `len` bytes of payload; its checksum is complete.
    fn write(
        packet: &Packet,
        l3: usize,
        proto: u8,
        len: u16,
        src: Self::Addr,
        dst: Self::Addr,
    ) -> Option<()>;
    /// The pseudo-header's share of a transport checksum.
    fn pseudo(src: &Self::Addr, dst: &Self::Addr, proto: u8, len: u16) -> u32;
    /// Whether this family's ICMP checksum covers a pseudo-header.
    const ICMP_PSEUDO: bool;
}

/// Ports are the first four bytes of TCP, UDP and SCTP alike.
#[inline(always)]
pub fn ports(packet: &Packet, l4: usize) -> Option<(Port, Port)> {
    // Four bytes at once.
    let [sport, dport] = packet.get::<Ip<2>>(l4)?.0;
    Some((Port(sport), Port(dport)))
}

#[inline(always)]
pub fn src<F: Family>(packet: &Packet, l3: usize) -> Option<F::Addr> {
    packet.get(l3 + F::SRC)
}

#[inline(always)]
pub fn dst<F: Family>(packet: &Packet, l3: usize) -> Option<F::Addr> {
    packet.get(l3 + F::DST)
}

impl IpHeader for V4 {
    type Addr = Ip<2>;
    const LEN: usize = 20;
    const SRC: usize = 12;
    const DST: usize = 16;
    const TTL: usize = 8;
    const ETHERTYPE: u16 = ETH_P_IP;
    const ICMP: u8 = ICMP;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const ICMP_PSEUDO: bool = false;

    #[inline(always)]
    fn is_loopback(addr: &Ip<2>) -> bool {
        addr.0[0].to_ne_bytes()[0] == 127
    }

    #[inline(always)]
    fn payload(packet: &Packet, l3: usize) -> Option<Payload> {
        let [version_ihl, _tos] = packet.get::<[u8; 2]>(l3)?;
        let ihl = ((version_ihl & 0xf) as usize) << 2;
        if ihl < Self::LEN {
            return None;
        }
        let fragment = u16::from_be(packet.get(l3 + 6)?);
        let proto: u8 = packet.get(l3 + 9)?;
        // RFC 791: More Fragments is bit 13, the offset the 13 bits below.
        let (part, id) = if fragment & 0x3fff == 0 {
            (Part::Whole, 0)
        } else {
            let part = if fragment & 0x1fff == 0 {
                Part::First
            } else {
                Part::Later
            };
            (part, packet.get::<u16>(l3 + 4)? as u32)
        };
        Some(Payload {
            proto,
            l4: l3 + ihl,
            part,
            id,
        })
    }

    #[inline(always)]
    fn total_len(packet: &Packet, l3: usize) -> Option<u16> {
        Some(u16::from_be(packet.get(l3 + 2)?))
    }

    #[inline(always)]
    fn is_icmp_error(icmp_type: u8) -> bool {
        // Destination unreachable, time exceeded, parameter problem (RFC 792).
        matches!(icmp_type, 3 | 11 | 12)
    }

    #[inline(always)]
    fn unreachable(what: Unreachable) -> u16 {
        match what {
            Unreachable::Port => 0x0303u16.to_be(),
            Unreachable::TooBig => 0x0304u16.to_be(),
            Unreachable::TimeExceeded => 0x0b00u16.to_be(),
        }
    }

    #[inline(always)]
    fn fix_header(packet: &Packet, l3: usize, delta: crate::checksum::Delta) -> Option<()> {
        let field = packet.get(l3 + 10)?;
        packet.set(l3 + 10, delta.apply(field))
    }

    #[inline(always)]
    fn decrement_ttl(packet: &Packet, l3: usize) -> Option<()> {
        let ttl: u8 = packet.get(l3 + Self::TTL)?;
        if ttl <= 1 {
            return None;
        }
        Self::set_ttl(packet, l3, ttl - 1)
    }

    #[inline(always)]
    fn set_ttl(packet: &Packet, l3: usize, ttl: u8) -> Option<()> {
        let [old, proto] = packet.get::<[u8; 2]>(l3 + Self::TTL)?;
        packet.set(l3 + Self::TTL, ttl)?;
        let (old, new) = (
            u16::from_ne_bytes([old, proto]),
            u16::from_ne_bytes([ttl, proto]),
        );
        Self::fix_header(packet, l3, crate::checksum::Delta::default().word(old, new))
    }

    #[inline(always)]
    fn write(
        packet: &Packet,
        l3: usize,
        proto: u8,
        len: u16,
        src: Ip<2>,
        dst: Ip<2>,
    ) -> Option<()> {
        let words = [
            0x4500u16.to_be(),
            (len + 20).to_be(),
            0,
            0x4000u16.to_be(),
            u16::from_be_bytes([64, proto]).to_be(),
            0,
            src.0[0],
            src.0[1],
            dst.0[0],
            dst.0[1],
        ];
        packet.set(l3, words)?;
        let sum = crate::checksum::sum(0, &words);
        packet.set(l3 + 10, !crate::checksum::fold(sum))
    }

    #[inline(always)]
    fn pseudo(src: &Ip<2>, dst: &Ip<2>, proto: u8, len: u16) -> u32 {
        src.0[0] as u32
            + src.0[1] as u32
            + dst.0[0] as u32
            + dst.0[1] as u32
            + (proto as u16).to_be() as u32
            + len.to_be() as u32
    }
}

/// How many extension headers are walked, and up to which offset: one byte holds it, an ICMP header's length further on
/// too.
const MAX_EXTENSIONS: u32 = 4;
const MAX_OFFSET: usize = 240;

#[inline(always)]
const fn is_walked(next: u8) -> bool {
    matches!(
        next,
        IPV6_HOP_BY_HOP | IPV6_ROUTING | IPV6_FRAGMENT | IPV6_DESTINATION
    )
}

/// [`Part`] as [`walk`] packs it.
const WHOLE: u64 = 0;
const FIRST: u64 = 1;
const LATER: u64 = 2;

/// What is behind a chain of extension headers (RFC 8200 §4): the fields of a [`Payload`], packed, because a BPF
/// function's result is one register. 0: unreadable. Where it cannot go on, the protocol is that of an extension header.
#[inline(never)]
fn walk(packet: &Packet, start: usize, first: u8) -> u64 {
    let (mut at, mut next) = (start, first);
    let mut i = 0;
    while i < MAX_EXTENSIONS && is_walked(next) && at <= MAX_OFFSET {
        i += 1;
        let Some([next_length, kind_left, id_high, id_low]) = packet.get::<[u16; 4]>(at) else {
            return 0;
        };
        let [following, length] = next_length.to_ne_bytes();
        if next == IPV6_FRAGMENT {
            // RFC 8200 §4.5: next header, reserved, 13 bits of offset and M, identification. What may follow in the first
            // part is not to be seen in the later ones: the walk ends here.
            let part = if u16::from_be(kind_left) & 0xfff8 == 0 {
                FIRST
            } else {
                LATER
            };
            let id = (id_high as u64) << 16 | id_low as u64;
            return id << 32 | part << 16 | (following as u64) << 8 | (at as u64 + 8);
        }
        let [_, segments_left] = kind_left.to_ne_bytes();
        // Its destination is another than the header says: no checksum would be right.
        if next == IPV6_ROUTING && segments_left != 0 {
            break;
        }
        at += 8 + 8 * length as usize;
        next = following;
    }
    if at > MAX_OFFSET {
        return WHOLE << 16 | (IPV6_DESTINATION as u64) << 8 | MAX_OFFSET as u64;
    }
    WHOLE << 16 | (next as u64) << 8 | at as u64
}

impl IpHeader for V6 {
    type Addr = Ip<8>;
    const LEN: usize = 40;
    const SRC: usize = 8;
    const DST: usize = 24;
    const TTL: usize = 7;
    const ETHERTYPE: u16 = ETH_P_IPV6;
    const ICMP: u8 = ICMPV6;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const ICMP_PSEUDO: bool = true;

    #[inline(always)]
    fn is_loopback(addr: &Ip<8>) -> bool {
        // Word by word: a comparison of whole arrays becomes one of 128-bit integers, on which LLVM's BPF backend dies.
        let w = &addr.0;
        w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] == 0 && w[7] == 1u16.to_be()
    }

    #[inline(always)]
    fn payload(packet: &Packet, l3: usize) -> Option<Payload> {
        let next: u8 = packet.get(l3 + 6)?;
        if !is_walked(next) {
            return Some(Payload {
                proto: next,
                l4: l3 + Self::LEN,
                part: Part::Whole,
                id: 0,
            });
        }
        let walked = walk(packet, l3 + Self::LEN, next);
        if walked == 0 {
            return None;
        }
        Some(Payload {
            proto: (walked >> 8) as u8,
            l4: walked as usize & 0xff,
            part: match walked >> 16 & 3 {
                WHOLE => Part::Whole,
                FIRST => Part::First,
                _ => Part::Later,
            },
            id: (walked >> 32) as u32,
        })
    }

    #[inline(always)]
    fn total_len(packet: &Packet, l3: usize) -> Option<u16> {
        Some(u16::from_be(packet.get(l3 + 4)?).wrapping_add(40))
    }

    #[inline(always)]
    fn is_icmp_error(icmp_type: u8) -> bool {
        // RFC 4443 §2.1: error messages have the high bit clear.
        matches!(icmp_type, 1..=4)
    }

    #[inline(always)]
    fn unreachable(what: Unreachable) -> u16 {
        match what {
            Unreachable::Port => 0x0104u16.to_be(),
            Unreachable::TooBig => 0x0200u16.to_be(),
            Unreachable::TimeExceeded => 0x0300u16.to_be(),
        }
    }

    #[inline(always)]
    fn fix_header(_: &Packet, _: usize, _: crate::checksum::Delta) -> Option<()> {
        Some(())
    }

    #[inline(always)]
    fn decrement_ttl(packet: &Packet, l3: usize) -> Option<()> {
        let hops: u8 = packet.get(l3 + Self::TTL)?;
        if hops <= 1 {
            return None;
        }
        packet.set(l3 + Self::TTL, hops - 1)
    }

    #[inline(always)]
    fn set_ttl(packet: &Packet, l3: usize, ttl: u8) -> Option<()> {
        packet.set(l3 + Self::TTL, ttl)
    }

    #[inline(always)]
    fn write(
        packet: &Packet,
        l3: usize,
        proto: u8,
        len: u16,
        src: Ip<8>,
        dst: Ip<8>,
    ) -> Option<()> {
        packet.set(
            l3,
            [
                0x6000u16.to_be(),
                0,
                len.to_be(),
                u16::from_be_bytes([proto, 64]).to_be(),
            ],
        )?;
        packet.set(l3 + Self::SRC, src)?;
        packet.set(l3 + Self::DST, dst)
    }

    #[inline(always)]
    fn pseudo(src: &Ip<8>, dst: &Ip<8>, proto: u8, len: u16) -> u32 {
        let mut sum = (proto as u16).to_be() as u32 + len.to_be() as u32;
        let mut i = 0;
        while i < 8 {
            sum += src.word(i) as u32 + dst.word(i) as u32;
            i += 1;
        }
        sum
    }
}
