//! A small cluster for tests, and etherparse as the second opinion on what a frame says and whether its checksums hold.

use std::net::IpAddr;
use std::vec::Vec;

use etherparse::{NetSlice, SlicedPacket, TcpHeader, TransportSlice, UdpHeader};

use crate::family::{Family, Port};
use crate::memory::Memory;
use crate::packet::Packet;
use crate::parse::remember_fragment;
use crate::reason::{Aside, Reason};
use crate::rewrite::{Bytes, apply};
use crate::steer::{self, Decision, Work};
use crate::table::{
    Backend, Frontend, FrontendKey, NodeConfig, Scope, address_flags, backend_flags,
};
use crate::wire::ETH_LEN;

#[path = "../../tests/frames.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "written for the kernel tests as well"
)]
pub(crate) mod frames;

/// Runs each generic test for both families.
macro_rules! both_families {
    ($($name:ident),* $(,)?) => {
        mod v4 { $(#[test] fn $name() { super::$name::<crate::family::V4>(); })* }
        mod v6 { $(#[test] fn $name() { super::$name::<crate::family::V6>(); })* }
    };
}
pub(crate) use both_families;

/// Host `host` of network `net`.
pub(crate) fn at<F: Family>(net: u8, host: u8) -> IpAddr {
    if F::VERSION == 4 {
        [10, net, 0, host].into()
    } else {
        [0xfd00, u16::from(net), 0, 0, 0, 0, 0, u16::from(host)].into()
    }
}

pub(crate) fn addr<F: Family>(ip: IpAddr) -> F::Addr {
    F::addr_from_std(ip).expect("an address of this family")
}

pub(crate) fn node<F: Family>() -> IpAddr {
    at::<F>(0, 1)
}
pub(crate) fn pod<F: Family>(host: u8) -> IpAddr {
    at::<F>(1, host)
}
pub(crate) fn remote_pod<F: Family>(host: u8) -> IpAddr {
    at::<F>(2, host)
}
pub(crate) fn cluster_ip<F: Family>(host: u8) -> IpAddr {
    at::<F>(96, host)
}
pub(crate) fn external_ip<F: Family>(host: u8) -> IpAddr {
    at::<F>(50, host)
}
pub(crate) fn outside<F: Family>(host: u8) -> IpAddr {
    at::<F>(9, host)
}

pub(crate) const SNAT_MIN: u16 = 61_000;
pub(crate) const SNAT_MAX: u16 = 61_015;
/// The node's own network namespace.
pub(crate) const NETNS: u64 = 7;

/// A node with pods 10.1.0.x, another node's pods 10.2.0.x, ClusterIPs 10.96.0.x and LoadBalancer addresses 10.50.0.x
/// (fd00:<net>::<host>); outside clients are 10.9.0.x.
pub(crate) fn cluster<F: Family>() -> Memory<F> {
    let mut tables = Memory {
        config: Some(NodeConfig {
            netns_cookie: NETNS,
            socket_lb: 2,
            snat_min: SNAT_MIN,
            snat_max: SNAT_MAX,
            ..NodeConfig::default()
        }),
        node_address: Some(addr::<F>(node::<F>())),
        ..Memory::default()
    };
    tables.now.set(1_000);
    tables
        .addresses
        .insert(addr::<F>(node::<F>()), address_flags::NODE);
    for host in 1..10 {
        tables
            .addresses
            .insert(addr::<F>(cluster_ip::<F>(host)), address_flags::CLUSTER_IP);
        tables
            .addresses
            .insert(addr::<F>(external_ip::<F>(host)), address_flags::EXTERNAL);
        tables
            .routes
            .insert(addr::<F>(remote_pod::<F>(host)), addr::<F>(node::<F>()));
    }
    tables
}

pub(crate) type Endpoint = (IpAddr, u16);

/// Writes a frontend over a fresh run of slots. Endpoints of 10.1.0.x and of the node itself are local.
pub(crate) fn serve<F: Family>(
    tables: &mut Memory<F>,
    (ip, port): Endpoint,
    proto: u8,
    scope: Scope,
    flags: u32,
    endpoints: &[Endpoint],
) {
    let first = tables.slots.keys().last().map_or(0, |last| last + 1);
    for (slot, (ip, port)) in (first..).zip(endpoints) {
        let local = *ip == node::<F>() || (1..=254).any(|host| *ip == pod::<F>(host));
        let flags = if local { backend_flags::LOCAL } else { 0 };
        tables.slots.insert(
            slot,
            Backend {
                addr: addr::<F>(*ip),
                port: Port::new(*port),
                flags,
            },
        );
    }
    let key = FrontendKey {
        addr: addr::<F>(ip),
        port: Port::new(port),
        proto,
        scope: scope as u8,
    };
    let service = u32::from(port);
    let count = endpoints.len() as u32;
    tables.frontends.insert(
        key,
        Frontend {
            first,
            count,
            service,
            flags,
            affinity: 0,
        },
    );
}

/// Where a packet meets us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    FromPod,
    FromOutside,
    ToPod,
    /// `true`: sent by a process of the node.
    ToOutside(bool),
}

impl Hook {
    pub(crate) const ALL: [Self; 5] = [
        Self::FromPod,
        Self::FromOutside,
        Self::ToPod,
        Self::ToOutside(false),
        Self::ToOutside(true),
    ];
}

/// What came of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome<F: Family> {
    pub(crate) result: Result<Decision<F>, Aside>,
    pub(crate) frame: Vec<u8>,
}

impl<F: Family> Outcome<F> {
    /// The frame's addresses and ports after it went on.
    #[track_caller]
    pub(crate) fn sent(&self) -> Tuple {
        assert!(self.result.is_ok(), "not sent: {:?}", self.result);
        read(&self.frame)
    }

    #[track_caller]
    pub(crate) fn because(&self) -> Reason {
        match self.result {
            Err(Aside::Because(reason)) => reason,
            ref other => panic!("expected a reason, got {other:?}"),
        }
    }

    pub(crate) fn is_not_ours(&self) -> bool {
        self.result == Err(Aside::NotOurs)
    }
}

/// Parse, steer, apply: the whole line for one frame.
pub(crate) fn meet<F: Family>(hook: Hook, frame: &[u8], tables: &Memory<F>) -> Outcome<F> {
    let mut frame = frame.to_vec();
    let packet = Packet::of(&mut frame);
    let mut work = Work::EMPTY;
    let steered = match hook {
        Hook::FromPod => steer::ingress(Scope::Internal, &packet, ETH_LEN, tables, &mut work),
        Hook::FromOutside => steer::ingress(Scope::External, &packet, ETH_LEN, tables, &mut work),
        Hook::ToPod => steer::egress(false, &packet, ETH_LEN, tables, &mut work),
        Hook::ToOutside(local) => steer::egress(local, &packet, ETH_LEN, tables, &mut work),
    };
    let result = steered.and_then(|()| {
        remember_fragment(&work.segment, tables);
        apply(
            &mut Bytes(packet),
            ETH_LEN,
            &work.segment,
            &work.decision.to,
        )?;
        Ok(work.decision)
    });
    Outcome { result, frame }
}

/// Addresses and ports, as etherparse reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) src: Endpoint,
    pub(crate) dst: Endpoint,
}

/// Reads a frame, holding every checksum in it against one computed anew.
#[track_caller]
pub(crate) fn read(frame: &[u8]) -> Tuple {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a frame that etherparse can read");
    read_sliced(&sliced)
}

/// Reads the packet that an ICMP error quotes in full, in the same way.
#[track_caller]
pub(crate) fn read_quoted(frame: &[u8]) -> Tuple {
    read(frame);
    let sliced = SlicedPacket::from_ethernet(frame).expect("just read");
    let quote = match sliced.transport {
        Some(TransportSlice::Icmpv4(icmp)) => &icmp.slice()[8..],
        Some(TransportSlice::Icmpv6(icmp)) => &icmp.slice()[8..],
        other => panic!("not an ICMP error: {other:?}"),
    };
    read_sliced(&SlicedPacket::from_ip(quote).expect("a quoted packet that etherparse can read"))
}

#[track_caller]
fn read_sliced(sliced: &SlicedPacket) -> Tuple {
    let (src, dst): (IpAddr, IpAddr) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(
                header.header_checksum,
                header.calc_header_checksum(),
                "IPv4 header checksum"
            );
            (header.source.into(), header.destination.into())
        }
        Some(NetSlice::Ipv6(ip)) => (
            ip.header().source().into(),
            ip.header().destination().into(),
        ),
        other => panic!("not IP: {other:?}"),
    };
    let whole = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => !ip.is_payload_fragmented(),
        Some(NetSlice::Ipv6(ip)) => !ip.is_payload_fragmented(),
        _ => true,
    };
    if !whole {
        return Tuple {
            src: (src, 0),
            dst: (dst, 0),
        };
    }
    let (sport, dport) = match sliced.transport.as_ref().expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            let computed = tcp_checksum(&tcp.to_header(), src, dst, tcp.payload());
            assert_eq!(tcp.checksum(), computed, "TCP checksum");
            (tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => {
            if udp.checksum() != 0 {
                let computed = udp_checksum(&udp.to_header(), src, dst, udp.payload());
                assert_eq!(udp.checksum(), computed, "UDP checksum");
            }
            (udp.source_port(), udp.destination_port())
        }
        TransportSlice::Icmpv4(icmp) => {
            let computed = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(icmp.checksum(), computed, "ICMP checksum");
            (0, 0)
        }
        TransportSlice::Icmpv6(icmp) => {
            let (IpAddr::V6(src), IpAddr::V6(dst)) = (src, dst) else {
                panic!("ICMPv6 over IPv4")
            };
            assert!(
                icmp.is_checksum_valid(src.octets(), dst.octets()),
                "ICMPv6 checksum"
            );
            (0, 0)
        }
        other => panic!("unexpected transport {other:?}"),
    };
    Tuple {
        src: (src, sport),
        dst: (dst, dport),
    }
}

fn tcp_checksum(header: &TcpHeader, src: IpAddr, dst: IpAddr, payload: &[u8]) -> u16 {
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload)
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            header.calc_checksum_ipv6_raw(s.octets(), d.octets(), payload)
        }
        _ => panic!("two families"),
    }
    .expect("short enough")
}

fn udp_checksum(header: &UdpHeader, src: IpAddr, dst: IpAddr, payload: &[u8]) -> u16 {
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload)
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            header.calc_checksum_ipv6_raw(s.octets(), d.octets(), payload)
        }
        _ => panic!("two families"),
    }
    .expect("short enough")
}
