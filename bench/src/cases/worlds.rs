//! Worlds: Services and flow tables of their own, and what is measured there, in this order.

use std::net::IpAddr;

use super::{End, Outcome, Step, after_silence, low, open, plan, row};
use crate::cluster::{EMPTY, FAR, INGRESS, NEAR, OUTSIDE, PLAIN, PODS, PORT, REMOTE, TARGET, VIPS};
use crate::frames::{Frame, tcp, udp};
use crate::rig::{Plan, Target};

/// One world.
pub(crate) struct World {
    pub(crate) name: &'static str,
    pub(crate) services: u32,
    /// Kinds of flows, each as many times as there are flows: what the flow table has to hold.
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
const MANY: u32 = 1 << 16;

pub(crate) fn worlds(flows: &[u32], services: &[u32]) -> Vec<World> {
    let world = |name, services, kinds, steps: &dyn Fn(bool) -> Vec<Step>| World {
        name,
        services,
        kinds,
        steps: [steps(false), steps(true)].into_iter().flatten().collect(),
    };
    let first = services.first().copied().unwrap_or(10);
    let mut worlds = vec![
        World {
            name: "floors",
            services: first,
            kinds: 0,
            steps: floors(flows),
        },
        world("packets that are not ours", first, 0, &|v6| {
            not_ours(v6, flows)
        }),
        world("pods' clients", first, 2, &|v6| pods(v6, flows)),
        world("clients outside, endpoints here", first, 1, &|v6| {
            near(v6, flows)
        }),
        world("clients outside, endpoints elsewhere", first, 1, &|v6| {
            far(v6, flows)
        }),
        World {
            name: "sockets",
            services: first,
            kinds: 0,
            steps: vec![Step::Sockets],
        },
    ];
    let most = flows.iter().copied().max().unwrap_or(1).min(MANY);
    for services in services {
        worlds.push(world("many Services", *services, 2, &|v6| {
            many(v6, most, *services)
        }));
    }
    worlds
}

/// A TCP packet of a client outside.
fn to(v6: bool, dst: IpAddr) -> Frame {
    let client = OUTSIDE.at(v6, 0);
    tcp(client, dst).from(client, CLIENT_PORT).to(dst, PORT)
}

/// The answer to it of the endpoint here.
fn answer(v6: bool) -> Frame {
    let (client, pod) = (OUTSIDE.at(v6, 0), PODS.at(v6, 2));
    tcp(pod, client).from(pod, TARGET).to(client, CLIENT_PORT)
}

fn requests(frame: &Frame, flows: u32) -> Plan {
    plan(frame, End::Source, flows)
}

fn answers(frame: &Frame, flows: u32) -> Plan {
    plan(frame, End::Destination, flows)
}

fn syn(frame: &Frame) -> Frame {
    frame.clone().syn()
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
            let plan = requests(&frame, *flows);
            steps.push(open(program, plan));
            steps.push(row(program, case, plan, Outcome::Any));
        }
    }
    steps
}

/// Packets to addresses that are nobody's business here.
fn elsewhere(v6: bool, flows: u32) -> Plan {
    let first = FAR.at(v6, 1 << 14);
    Plan {
        vip: low(first),
        vip_mask: (flows - 1) & 0x3fff,
        ..requests(&to(v6, first), flows)
    }
}

fn not_ours(v6: bool, flows: &[u32]) -> Vec<Step> {
    let mut steps = Vec::new();
    for program in [POD_IN, POD_OUT, NODE_IN, NODE_OUT, XDP] {
        for flows in flows {
            steps.push(row(
                program,
                "not ours",
                elsewhere(v6, *flows),
                Outcome::Passes,
            ));
        }
    }
    steps
}

/// Known flows, in both directions: of the way in, and of the way out.
fn known(
    request: &Frame,
    way_in: Target,
    way_out: Target,
    flows: &[u32],
    case: &'static str,
) -> Vec<Step> {
    let answer = answer(request.src.is_ipv6());
    let mut steps = Vec::new();
    for flows in flows {
        steps.push(open(way_in, requests(&syn(request), *flows)));
        steps.push(open(way_out, answers(&answer, *flows)));
        steps.push(row(
            way_in,
            case,
            requests(request, *flows),
            Outcome::Rewritten,
        ));
        steps.push(row(
            way_out,
            case,
            answers(&answer, *flows),
            Outcome::Rewritten,
        ));
    }
    steps
}

/// A ClusterIP's clients.
fn pods(v6: bool, flows: &[u32]) -> Vec<Step> {
    let request = to(v6, VIPS.at(v6, NEAR));
    let mut steps = known(&request, POD_IN, POD_OUT, flows, "known flow");
    let most = flows.iter().copied().max().unwrap_or(1);
    if most >= MANY {
        let busy = requests(&request, most);
        steps.push(after_silence(
            POD_IN,
            "known flow, after a silence",
            busy,
            Outcome::Rewritten,
        ));
    }
    let datagram = udp(request.src, request.dst)
        .from(request.src, CLIENT_PORT)
        .to(request.dst, PORT)
        .payload(&[0; 20]);
    for flows in flows {
        let plan = requests(&datagram, *flows);
        steps.push(open(POD_IN, plan));
        steps.push(row(POD_IN, "known flow, UDP", plan, Outcome::Rewritten));
    }
    let new = requests(&syn(&request), 0);
    let refused = syn(&to(v6, VIPS.at(v6, EMPTY)));
    steps.extend([
        row(POD_IN, "new flow", new, Outcome::Rewritten),
        row(
            POD_IN,
            "refused (TCP)",
            requests(&refused, MANY),
            Outcome::Sent,
        ),
        Step::Flood(POD_IN, new),
        row(POD_IN, "new flow, table full", new, Outcome::Rewritten),
    ]);
    steps
}

/// A load balancer's clients, whose packets stay on this node.
fn near(v6: bool, flows: &[u32]) -> Vec<Step> {
    let request = to(v6, VIPS.at(v6, NEAR + INGRESS));
    let mut steps = known(&request, NODE_IN, NODE_OUT, flows, "known flow");
    let refused = syn(&to(v6, VIPS.at(v6, EMPTY + INGRESS)));
    steps.extend([
        row(
            NODE_IN,
            "new flow",
            requests(&syn(&request), 0),
            Outcome::Rewritten,
        ),
        row(
            NODE_IN,
            "refused (TCP)",
            requests(&refused, MANY),
            Outcome::Sent,
        ),
    ]);
    steps
}

/// A load balancer's clients, whose packets go on to another node, masqueraded.
fn far(v6: bool, flows: &[u32]) -> Vec<Step> {
    let request = to(v6, VIPS.at(v6, REMOTE + INGRESS));
    let mut steps = Vec::new();
    for flows in flows {
        steps.push(open(NODE_IN, requests(&syn(&request), *flows)));
        for program in [NODE_IN, XDP] {
            let plan = requests(&request, *flows);
            steps.push(row(program, "known flow, SNAT, route", plan, Outcome::Sent));
        }
    }
    for (number, program) in (1..).zip([NODE_IN, XDP]) {
        // Other flows than those of the other program.
        let plan = Plan {
            counter: number << 28,
            ..requests(&syn(&request), 0)
        };
        steps.push(row(program, "new flow, SNAT, route", plan, Outcome::Sent));
    }
    steps
}

/// What the number of Services changes: of packets to one of them, and of packets to all.
fn many(v6: bool, flows: u32, services: u32) -> Vec<Step> {
    let spread = |frame: &Frame, flows| Plan {
        vip: low(PLAIN.at(v6, 0)),
        vip_mask: (1 << services.max(1).ilog2()) - 1,
        ..requests(frame, flows)
    };
    let (one, all) = (to(v6, VIPS.at(v6, NEAR)), to(v6, PLAIN.at(v6, 0)));
    let rewritten = |case, plan| row(POD_IN, case, plan, Outcome::Rewritten);
    vec![
        row(
            POD_IN,
            "many Services: not ours",
            elsewhere(v6, flows),
            Outcome::Passes,
        ),
        row(
            XDP,
            "many Services: not ours",
            elsewhere(v6, flows),
            Outcome::Passes,
        ),
        open(POD_IN, requests(&syn(&one), flows)),
        rewritten("many Services: known flow, to one", requests(&one, flows)),
        open(POD_IN, spread(&syn(&all), flows)),
        rewritten("many Services: known flow, to all", spread(&all, flows)),
        rewritten("many Services: new flow, to one", requests(&syn(&one), 0)),
        rewritten("many Services: new flow, to all", spread(&syn(&all), 0)),
    ]
}
