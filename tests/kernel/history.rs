//! Random histories: whatever comes, in whatever order, host and kernel agree. The seed is printed with a failure;
//! `KERNEL_SEED=n` runs that history again.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use svc_common::family::{Addr, Port, V4, V6};
use svc_common::memory::Memory;
use svc_common::table::{
    BackendKey, BackendState, FlowKey, SCTP, Source, TCP, UDP, backend_state, flow_flags,
    node_flags,
};
use svc_common::wire::ETH_LEN;

use crate::cases::hostile;
use crate::frames::{ACK, FIN, Frame, RST, SYN, echo, icmp_error, sctp, tcp, udp};
use crate::host::Program;
use crate::kernel::Keyed;
use crate::network::within;
use crate::pair::Pair;
use crate::world::{SNAT_MIN, addr, at, service};

const STEPS: u32 = 10_000;

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

fn request<F: Keyed>(random: &mut Random) -> Frame {
    let (net, host) = random.pick(&[(1, 1), (1, 2), (0, 1), (9, 1), (9, 2), (9, 3), (2, 1)]);
    let src = at::<F>(net, host);
    let (net, host) = random.pick(&[
        (96, 1),
        (96, 2),
        (96, 3),
        (96, 4),
        (96, 5),
        (96, 6),
        (50, 1),
        (50, 2),
        (50, 3),
        (50, 4),
        (96, 7),
        (50, 6),
        (50, 7),
        (50, 8),
        (50, 9),
        (0, 1),
        (0, 1),
        (2, 3),
    ]);
    let dst = at::<F>(net, host);
    let port = if net == 0 {
        random.pick(&[30_080, 30_080, 22])
    } else {
        random.pick(&[80, 80, 80, 81])
    };
    let sport = random.pick(&[5_000, 5_001, SNAT_MIN + 1]);
    decorate(transport::<F>(random, src, dst), random)
        .sport(sport)
        .port(port)
}

fn transport<F: Keyed>(random: &mut Random, src: std::net::IpAddr, dst: std::net::IpAddr) -> Frame {
    match random.below(4) {
        0 => udp(src, dst),
        1 => sctp(src, dst),
        2 => tcp(src, dst).syn(),
        _ => tcp(src, dst).flags(random.pick(&[
            ACK,
            ACK | 8,
            FIN | ACK,
            RST,
            RST | ACK,
            SYN | ACK,
            0,
        ])),
    }
}

fn decorate(frame: Frame, random: &mut Random) -> Frame {
    let frame = frame.payload(random.pick(&[&[][..], &[1], &[3; 40], &[7; 701], &[9; 1_600]]));
    match random.below(8) {
        0 => frame.fragment(random.pick(&[1, 2]), random.pick(&[0, 0, 5]), true),
        1 => frame.without_checksum(),
        2 if frame.src.is_ipv4() => frame.options(random.pick(&[1, 10])),
        3 => frame.ttl(random.pick(&[0, 1, 2])),
        _ => frame,
    }
}

/// A packet of a flow that is known, in the direction of `key`.
fn of_flow<F: Keyed>(key: &FlowKey<F>, random: &mut Random) -> Frame {
    let (src, dst) = (F::addr_to_std(key.src), F::addr_to_std(key.dst));
    let frame = if key.proto == u16::from(TCP) {
        tcp(src, dst).flags(random.pick(&[ACK, ACK, ACK, SYN, FIN | ACK, RST, SYN | ACK]))
    } else if key.proto == u16::from(SCTP) {
        sctp(src, dst)
    } else {
        udp(src, dst)
    };
    decorate(frame, random)
        .sport(key.sport.get())
        .port(key.dport.get())
}

fn some_flow<F: Keyed>(pair: &Pair<F>, random: &mut Random) -> Option<FlowKey<F>> {
    let flows = pair.host.flows.borrow();
    if flows.is_empty() {
        None
    } else {
        let flow = flows.values().nth(random.below(flows.len()))?;
        Some(random.pick(&[flow.forward, flow.reply]))
    }
}

/// Time passes for flows and affinities.
fn grow_older<F: Keyed>(tables: &mut Memory<F>, seconds: u32) {
    for flow in tables.flows.borrow_mut().values_mut() {
        flow.seen = flow.seen.saturating_sub(seconds);
    }
    for affinity in tables.affinities.borrow_mut().values_mut() {
        affinity.seen = affinity.seen.saturating_sub(seconds);
    }
}

/// The agent changes what it changes without opening a flow anew: settings, ranges, backends' states.
fn settings_change<F: Keyed>(tables: &mut Memory<F>, random: &mut Random) {
    let flags = [
        node_flags::CLUSTER_CIDR,
        node_flags::MASQUERADE_ALL,
        node_flags::EXTERNAL_CLUSTER_IP,
        node_flags::TAKEOVER,
        node_flags::RESET_GONE,
    ];
    let config = tables.config.as_mut().expect("configured");
    config.flags ^= random.pick(&flags);
    let range = Source {
        service: service((50, 6), random.pick(&[TCP, UDP, SCTP])),
        addr: addr::<F>(9, random.pick(&[1, 2])),
    };
    let range = (range, size_of::<F::Addr>() as u32 * 8);
    if !tables.ranges.remove(&range) {
        tables.ranges.insert(range);
    }
    for state in tables.backends.borrow_mut().values_mut() {
        if random.below(8) == 0 {
            state.flags ^= random.pick(&[
                backend_state::SERVING,
                backend_state::IN_CLUSTER_SET,
                backend_state::IN_LOCAL_SET,
            ]);
            state.weight = random.pick(&[0, 1, 1, 1, 2]);
            state.connections = random.pick(&[0, 1, 2, u64::MAX]);
        }
    }
    tables.epoch.set(tables.epoch.get().wrapping_add(1));
    backends_go(tables, random);
    // A takeover.
    for flow in tables.flows.borrow_mut().values_mut() {
        if random.below(8) == 0 {
            flow.flags ^= flow_flags::FOREIGN;
        }
    }
}

/// Some backends are gone, or back; and Services begin or cease to serve.
fn backends_go<F: Keyed>(tables: &Memory<F>, random: &mut Random) {
    let mut backends = tables.backends.borrow_mut();
    for flow in tables.flows.borrow().values() {
        let (addr, port) = random.pick(&[
            (flow.reply.src, flow.reply.sport),
            (F::Addr::UNSPECIFIED, Port(0)),
        ]);
        let key = BackendKey {
            service: flow.service,
            addr,
            port,
            _pad: 0,
        };
        if random.below(4) == 0 && backends.remove(&key).is_none() {
            backends.insert(key, BackendState::default());
        }
    }
}

fn step<F: Keyed>(pair: &mut Pair<F>, random: &mut Random, seen: &mut Seen) {
    let frame = match (random.below(20), some_flow(pair, random)) {
        (0, Some(key)) => return pair.evict(&key),
        (1, _) => {
            let seconds = random.pick(&[1, 1, 1, 130]);
            return pair.change(|tables| grow_older(tables, seconds));
        }
        (2, _) if pair.host.flows.borrow().len() > 60 => {
            return pair.change(|tables| tables.flows.borrow_mut().clear());
        }
        (2, _) => return pair.change(|tables| settings_change(tables, random)),
        (3..=8, Some(key)) => of_flow(&key, random).build(),
        (9..=11, Some(key)) => {
            let quoted = of_flow(&key, random).reversed();
            let author = random.pick(&[quoted.dst, quoted.dst, at::<F>(9, 77)]);
            icmp_error(author, quoted.src, &quoted)
                .quoting(random.pick(&[8, 20, 500]))
                .build()
        }
        (0, None) => {
            let request = request::<F>(random);
            echo(request.src, request.dst).build()
        }
        (12, _) => {
            let all = hostile::<F>(&request::<F>(random).payload(&[1; 9]));
            all[random.below(all.len())].1.clone()
        }
        (13, _) => {
            let mut frame = request::<F>(random).build();
            let at = ETH_LEN + random.below(frame.len() - ETH_LEN);
            // Other addresses would only lead to routes that the host does not know.
            if !(F::SRC..F::DST + size_of::<F::Addr>()).contains(&(at - ETH_LEN)) {
                frame[at] ^= 1 << random.below(8);
            }
            frame
        }
        _ => request::<F>(random).build(),
    };
    let program = random.pick(&Program::ALL);
    let verdict = pair.run(program, &frame);
    *seen.entry((program, verdict.action as i32)).or_default() += 1;
}

/// How often each program did what.
type Seen = BTreeMap<(Program, i32), u32>;

fn history_agrees<F: Keyed>() {
    let seed = std::env::var("KERNEL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("after 1970")
                .as_nanos() as u64
                | 1
        });
    println!("KERNEL_SEED={seed}");
    within(|network| {
        let mut pair = Pair::<F>::new(network);
        let (mut random, mut seen) = (Random(seed), Seen::new());
        for n in 0..STEPS {
            step(&mut pair, &mut random, &mut seen);
            if n % 100 == 0 {
                pair.check_all();
            }
        }
        pair.check_all();
        println!("{seen:?}");
        // A history in which some program never acts would show nothing.
        for program in Program::ALL {
            let actions = seen.keys().filter(|(other, _)| *other == program).count();
            assert!(
                actions > 1 || program == Program::PodEgress,
                "{program:?} did but one thing: {seen:?}"
            );
        }
    });
}

#[test]
fn any_history_is_the_same_on_both_sides_v4() {
    history_agrees::<V4>();
}

#[test]
fn any_history_is_the_same_on_both_sides_v6() {
    history_agrees::<V6>();
}
