//! [`Rewrite`] → bytes: new addresses and ports, with every checksum that covers them kept right.

use crate::checksum::Delta;
use crate::crc32c;
use crate::family::{Addr, Family, Port};
use crate::packet::Packet;
use crate::parse::Segment;
use crate::reason::Reason;
use crate::table::{FlowKey, SCTP, TCP, UDP};
use crate::wire::{self, Part, icmp, sctp, tcp, udp};

/// The addresses and ports that a packet of a flow shall have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite<F: Family> {
    pub src: F::Addr,
    pub dst: F::Addr,
    pub sport: Port,
    pub dport: Port,
}

impl<F: Family> Rewrite<F> {
    /// Room for one.
    pub const EMPTY: Self = Self {
        src: F::Addr::UNSPECIFIED,
        dst: F::Addr::UNSPECIFIED,
        sport: Port(0),
        dport: Port(0),
    };

    /// How its addresses change the sums that cover them.
    #[inline(always)]
    fn addresses_since(&self, from: &FlowKey<F>) -> Delta {
        Delta::default()
            .words(&from.src, &self.src)
            .words(&from.dst, &self.dst)
    }

    /// How its ports change the sums that cover them.
    #[inline(always)]
    fn ports_since(&self, from: &FlowKey<F>) -> Delta {
        Delta::default()
            .word(from.sport.0, self.sport.0)
            .word(from.dport.0, self.dport.0)
    }
}

/// A packet that can be changed. XDP writes bytes; tc must leave the transport checksum to the kernel, which alone
/// knows whether it is still partial (offload).
pub trait Edit {
    /// The bytes as they are now; pointers from before `fix_transport` are no longer good.
    fn packet(&self) -> Packet<'_>;
    /// Corrects the transport checksum at `off` for changed addresses (pseudo-header) and changed ports.
    fn fix_transport(
        &mut self,
        off: usize,
        addresses: Delta,
        ports: Delta,
        proto: u8,
    ) -> Option<()>;
}

/// Applies `to` to the packet that `segment` was read from.
#[inline(always)]
pub fn apply<F: Family>(
    edit: &mut impl Edit,
    l3: usize,
    segment: &Segment<F>,
    to: &Rewrite<F>,
) -> Result<(), Reason> {
    if segment.is_error() {
        return apply_error(&edit.packet(), l3, segment, to).ok_or(Reason::IcmpUntranslatable);
    }
    apply_transport(edit, l3, segment, to).ok_or(Reason::RewriteFailed)
}

/// The same for a packet that is no ICMP error. In one function with what every packet of a flow costs: a call is dear where
/// the kernel guards its returns.
#[inline(always)]
pub fn apply_transport<F: Family>(
    edit: &mut impl Edit,
    l3: usize,
    segment: &Segment<F>,
    to: &Rewrite<F>,
) -> Option<()> {
    let addresses = to.addresses_since(&segment.key);
    if segment.has_ports() && segment.key.proto == SCTP as u16 {
        fix_sctp(&edit.packet(), l3, segment, to)?;
    } else if segment.has_ports() {
        fix_transport(edit, segment, to, addresses)?;
    }
    write_tuple(&edit.packet(), l3, segment, to, addresses)
}

#[inline(always)]
fn fix_transport<F: Family>(
    edit: &mut impl Edit,
    segment: &Segment<F>,
    to: &Rewrite<F>,
    addresses: Delta,
) -> Option<()> {
    let from = &segment.key;
    let proto = from.proto as u8;
    let field = match proto {
        TCP => tcp::CHECKSUM,
        UDP => udp::CHECKSUM,
        _ => return Some(()),
    };
    edit.fix_transport(segment.l4() + field, addresses, to.ports_since(from), proto)
}

/// SCTP's checksum covers the ports and no pseudo-header. That of a first fragment depends on the length of the whole,
/// which is not known here: None.
#[inline(never)]
fn fix_sctp<F: Family>(
    packet: &Packet,
    l3: usize,
    segment: &Segment<F>,
    to: &Rewrite<F>,
) -> Option<()> {
    let from = &segment.key;
    let (old, new) = ([from.sport.0, from.dport.0], [to.sport.0, to.dport.0]);
    if old[0] == new[0] && old[1] == new[1] {
        return Some(());
    }
    if segment.part != Part::Whole {
        return None;
    }
    let headers = (segment.l4() - l3) as u16;
    let length = F::total_len(packet, l3)?.wrapping_sub(headers);
    let field = packet.get(segment.l4() + sctp::CHECKSUM)?;
    let field = crc32c::update(field, old, new, length);
    packet.set(segment.l4() + sctp::CHECKSUM, field)
}

#[inline(always)]
fn write_tuple<F: Family>(
    packet: &Packet,
    l3: usize,
    segment: &Segment<F>,
    to: &Rewrite<F>,
    addresses: Delta,
) -> Option<()> {
    if segment.has_ports() {
        packet.set(segment.l4(), [to.sport.0, to.dport.0])?;
    }
    packet.set(l3 + F::SRC, to.src)?;
    packet.set(l3 + F::DST, to.dst)?;
    F::fix_header(packet, l3, addresses)
}

/// An ICMP error (RFC 5508 §4). In two functions for the sake of the stack.
#[inline(always)]
fn apply_error<F: Family>(
    packet: &Packet,
    l3: usize,
    segment: &Segment<F>,
    to: &Rewrite<F>,
) -> Option<()> {
    let mut covered = Delta::default();
    rewrite_quote(packet, segment, to, &mut covered)?;
    rewrite_outer(packet, l3, segment, to, covered)
}

/// The quoted packet goes the other way, so its source is what our `dst` was. `covered`: how much the sum under the
/// ICMP checksum changes.
#[inline(never)]
fn rewrite_quote<F: Family>(
    packet: &Packet,
    segment: &Segment<F>,
    to: &Rewrite<F>,
    covered: &mut Delta,
) -> Option<()> {
    let from = &segment.key;
    let quoted = segment.quoted();
    let payload = F::payload(packet, quoted)?;
    let (addresses, ports) = (to.addresses_since(from), to.ports_since(from));
    let changed = Delta(addresses.0 + ports.0);
    *covered = fix_quoted_transport(packet, payload.l4, payload.proto, changed, changed);
    packet.set(payload.l4, [to.dport.0, to.sport.0])?;
    packet.set(quoted + F::SRC, to.dst)?;
    packet.set(quoted + F::DST, to.src)?;
    if F::VERSION == 4 {
        // The quoted header's checksum changes by exactly what its addresses change: nothing left to cover.
        F::fix_header(packet, quoted, addresses)?;
        covered.0 += !crate::checksum::fold(addresses.0) as u32;
    }
    Some(())
}

/// The outer source stays when a router in between speaks.
#[inline(never)]
fn rewrite_outer<F: Family>(
    packet: &Packet,
    l3: usize,
    segment: &Segment<F>,
    to: &Rewrite<F>,
    covered: Delta,
) -> Option<()> {
    let mut outer = Delta::default();
    let src = wire::src::<F>(packet, l3)?;
    if src == segment.key.src {
        outer = outer.words(&src, &to.src);
        packet.set(l3 + F::SRC, to.src)?;
    }
    let dst = wire::dst::<F>(packet, l3)?;
    outer = outer.words(&dst, &to.dst);
    packet.set(l3 + F::DST, to.dst)?;
    F::fix_header(packet, l3, outer)?;
    let covered = if F::ICMP_PSEUDO {
        Delta(covered.0 + outer.0)
    } else {
        covered
    };
    let field = packet.get(segment.l4() + icmp::CHECKSUM)?;
    packet.set(segment.l4() + icmp::CHECKSUM, covered.apply(field))
}

/// Corrects the quoted transport checksum where the quote is long enough to hold it (not SCTP's: nobody looks at it, for
/// most quotes end before what it covers); returns `covered` with that change added.
#[inline(always)]
fn fix_quoted_transport(
    packet: &Packet,
    l4: usize,
    proto: u8,
    delta: Delta,
    covered: Delta,
) -> Delta {
    let off = match proto {
        TCP => l4 + tcp::CHECKSUM,
        UDP => l4 + udp::CHECKSUM,
        _ => return covered,
    };
    let Some(field) = packet.get::<u16>(off) else {
        return covered;
    };
    let fixed = apply_delta(delta, field, proto);
    match packet.set(off, fixed) {
        Some(()) => covered.word(field, fixed),
        None => covered,
    }
}

/// Whether a checksum field was complete that went from `before` to `after` when the kernel was told how addresses change:
/// then it shrank by what they grew. One that a device is yet to finish holds the sum of the pseudo-header, and grew with it.
/// Not to be told where the addresses change nothing.
#[inline(always)]
pub fn was_complete(addresses: Delta, before: u16, after: u16, proto: u8) -> bool {
    after == apply_delta(addresses, before, proto)
}

/// A transport checksum field after a change.
#[inline(always)]
fn apply_delta(delta: Delta, field: u16, proto: u8) -> u16 {
    if proto == UDP {
        delta.apply_udp(field)
    } else {
        delta.apply(field)
    }
}

/// The editor of plain bytes with complete checksums: XDP, and the host.
pub struct Bytes<'a>(pub Packet<'a>);

impl Edit for Bytes<'_> {
    #[inline(always)]
    fn packet(&self) -> Packet<'_> {
        self.0
    }

    #[inline(always)]
    fn fix_transport(
        &mut self,
        off: usize,
        addresses: Delta,
        ports: Delta,
        proto: u8,
    ) -> Option<()> {
        let delta = Delta(addresses.0 + ports.0);
        let field = self.0.get(off)?;
        self.0.set(off, apply_delta(delta, field, proto))
    }
}

#[cfg(test)]
mod tests;
