//! The same decision for a `connect()`: the socket is connected to the backend itself, and is told the frontend when it
//! asks for its peer.

use crate::family::{Family, Port};
use crate::reason::Reason;
use crate::select::select;
use crate::table::{
    Backend, FrontendKey, NodeConfig, Scope, SocketKey, SocketPeer, TCP, Tables, UDP,
    address_flags, frontend_flags,
};

/// `--socket-lb`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Mode {
    Off = 0,
    /// TCP everywhere; UDP only where no packet ever leaves: NodePorts on the node's own addresses (C5).
    Tcp = 1,
    /// TCP and UDP everywhere.
    All = 2,
    /// As `All`, but only for processes in the node's own network namespace.
    HostOnly = 3,
}

impl Mode {
    #[inline(always)]
    const fn from_number(number: u32) -> Self {
        match number {
            1 => Mode::Tcp,
            2 => Mode::All,
            3 => Mode::HostOnly,
            _ => Mode::Off,
        }
    }
}

/// Who calls, as the hook can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    pub cookie: u64,
    pub netns_cookie: u64,
}

impl Caller {
    #[inline(always)]
    pub fn key<F: Family>(&self, addr: F::Addr, port: Port) -> SocketKey<F> {
        SocketKey {
            cookie: [self.cookie as u32, (self.cookie >> 32) as u32],
            addr,
            port,
            _pad: 0,
        }
    }
}

/// What a socket asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target<F: Family> {
    pub addr: F::Addr,
    pub port: Port,
    pub proto: u8,
}

/// The backend to connect to instead. `Ok(None)`: not ours, or left to the packet path.
#[inline(always)]
pub fn connect<F: Family>(
    caller: &Caller,
    target: &Target<F>,
    tables: &impl Tables<F>,
) -> Result<Option<Backend<F>>, Reason> {
    let Some(config) = tables.config() else {
        return Ok(None);
    };
    let on_node = caller.netns_cookie == config.netns_cookie;
    let loopback = on_node && F::is_loopback(&target.addr);
    let address = if loopback {
        address_flags::NODE
    } else {
        tables.address(&target.addr)
    };
    if address == 0 || !applies(&config, target.proto, on_node, address) {
        return Ok(None);
    }
    // A NodePort on loopback is the NodePort of the node's primary address (C5).
    let addr = if loopback {
        match tables.node_address() {
            Some(addr) => addr,
            None => return Ok(None),
        }
    } else {
        target.addr
    };
    let key = FrontendKey {
        addr,
        port: target.port,
        proto: target.proto,
        scope: Scope::Internal as u8,
    };
    let Some(frontend) = tables.frontend(&key) else {
        let flags = address & (address_flags::CLUSTER_IP | address_flags::NODE);
        return if flags == address_flags::CLUSTER_IP {
            Err(Reason::UndefinedPort)
        } else {
            Ok(None)
        };
    };
    // An external IP that is the node's own address must not take loopback from the node's processes.
    if loopback && frontend.flags & frontend_flags::NODE_PORT == 0 {
        return Ok(None);
    }
    // One socket is one connection: an unconnected UDP socket keeps its backend from datagram to datagram.
    let n = |_| {
        if target.proto == TCP {
            tables.random()
        } else {
            socket_hash(caller.cookie)
        }
    };
    select(&frontend, n, tables).map(Some)
}

/// Whether the socket hook serves this call, or leaves it to the packet path.
#[inline(always)]
fn applies(config: &NodeConfig, proto: u8, on_node: bool, address: u32) -> bool {
    match (Mode::from_number(config.socket_lb), proto) {
        (Mode::Off, _) => false,
        (Mode::Tcp | Mode::All, TCP) | (Mode::All, UDP) => true,
        (Mode::Tcp, UDP) => on_node && address & address_flags::NODE != 0,
        (Mode::HostOnly, TCP | UDP) => on_node,
        _ => false,
    }
}

/// What the socket believes its peer is, given who it really is.
#[inline(always)]
pub fn peer<F: Family>(target: &Target<F>) -> SocketPeer<F> {
    SocketPeer {
        addr: target.addr,
        port: target.port,
        _pad: 0,
    }
}

#[inline(always)]
const fn socket_hash(cookie: u64) -> u32 {
    // Fibonacci hashing: consecutive cookies spread.
    (cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests;
