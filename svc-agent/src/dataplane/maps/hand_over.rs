//! `cleanup --hand-over`: our flows as connections that the kernel translates, by another proxy's hooks.

use std::io;
use std::time::Duration;

use svc_common::family::Family;
use svc_common::table::{Flow, NodeConfig, address_flags, flow_flags};

use super::foreign::connection;
use super::{FamilyMaps, Maps, failing, seconds_since_boot};
use crate::conntrack::{self, Connection};
use crate::dataplane::Error;

/// Flows that are held at the same time.
const AT_ONCE: usize = 64;
/// For a program that runs to be done with its packet, and for the stack to have met that.
const IN_FLIGHT: Duration = Duration::from_millis(1);
/// A packet that was under way may have made the kernel see another connection again.
const ATTEMPTS: usize = 3;

/// What became of the flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedOver {
    pub connections: usize,
    /// Those whose backend answers the client itself (DSR): no other proxy can have them.
    pub tunnelled: usize,
    /// Those that could not be handed over, each with its reason.
    pub failed: Vec<String>,
}

impl<F: Family> FamilyMaps<F>
where
    F::Addr: aya::Pod,
{
    /// From now on nothing new is ours. What has a flow is: the filter in front of it stays.
    fn close(&mut self) -> Result<(), Error> {
        let names = self.names;
        let all: Result<Vec<_>, _> = self.addresses.iter().collect();
        for (addr, flags) in all.map_err(failing("read", names.addresses))? {
            // By the node's own, answers are found.
            let outcome = match flags & address_flags::NODE {
                0 => self.addresses.remove(&addr),
                node => self.addresses.insert(addr, node, 0),
            };
            outcome.map_err(failing("write", names.addresses))?;
        }
        let all: Result<Vec<_>, _> = self.frontends.keys().collect();
        for key in all.map_err(failing("read", names.frontends))? {
            let outcome = self.frontends.remove(&key);
            outcome.map_err(failing("write", names.frontends))?;
        }
        Ok(())
    }

    fn hand_over(&self, config: &NodeConfig, handed: &mut HandedOver) -> Result<(), Error> {
        let table = self.flows.open()?;
        let now = seconds_since_boot();
        let mut flows = table.all();
        flows.retain(|flow| flow.is_open(now, config) && flow.flags & flow_flags::FOREIGN == 0);
        let of_others = |flow: &Flow<F>| flow.flags & flow_flags::TUNNEL != 0;
        handed.tunnelled += flows.iter().filter(|flow| of_others(flow)).count();
        flows.retain(|flow| !of_others(flow));
        for some in flows.chunks(AT_ONCE) {
            let held = flow_flags::FOREIGN | flow_flags::HELD;
            some.iter().for_each(|flow| table.mark(flow, held, 0));
            std::thread::sleep(IN_FLIGHT);
            for flow in some {
                let connection = connection(flow);
                let seconds = flow.remaining(now, config).max(1);
                match translate(&connection, seconds) {
                    Ok(()) => {
                        table.mark(flow, 0, flow_flags::HELD);
                        handed.connections += 1;
                    }
                    Err(error) => {
                        table.mark(flow, 0, held);
                        let Connection {
                            client, frontend, ..
                        } = connection;
                        handed
                            .failed
                            .push(format!("{client} to {frontend}: {error}"));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Maps {
    pub(in crate::dataplane) fn hand_over(&mut self) -> Result<HandedOver, Error> {
        let config = self.config()?;
        self.v4.close()?;
        self.v6.close()?;
        std::thread::sleep(IN_FLIGHT);
        let mut handed = HandedOver::default();
        self.v4.hand_over(&config, &mut handed)?;
        self.v6.hand_over(&config, &mut handed)?;
        Ok(handed)
    }
}

/// Puts a connection that the kernel translates in the place of those that it has seen of the flow.
fn translate(connection: &Connection, seconds: u32) -> io::Result<()> {
    let proto = connection.proto;
    let mut outcome = Ok(());
    for _ in 0..ATTEMPTS {
        // As the stack met it before our programs, and behind them.
        conntrack::forget(proto, connection.client, connection.frontend)?;
        conntrack::forget(proto, connection.nat, connection.backend)?;
        outcome = conntrack::establish(connection, seconds);
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            _ => break,
        }
    }
    outcome
}
