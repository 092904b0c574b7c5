//! Addresses by network and host, the same in both families: 10.net.0.host and fd00:net::host. The kernel layer makes
//! this network for real (`tests/kernel/network.rs`).

use std::net::IpAddr;

use svc_common::family::Family;

/// The node's own address towards network 0, and towards network 3.
pub const NODE: (u8, u8) = (0, 1);
pub const NODE_SECOND: (u8, u8) = (3, 1);
/// Pods of this node, and of the nodes 0.2 and 3.2.
pub const PODS: u8 = 1;
pub const OTHER_PODS: [u8; 2] = [2, 4];
pub const OUTSIDE: u8 = 9;
pub const CLUSTER_IPS: u8 = 96;
pub const EXTERNAL_IPS: u8 = 50;

pub fn at(v6: bool, (net, host): (u8, u8)) -> IpAddr {
    if v6 {
        [0xfd00, u16::from(net), 0, 0, 0, 0, 0, u16::from(host)].into()
    } else {
        [10, net, 0, host].into()
    }
}

pub fn addr<F: Family>(net: u8, host: u8) -> F::Addr {
    F::addr_from_std(at(F::VERSION == 6, (net, host))).expect("made for this family")
}

/// Everybody that a packet can be routed to.
pub fn hosts() -> Vec<(u8, u8)> {
    let nets = [PODS, OTHER_PODS[0], OTHER_PODS[1], OUTSIDE];
    let hosts = nets
        .into_iter()
        .flat_map(|net| (1..10).map(move |host| (net, host)));
    hosts.chain([(0, 2), (3, 2)]).collect()
}

/// With which address the node speaks to a network.
pub fn address_towards(net: u8) -> (u8, u8) {
    match net {
        3 | 4 => NODE_SECOND,
        _ => NODE,
    }
}
