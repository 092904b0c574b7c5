//! What `svc-agent explain` says about a packet before it is sent: held against what becomes of it.

use std::net::{IpAddr, SocketAddr};

use svc_agent::explain::trace::{Fate, Outcome, Packet, Steps, chances, outcome};
use svc_common::family::{Family, Port};
use svc_common::memory::Memory;
use svc_common::packet::Packet as Bytes;
use svc_common::parse::{self, Segment};
use svc_common::reason::Reason;
use svc_common::steer::Client;
use svc_common::wire::ETH_LEN;

use super::agree::{Call, Seen, Sent};
use super::host::number;
use crate::model::objects::From;

/// What may become of a packet that is about to be sent.
pub fn packet<F: Family>(tables: &Memory<F>, sent: &Sent) -> Vec<Seen> {
    let mut frame = sent.frame.clone();
    let mut segment = Segment::<F>::EMPTY;
    let bytes = Bytes::of(&mut frame);
    parse::segment(&bytes, ETH_LEN, tables, &mut segment).expect("a whole packet");
    let packet = Packet {
        client: client(sent.from),
        src: segment.key.src,
        sport: segment.key.sport,
        dst: segment.key.dst,
        dport: segment.key.dport,
        proto: segment.key.proto as u8,
        tcp_flags: segment.tcp_flags,
        xdp: false,
    };
    let mut tables = tables.clone();
    // On the wire no socket is asked.
    if let Some(config) = &mut tables.config {
        config.socket_lb = 0;
    }
    said(&tables, &packet, |steps| {
        match steps.last().expect("a hook").1 {
            Fate::Passed => Seen::NotOurs,
            Fate::Stopped(reason) => Seen::Stopped(reason),
            Fate::Sent { to, .. } => Seen::Sent {
                from: at::<F>(to.src, to.sport),
                to: at::<F>(to.dst, to.dport),
            },
            Fate::Connected(_) => unreachable!("no socket is asked"),
        }
    })
}

/// What may become of a `connect()`.
pub fn connect<F: Family>(
    tables: &Memory<F>,
    call: &Call,
    from: IpAddr,
) -> Vec<Result<Option<SocketAddr>, Reason>> {
    let addr = |ip| F::addr_from_std(ip).expect("of this family");
    let packet = Packet {
        client: client(call.from),
        src: addr(from),
        sport: Port::new(40_000),
        dst: addr(call.to.ip()),
        dport: Port::new(call.to.port()),
        proto: number(call.protocol),
        tcp_flags: svc_common::wire::tcp::SYN,
        xdp: false,
    };
    let mut tables = tables.clone();
    if let Some(config) = &mut tables.config {
        config.socket_lb = call.mode;
    }
    said(&tables, &packet, |steps| match steps[0].1 {
        Fate::Passed => Ok(None),
        Fate::Connected(backend) => Ok(Some(at::<F>(backend.addr, backend.port))),
        Fate::Stopped(reason) => Err(reason),
        Fate::Sent { .. } => unreachable!("a socket sends nothing"),
    })
}

fn said<F: Family, T>(
    tables: &Memory<F>,
    packet: &Packet<F>,
    seen: impl Fn(&Steps<F>) -> T,
) -> Vec<T> {
    let chances = chances(tables, packet);
    match outcome(tables, packet, &chances, true) {
        Outcome::Sure(steps) => vec![seen(&steps)],
        Outcome::OneOf => chances.iter().map(|chance| seen(&chance.steps)).collect(),
    }
}

fn client(from: From) -> Client {
    match from {
        From::Pod => Client::Pod,
        From::Node => Client::Node,
        From::OtherPod | From::Outside => Client::Outside,
    }
}

fn at<F: Family>(addr: F::Addr, port: Port) -> SocketAddr {
    SocketAddr::new(F::addr_to_std(addr), port.get())
}
