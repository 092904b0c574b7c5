//! Random clusters once more, now on the loaded programs too: host, kernel and model must agree. `connect()` is the
//! host's part: the kernel has no test run for cgroup programs, which the net layer tries with real sockets.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use svc_common::family::{V4, V6};
use svc_common::memory::Memory;
use svc_common::reason::Reason;
use svc_tests::model::objects::From;
use svc_tests::random::agree::{Call, Seen, Sent, Side, Tally};
use svc_tests::random::foretell;
use svc_tests::random::host::Host;
use svc_tests::random::run;
use svc_tests::random::tables::Tables;

use crate::host::Program;
use crate::host::action::{NEXT, SHOT, XDP_DROP, XDP_PASS};
use crate::kernel::{Kernel, Keyed};
use crate::network::{Network, within};

struct Loaded {
    kernel: Kernel,
    tables: Tables,
    /// The counters as they were.
    reasons: Vec<u64>,
    /// Every other packet from outside meets XDP before.
    xdp: bool,
    sent: u64,
}

/// Of so many packets one is foretold by `explain`, from the kernel's own maps.
const FORETOLD: u64 = 16;

impl Loaded {
    fn new(network: &Network) -> Self {
        let mut kernel = Kernel::load(network);
        kernel.set_devices::<V4>(network);
        kernel.set_devices::<V6>(network);
        Self {
            reasons: kernel.reasons(),
            kernel,
            tables: Tables::default(),
            xdp: false,
            sent: 0,
        }
    }

    fn replace(&mut self, new: Tables) {
        self.kernel.refill(&self.tables.v4, &new.v4);
        self.kernel.refill(&self.tables.v6, &new.v6);
        self.tables = new;
    }

    /// The reason that was counted since the last time.
    fn reason(&mut self) -> Option<Reason> {
        let before = std::mem::replace(&mut self.reasons, self.kernel.reasons());
        let counted = self
            .reasons
            .iter()
            .zip(before)
            .map(|(now, then)| now - then);
        let counted: Vec<u64> = counted.collect();
        assert!(
            counted.iter().sum::<u64>() <= 1,
            "one packet, one reason: {counted:?}"
        );
        let index = counted.iter().position(|count| *count > 0)?;
        Some(Reason::ALL[index])
    }

    fn run(&mut self, program: Program, frame: &[u8]) -> Seen {
        let (action, after) = self.kernel.run(program, frame);
        let (passes, drops) = if program == Program::NodeXdp {
            (XDP_PASS, XDP_DROP)
        } else {
            (NEXT, SHOT)
        };
        if action == passes && after == frame {
            return Seen::NotOurs;
        }
        if let Some(reason) = self.reason() {
            return Seen::Stopped(reason);
        }
        assert!(
            action != drops,
            "{program:?} dropped without a reason: {frame:02x?}"
        );
        ends(&after)
    }

    fn carry(&mut self, sent: &Sent) -> Seen {
        match sent.from {
            From::Pod => self.run(Program::PodIngress, &sent.frame),
            From::Node => self.run(Program::NodeEgress, &sent.frame),
            From::OtherPod | From::Outside => {
                self.xdp = !self.xdp;
                if self.xdp
                    && let seen @ Seen::Sent { .. } = self.run(Program::NodeXdp, &sent.frame)
                {
                    return seen;
                }
                self.run(Program::NodeIngress, &sent.frame)
            }
        }
    }

    /// With what the programs have written since.
    fn remembered<F: Keyed>(&mut self, mut tables: Memory<F>) -> Memory<F> {
        let flows = self.kernel.flows::<F>().all().into_iter();
        tables.flows = RefCell::new(flows.map(|flow| (*flow.own_key(), flow)).collect());
        let affinities = self.kernel.affinities::<F>();
        let affinities = affinities.iter().map(|entry| entry.expect("readable"));
        tables.affinities = RefCell::new(affinities.collect());
        let backends = self.kernel.backends::<F>();
        let backends = backends.iter().map(|entry| entry.expect("readable"));
        tables.backends = RefCell::new(backends.collect());
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        tables
            .now
            .set(now.expect("there is a clock").tv_sec() as u32);
        tables.epoch.set(self.kernel.epoch());
        tables
    }
}

/// Source and destination of a frame without IP options.
fn ends(frame: &[u8]) -> Seen {
    let packet = &frame[14..];
    let octets = |at: usize| -> IpAddr {
        if packet[0] >> 4 == 4 {
            let octets: [u8; 4] = packet[at..at + 4].try_into().expect("four");
            Ipv4Addr::from(octets).into()
        } else {
            let octets: [u8; 16] = packet[at..at + 16].try_into().expect("sixteen");
            Ipv6Addr::from(octets).into()
        }
    };
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (src, dst, l4) = if packet[0] >> 4 == 4 {
        (octets(12), octets(16), 20)
    } else {
        (octets(8), octets(24), 40)
    };
    Seen::Sent {
        from: SocketAddr::new(src, port(l4)),
        to: SocketAddr::new(dst, port(l4 + 2)),
    }
}

impl Side for Loaded {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn reset(&mut self) {
        self.replace(Tables::default());
        self.kernel.forget::<V4>();
        self.kernel.forget::<V6>();
    }

    fn load(&mut self, fill: &dyn Fn(&mut Tables)) {
        let mut new = self.tables.clone();
        fill(&mut new);
        self.replace(new);
    }

    fn send(&mut self, sent: &Sent) -> Seen {
        self.sent += 1;
        if !self.sent.is_multiple_of(FORETOLD) {
            return self.carry(sent);
        }
        let may = if sent.to.is_ipv6() {
            let tables = self.tables.v6.clone();
            foretell::packet(&self.remembered(tables), sent)
        } else {
            let tables = self.tables.v4.clone();
            foretell::packet(&self.remembered(tables), sent)
        };
        let seen = self.carry(sent);
        assert!(
            may.contains(&seen),
            "{sent:?}: {seen:?}, and explain said {may:?}"
        );
        seen
    }

    fn connect(&mut self, _: &Call) -> Option<Result<Option<SocketAddr>, Reason>> {
        None
    }

    fn wait(&mut self, seconds: u32) {
        self.kernel.age::<V4>(seconds);
        self.kernel.age::<V6>(seconds);
    }
}

fn on_both(play: impl FnOnce(&mut [&mut dyn Side]) -> Tally + Send) {
    within(|network| {
        let mut host = Host::default();
        let mut kernel = Loaded::new(network);
        play(&mut [&mut host, &mut kernel]);
    });
}

#[test]
fn host_kernel_and_model_agree_about_random_clusters() {
    on_both(run::random);
}

#[test]
fn host_kernel_and_model_agree_about_what_failed_once() {
    on_both(run::known);
}
