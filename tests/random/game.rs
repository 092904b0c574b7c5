//! One packet, or `connect()`, in one cluster: what one side makes of it, held against the model.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::agree::{Call, Seen, Tally};
use super::player::{Flow, Player};
use crate::model::follow::{Begun, Next, next};
use crate::model::objects::{Algorithm, Cluster, From, Node, Packet, Protocol, Remembered};
use crate::model::{Source, Verdict, affinity_key, frontends, judge};

/// One packet in one cluster.
pub struct Game<'a> {
    pub cluster: &'a Cluster,
    pub node: &'a Node,
    pub packet: &'a Packet,
}

impl Game<'_> {
    fn judge(&self, packet: &Packet, last: Option<Remembered>) -> Verdict {
        judge(self.cluster, self.node, packet, last)
    }

    /// Connects and sends.
    pub fn play(&self, player: &mut Player, tally: &mut Tally) -> Result<(), String> {
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
                player.flows.push(Flow {
                    begun: Begun::new(self.cluster, self.node, self.packet, to),
                    sport: player.sport,
                    from,
                });
            }
        }
        Ok(expected)
    }

    /// One more packet of a connection.
    pub fn follow(&self, player: &mut Player, number: usize) -> Result<(), String> {
        let flow = player.flows[number].clone();
        let (from, to) = (flow.from, flow.begun.endpoint);
        let expected = match next(self.cluster, self.node, &flow.begun) {
            Next::Anew => return self.start_anew(player, number),
            Next::Same => Seen::Sent { from, to },
            Next::NotOurs => Seen::NotOurs,
        };
        let seen = player.send_more(&flow);
        (seen == expected).then_some(()).ok_or_else(|| {
            format!("a connection should go on\n{flow:?}\nmodel: {expected:?}\nseen:  {seen:?}")
        })
    }

    fn start_anew(&self, player: &mut Player, number: usize) -> Result<(), String> {
        let flow = player.flows[number].clone();
        let key = affinity_key(self.cluster, self.node, self.packet);
        let expected = self.judge(self.packet, player.last(key.as_ref()));
        let seen = player.send_more(&flow);
        self.agrees(&expected, flow.sport, seen).map_err(|what| {
            format!("a connection should start anew: {what}\n{flow:?}\nmodel: {expected:?}\nseen:  {seen:?}")
        })?;
        if let Seen::Sent { from, to } = seen {
            player.remember(key, to);
            let begun = Begun::new(self.cluster, self.node, self.packet, to);
            player.flows[number] = Flow {
                begun,
                from,
                ..flow
            };
        } else {
            player.flows.remove(number);
        }
        Ok(())
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
            if left.is_empty() || player.is_worn_out() {
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
