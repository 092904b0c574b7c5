//! The same decision for a `connect()`: the socket is connected to the backend itself, and is told the frontend when it
//! asks for its peer.

use crate::affinity::{self, Last};
use crate::family::{Addr, Family, Port};
use crate::reason::Reason;
use crate::select::{choose, number};
use crate::table::{
    Backend, Frontend, FrontendKey, NodeConfig, Scope, SocketKey, SocketPeer, TCP, Tables, UDP,
    address_flags, frontend_flags, node_flags,
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

/// Writes the backend to connect to instead, and whose it is. False: not ours, or left to the packet path.
#[inline(never)]
pub fn connect<F: Family>(
    caller: &Caller,
    target: &Target<F>,
    tables: &impl Tables<F>,
    backend: &mut Backend<F>,
    service: &mut u32,
) -> Result<bool, Reason> {
    let Some(config) = tables.config() else {
        return Ok(false);
    };
    let on_node = caller.netns_cookie == config.netns_cookie;
    let loopback = on_node && F::is_loopback(&target.addr);
    let address = if loopback {
        address_flags::NODE
    } else {
        tables.address(&target.addr) & !address_flags::PEER
    };
    if address == 0
        || !applies(&config, target.proto, on_node, address)
        || (!on_node && masquerades(&config, address))
    {
        return Ok(false);
    }
    // A NodePort on loopback is the NodePort of the node's primary address (C5).
    let addr = if loopback {
        match tables.node_address() {
            Some(addr) => addr,
            None => return Ok(false),
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
            Ok(false)
        };
    };
    // An external IP that is the node's own address must not take loopback from the node's processes.
    if loopback && frontend.flags & frontend_flags::NODE_PORT == 0 {
        return Ok(false);
    }
    // What the node sends to itself goes by loopback, where no packet is met; its source is the target's own address.
    let own = on_node && address & address_flags::NODE != 0;
    if !own && needs_packets(&frontend, target.proto) {
        return Ok(false);
    }
    *service = frontend.service;
    // One socket is one connection, however long (B16).
    let is_known = |backend: &Backend<F>| {
        tables.socket(&caller.key(backend.addr, backend.port)) == Some(peer(target))
    };
    if frontend.affinity != 0
        && affinity::last(&frontend, &addr, tables, backend) == Last::Expired
        && is_known(backend)
    {
        return Ok(true);
    }
    // An unconnected UDP socket keeps its backend from datagram to datagram.
    let n = || {
        if target.proto == TCP {
            number(&frontend, tables)
        } else {
            socket_hash(caller.cookie)
        }
    };
    choose(&frontend, &addr, n, tables, backend)?;
    if frontend.affinity != 0 && !is_known(backend) {
        affinity::remember(frontend.service, &addr, backend, tables);
    }
    Ok(true)
}

/// Whether a frontend's choice takes what the hook does not know: the client's address, or a connection's end; or, of
/// unconnected sockets, which datagrams are one connection.
#[inline(always)]
const fn needs_packets(frontend: &Frontend, proto: u8) -> bool {
    frontend.affinity != 0
        || frontend.flags & (frontend_flags::SOURCE_RANGES | frontend_flags::LEAST_CONNECTIONS) != 0
        || (frontend.flags & frontend_flags::ROUND_ROBIN != 0 && proto != TCP)
}

/// Whether a process of the node binds a port that is a NodePort there: it would wait in vain for what the Service gets
/// (C7).
#[inline(always)]
pub fn binds_node_port<F: Family>(
    caller: &Caller,
    target: &Target<F>,
    tables: &impl Tables<F>,
) -> bool {
    let on_node = || {
        tables
            .config()
            .is_some_and(|config| config.netns_cookie == caller.netns_cookie)
    };
    if target.port.0 == 0 || !on_node() {
        return false;
    }
    // Node ports answer on loopback too (C5), and "any address" includes the node's.
    let everywhere = is_unspecified(&target.addr) || F::is_loopback(&target.addr);
    let addr = if everywhere {
        tables.node_address()
    } else {
        Some(target.addr)
    };
    addr.is_some_and(|addr| {
        let key = FrontendKey {
            addr,
            port: target.port,
            proto: target.proto,
            scope: Scope::Internal as u8,
        };
        let frontend = tables.frontend(&key);
        frontend.is_some_and(|frontend| frontend.flags & frontend_flags::NODE_PORT != 0)
    })
}

/// Whether it stands for every address of the node.
#[inline(always)]
pub fn is_unspecified<A: Addr>(addr: &A) -> bool {
    let mut any = 0;
    let mut i = 0;
    while i < A::WORDS {
        any |= addr.word(i);
        i += 1;
    }
    any == 0
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

/// Whether a pod's packets get another source, which no socket can have (`--masquerade-all`).
#[inline(always)]
const fn masquerades(config: &NodeConfig, address: u32) -> bool {
    address & address_flags::CLUSTER_IP != 0 && config.flags & node_flags::MASQUERADE_ALL != 0
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
