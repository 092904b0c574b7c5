//! The answer to a packet that cannot go on: a TCP reset (RFC 9293 §3.5.2) or an ICMP error (RFC 792, RFC 4443).
//!
//! Read first (`to`), then the caller cuts the packet to `LEN` behind its IP header, then `write` writes it.

use crate::checksum::{fold, sum};
use crate::family::Family;
use crate::packet::Packet;
use crate::parse::Segment;
use crate::table::{FlowKey, TCP};
use crate::wire::{ETH_LEN, Unreachable, icmp, tcp};

/// How the transport checksum must be left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    Complete,
    /// The packet's checksum is still to be finished by the device (offload): the field holds the pseudo-header's sum.
    Partial,
}

/// Exchanges source and destination of the Ethernet header.
#[inline(always)]
pub fn swap_ethernet(packet: &Packet) -> Option<()> {
    let [d0, d1, d2, s0, s1, s2] = packet.get::<[u16; 6]>(0)?;
    packet.set(0, [s0, s1, s2, d0, d1, d2])
}

/// Ethernet and IP header of an answer to `key`.
#[inline(always)]
fn write_headers<F: Family>(
    packet: &Packet,
    l3: usize,
    key: &FlowKey<F>,
    proto: u8,
    len: u16,
) -> Option<()> {
    if l3 == ETH_LEN {
        swap_ethernet(packet)?;
    }
    F::write(packet, l3, proto, len, key.dst, key.src)
}

/// A TCP reset from the segment's destination to its source. Numbers are big endian words, as on the wire.
#[derive(Clone, Copy)]
pub struct Reset {
    seq: [u16; 2],
    ack: [u16; 2],
    flags: u8,
}

impl Reset {
    /// Bytes behind the IP header.
    pub const LEN: usize = tcp::LEN;

    /// None: a reset must not be answered, and a later fragment has no numbers to answer with.
    #[inline(always)]
    pub fn to<F: Family>(packet: &Packet, l3: usize, segment: &Segment<F>) -> Option<Self> {
        if segment.tcp_flags & tcp::RST != 0 || !segment.has_ports() {
            return None;
        }
        let [seq_high, seq_low, ack_high, ack_low] =
            packet.get::<[u16; 4]>(segment.l4() + tcp::SEQ)?;
        // RFC 9293 §3.5.2: with ACK, the reset's sequence number is that ACK; without, zero, and it acknowledges
        // all that the segment occupied.
        if segment.tcp_flags & tcp::ACK != 0 {
            return Some(Self {
                seq: [ack_high, ack_low],
                ack: [0; 2],
                flags: tcp::RST,
            });
        }
        let offset: u8 = packet.get(segment.l4() + tcp::OFFSET)?;
        let headers = (segment.l4() - l3) as u16 + (offset >> 4) as u16 * 4;
        let data = F::total_len(packet, l3)?.saturating_sub(headers) as u32;
        let control =
            (segment.tcp_flags & tcp::SYN != 0) as u32 + (segment.tcp_flags & tcp::FIN != 0) as u32;
        let seq = (u16::from_be(seq_high) as u32) << 16 | u16::from_be(seq_low) as u32;
        let ack = seq.wrapping_add(data).wrapping_add(control);
        Some(Self {
            seq: [0; 2],
            ack: [((ack >> 16) as u16).to_be(), (ack as u16).to_be()],
            flags: tcp::RST | tcp::ACK,
        })
    }

    /// Writes the frame over the one that was refused.
    #[inline(always)]
    pub fn write<F: Family>(
        &self,
        packet: &Packet,
        l3: usize,
        key: &FlowKey<F>,
        checksum: Checksum,
    ) -> Option<()> {
        let len = Self::LEN as u16;
        write_headers(packet, l3, key, TCP, len)?;
        let pseudo = F::pseudo(&key.dst, &key.src, TCP, len);
        let offset_flags = u16::from_ne_bytes([(tcp::LEN as u8 / 4) << 4, self.flags]);
        let ([s0, s1], [a0, a1]) = (self.seq, self.ack);
        // Window, checksum and urgent pointer are zero so far.
        let mut header = [
            key.dport.0,
            key.sport.0,
            s0,
            s1,
            a0,
            a1,
            offset_flags,
            0,
            0,
            0,
        ];
        header[tcp::CHECKSUM / 2] = match checksum {
            Checksum::Complete => !fold(sum(pseudo, &header)),
            Checksum::Partial => fold(pseudo),
        };
        packet.set(l3 + F::LEN, header)
    }
}

/// An ICMP error from the segment's destination to its source, with the least that must be quoted: what is in front of
/// the transport header, and eight bytes of that.
#[derive(Clone, Copy)]
pub struct IcmpError {
    /// Whether there are eight bytes between the plain IP header and that of the transport: IPv6's fragment header, or
    /// options.
    long: bool,
}

impl IcmpError {
    /// None: errors and later fragments must not be answered (RFC 1122 §3.2.2, RFC 4443 §2.4). A packet with more options
    /// is not either.
    #[inline(always)]
    pub fn to<F: Family>(l3: usize, segment: &Segment<F>) -> Option<Self> {
        let long = segment.l4() == l3 + F::LEN + 8;
        let fits = long || segment.l4() == l3 + F::LEN;
        (fits && !segment.is_error() && segment.has_ports()).then_some(Self { long })
    }

    /// Bytes of the packet that are quoted.
    #[inline(always)]
    const fn quote<F: Family>(self) -> usize {
        if self.long { F::LEN + 16 } else { F::LEN + 8 }
    }

    /// Bytes behind the IP header.
    #[inline(always)]
    pub const fn size<F: Family>(self) -> usize {
        icmp::LEN + self.quote::<F>()
    }

    /// Writes the frame over the one that cannot go on, which has been cut or grown to the error's length. `mtu` in
    /// host order, 0 unless it is the trouble.
    #[inline(always)]
    pub fn write<F: Family>(
        self,
        packet: &Packet,
        l3: usize,
        key: &FlowKey<F>,
        what: Unreachable,
        mtu: u16,
    ) -> Option<()> {
        let l4 = l3 + F::LEN;
        // The quote moves up word by word, the last one first: the stack has no room for it.
        let mut covered = 0u32;
        let mut i = self.quote::<F>() / 2;
        while i > 0 {
            i -= 1;
            let word: u16 = packet.get(l3 + 2 * i)?;
            packet.set(l4 + icmp::LEN + 2 * i, word)?;
            covered += word as u32;
        }
        let len = self.size::<F>() as u16;
        write_headers(packet, l3, key, F::ICMP, len)?;
        let (type_code, mtu) = (F::unreachable(what), mtu.to_be());
        covered += type_code as u32 + mtu as u32;
        if F::ICMP_PSEUDO {
            covered += F::pseudo(&key.dst, &key.src, F::ICMP, len);
        }
        packet.set(l4, [type_code, !fold(covered), 0, mtu])
    }
}

#[cfg(test)]
mod tests;
