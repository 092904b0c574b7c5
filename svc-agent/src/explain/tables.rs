//! The live maps → [`Memory`], as far as one packet is concerned: its address, its Service, and what is remembered of
//! its client and of the Service's backends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Result;
use svc_common::family::{Addr, Family, V4, V6};
use svc_common::memory::Memory;
use svc_common::onward::Hop;
use svc_common::table::{Affinity, CLUSTER, Flow, NodeConfig, Source, address_flags};

use super::trace::Packet;
use crate::dataplane::{Attached, DeviceAddresses, Pinned};
use crate::inspect::{Affinities, Flows, Snapshot};
use crate::node::Devices;
use crate::plan::Actual;

/// All that can be known on this node, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Maps {
    pub snapshot: Snapshot,
    pub flows: Flows,
    pub affinities: Affinities,
    pub config: NodeConfig,
    pub epoch: u16,
    pub addresses: DeviceAddresses,
    pub peers: BTreeSet<u32>,
    pub attached: Attached,
    /// Of the network namespace that this runs in.
    pub devices: Devices,
}

impl Maps {
    pub fn read(pinned: &Pinned) -> Result<Self> {
        Ok(Self {
            snapshot: pinned.read()?,
            flows: pinned.flows()?,
            affinities: pinned.affinities()?,
            config: pinned.config()?,
            epoch: pinned.epoch()?,
            addresses: pinned.device_addresses()?,
            peers: pinned.peers()?,
            attached: pinned.attached()?,
            devices: Devices::new(),
        })
    }

    /// What an address is: bits of [`address_flags`].
    pub fn address_flags(&self, ip: IpAddr) -> u32 {
        fn of<F: Family>(actual: &Actual<F>, ip: IpAddr) -> u32 {
            let flags = F::addr_from_std(ip).and_then(|addr| actual.addresses.get(&addr));
            flags.copied().unwrap_or(0) & !address_flags::PEER
        }
        of(&self.snapshot.v4, ip) | of(&self.snapshot.v6, ip)
    }

    /// The node's own address of a family.
    pub fn node_address(&self, v6: bool) -> Option<IpAddr> {
        self.addresses.get(&(0, v6)).copied()
    }

    pub fn device(&self, ifindex: u32) -> String {
        let device = self.devices.get(&ifindex);
        device.map_or_else(|| format!("device {ifindex}"), |device| device.name.clone())
    }
}

/// One family's part.
pub trait Side: Family {
    fn actual(maps: &Maps) -> &Actual<Self>;
    fn flows(maps: &Maps) -> &[Flow<Self>];
    fn affinities(maps: &Maps) -> &[(Source<Self>, Affinity<Self>)];
    fn add_flow(flows: &mut Flows, flow: Flow<Self>);
}

impl Side for V4 {
    fn actual(maps: &Maps) -> &Actual<V4> {
        &maps.snapshot.v4
    }
    fn flows(maps: &Maps) -> &[Flow<V4>] {
        &maps.flows.v4
    }
    fn affinities(maps: &Maps) -> &[(Source<V4>, Affinity<V4>)] {
        &maps.affinities.v4
    }
    fn add_flow(flows: &mut Flows, flow: Flow<V4>) {
        flows.v4.push(flow);
    }
}

impl Side for V6 {
    fn actual(maps: &Maps) -> &Actual<V6> {
        &maps.snapshot.v6
    }
    fn flows(maps: &Maps) -> &[Flow<V6>] {
        &maps.flows.v6
    }
    fn affinities(maps: &Maps) -> &[(Source<V6>, Affinity<V6>)] {
        &maps.affinities.v6
    }
    fn add_flow(flows: &mut Flows, flow: Flow<V6>) {
        flows.v6.push(flow);
    }
}

/// A way out of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub ifindex: u32,
    /// None: the address is a neighbour.
    pub gateway: Option<IpAddr>,
    /// The address is this node's own.
    pub local: bool,
}

/// The tables that `packet` is held against. `route`: the way to an address, as the kernel has it.
pub fn tables<F: Side>(
    maps: &Maps,
    packet: &Packet<F>,
    route: impl Fn(IpAddr) -> Option<Way>,
) -> Memory<F> {
    let actual = F::actual(maps);
    let node = maps
        .node_address(F::VERSION == 6)
        .and_then(F::addr_from_std);
    let asked = |addr: &F::Addr| *addr == packet.dst || Some(*addr) == node;
    let frontends: BTreeMap<_, _> = actual
        .frontends
        .iter()
        .filter(|(key, _)| asked(&key.addr) && key.port == packet.dport)
        .map(|(key, frontend)| (*key, *frontend))
        .collect();
    let services: BTreeSet<u32> = frontends.values().map(|f| f.service).collect();
    let flows: BTreeMap<_, _> = F::flows(maps)
        .iter()
        .filter(|flow| {
            flow.forward.src == packet.src
                || flow.reply.dst == packet.src
                || services.contains(&flow.service)
        })
        .map(|flow| (*flow.own_key(), *flow))
        .collect();
    let mut tables = Memory::<F> {
        ranges: actual
            .ranges
            .iter()
            .filter(|(source, _)| source.service == CLUSTER || services.contains(&source.service))
            .copied()
            .collect(),
        config: Some(maps.config),
        node_address: node,
        flows: flows.into(),
        ..Memory::default()
    };
    for frontend in frontends.values() {
        if let Some(run) = actual.run(frontend) {
            tables
                .slots
                .extend((frontend.first..).zip(run.iter().copied()));
        }
    }
    let sent_to: BTreeSet<F::Addr> = tables.slots.values().map(|backend| backend.addr).collect();
    let concerned =
        |addr: &F::Addr| *addr == packet.dst || *addr == packet.src || sent_to.contains(addr);
    let addresses = actual.addresses.iter();
    let concerned = addresses.filter(|(addr, _)| concerned(addr));
    tables.addresses = concerned.map(|(addr, flags)| (*addr, *flags)).collect();
    let backends = actual.backends.iter();
    let own = backends.filter(|(key, _)| services.contains(&key.service));
    tables.backends = own
        .map(|(key, state)| (*key, *state))
        .collect::<BTreeMap<_, _>>()
        .into();
    let last = F::affinities(maps).iter();
    let own = last.filter(|(client, _)| client.addr == packet.src);
    tables.affinities = own.copied().collect::<BTreeMap<_, _>>().into();
    tables.frontends = frontends;
    tables.now.set(maps.flows.now);
    tables.epoch.set(maps.epoch);
    add_routes(&mut tables, maps, sent_to, route);
    tables
}

/// What the programs ask the kernel's routing: the address to leave with towards a backend, and whether that is a pod here.
fn add_routes<F: Family>(
    tables: &mut Memory<F>,
    maps: &Maps,
    backends: BTreeSet<F::Addr>,
    route: impl Fn(IpAddr) -> Option<Way>,
) {
    for addr in backends.into_iter().filter(|a| *a != F::Addr::UNSPECIFIED) {
        let Some(way) = route(F::addr_to_std(addr)).filter(|way| !way.local) else {
            continue;
        };
        let leaves = maps.addresses.get(&(way.ifindex, F::VERSION == 6));
        if let Some(own) = leaves.and_then(|ip| F::addr_from_std(*ip)) {
            tables.routes.insert(addr, own);
        }
        if maps.peers.contains(&way.ifindex) {
            let hop = Hop {
                ifindex: way.ifindex,
                ..Hop::default()
            };
            tables.peers.insert(addr, hop);
        }
    }
}
