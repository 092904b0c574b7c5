//! The loaded programs under a flood of SYNs from ten times as many sources as the table has room for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use svc_common::family::{V4, V6};

use crate::cases::{ends, ports};
use crate::frames::{ACK, Frame, SYN, tcp};
use crate::host::Program::{self, NodeIngress, PodEgress, PodIngress};
use crate::host::action::{NEXT, REDIRECT};
use crate::kernel::{Kernel, Keyed};
use crate::network::{Network, within};
use crate::world::{self, at};

const FLOWS: u32 = 2_048;
const ESTABLISHED: u32 = 1_000;
const FLOOD: u32 = 10 * FLOWS;
/// An honest client for so many packets of the flood.
const HONEST: u32 = 100;
/// Packets of the flood between a client's SYN and the answer, and from there to its next packet.
const BACKEND_AWAY: u32 = 5;
const CLIENT_AWAY: u32 = 100;

/// A client, by number: an even one is a pod whose destination alone is translated, an odd one comes from outside and is
/// masqueraded.
fn client<F: Keyed>(n: u32) -> Frame {
    let (kind, n) = (n % 2, n / 2);
    if kind == 0 {
        tcp(at::<F>(1, 1 + (n % 9) as u8), at::<F>(96, 8)).sport(1_024 + (n / 9) as u16)
    } else {
        tcp(at::<F>(9, 1 + (n % 250) as u8), at::<F>(50, 1)).sport(1_024 + (n / 250) as u16)
    }
}

/// A connection, by what its backend has seen of it.
struct Connection {
    client: Frame,
    hook: Program,
    backend: (IpAddr, u16),
    seen_as: (IpAddr, u16),
}

impl Connection {
    /// The client's SYN. None: it was lost.
    fn open<F: Keyed>(kernel: &Kernel, client: Frame) -> Option<Self> {
        let hook = if client.dst == at::<F>(96, 8) {
            PodIngress
        } else {
            NodeIngress
        };
        let (backend, seen_as) = pass::<F>(kernel, hook, &client.clone().syn())?;
        Some(Self {
            client,
            hook,
            backend: seen_as,
            seen_as: backend,
        })
    }

    /// Whether the backend's next packet reaches the client.
    fn answer<F: Keyed>(&self, kernel: &Kernel, flags: u8) -> bool {
        let hook = match self.hook {
            PodIngress => PodEgress,
            other => other,
        };
        let answer = tcp(self.backend.0, self.seen_as.0)
            .from(self.backend.0, self.backend.1)
            .to(self.seen_as.0, self.seen_as.1)
            .flags(flags);
        let client = &self.client;
        let expected = ((client.dst, client.dport), (client.src, client.sport));
        pass::<F>(kernel, hook, &answer) == Some(expected)
    }

    /// Whether the client's next packet reaches the backend, as the one before did.
    fn goes_on<F: Keyed>(&self, kernel: &Kernel) -> bool {
        pass::<F>(kernel, self.hook, &self.client) == Some((self.seen_as, self.backend))
    }
}

type End = (IpAddr, u16);

/// Source and destination of a packet when it went on.
fn pass<F: Keyed>(kernel: &Kernel, hook: Program, packet: &Frame) -> Option<(End, End)> {
    let (action, frame) = kernel.run(hook, &packet.build());
    let ((src, dst), (sport, dport)) = (ends::<F>(&frame), ports::<F>(&frame));
    matches!(action, NEXT | REDIRECT).then_some(((src, sport), (dst, dport)))
}

/// `answered`: the backend answers the flood, and nobody is there to hear it.
fn flood<F: Keyed>(network: &Network, answered: bool) {
    let mut kernel = Kernel::with_flows(network, FLOWS);
    let mut tables = world::new::<F>();
    let config = tables.config.as_mut().expect("configured");
    (config.snat_min, config.snat_max) = (20_000, 49_999);
    kernel.fill(&tables);
    let connect = |kernel: &Kernel, n| {
        let new = Connection::open::<F>(kernel, client::<F>(n)).expect("there is room");
        assert!(new.answer::<F>(kernel, SYN | ACK) && new.goes_on::<F>(kernel));
        new
    };
    let there: Vec<Connection> = (0..ESTABLISHED).map(|n| connect(&kernel, n)).collect();
    let mut handshakes: BTreeMap<u32, Vec<(Connection, bool)>> = BTreeMap::new();
    let (mut connected, mut all) = (Vec::new(), 0);
    for n in 0..FLOOD {
        if let Some(spoofed) = Connection::open::<F>(&kernel, client::<F>(10_000 + n))
            && answered
        {
            spoofed.answer::<F>(&kernel, SYN | ACK);
        }
        if n % HONEST == n / HONEST % 2 && n + BACKEND_AWAY + CLIENT_AWAY < FLOOD {
            all += 1;
            if let Some(honest) = Connection::open::<F>(&kernel, client::<F>(4_000 + n / HONEST)) {
                handshakes
                    .entry(n + BACKEND_AWAY)
                    .or_default()
                    .push((honest, true));
            }
        }
        for (honest, is_answer) in handshakes.remove(&n).unwrap_or_default() {
            if !is_answer {
                if honest.goes_on::<F>(&kernel) {
                    connected.push(honest);
                }
            } else if honest.answer::<F>(&kernel, SYN | ACK) {
                handshakes
                    .entry(n + CLIENT_AWAY)
                    .or_default()
                    .push((honest, false));
            }
        }
    }
    let alive = |connection: &&Connection| {
        connection.answer::<F>(&kernel, ACK) && connection.goes_on::<F>(&kernel)
    };
    let what = format!("IPv{}, answered: {answered}", F::VERSION);
    let kept = there.iter().filter(alive).count();
    let stayed = connected.iter().filter(alive).count();
    assert_eq!(kept, there.len(), "{what}: connections that went on");
    // The clock is the kernel's, so the rate is what the machine makes it, and now and then somebody is pushed out in the
    // midst of a handshake; that it is less than one in a hundred, the host's test holds at three rates.
    assert!(
        all > 200 && stayed * 100 >= all * 97,
        "{what}: {} of {all} new clients were connected, and {stayed} went on",
        connected.len()
    );
}

fn floods<F: Keyed>() {
    within(|network| {
        for answered in [false, true] {
            flood::<F>(network, answered);
        }
    });
}

#[test]
fn connections_live_through_a_flood_and_new_ones_get_in_v4() {
    floods::<V4>();
}

#[test]
fn connections_live_through_a_flood_and_new_ones_get_in_v6() {
    floods::<V6>();
}
