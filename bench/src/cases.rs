//! The rows: which packets go through which program, and what must become of them. The worlds they are in: [`mod@worlds`].

mod worlds;

use std::net::IpAddr;

use crate::frames::Frame;
use crate::rig::{Plan, Target};

pub(crate) use worlds::{World, worlds};

/// What a program is to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It goes on, as it came.
    Passes,
    /// It goes on, changed.
    Rewritten,
    /// It is sent out of a device, changed.
    Sent,
    /// Of floors.
    Any,
}

/// How the packets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rhythm {
    /// One after the other, of every flow many times a second.
    Busy,
    /// After more than a second of silence, each flow once: what flows do only now and then.
    AfterSilence,
}

/// One line of the report.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) program: Target,
    pub(crate) case: &'static str,
    pub(crate) plan: Plan,
    pub(crate) outcome: Outcome,
    pub(crate) rhythm: Rhythm,
}

impl Row {
    pub(crate) fn v6(&self) -> bool {
        self.plan.is_v6()
    }

    /// 0: every packet is of a flow of its own.
    pub(crate) fn flows(&self) -> u32 {
        self.plan.mask.wrapping_add(1)
    }

    pub(crate) fn name(&self) -> String {
        let family = if self.v6() { "v6" } else { "v4" };
        format!("{} {} {family}", self.program.0, self.case)
    }
}

/// What is done in a world, in this order.
pub(crate) enum Step {
    /// One packet of every flow, so that the tables know them.
    Open(Target, Plan),
    /// Packets of ever new flows, until every table of flows is full.
    Flood(Target, Plan),
    Measure(Row),
    /// The hooks of sockets.
    Sockets,
}

fn open(program: Target, plan: Plan) -> Step {
    Step::Open(program, plan)
}

fn row(program: Target, case: &'static str, plan: Plan, outcome: Outcome) -> Step {
    Step::Measure(Row {
        program,
        case,
        plan,
        outcome,
        rhythm: Rhythm::Busy,
    })
}

fn after_silence(program: Target, case: &'static str, plan: Plan, outcome: Outcome) -> Step {
    Step::Measure(Row {
        program,
        case,
        plan,
        outcome,
        rhythm: Rhythm::AfterSilence,
    })
}

/// Which end of a packet tells its flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// Golden ratio: neighbours in time are far apart in memory.
const STRIDE: u32 = 0x9e37_79b1;

/// Offsets in a frame without options: the last 32 bits of the addresses, and the ports.
const V4: (u32, u32, u32) = (26, 30, 34);
const V6: (u32, u32, u32) = (34, 50, 54);

/// Packets like this one, of so many flows; 0: of ever new ones.
fn plan(frame: &Frame, end: End, flows: u32) -> Plan {
    let bytes = frame.build();
    let mut words = [0; 10];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    let (src, dst, ports) = if frame.src.is_ipv6() { V6 } else { V4 };
    let (addr, addr_at, port, port_at) = match end {
        End::Source => (frame.src, src, frame.sport, ports),
        End::Destination => (frame.dst, dst, frame.dport, ports + 2),
    };
    Plan {
        frame: words,
        len: bytes.len() as u32,
        counter: 0,
        stride: STRIDE,
        mask: flows.wrapping_sub(1),
        port_at,
        addr_at,
        port: u32::from(port),
        addr: low(addr),
        vip_at: dst,
        vip: 0,
        vip_mask: 0,
        slot: 0,
    }
}

impl Plan {
    pub(crate) fn is_v6(&self) -> bool {
        self.addr_at == V6.0 || self.addr_at == V6.1
    }
}

/// The last 32 bits of an address.
fn low(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits(),
        IpAddr::V6(addr) => addr.to_bits() as u32,
    }
}
