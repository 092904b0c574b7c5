//! Plays a scenario on one or more sides (host, kernel) and holds each against the model.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use svc_common::reason::Reason;

use super::scenario::{Scenario, Step};
use super::tables::{Agent, Tables};
use crate::frames;
use crate::model::endpoints::{cluster_set, endpoints, local_set};
use crate::model::frontends;
use crate::model::objects::{Algorithm, Cluster, From, Node, Packet, Protocol, Remembered};
use crate::model::{Source, Verdict, affinity_key, judge};

/// Something that decides about packets by the maps that the agent fills.
pub trait Side {
    fn name(&self) -> &'static str;
    /// Forgets everything.
    fn reset(&mut self);
    /// Takes over what the agent has planned.
    fn load(&mut self, fill: &dyn Fn(&mut Tables));
    fn send(&mut self, sent: &Sent) -> Seen;
    /// None: this side cannot be asked.
    fn connect(&mut self, call: &Call) -> Option<Result<Option<SocketAddr>, Reason>>;
    /// Lets time pass.
    fn wait(&mut self, seconds: u32);
}

/// A packet on the wire.
#[derive(Clone, Debug)]
pub struct Sent {
    pub from: From,
    pub to: SocketAddr,
    pub frame: Vec<u8>,
}

/// A `connect()` by a process of a pod or of the node.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub from: From,
    pub to: SocketAddr,
    pub protocol: Protocol,
    pub cookie: u64,
    /// `--socket-lb` as a number: off, tcp, all, host-only.
    pub mode: u32,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    NotOurs,
    Stopped(Reason),
    Sent { from: SocketAddr, to: SocketAddr },
}

/// What was tried, on each side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub scenarios: u64,
    pub packets: u64,
    pub calls: u64,
    pub not_ours: u64,
    pub refused: u64,
    pub dropped: u64,
    pub sent: u64,
    pub masqueraded: u64,
    /// By session affinity one endpoint of several.
    pub sticky: u64,
    /// Sets of endpoints of which every member was reached.
    pub covered: u64,
}

/// Service, its port, client.
type Key = (String, String, IpAddr);

/// One side, and what it has given its clients.
struct Player<'a> {
    side: &'a mut dyn Side,
    memory: BTreeMap<Key, (SocketAddr, u32)>,
    now: u32,
    sport: u16,
    cookie: u64,
    /// How many more sets of this stage are worth the time to reach them in full.
    coverable: u32,
}

/// Client ports of one scenario; SNAT ports come after.
const SPORTS: std::ops::Range<u16> = 2_000..49_000;

/// Plays a scenario. The error tells what the sides disagree with the model about.
pub fn play(
    scenario: &Scenario,
    sides: &mut [&mut dyn Side],
    tally: &mut Tally,
) -> Result<(), String> {
    let mut agent = Agent::new(&scenario.node);
    let mut players: Vec<Player> = sides.iter_mut().map(|side| Player::new(*side)).collect();
    tally.scenarios += 1;
    for stage in &scenario.stages {
        agent.hear(&stage.cluster, stage.all_at_once);
        for player in &mut players {
            player.coverable = 2;
            player.side.load(&|tables| agent.fill(tables));
            player.forget(&stage.cluster, &scenario.node);
        }
        for step in &stage.steps {
            match step {
                Step::Wait(seconds) => players.iter_mut().for_each(|p| p.wait(*seconds)),
                Step::Packet(packet) => {
                    for (i, player) in players.iter_mut().enumerate() {
                        let mut counted = Tally::default();
                        let game = Game {
                            cluster: &stage.cluster,
                            node: &scenario.node,
                            packet,
                        };
                        game.play(player, &mut counted).map_err(|error| {
                            format!("{}: {error}\n{packet:?}", player.side.name())
                        })?;
                        if i == 0 {
                            tally.add(counted);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.calls += other.calls;
        self.not_ours += other.not_ours;
        self.refused += other.refused;
        self.dropped += other.dropped;
        self.sent += other.sent;
        self.masqueraded += other.masqueraded;
        self.sticky += other.sticky;
        self.covered += other.covered;
    }
}

impl<'a> Player<'a> {
    fn new(side: &'a mut dyn Side) -> Self {
        side.reset();
        Self {
            side,
            memory: BTreeMap::new(),
            now: 0,
            sport: SPORTS.start,
            cookie: 0,
            coverable: 0,
        }
    }

    fn wait(&mut self, seconds: u32) {
        self.now += seconds;
        self.side.wait(seconds);
    }

    /// B15: an endpoint that the Service has lost is forgotten, and so is everything about a Service that has lost its
    /// affinity. When it comes back, either answer is right.
    fn forget(&mut self, cluster: &Cluster, node: &Node) {
        self.memory
            .retain(|(service, port, client), (endpoint, _)| {
                let service = cluster.services.iter().find(|s| s.name == *service);
                let Some(service) = service.filter(|s| s.affinity.is_some()) else {
                    return false;
                };
                let of = |p: &&crate::model::objects::ServicePort| {
                    format!("{}/{:?}", p.name, p.protocol) == *port
                };
                let Some(port) = service.ports.iter().find(of) else {
                    return false;
                };
                let all = endpoints(cluster, node, service, port, client.is_ipv6());
                let mut usable = cluster_set(&all).into_iter().chain(local_set(&all));
                usable.any(|e| e.at == *endpoint)
            });
    }

    fn last(&self, key: Option<&Key>) -> Option<Remembered> {
        let (endpoint, seen) = self.memory.get(key?)?;
        Some(Remembered {
            endpoint: *endpoint,
            seconds_ago: self.now - seen,
        })
    }

    fn remember(&mut self, key: Option<Key>, endpoint: SocketAddr) {
        if let Some(key) = key {
            self.memory.insert(key, (endpoint, self.now));
        }
    }
}

/// One packet in one cluster.
struct Game<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    packet: &'a Packet,
}

impl Game<'_> {
    fn judge(&self, packet: &Packet, last: Option<Remembered>) -> Verdict {
        judge(self.cluster, self.node, packet, last)
    }

    /// Connects and sends.
    fn play(&self, player: &mut Player, tally: &mut Tally) -> Result<(), String> {
        if matches!(self.packet.from, From::Pod | From::Node) {
            for mode in 0..4 {
                self.connect(player, mode)?;
            }
            tally.calls += 1;
        }
        let own = |ip: IpAddr| ip.is_loopback() || self.node.addresses.contains(&ip);
        if self.packet.from == From::Node && own(self.packet.to.ip()) {
            // Such packets never leave the node: sockets only.
            return Ok(());
        }
        let expected = self.send(player, tally)?;
        match expected {
            Verdict::OneOf(set) if set.len() > 1 && !self.is_sticky() && player.coverable > 0 => {
                player.coverable -= 1;
                tally.covered += 1;
                self.cover(player, set.into_keys().collect())
            }
            _ => Ok(()),
        }
    }

    fn is_sticky(&self) -> bool {
        affinity_key(self.cluster, self.node, self.packet).is_some()
    }

    /// One new connection on the wire.
    fn send(&self, player: &mut Player, tally: &mut Tally) -> Result<Verdict, String> {
        let key = affinity_key(self.cluster, self.node, self.packet);
        let last = player.last(key.as_ref());
        let expected = self.judge(self.packet, last);
        let seen = player.send(self.packet);
        self.agrees(&expected, player.sport, seen).map_err(|what| {
            format!("{what}\nmodel: {expected:?}\nlast:  {last:?}\nseen:  {seen:?}")
        })?;
        tally.packets += 1;
        match seen {
            Seen::NotOurs => tally.not_ours += 1,
            Seen::Stopped(reason) if reason.refuses() => tally.refused += 1,
            Seen::Stopped(_) => tally.dropped += 1,
            Seen::Sent { from, to } => {
                tally.sent += 1;
                tally.masqueraded += u64::from(from.ip() != self.packet.client);
                let alone =
                    last.is_some() && matches!(&expected, Verdict::OneOf(set) if set.len() == 1);
                tally.sticky += u64::from(alone && self.is_choice());
                player.remember(key, to);
            }
        }
        Ok(expected)
    }

    /// Whether a client without a history would have a choice.
    fn is_choice(&self) -> bool {
        matches!(self.judge(self.packet, None), Verdict::OneOf(set) if set.len() > 1)
    }

    fn agrees(&self, expected: &Verdict, sport: u16, seen: Seen) -> Result<(), &'static str> {
        match (expected, seen) {
            (Verdict::NotOurs, Seen::NotOurs) => Ok(()),
            (Verdict::Refused(reason), Seen::Stopped(why)) if *reason == why => why
                .refuses()
                .then_some(())
                .ok_or("dropped instead of refused"),
            (Verdict::Dropped(reason), Seen::Stopped(why)) if *reason == why => (!why.refuses())
                .then_some(())
                .ok_or("refused instead of dropped"),
            (Verdict::OneOf(set), Seen::Sent { from, to }) => {
                let source = set.get(&to).ok_or("an endpoint that it may not reach")?;
                let client = SocketAddr::new(self.packet.client, sport);
                let fits = match source {
                    Source::Client => from == client,
                    Source::Node if self.packet.from == From::Node => self.is_own(from.ip()),
                    Source::Node => from.ip() != client.ip() && self.is_own(from.ip()),
                    Source::Frontend => from.ip() == self.packet.to.ip(),
                };
                fits.then_some(())
                    .ok_or("another source than it should have")
            }
            _ => Err("another verdict"),
        }
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.node.addresses.contains(&ip)
    }

    /// Reaches every member of the set by trying often enough.
    fn cover(&self, player: &mut Player, set: BTreeSet<SocketAddr>) -> Result<(), String> {
        let mut left = set;
        for _ in 0..800 {
            if let Seen::Sent { to, .. } = player.send(self.packet) {
                left.remove(&to);
            }
            if left.is_empty() || player.sport + 1_000 > SPORTS.end {
                return Ok(());
            }
        }
        Err(format!("never reached: {left:?}"))
    }

    fn connect(&self, player: &mut Player, mode: u32) -> Result<(), String> {
        player.cookie += 1;
        let call = Call {
            from: self.packet.from,
            to: self.packet.to,
            protocol: self.packet.protocol,
            cookie: player.cookie,
            mode,
        };
        // What the node says to itself it says from the address that it speaks to.
        let mut packet = *self.packet;
        if packet.from == From::Node {
            packet.client = match packet.to.ip() {
                ip if self.node.addresses.contains(&ip) => ip,
                _ => packet.client,
            };
        }
        let key = affinity_key(self.cluster, self.node, &packet);
        let last = player.last(key.as_ref());
        let expected = self.judge(&packet, last);
        let Some(outcome) = player.side.connect(&call) else {
            return Ok(());
        };
        let agrees = match (&expected, &outcome) {
            (Verdict::OneOf(set), Ok(Some(backend))) => set.contains_key(backend),
            (Verdict::Refused(reason) | Verdict::Dropped(reason), Err(why)) => reason == why,
            (Verdict::NotOurs, Ok(None)) => true,
            (_, Ok(None)) => self.is_left_to_packets(&call),
            _ => false,
        };
        if let Ok(Some(backend)) = outcome {
            player.remember(key, backend);
        }
        agrees.then_some(()).ok_or_else(|| {
            format!("connect: another outcome\n{call:?}\nmodel: {expected:?}\nlast:  {last:?}\nseen:  {outcome:?}")
        })
    }

    /// Which calls the socket hook leaves to the packet path: those that `--socket-lb` says, and those for which it
    /// would have to know the client's address, or when the connection ends, or give the client another address.
    fn is_left_to_packets(&self, call: &Call) -> bool {
        let to_node = call.to.ip().is_loopback() || self.is_own(call.to.ip());
        let to_itself = call.from == From::Node && to_node;
        let by_mode = match (call.mode, call.protocol) {
            (0, _) | (_, Protocol::Sctp) => true,
            (1, Protocol::Udp) => !to_itself,
            (3, _) => call.from == From::Pod,
            _ => false,
        };
        let masqueraded = self.node.masquerade_all
            && call.from == From::Pod
            && frontends::is_cluster_ip(self.cluster, call.to.ip());
        if by_mode || masqueraded {
            return true;
        }
        let frontend = frontends::find(self.cluster, self.node, call.to, call.protocol);
        let Some(frontend) = frontend.filter(|_| !to_itself) else {
            return false;
        };
        let service = frontend.service;
        service.affinity.is_some()
            || !service.source_ranges.is_empty()
            || match service.algorithm {
                Some(Algorithm::LeastConnections) => true,
                Some(Algorithm::RoundRobin) => call.protocol != Protocol::Tcp,
                _ => false,
            }
    }
}

impl Player<'_> {
    /// A new connection: the same packet from the next port.
    fn send(&mut self, packet: &Packet) -> Seen {
        self.sport += 1;
        let client = packet.client;
        let frame = match packet.protocol {
            Protocol::Tcp => frames::tcp(client, packet.to.ip()).syn(),
            Protocol::Udp => frames::udp(client, packet.to.ip()),
            Protocol::Sctp => frames::sctp(client, packet.to.ip()).payload(&[1, 0, 0, 4]),
        };
        let frame = frame.sport(self.sport).port(packet.to.port()).build();
        self.side.send(&Sent {
            from: packet.from,
            to: packet.to,
            frame,
        })
    }
}
