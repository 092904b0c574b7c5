//! Plays a scenario on one or more sides (host, kernel) and holds each against the model.

use std::net::SocketAddr;

use svc_common::reason::Reason;

use super::game::Game;
use super::player::Player;
use super::scenario::{Scenario, Step};
use super::tables::{Agent, Tables};
use crate::model::objects::{From, Protocol};

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
    /// Later packets of connections, of all sides.
    pub followed: u64,
    /// Sets of endpoints of which every member was reached.
    pub covered: u64,
}

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
                Step::Again(number) => {
                    for player in players.iter_mut().filter(|p| !p.flows.is_empty()) {
                        let number = usize::from(*number) % player.flows.len();
                        let packet = player.flows[number].begun.packet;
                        let game = Game {
                            cluster: &stage.cluster,
                            node: &scenario.node,
                            packet: &packet,
                        };
                        game.follow(player, number)
                            .map_err(|error| format!("{}: {error}", player.side.name()))?;
                        tally.followed += 1;
                    }
                }
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
