//! The line of `explain`: a packet and the maps → an [`Explanation`]. Pure.

use std::net::{IpAddr, SocketAddr};

use svc_common::family::{Family, Port, V4, V6};
use svc_common::memory::Memory;
use svc_common::steer::{Client, Route};
use svc_common::table::{
    Backend, Flow, FlowKey, Frontend, FrontendKey, Scope, TCP, Tables, backend_flags, flow_flags,
    frontend_flags,
};
use svc_common::wire::tcp;

use super::endpoints;
use super::hooks;
use super::report::{Explanation, PacketItem, Verdict, WayItem};
use super::tables::{Maps, Side, Way, tables};
use super::trace::{self, Chance, Fate, Outcome, Packet, Steps};
use super::words;
use crate::desired::Protocol;
use crate::inspect::{self, Filter, ServiceItem};
use crate::plan::Label;
use crate::source::once::Objects;

/// A question with nothing left to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub client: Client,
    pub from: IpAddr,
    pub from_port: Option<u16>,
    /// The device that it comes in by; of the node's own packets, that it leaves by.
    pub device: Option<u32>,
    pub to: SocketAddr,
    pub protocol: Protocol,
}

/// What the answer is made from.
#[derive(Clone, Copy)]
pub struct Evidence<'a> {
    pub maps: &'a Maps,
    /// What the cluster says; None: nobody has asked it.
    pub objects: Option<&'a Objects>,
    /// The way to an address, as the kernel has it.
    pub route: &'a dyn Fn(IpAddr) -> Option<Way>,
}

/// Stands for the client's port where any will do.
const ANY_PORT: u16 = 40_000;

/// What would become of the packet, and why.
pub fn judge(asked: &Asked, evidence: Evidence<'_>) -> Explanation {
    if asked.to.is_ipv4() {
        Case::<V4>::new(asked, evidence).explain()
    } else {
        Case::<V6>::new(asked, evidence).explain()
    }
}

/// One question in one family.
pub(super) struct Case<'a, F: Family> {
    pub(super) asked: &'a Asked,
    pub(super) evidence: Evidence<'a>,
    pub(super) packet: Packet<F>,
    pub(super) tables: Memory<F>,
    pub(super) frontend: Option<(FrontendKey<F>, Frontend)>,
    pub(super) flow: Option<(Flow<F>, bool)>,
}

impl<'a, F: Side> Case<'a, F> {
    fn new(asked: &'a Asked, evidence: Evidence<'a>) -> Self {
        let addr = |ip| F::addr_from_std(ip).expect("both ends are of this family");
        let attached = &evidence.maps.attached;
        let mut packet = Packet {
            client: asked.client,
            src: addr(asked.from),
            sport: Port::new(asked.from_port.unwrap_or(ANY_PORT)),
            dst: addr(asked.to.ip()),
            dport: Port::new(asked.to.port()),
            proto: asked.protocol.number(),
            tcp_flags: tcp::SYN,
            xdp: asked
                .device
                .is_some_and(|device| attached.is_at("node_xdp", device)),
        };
        let mut tables = tables(evidence.maps, &packet, evidence.route);
        // Nobody is at the cgroup, whatever the settings say.
        if let Some(config) = &mut tables.config
            && !attached.has_socket_hook(F::VERSION == 6)
        {
            config.socket_lb = 0;
        }
        let flow = match asked.from_port {
            Some(_) => tables.flow(&key(&packet), |flow, reply| (*flow, reply)),
            None => None,
        };
        // In the midst of a connection there is no SYN.
        let over = |flow: &Flow<F>| flow.is_over(tables.now.get(), false, &evidence.maps.config);
        if packet.proto == TCP && flow.is_some_and(|(flow, _)| !over(&flow)) {
            packet.tcp_flags = tcp::ACK;
        }
        let frontend = trace::frontend(&tables, &packet);
        Self {
            asked,
            evidence,
            packet,
            tables,
            frontend,
            flow,
        }
    }

    fn explain(&self) -> Explanation {
        let chances = trace::chances(&self.tables, &self.packet);
        let knows_port = self.asked.from_port.is_some();
        let outcome = trace::outcome(&self.tables, &self.packet, &chances, knows_port);
        let steps = match &outcome {
            Outcome::Sure(steps) => steps,
            Outcome::OneOf => &chances[0].steps,
        };
        let unmet = hooks::unmet(self, steps);
        let frontend = self.frontend_item();
        let mut explanation = Explanation {
            packet: self.packet_item(),
            hooks: hooks::items(self, steps, &outcome, unmet.as_deref()),
            flow: self.flow.and_then(|(flow, _)| self.flow_item(&flow)),
            affinity: self.affinity_item(frontend.as_ref()),
            endpoints: endpoints::items(self, &chances, &outcome),
            frontend,
            verdict: Verdict::Passed,
            reason: None,
            why: String::new(),
            fix: None,
            way: None,
            notes: Vec::new(),
        };
        self.conclude(&mut explanation, &chances, &outcome, unmet);
        words::notes(self, &mut explanation);
        explanation
    }

    fn conclude(
        &self,
        explanation: &mut Explanation,
        chances: &[Chance<F>],
        outcome: &Outcome<F>,
        unmet: Option<String>,
    ) {
        if let Some(why) = unmet {
            explanation.why = why;
            return;
        }
        let steps = match outcome {
            Outcome::Sure(steps) => steps,
            Outcome::OneOf => {
                let failed = chances
                    .iter()
                    .filter(|c| self.way(&c.steps).is_none())
                    .count();
                explanation.verdict = Verdict::Forwarded;
                explanation.why = words::one_of(self, chances.len(), failed);
                return;
            }
        };
        match steps.last().map(|(_, fate)| fate) {
            Some(Fate::Stopped(reason)) => {
                explanation.verdict = if reason.refuses() {
                    Verdict::Refused
                } else {
                    Verdict::Dropped
                };
                explanation.reason = Some(reason.name());
                (explanation.why, explanation.fix) = words::stopped(self, *reason, explanation);
            }
            Some(Fate::Connected(_) | Fate::Sent { .. }) => {
                explanation.verdict = Verdict::Forwarded;
                explanation.way = self.way(steps);
                explanation.why = words::forwarded(self, steps, explanation);
            }
            Some(Fate::Passed) | None => {
                (explanation.why, explanation.fix) = words::passed(self);
            }
        }
    }

    /// Where the packet goes after these steps; None: nowhere.
    pub(super) fn way(&self, steps: &Steps<F>) -> Option<WayItem> {
        match steps.last()?.1 {
            Fate::Connected(backend) => Some(self.connected(&backend)),
            Fate::Sent { to, route, .. } => {
                let masqueraded = to.src != self.packet.src;
                let backend = at::<F>(to.dst, to.dport);
                let own_port = to.sport == self.packet.sport;
                let port = self.asked.from_port.map(|_| to.sport.get());
                let seen_as = end(F::addr_to_std(to.src), port);
                let towards =
                    (self.evidence.route)(F::addr_to_std(to.dst)).filter(|way| !way.local);
                let device = towards.map(|way| self.evidence.maps.device(way.ifindex));
                let next_hop = towards.and_then(|way| way.gateway);
                let route = match route {
                    Route::Stack => "stack",
                    Route::Forward => "forward",
                    Route::Inject => "inject",
                    Route::Tunnel => "tunnel",
                    Route::Peer => "peer",
                };
                let mut way = WayItem {
                    backend,
                    seen_as,
                    masqueraded,
                    route,
                    device,
                    next_hop,
                    words: String::new(),
                };
                way.words = words::way(self, &way, own_port);
                Some(way)
            }
            Fate::Passed | Fate::Stopped(_) => None,
        }
    }

    /// The packets of such a socket go there by themselves.
    fn connected(&self, backend: &Backend<F>) -> WayItem {
        let ip = F::addr_to_std(backend.addr);
        let towards = (self.evidence.route)(ip).filter(|way| !way.local);
        let mut way = WayItem {
            backend: at::<F>(backend.addr, backend.port),
            seen_as: end(self.own_address(towards), self.asked.from_port),
            masqueraded: false,
            route: "socket",
            device: towards.map(|way| self.evidence.maps.device(way.ifindex)),
            next_hop: towards.and_then(|way| way.gateway),
            words: String::new(),
        };
        way.words = words::way(self, &way, true);
        way
    }

    /// A socket of the node's has the address that its way to the backend begins with, wherever it was connected to.
    fn own_address(&self, towards: Option<Way>) -> IpAddr {
        let maps = self.evidence.maps;
        match towards {
            Some(way) if self.asked.client == Client::Node => maps
                .addresses
                .get(&(way.ifindex, F::VERSION == 6))
                .copied()
                .unwrap_or(self.asked.from),
            _ => self.asked.from,
        }
    }

    /// The service port that is asked for.
    pub(super) fn label(&self) -> Option<Label> {
        let (_, frontend) = self.frontend?;
        Label::parse(
            self.evidence
                .maps
                .snapshot
                .services
                .get(&frontend.service)?,
        )
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.frontend
            .is_some_and(|(_, frontend)| frontend.flags & flag != 0)
    }

    pub(super) fn is_local_set(&self) -> bool {
        self.has(frontend_flags::LOCAL_SET)
    }

    fn frontend_item(&self) -> Option<ServiceItem> {
        let (key, _) = self.frontend?;
        let label = self.label();
        let service = label.as_ref().map(|label| &label.port.service);
        let filter = Filter {
            namespace: service.map(|service| &*service.namespace),
            name: service.map(|service| &*service.name),
        };
        let scope = if key.scope == Scope::Internal as u8 {
            "internal"
        } else {
            "external"
        };
        let address = F::addr_to_std(key.addr);
        inspect::service_items(&self.evidence.maps.snapshot, filter)
            .into_iter()
            .find(|item| {
                item.address == address
                    && item.port == key.port.get()
                    && item.protocol == self.asked.protocol.to_string()
                    && item.scope == scope
            })
    }

    fn packet_item(&self) -> PacketItem {
        let asked = self.asked;
        let names = self.evidence.objects.map(|objects| &objects.names);
        let to = asked.to;
        PacketItem {
            protocol: asked.protocol.to_string(),
            from: end(asked.from, asked.from_port),
            client: match asked.client {
                Client::Pod => "pod",
                Client::Node => "node",
                Client::Outside => "outside",
            },
            pod: names.and_then(|names| names.get(&asked.from)).cloned(),
            device: asked.device.map(|device| self.evidence.maps.device(device)),
            to: to.to_string(),
        }
    }

    fn flow_item(&self, flow: &Flow<F>) -> Option<inspect::FlowItem> {
        let mut flows = inspect::Flows {
            now: self.evidence.maps.flows.now,
            ..inspect::Flows::default()
        };
        let shown = Flow {
            flags: flow.flags & !flow_flags::LATE,
            ..*flow
        };
        F::add_flow(&mut flows, shown);
        let services = &self.evidence.maps.snapshot.services;
        inspect::flow_items(&flows, services, Filter::default()).pop()
    }

    fn affinity_item(&self, frontend: Option<&ServiceItem>) -> Option<inspect::AffinityItem> {
        let frontend = frontend.filter(|frontend| frontend.affinity_seconds > 0)?;
        let filter = Filter {
            namespace: Some(&frontend.namespace),
            name: Some(&frontend.name),
        };
        let maps = self.evidence.maps;
        inspect::affinity_items(&maps.affinities, &maps.snapshot, filter)
            .into_iter()
            .find(|item| item.client == self.asked.from && item.port_name == frontend.port_name)
    }
}

pub(super) fn key<F: Family>(packet: &Packet<F>) -> FlowKey<F> {
    FlowKey {
        src: packet.src,
        dst: packet.dst,
        sport: packet.sport,
        dport: packet.dport,
        proto: u16::from(packet.proto),
        _pad: 0,
    }
}

pub(super) fn at<F: Family>(addr: F::Addr, port: Port) -> String {
    SocketAddr::new(F::addr_to_std(addr), port.get()).to_string()
}

pub(super) fn is_local<F: Family>(backend: &Backend<F>) -> bool {
    backend.flags & backend_flags::LOCAL != 0
}

/// `10.0.0.1:80`, `[fd00::1]:*`.
fn end(ip: IpAddr, port: Option<u16>) -> String {
    let port = port.map_or_else(|| "*".into(), |port| port.to_string());
    match ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    }
}
