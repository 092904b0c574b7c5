//! The answer to a ping (RFC 792, RFC 4443 §4.2), made of the request itself: a virtual address is nobody's, so nobody
//! else would answer. Only whole packets without options: the rest is as lost as it is without us.

use crate::checksum::Delta;
use crate::family::Family;
use crate::packet::Packet;
use crate::parse::Segment;
use crate::reason::{Aside, Reason};
use crate::refuse::swap_ethernet;
use crate::table::{FlowKey, Scope, Tables, address_flags, node_flags};
use crate::wire::ETH_LEN;

const TTL: u8 = 64;

/// Turns the ping into its answer, if the client may see the address that it asks. `scope`: from where it asks.
#[inline(always)]
pub fn answer<F: Family>(
    scope: Scope,
    packet: &Packet,
    l3: usize,
    segment: &Segment<F>,
    tables: &impl Tables<F>,
) -> Result<(), Aside> {
    let address = tables.address(&segment.key.dst);
    let is_virtual = address & (address_flags::CLUSTER_IP | address_flags::EXTERNAL) != 0
        && address & address_flags::NODE == 0;
    if !is_virtual || segment.l4() != l3 + F::LEN {
        return Err(Aside::NotOurs);
    }
    let external_cluster_ip = || {
        tables
            .config()
            .is_some_and(|c| c.flags & node_flags::EXTERNAL_CLUSTER_IP != 0)
    };
    if scope == Scope::External && address & address_flags::EXTERNAL == 0 && !external_cluster_ip()
    {
        return Err(Reason::ClusterIpFromOutside.into());
    }
    write(packet, l3, &segment.key).ok_or(Reason::RewriteFailed.into())
}

#[inline(always)]
fn write<F: Family>(packet: &Packet, l3: usize, key: &FlowKey<F>) -> Option<()> {
    if l3 == ETH_LEN {
        swap_ethernet(packet)?;
    }
    let l4 = l3 + F::LEN;
    let [request, field] = packet.get::<[u16; 2]>(l4)?;
    let [_, code] = request.to_ne_bytes();
    let reply = u16::from_ne_bytes([F::ECHO_REPLY, code]);
    // The addresses change places: no sum that covers them does.
    let field = Delta::default().word(request, reply).apply(field);
    packet.set(l4, [reply, field])?;
    packet.set(l3 + F::SRC, key.dst)?;
    packet.set(l3 + F::DST, key.src)?;
    F::set_ttl(packet, l3, TTL)
}

#[cfg(test)]
mod tests;
