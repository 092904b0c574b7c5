//! svc-common on the host as one side of the comparison.

use svc_common::family::{Addr, Family, Port};
use svc_common::memory::Memory;
use svc_common::packet::Packet as Bytes;
use svc_common::reason::{Aside, Reason};
use svc_common::socket::{self, Caller, Target};
use svc_common::steer::{self, Work};
use svc_common::table::{Backend, Scope};
use svc_common::wire::ETH_LEN;

use std::net::SocketAddr;

use super::agree::{Call, Seen, Sent, Side};
use super::foretell;
use super::tables::{NETNS, Tables};
use crate::model::objects::{From, Protocol};

/// Tables in memory and the functions that the programs are made of.
#[derive(Default)]
pub struct Host {
    tables: Tables,
    /// How many packets and calls there were.
    asked: u64,
}

/// Every so often, `explain` has to know before what will become of it.
const FORETOLD: u64 = 4;

impl Side for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn reset(&mut self) {
        self.tables = Tables::default();
        self.tables.v4.now.set(100_000);
        self.tables.v6.now.set(100_000);
    }

    fn load(&mut self, fill: &dyn Fn(&mut Tables)) {
        fill(&mut self.tables);
    }

    fn send(&mut self, sent: &Sent) -> Seen {
        self.asked += 1;
        let foretold = self.asked.is_multiple_of(FORETOLD);
        if sent.to.is_ipv6() {
            send(&self.tables.v6, sent, foretold)
        } else {
            send(&self.tables.v4, sent, foretold)
        }
    }

    fn connect(&mut self, call: &Call) -> Option<Result<Option<SocketAddr>, Reason>> {
        self.tables.v4.config.as_mut().expect("loaded").socket_lb = call.mode;
        self.tables.v6.config.as_mut().expect("loaded").socket_lb = call.mode;
        self.asked += 1;
        let foretold = self.asked.is_multiple_of(FORETOLD);
        Some(if call.to.is_ipv6() {
            call_out(&self.tables.v6, call, foretold)
        } else {
            call_out(&self.tables.v4, call, foretold)
        })
    }

    fn wait(&mut self, seconds: u32) {
        let now = self.tables.v4.now.get() + seconds;
        self.tables.v4.now.set(now);
        self.tables.v6.now.set(now);
    }
}

fn send<F: Family>(tables: &Memory<F>, sent: &Sent, foretold: bool) -> Seen {
    let may = foretold.then(|| foretell::packet(tables, sent));
    let seen = packet(tables, sent);
    if let Some(may) = may {
        assert!(
            may.contains(&seen),
            "{sent:?}: {seen:?}, and explain said {may:?}"
        );
    }
    seen
}

fn call_out<F: Family>(
    tables: &Memory<F>,
    call: &Call,
    foretold: bool,
) -> Result<Option<SocketAddr>, Reason> {
    let anybody = F::addr_to_std(F::Addr::UNSPECIFIED);
    let may = foretold.then(|| foretell::connect(tables, call, anybody));
    let done = connect(tables, call);
    if let Some(may) = may {
        assert!(
            may.contains(&done),
            "{call:?}: {done:?}, and explain said {may:?}"
        );
    }
    done
}

fn packet<F: Family>(tables: &Memory<F>, sent: &Sent) -> Seen {
    let mut frame = sent.frame.clone();
    let packet = Bytes::of(&mut frame);
    let mut work = Work::<F>::EMPTY;
    let steered = match sent.from {
        From::Pod => steer::ingress(Scope::Internal, &packet, ETH_LEN, tables, &mut work),
        From::Node => steer::egress(true, &packet, ETH_LEN, tables, &mut work),
        From::OtherPod | From::Outside => {
            steer::ingress(Scope::External, &packet, ETH_LEN, tables, &mut work)
        }
    };
    match steered {
        Err(Aside::NotOurs | Aside::Echo) => Seen::NotOurs,
        Err(Aside::Because(reason)) => Seen::Stopped(reason),
        Ok(()) => {
            let to = &work.decision.to;
            Seen::Sent {
                from: SocketAddr::new(F::addr_to_std(to.src), to.sport.get()),
                to: SocketAddr::new(F::addr_to_std(to.dst), to.dport.get()),
            }
        }
    }
}

fn connect<F: Family>(tables: &Memory<F>, call: &Call) -> Result<Option<SocketAddr>, Reason> {
    let caller = Caller {
        cookie: call.cookie,
        netns_cookie: if call.from == From::Node {
            NETNS
        } else {
            NETNS + 1
        },
    };
    let target = Target::<F> {
        addr: F::addr_from_std(call.to.ip()).expect("of this family"),
        port: Port::new(call.to.port()),
        proto: number(call.protocol),
    };
    let mut backend = Backend::EMPTY;
    let chosen = socket::connect(&caller, &target, tables, &mut backend, &mut 0)?;
    let addr = F::addr_to_std(backend.addr);
    Ok(chosen.then(|| SocketAddr::new(addr, backend.port.get())))
}

pub fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => svc_common::table::TCP,
        Protocol::Udp => svc_common::table::UDP,
        Protocol::Sctp => svc_common::table::SCTP,
    }
}
