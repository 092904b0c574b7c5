//! The rows: which packets go through which program, in which world, and what must become of them.

use std::net::IpAddr;

use crate::cluster::{EMPTY, FAR, INGRESS, NEAR, OUTSIDE, PLAIN, PODS, PORT, REMOTE, TARGET, VIPS};
use crate::frames::{Frame, tcp};
use crate::rig::{Plan, Target};

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

/// One line of the report.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) program: Target,
    pub(crate) case: &'static str,
    pub(crate) v6: bool,
    /// 0: every packet is of a flow of its own.
    pub(crate) flows: u32,
    pub(crate) plan: Plan,
    pub(crate) outcome: Outcome,
}

impl Row {
    pub(crate) fn name(&self) -> String {
        let family = if self.v6 { "v6" } else { "v4" };
        format!("{} {} {family}", self.program.0, self.case)
    }
}

/// What is done in a world, in this order.
pub(crate) enum Step {
    /// One packet of every flow, so that the tables know them.
    Open(Target, Plan, u32),
    /// The same, until every table of flows is full.
    Flood(Target, Plan),
    Measure(Row),
}

/// Worlds have flow tables of their own, which hold as many flows of all kinds as these steps make.
pub(crate) struct World {
    pub(crate) name: &'static str,
    pub(crate) services: u32,
    /// Kinds of flows, each as many times as there are flows.
    pub(crate) kinds: u32,
    pub(crate) steps: Vec<Step>,
}

const XDP: Target = Target("node_xdp");
const POD_IN: Target = Target("pod_ingress");
const POD_OUT: Target = Target("pod_egress");
const NODE_IN: Target = Target("node_ingress");
const NODE_OUT: Target = Target("node_egress");

/// The port of flow 0.
const CLIENT_PORT: u16 = 40_000;
/// Golden ratio: neighbours in time are far apart in memory.
const STRIDE: u32 = 0x9e37_79b1;

/// Which end of a packet tells its flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// Packets like this one, of so many flows.
fn plan(frame: &Frame, end: End, flows: u32) -> Plan {
    let v6 = frame.src.is_ipv6();
    let bytes = frame.build();
    let mut words = [0; 10];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    let (src, dst, ports) = if v6 { (34, 50, 54) } else { (26, 30, 34) };
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

/// The last 32 bits of an address.
fn low(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits(),
        IpAddr::V6(addr) => addr.to_bits() as u32,
    }
}

/// Packets of many clients outside.
fn to(v6: bool, dst: IpAddr) -> Frame {
    let client = OUTSIDE.at(v6, 0);
    tcp(client, dst).from(client, CLIENT_PORT).to(dst, PORT)
}

/// Every world that is to be measured, with steps for both families.
pub(crate) fn worlds(flows: &[u32], services: &[u32]) -> Vec<World> {
    let first = services.first().copied().unwrap_or(10);
    let both = |steps: fn(bool, &[u32]) -> Vec<Step>| {
        [false, true]
            .into_iter()
            .flat_map(|v6| steps(v6, flows))
            .collect()
    };
    let world = |name, kinds, steps| World {
        name,
        services: first,
        kinds,
        steps,
    };
    let mut worlds = vec![
        world(
            "floors and passers-by",
            0,
            [floors(flows), both(not_ours)].concat_steps(),
        ),
        world("pods' clients", 1, both(pods)),
        world("clients outside, endpoints here", 1, both(near)),
        world("clients outside, endpoints elsewhere", 1, both(far)),
    ];
    for services in services {
        worlds.push(World {
            name: "many Services",
            services: *services,
            kinds: 2,
            steps: [false, true]
                .into_iter()
                .flat_map(|v6| many(v6, flows, *services))
                .collect(),
        });
    }
    worlds
}

trait Concat {
    fn concat_steps(self) -> Vec<Step>;
}

impl Concat for [Vec<Step>; 2] {
    fn concat_steps(self) -> Vec<Step> {
        self.into_iter().flatten().collect()
    }
}

fn row(
    program: Target,
    case: &'static str,
    v6: bool,
    flows: u32,
    plan: Plan,
    outcome: Outcome,
) -> Step {
    Step::Measure(Row {
        program,
        case,
        v6,
        flows,
        plan,
        outcome,
    })
}

fn floors(flows: &[u32]) -> Vec<Step> {
    let frame = to(false, FAR.at(false, 9_999));
    let mut steps = Vec::new();
    for (program, case) in [
        ("floor_array", "array lookup"),
        ("floor_hash", "hash lookup"),
        ("floor_lru", "LRU lookup"),
        ("floor_lru_insert", "LRU update in place"),
    ] {
        let program = Target(program);
        for flows in flows {
            let plan = plan(&frame, End::Source, *flows);
            if matches!(program.0, "floor_hash" | "floor_lru") {
                steps.push(Step::Open(program, plan, *flows));
            }
            steps.push(row(program, case, false, *flows, plan, Outcome::Any));
        }
    }
    steps
}

/// Packets to an address that is nobody's business here.
fn not_ours(v6: bool, flows: &[u32]) -> Vec<Step> {
    let frame = to(v6, FAR.at(v6, 9_999));
    let mut steps = Vec::new();
    for program in [POD_IN, POD_OUT, NODE_IN, NODE_OUT, XDP] {
        for flows in flows {
            let plan = plan(&frame, End::Source, *flows);
            steps.push(row(program, "not ours", v6, *flows, plan, Outcome::Passes));
        }
    }
    steps
}

/// A ClusterIP's clients, and the answers to them.
fn pods(v6: bool, flows: &[u32]) -> Vec<Step> {
    let request = to(v6, VIPS.at(v6, NEAR));
    let answer = tcp(PODS.at(v6, 2), request.src)
        .from(PODS.at(v6, 2), TARGET)
        .to(request.src, CLIENT_PORT);
    let mut steps = Vec::new();
    for flows in flows {
        let of = |frame: &Frame, end| plan(frame, end, *flows);
        steps.push(Step::Open(
            POD_IN,
            of(&request.clone().syn(), End::Source),
            *flows,
        ));
        steps.push(Step::Open(POD_OUT, of(&answer, End::Destination), *flows));
        let known = of(&request, End::Source);
        steps.push(row(
            POD_IN,
            "known flow",
            v6,
            *flows,
            known,
            Outcome::Rewritten,
        ));
        let known = of(&answer, End::Destination);
        steps.push(row(
            POD_OUT,
            "known flow",
            v6,
            *flows,
            known,
            Outcome::Rewritten,
        ));
    }
    let new = plan(&request.clone().syn(), End::Source, 0);
    steps.push(row(POD_IN, "new flow", v6, 0, new, Outcome::Rewritten));
    let refused = to(v6, VIPS.at(v6, EMPTY)).syn();
    let refused = plan(&refused, End::Source, 1 << 16);
    steps.push(row(
        POD_IN,
        "refused (TCP)",
        v6,
        1 << 16,
        refused,
        Outcome::Sent,
    ));
    steps.push(Step::Flood(POD_IN, new));
    steps.push(row(
        POD_IN,
        "new flow, table full",
        v6,
        0,
        new,
        Outcome::Rewritten,
    ));
    steps
}

/// A load balancer's clients, whose packets stay on this node.
fn near(v6: bool, flows: &[u32]) -> Vec<Step> {
    let request = to(v6, VIPS.at(v6, NEAR + INGRESS));
    let answer = tcp(PODS.at(v6, 2), request.src)
        .from(PODS.at(v6, 2), TARGET)
        .to(request.src, CLIENT_PORT);
    let mut steps = Vec::new();
    for flows in flows {
        let of = |frame: &Frame, end| plan(frame, end, *flows);
        steps.push(Step::Open(
            NODE_IN,
            of(&request.clone().syn(), End::Source),
            *flows,
        ));
        steps.push(Step::Open(NODE_OUT, of(&answer, End::Destination), *flows));
        let known = of(&request, End::Source);
        steps.push(row(
            NODE_IN,
            "known flow",
            v6,
            *flows,
            known,
            Outcome::Rewritten,
        ));
        let known = of(&answer, End::Destination);
        steps.push(row(
            NODE_OUT,
            "known flow",
            v6,
            *flows,
            known,
            Outcome::Rewritten,
        ));
    }
    let new = plan(&request.clone().syn(), End::Source, 0);
    steps.push(row(NODE_IN, "new flow", v6, 0, new, Outcome::Rewritten));
    let refused = plan(
        &to(v6, VIPS.at(v6, EMPTY + INGRESS)).syn(),
        End::Source,
        1 << 16,
    );
    steps.push(row(
        NODE_IN,
        "refused (TCP)",
        v6,
        1 << 16,
        refused,
        Outcome::Sent,
    ));
    steps
}

/// A load balancer's clients, whose packets go on to another node, masqueraded.
fn far(v6: bool, flows: &[u32]) -> Vec<Step> {
    let request = to(v6, VIPS.at(v6, REMOTE + INGRESS));
    let mut steps = Vec::new();
    for flows in flows {
        let syn = plan(&request.clone().syn(), End::Source, *flows);
        steps.push(Step::Open(NODE_IN, syn, *flows));
        let known = plan(&request, End::Source, *flows);
        for program in [NODE_IN, XDP] {
            steps.push(row(
                program,
                "known flow, SNAT, route",
                v6,
                *flows,
                known,
                Outcome::Sent,
            ));
        }
    }
    let mut new = plan(&request.clone().syn(), End::Source, 0);
    for program in [NODE_IN, XDP] {
        // Other flows than the ones before.
        new.counter = new.counter.wrapping_add(1 << 30);
        steps.push(row(
            program,
            "new flow, SNAT, route",
            v6,
            0,
            new,
            Outcome::Sent,
        ));
    }
    steps
}

/// What the number of Services changes: packets that go to one of them, and such as go to all.
fn many(v6: bool, flows: &[u32], services: u32) -> Vec<Step> {
    let count = flows.iter().copied().max().unwrap_or(1).min(1 << 16);
    let one = to(v6, VIPS.at(v6, NEAR));
    let spread = |frame: &Frame, flows| Plan {
        vip: low(PLAIN.at(v6, 0)),
        vip_mask: (1 << services.max(1).ilog2()) - 1,
        ..plan(frame, End::Source, flows)
    };
    let all = to(v6, PLAIN.at(v6, 0));
    let syn = |frame: &Frame| frame.clone().syn();
    let elsewhere = plan(&to(v6, FAR.at(v6, 9_999)), End::Source, count);
    vec![
        row(
            POD_IN,
            "many Services: not ours",
            v6,
            count,
            elsewhere,
            Outcome::Passes,
        ),
        row(
            XDP,
            "many Services: not ours",
            v6,
            count,
            elsewhere,
            Outcome::Passes,
        ),
        Step::Open(POD_IN, plan(&syn(&one), End::Source, count), count),
        row(
            POD_IN,
            "many Services: known flow, to one",
            v6,
            count,
            plan(&one, End::Source, count),
            Outcome::Rewritten,
        ),
        Step::Open(POD_IN, spread(&syn(&all), count), count),
        row(
            POD_IN,
            "many Services: known flow, to all",
            v6,
            count,
            spread(&all, count),
            Outcome::Rewritten,
        ),
        row(
            POD_IN,
            "many Services: new flow, to one",
            v6,
            0,
            plan(&syn(&one), End::Source, 0),
            Outcome::Rewritten,
        ),
        row(
            POD_IN,
            "many Services: new flow, to all",
            v6,
            0,
            spread(&syn(&all), 0),
            Outcome::Rewritten,
        ),
    ]
}
