//! Direct server return (D12): a packet from outside travels in a tunnel to the node of its backend, which answers the
//! client itself. Here are the headers in front of it; what the backend's node makes of them is in [`arrive`].

mod arrive;

pub use arrive::arrive;

use crate::checksum::Delta;
use crate::family::{Family, Port, V4, V6};
use crate::packet::Packet;
use crate::table::{UDP, node_flags};
use crate::wire::{IpHeader, udp};

/// RFC 8926: the port of Geneve, its header, and our one option of eight bytes.
const GENEVE_PORT: u16 = 6081u16.to_be();
const GENEVE_LEN: usize = 16;
/// Version 0, two words of options, critical ones among them.
const GENEVE_OPTIONS: u16 = 0x0240u16.to_be();
/// A class for experiments; type 1, critical, with one word of data.
const OPTION_CLASS: u16 = 0xfff0u16.to_be();
const OPTION_TYPE: u16 = 0x8101u16.to_be();

/// What is in front of a tunnelled packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// An IP header of the same family (RFC 2003, RFC 2473); the backend's port is its identification or flow label.
    Ipip,
    /// IP, UDP and Geneve; the backend's port is an option.
    Geneve,
}

impl Format {
    /// As [`crate::table::NodeConfig::flags`] say; None: no tunnels.
    #[inline(always)]
    pub const fn of(flags: u32) -> Option<Self> {
        if flags & node_flags::DSR_GENEVE != 0 {
            Some(Self::Geneve)
        } else if flags & node_flags::DSR_IPIP != 0 {
            Some(Self::Ipip)
        } else {
            None
        }
    }

    /// Bytes in front of the tunnelled IP header.
    #[inline(always)]
    pub const fn overhead<F: Family>(self) -> usize {
        match self {
            Self::Ipip => F::LEN,
            Self::Geneve => F::LEN + udp::LEN + GENEVE_LEN,
        }
    }

    /// Writes the headers at `l3`, in front of `len` bytes of an IP packet. `hash` is the flow's, for routers that spread
    /// by UDP ports. ECN is not carried (RFC 6040's compatibility mode), DSCP is.
    #[inline(always)]
    pub fn write<F: Outer>(
        self,
        packet: &Packet,
        l3: usize,
        len: u16,
        (src, dst): (&F::Addr, &F::Addr),
        port: Port,
        hash: u32,
    ) -> Option<()> {
        let class = F::traffic_class(packet, l3 + self.overhead::<F>())? & 0xfc;
        let len = len.wrapping_add((self.overhead::<F>() - F::LEN) as u16);
        match self {
            Self::Ipip => {
                F::write(packet, l3, F::IN_IP, len, *src, *dst)?;
                F::mark(packet, l3, class, port.0)
            }
            Self::Geneve => {
                F::write(packet, l3, UDP, len, *src, *dst)?;
                F::mark(packet, l3, class, 0)?;
                let sport = (0xc000 | hash as u16 & 0x3fff).to_be();
                // No checksum: IPv4's header has one, and IPv6 allows it for tunnels (RFC 6935, RFC 6936).
                let udp: [u16; 4] = [sport, GENEVE_PORT, len.to_be(), 0];
                packet.set(l3 + F::LEN, udp)?;
                let geneve: [u16; 8] = [
                    GENEVE_OPTIONS,
                    F::ETHERTYPE,
                    0,
                    0,
                    OPTION_CLASS,
                    OPTION_TYPE,
                    port.0,
                    0,
                ];
                packet.set(l3 + F::LEN + udp::LEN, geneve)
            }
        }
    }
}

/// Whether a packet looks like one in a tunnel. For all others this is all that tunnels cost.
#[inline(always)]
pub fn is_tunnelled<F: Outer>(packet: &Packet, l3: usize) -> bool {
    match packet.get::<u8>(l3 + F::PROTO) {
        Some(proto) if proto == F::IN_IP => true,
        Some(UDP) => packet.get(l3 + F::LEN + 2) == Some(GENEVE_PORT),
        _ => false,
    }
}

/// The backend's port, by the headers at `l3`; None where these are none that we write.
#[inline(always)]
fn port<F: Outer>(packet: &Packet, l3: usize) -> Option<Port> {
    if !F::is_plain(packet, l3) {
        return None;
    }
    if packet.get::<u8>(l3 + F::PROTO)? != UDP {
        return Some(Port(F::label(packet, l3)?));
    }
    let header: [u16; 8] = packet.get(l3 + F::LEN + udp::LEN)?;
    let ours = header[0] == GENEVE_OPTIONS
        && header[1] == F::ETHERTYPE
        && header[4] == OPTION_CLASS
        && header[5] == OPTION_TYPE;
    ours.then_some(Port(header[6]))
}

/// [`Format::overhead`] of a packet that is tunnelled. It is reckoned, not looked up, for the verifier's sake, which then
/// follows one path for both formats: bit 4 is what tells UDP's protocol number from the others.
#[inline(always)]
fn overhead<F: Outer>(packet: &Packet, l3: usize) -> Option<usize> {
    let proto = packet.get::<u8>(l3 + F::PROTO)?;
    Some(F::LEN + (proto >> 4 & 1) as usize * (udp::LEN + GENEVE_LEN))
}

/// What differs between the families' headers in front of a tunnelled packet.
pub trait Outer: Family {
    /// Offset of the protocol number.
    const PROTO: usize;
    /// The protocol number of this family inside of itself.
    const IN_IP: u8;

    /// Whether the header has neither options nor is of a fragment.
    fn is_plain(packet: &Packet, l3: usize) -> bool;
    fn traffic_class(packet: &Packet, l3: usize) -> Option<u8>;
    /// The identification, or the low half of the flow label.
    fn label(packet: &Packet, l3: usize) -> Option<u16>;
    /// Sets both in a header that [`IpHeader::write`] has written. A packet that must not be fragmented needs no
    /// identification (RFC 6864).
    fn mark(packet: &Packet, l3: usize, class: u8, label: u16) -> Option<()>;
}

impl Outer for V4 {
    const PROTO: usize = 9;
    const IN_IP: u8 = 4;

    #[inline(always)]
    fn is_plain(packet: &Packet, l3: usize) -> bool {
        packet.get::<u8>(l3) == Some(0x45)
            && packet
                .get::<u16>(l3 + 6)
                .is_some_and(|fragment| u16::from_be(fragment) & 0x3fff == 0)
    }

    #[inline(always)]
    fn traffic_class(packet: &Packet, l3: usize) -> Option<u8> {
        packet.get(l3 + 1)
    }

    #[inline(always)]
    fn label(packet: &Packet, l3: usize) -> Option<u16> {
        packet.get(l3 + 4)
    }

    #[inline(always)]
    fn mark(packet: &Packet, l3: usize, class: u8, label: u16) -> Option<()> {
        let first = u16::from_ne_bytes([0x45, class]);
        packet.set(l3, first)?;
        packet.set(l3 + 4, label)?;
        let delta = Delta::default()
            .word(0x4500u16.to_be(), first)
            .word(0, label);
        Self::fix_header(packet, l3, delta)
    }
}

impl Outer for V6 {
    const PROTO: usize = 6;
    const IN_IP: u8 = 41;

    #[inline(always)]
    fn is_plain(_: &Packet, _: usize) -> bool {
        true
    }

    #[inline(always)]
    fn traffic_class(packet: &Packet, l3: usize) -> Option<u8> {
        let [high, low] = packet.get::<[u8; 2]>(l3)?;
        Some(high << 4 | low >> 4)
    }

    #[inline(always)]
    fn label(packet: &Packet, l3: usize) -> Option<u16> {
        packet.get(l3 + 2)
    }

    #[inline(always)]
    fn mark(packet: &Packet, l3: usize, class: u8, label: u16) -> Option<()> {
        let first = u16::from_ne_bytes([0x60 | class >> 4, class << 4]);
        packet.set(l3, [first, label])
    }
}

#[cfg(test)]
mod tests;
