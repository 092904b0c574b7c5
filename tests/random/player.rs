//! One side as the scenario goes on: what it has given its clients, and how it is asked.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::agree::{Seen, Sent, Side};
use crate::frames;
use crate::model::endpoints::{cluster_set, endpoints, local_set};
use crate::model::follow::Begun;
use crate::model::objects::{Cluster, Node, Packet, Protocol, Remembered, ServicePort};

/// Service, its port, client.
pub type Key = (String, String, IpAddr);

/// One side, and what it has given its clients.
pub struct Player<'a> {
    pub side: &'a mut dyn Side,
    memory: BTreeMap<Key, (SocketAddr, u32)>,
    now: u32,
    pub flows: Vec<Flow>,
    pub sport: u16,
    pub cookie: u64,
    /// How many more sets of this stage are worth the time to reach them in full.
    pub coverable: u32,
}

/// A connection that got through.
#[derive(Clone, Debug)]
pub struct Flow {
    pub begun: Begun,
    pub sport: u16,
    /// Whom the endpoint saw.
    pub from: SocketAddr,
}

/// Client ports of one scenario; SNAT ports come after.
const SPORTS: std::ops::Range<u16> = 2_000..49_000;

impl<'a> Player<'a> {
    pub fn new(side: &'a mut dyn Side) -> Self {
        side.reset();
        Self {
            side,
            memory: BTreeMap::new(),
            now: 0,
            flows: Vec::new(),
            sport: SPORTS.start,
            cookie: 0,
            coverable: 0,
        }
    }

    /// Lets time pass; what it does to the connections there are is not this comparison's business.
    pub fn wait(&mut self, seconds: u32) {
        self.now += seconds;
        self.flows.clear();
        self.side.wait(seconds);
    }

    /// B15: an endpoint that the Service has lost is forgotten, and so is everything about a Service that has lost its
    /// affinity. When it comes back, either answer is right.
    pub fn forget(&mut self, cluster: &Cluster, node: &Node) {
        self.flows.iter_mut().for_each(|f| f.begun.see(cluster));
        self.memory
            .retain(|(service, port, client), (endpoint, _)| {
                let service = cluster.services.iter().find(|s| s.name == *service);
                let Some(service) = service.filter(|s| s.affinity.is_some()) else {
                    return false;
                };
                let of = |p: &&ServicePort| format!("{}/{:?}", p.name, p.protocol) == *port;
                let Some(port) = service.ports.iter().find(of) else {
                    return false;
                };
                let all = endpoints(cluster, node, service, port, client.is_ipv6());
                let mut usable = cluster_set(&all).into_iter().chain(local_set(&all));
                usable.any(|e| e.at == *endpoint)
            });
    }

    pub fn last(&self, key: Option<&Key>) -> Option<Remembered> {
        let (endpoint, seen) = self.memory.get(key?)?;
        Some(Remembered {
            endpoint: *endpoint,
            seconds_ago: self.now - seen,
        })
    }

    pub fn remember(&mut self, key: Option<Key>, endpoint: SocketAddr) {
        if let Some(key) = key {
            self.memory.insert(key, (endpoint, self.now));
        }
    }

    /// Whether client ports are running out.
    pub fn is_worn_out(&self) -> bool {
        self.sport + 1_000 > SPORTS.end
    }

    /// A new connection: the same packet from the next port.
    pub fn send(&mut self, packet: &Packet) -> Seen {
        self.sport += 1;
        self.send_from(self.sport, packet, true)
    }

    /// A later packet of a connection.
    pub fn send_more(&mut self, flow: &Flow) -> Seen {
        self.send_from(flow.sport, &flow.begun.packet, false)
    }

    fn send_from(&mut self, sport: u16, packet: &Packet, opens: bool) -> Seen {
        let client = packet.client;
        let frame = match packet.protocol {
            Protocol::Tcp if opens => frames::tcp(client, packet.to.ip()).syn(),
            Protocol::Tcp => frames::tcp(client, packet.to.ip()),
            Protocol::Udp => frames::udp(client, packet.to.ip()),
            Protocol::Sctp => frames::sctp(client, packet.to.ip()).payload(&[1, 0, 0, 4]),
        };
        let frame = frame.sport(sport).port(packet.to.port()).build();
        self.side.send(&Sent {
            from: packet.from,
            to: packet.to,
            frame,
        })
    }
}
