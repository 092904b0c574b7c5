//! What has become of a flow's backend since the flow was opened: of UDP flows the next packet is re-steered (D7), TCP
//! connections are left alone or, by a flag, reset (D6). Nothing is looked up while [`Tables::epoch`] stands still.

use super::config;
use crate::family::{Addr, Family, Port};
use crate::table::{Flow, TCP, Tables, UDP, backend_state, node_flags};

/// Whether the client must not be sent to the flow's backend any more. UDP: it has stopped serving while some other
/// endpoint serves; with none serving kube-proxy leaves its flows as they are, too. TCP, if wanted: it is gone altogether.
#[inline(always)]
pub(super) fn is_lost<F: Family>(flow: &mut Flow<F>, proto: u16, tables: &impl Tables<F>) -> bool {
    // Read first: what changes after it is noticed by the next packet.
    let epoch = tables.epoch();
    flow.epoch != epoch
        && (proto == TCP as u16 || proto == UDP as u16)
        && has_left(flow, proto, epoch, tables)
}

#[inline(never)]
fn has_left<F: Family>(
    flow: &mut Flow<F>,
    proto: u16,
    epoch: u16,
    tables: &impl Tables<F>,
) -> bool {
    let is_tcp = proto == TCP as u16;
    if is_tcp && config(tables).flags & node_flags::RESET_GONE == 0 {
        return false;
    }
    let mut key = flow.backend_key();
    if let Some(state) = tables.backend(&key)
        && (is_tcp || state.flags & backend_state::SERVING != 0)
    {
        flow.epoch = epoch;
        return false;
    }
    key.addr = F::Addr::UNSPECIFIED;
    key.port = Port(0);
    is_tcp || tables.backend(&key).is_some()
}
