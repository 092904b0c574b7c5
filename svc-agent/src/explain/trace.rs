//! One packet through the hooks, by the very functions that the programs are made of, over tables in memory. Pure:
//! whoever calls lends tables that may be written to.

use std::cell::RefCell;
use std::collections::BTreeMap;

use svc_common::family::{Family, Port};
use svc_common::memory::Memory;
use svc_common::onward;
use svc_common::packet::Packet as Bytes;
use svc_common::reason::{Aside, Reason};
use svc_common::rewrite::{self, Rewrite, apply};
use svc_common::socket::{self, Caller, Target};
use svc_common::steer::{self, Client, Route, Work};
use svc_common::table::{
    Backend, Flow, Frontend, FrontendKey, Scope, TCP, Tables, UDP, address_flags, frontend_flags,
};
use svc_common::wire::{ETH_LEN, tcp};

/// The packet in question: the first of a connection, unless one with its tuple is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<F: Family> {
    pub client: Client,
    pub src: F::Addr,
    pub sport: Port,
    pub dst: F::Addr,
    pub dport: Port,
    pub proto: u8,
    pub tcp_flags: u8,
    /// Where it comes in, XDP meets it first.
    pub xdp: bool,
}

/// Where a packet, or the call that would send it, is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// `connect()` or `sendmsg()`.
    Socket,
    PodIngress,
    NodeEgress,
    NodeXdp,
    NodeIngress,
}

/// What a hook does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate<F: Family> {
    /// None of its business, or left to the next hook.
    Passed,
    /// The socket is connected to the backend itself.
    Connected(Backend<F>),
    Sent {
        to: Rewrite<F>,
        route: Route,
        /// It is an answer, from backend to client.
        reply: bool,
    },
    Stopped(Reason),
}

/// What each hook does, in the order in which they are met. The last one decides.
pub type Steps<F> = Vec<(Hook, Fate<F>)>;

/// Sends the packet through. The tables remember it, as the maps would.
pub fn trace<F: Family>(tables: &Memory<F>, packet: &Packet<F>) -> Steps<F> {
    let mut steps = Vec::new();
    if packet.client != Client::Outside {
        steps.push((Hook::Socket, connect(tables, packet)));
        // What the node sends to itself goes by loopback, where nothing of ours is.
        if steps[0].1 != Fate::Passed || is_to_itself(tables, packet) {
            return steps;
        }
    }
    let hook = match packet.client {
        Client::Pod => Hook::PodIngress,
        Client::Node => Hook::NodeEgress,
        Client::Outside => Hook::NodeIngress,
    };
    let fate = meet(tables, packet);
    if packet.xdp && packet.client == Client::Outside {
        // Only what goes straight on to another node is carried out there.
        if let Fate::Sent {
            route: Route::Forward,
            ..
        } = fate
        {
            steps.push((Hook::NodeXdp, fate));
            return steps;
        }
        steps.push((Hook::NodeXdp, Fate::Passed));
    }
    steps.push((hook, fate));
    steps
}

fn is_to_itself<F: Family>(tables: &Memory<F>, packet: &Packet<F>) -> bool {
    packet.client == Client::Node
        && (F::is_loopback(&packet.dst) || tables.address(&packet.dst) & address_flags::NODE != 0)
}

/// A fresh socket's call.
fn connect<F: Family>(tables: &Memory<F>, packet: &Packet<F>) -> Fate<F> {
    let target = Target {
        addr: packet.dst,
        port: packet.dport,
        proto: packet.proto,
    };
    let own = tables.config.map_or(0, |config| config.netns_cookie);
    let caller = Caller {
        cookie: 0,
        netns_cookie: match packet.client {
            Client::Node => own,
            Client::Pod | Client::Outside => own.wrapping_add(1),
        },
    };
    let mut backend = Backend::EMPTY;
    match socket::connect(&caller, &target, tables, &mut backend, &mut 0) {
        Ok(true) => Fate::Connected(backend),
        Ok(false) => Fate::Passed,
        Err(reason) => Fate::Stopped(reason),
    }
}

/// The packet at a device.
fn meet<F: Family>(tables: &Memory<F>, packet: &Packet<F>) -> Fate<F> {
    let Some(mut frame) = frame(packet) else {
        return Fate::Stopped(Reason::Truncated);
    };
    let mut work = Work::<F>::EMPTY;
    let bytes = Bytes::of(&mut frame);
    let scope = match packet.client {
        Client::Pod | Client::Node => Scope::Internal,
        Client::Outside => Scope::External,
    };
    let steered = match packet.client {
        Client::Node => steer::egress(true, &bytes, ETH_LEN, tables, &mut work),
        Client::Pod | Client::Outside => steer::ingress(scope, &bytes, ETH_LEN, tables, &mut work),
    };
    match steered {
        Err(Aside::NotOurs | Aside::Echo) => return Fate::Passed,
        Err(Aside::Because(reason)) => return Fate::Stopped(reason),
        Ok(()) => (),
    }
    let decision = work.decision;
    let mut route = decision.route;
    if route == Route::Stack && packet.client != Client::Node {
        if let Err(reason) = apply(
            &mut rewrite::Bytes(bytes),
            ETH_LEN,
            &work.segment,
            &decision.to,
        ) {
            return Fate::Stopped(reason);
        }
        if onward::onward(scope, true, &bytes, ETH_LEN, tables, &mut work).is_ok() {
            route = Route::Peer;
        }
    }
    Fate::Sent {
        to: decision.to,
        route,
        reply: decision.reply,
    }
}

/// The shortest frame that is such a packet. Nobody looks at its checksums.
fn frame<F: Family>(packet: &Packet<F>) -> Option<Vec<u8>> {
    let len: usize = match packet.proto {
        TCP => tcp::LEN,
        UDP => 8,
        _ => 12,
    };
    let l4 = ETH_LEN + F::LEN;
    let mut frame = vec![0; l4 + len];
    let bytes = Bytes::of(&mut frame);
    bytes.set(ETH_LEN - 2, F::ETHERTYPE)?;
    let len = u16::try_from(len).ok()?;
    F::write(&bytes, ETH_LEN, packet.proto, len, packet.src, packet.dst)?;
    bytes.set(l4, [packet.sport.0, packet.dport.0])?;
    if packet.proto == TCP {
        bytes.set(l4 + tcp::OFFSET, (tcp::LEN as u8 / 4) << 4)?;
        bytes.set(l4 + tcp::FLAGS, packet.tcp_flags)?;
    } else if packet.proto == UDP {
        bytes.set(l4 + 4, len.to_be())?;
    }
    Some(frame)
}

/// The frontend that the packet asks for, if there is one.
pub fn frontend<F: Family>(
    tables: &Memory<F>,
    packet: &Packet<F>,
) -> Option<(FrontendKey<F>, Frontend)> {
    // As the socket hook has it: a NodePort on loopback is that of the node's primary address (C5).
    let loopback = packet.client == Client::Node && F::is_loopback(&packet.dst);
    let key = FrontendKey {
        addr: if loopback {
            tables.node_address?
        } else {
            packet.dst
        },
        port: packet.dport,
        proto: packet.proto,
        scope: steer::scope(packet.client, &packet.src, tables) as u8,
    };
    let frontend = tables.frontend(&key)?;
    (!loopback || frontend.flags & frontend_flags::NODE_PORT != 0).then_some((key, frontend))
}

/// What would become of the packet if the choice fell on one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chance<F: Family> {
    pub backend: Backend<F>,
    /// How many slots of the run lead there.
    pub slots: u32,
    pub steps: Steps<F>,
}

/// Every backend that the frontend's run leads to, with what would become of the packet. All are alike where the choice
/// was made before: by a flow that is known, by affinity, by a refusal.
pub fn chances<F: Family>(tables: &Memory<F>, packet: &Packet<F>) -> Vec<Chance<F>> {
    let Some((key, frontend)) = frontend(tables, packet) else {
        return Vec::new();
    };
    let mut found: BTreeMap<Backend<F>, (u32, u32)> = BTreeMap::new();
    for index in (0..frontend.count).filter_map(|i| frontend.first.checked_add(i)) {
        if let Some(backend) = tables.slot(index) {
            found.entry(backend).or_insert((index, 0)).1 += 1;
        }
    }
    // Of many flows, a backend's own are all that can be in a new one's way.
    let flows = tables.flows.take();
    let others = tables.clone();
    let concerns = |flow: &Flow<F>, backend: &Backend<F>| {
        flow.forward.src == packet.src
            || flow.reply.dst == packet.src
            || flow.reply.src == backend.addr
    };
    let chance = |(backend, (first, slots)): (Backend<F>, (u32, u32))| {
        let near = flows.iter().filter(|(_, flow)| concerns(flow, &backend));
        // The same run, narrowed to one of its slots: all else stays as it is.
        let mut narrowed = others.clone();
        narrowed.flows = RefCell::new(near.map(|(key, flow)| (*key, *flow)).collect());
        let count = 1;
        narrowed.frontends.insert(
            key,
            Frontend {
                first,
                count,
                ..frontend
            },
        );
        Chance {
            backend,
            slots,
            steps: trace(&narrowed, packet),
        }
    };
    let chances = found.into_iter().map(chance).collect();
    tables.flows.replace(flows);
    chances
}

/// What is known of the packet's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<F: Family> {
    /// This is what happens.
    Sure(Steps<F>),
    /// One of the chances, by what nobody can foretell.
    OneOf,
}

/// Whether the choice can be foretold. `knows_port`: the packet's own port is the client's, not an example.
pub fn outcome<F: Family>(
    tables: &Memory<F>,
    packet: &Packet<F>,
    chances: &[Chance<F>],
    knows_port: bool,
) -> Outcome<F> {
    let steps = trace(&tables.clone(), packet);
    let alike = chances.iter().all(|chance| chance.steps == steps);
    let decided_at_a_device = steps.last().is_some_and(|(hook, _)| *hook != Hook::Socket);
    let by_port = frontend(tables, packet)
        .is_some_and(|(_, frontend)| frontend.flags & frontend_flags::MAGLEV != 0)
        && knows_port
        && decided_at_a_device;
    if chances.len() < 2 || alike || by_port {
        Outcome::Sure(steps)
    } else {
        Outcome::OneOf
    }
}
