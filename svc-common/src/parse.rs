//! Packet → [`Segment`]: whose flow a packet belongs to, and where its headers are.
//!
//! The destination is read first and alone ([`crate::wire::dst`]); the rest only for packets that concern us.

use crate::family::{Addr, Family, Port};
use crate::packet::Packet;
use crate::reason::{Aside, Reason};
use crate::table::{FlowKey, FragmentKey, Ports, SCTP, TCP, Tables, UDP};
use crate::wire::{self, Part, Payload, icmp, tcp, udp};

/// A packet of a transport protocol, or an ICMP error about one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<F: Family> {
    /// The flow that the packet belongs to. For an ICMP error: that of the packet it quotes, seen from the error's
    /// side, so that an error travels with the answers of the flow it is about.
    pub key: FlowKey<F>,
    /// Offset of the transport (or ICMP) header. One byte holds it, and is a bound that the verifier cannot forget.
    l4: u8,
    /// Offset of the quoted packet's IP header; 0 when this is no ICMP error.
    quoted: u8,
    /// Identifies the datagram that this is a part of.
    pub fragment_id: u32,
    pub part: Part,
    /// TCP flags, 0 for others.
    pub tcp_flags: u8,
}

impl<F: Family> Segment<F> {
    /// Room for one.
    pub const EMPTY: Self = Self {
        key: FlowKey {
            src: F::Addr::UNSPECIFIED,
            dst: F::Addr::UNSPECIFIED,
            sport: Port(0),
            dport: Port(0),
            proto: 0,
            _pad: 0,
        },
        l4: 0,
        quoted: 0,
        fragment_id: 0,
        part: Part::Whole,
        tcp_flags: 0,
    };

    /// Offset of the transport (or ICMP) header.
    #[inline(always)]
    pub fn l4(&self) -> usize {
        self.l4 as usize
    }

    /// How many bytes precede the data.
    #[inline(always)]
    pub fn headers(&self, packet: &Packet) -> usize {
        let transport = if self.key.proto == TCP as u16 {
            let offset: u8 = packet.get(self.l4() + tcp::OFFSET).unwrap_or(0);
            (offset >> 4) as usize * 4
        } else {
            udp::LEN
        };
        self.l4() + transport
    }

    /// So many bytes in front of it are gone.
    #[inline(always)]
    pub fn move_up(&mut self, bytes: usize) {
        self.l4 = self.l4.wrapping_sub(bytes as u8);
        if self.quoted != 0 {
            self.quoted = self.quoted.wrapping_sub(bytes as u8);
        }
    }

    /// Offset of the IP header that an ICMP error quotes; 0 when this is none.
    #[inline(always)]
    pub fn quoted(&self) -> usize {
        self.quoted as usize
    }

    #[inline(always)]
    pub fn is_error(&self) -> bool {
        self.quoted != 0
    }

    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        self.part != Part::Later
    }

    /// A TCP SYN without ACK opens; any packet of the other protocols may.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.key.proto != TCP as u16 || self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    #[inline(always)]
    fn fragment_key(&self) -> FragmentKey<F> {
        FragmentKey {
            src: self.key.src,
            dst: self.key.dst,
            id: self.fragment_id,
            proto: self.key.proto as u32,
        }
    }
}

/// Reads the segment at `l3` into a room that may hold an earlier one. A reason means: unreadable; the caller decides whether that is a drop.
#[inline(always)]
pub fn segment<F: Family>(
    packet: &Packet,
    l3: usize,
    tables: &impl Tables<F>,
    segment: &mut Segment<F>,
) -> Result<(), Aside> {
    segment.quoted = 0;
    segment.tcp_flags = 0;
    segment.key.src = wire::src::<F>(packet, l3).ok_or(Reason::Truncated)?;
    segment.key.dst = wire::dst::<F>(packet, l3).ok_or(Reason::Truncated)?;
    let payload = F::payload(packet, l3).ok_or(Reason::Truncated)?;
    segment.l4 = payload.l4 as u8;
    segment.part = payload.part;
    segment.fragment_id = payload.id;
    segment.key.set_tail(Port(0), Port(0), payload.proto as u16);
    if payload.proto == F::ICMP && payload.part == Part::Whole {
        return error(packet, segment);
    }
    transport(&payload)?;
    if payload.part == Part::Later {
        return match follows_first(segment, tables) {
            true => Ok(()),
            false => Err(Reason::FragmentUnknown.into()),
        };
    }
    let (sport, dport) = wire::ports(packet, payload.l4).ok_or(Reason::Truncated)?;
    segment.key.set_tail(sport, dport, payload.proto as u16);
    if payload.proto == TCP {
        segment.tcp_flags = packet
            .get(payload.l4 + tcp::FLAGS)
            .ok_or(Reason::Truncated)?;
    }
    Ok(())
}

/// Takes over what the first fragment has left for this one.
#[inline(never)]
fn follows_first<F: Family>(segment: &mut Segment<F>, tables: &impl Tables<F>) -> bool {
    let Some(ports) = tables.fragment(&segment.fragment_key()) else {
        return false;
    };
    let proto = segment.key.proto;
    segment.key.set_tail(ports.sport, ports.dport, proto);
    true
}

/// Whether Services have this protocol.
#[inline(always)]
fn transport(payload: &Payload) -> Result<(), Aside> {
    match payload.proto {
        TCP | UDP | SCTP => Ok(()),
        _ if payload.is_extension() => Err(Reason::ExtensionHeader.into()),
        _ => Err(Aside::NotOurs),
    }
}

/// An ICMP error: the flow is that of the quoted packet, turned round. Other ICMP is nobody's flow; a ping has a name of
/// its own.
#[inline(never)]
fn error<F: Family>(packet: &Packet, segment: &mut Segment<F>) -> Result<(), Aside> {
    let icmp_type: u8 = packet
        .get(segment.l4() + icmp::TYPE)
        .ok_or(Reason::Truncated)?;
    if icmp_type == F::ECHO_REQUEST {
        return Err(Aside::Echo);
    }
    if !F::is_icmp_error(icmp_type) {
        return Err(Aside::NotOurs);
    }
    let quoted = segment.l4() + icmp::LEN;
    let src = wire::src::<F>(packet, quoted).ok_or(Reason::Truncated)?;
    let dst = wire::dst::<F>(packet, quoted).ok_or(Reason::Truncated)?;
    let payload = F::payload(packet, quoted).ok_or(Reason::Truncated)?;
    transport(&payload)?;
    // An error goes to who has sent what it quotes; another one lies, and nobody's flow is to hear of it.
    if payload.part == Part::Later || !segment.key.dst.is(&src) {
        return Err(Aside::NotOurs);
    }
    let (sport, dport) = wire::ports(packet, payload.l4).ok_or(Reason::Truncated)?;
    segment.key = FlowKey {
        src: dst,
        dst: src,
        sport: dport,
        dport: sport,
        proto: payload.proto as u16,
        _pad: 0,
    };
    segment.quoted = quoted as u8;
    Ok(())
}

/// Keeps the ports of a first fragment for the fragments that follow it.
#[inline(always)]
pub fn remember_fragment<F: Family>(segment: &Segment<F>, tables: &impl Tables<F>) {
    if segment.part == Part::First {
        remember_ports(segment, tables);
    }
}

/// A function of its own: its key would be on the stack of the longest chain of calls.
#[inline(never)]
fn remember_ports<F: Family>(segment: &Segment<F>, tables: &impl Tables<F>) {
    let ports = Ports {
        sport: segment.key.sport,
        dport: segment.key.dport,
    };
    tables.remember_fragment(&segment.fragment_key(), ports);
}

#[cfg(test)]
mod tests;
