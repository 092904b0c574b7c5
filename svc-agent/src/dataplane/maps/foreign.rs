//! `--takeover`: another proxy's connections as flows of FLOWS.

use std::net::SocketAddr;

use svc_common::family::{Family, Port};
use svc_common::table::{Flow, FlowKey, FrontendKey, Insert, Scope, flow_flags, flow_state};

use super::{FamilyMaps, Maps, failing, seconds_since_boot};
use crate::conntrack::Connection;
use crate::dataplane::Error;

fn flow<F: Family>(connection: &Connection, epoch: u16) -> Option<Flow<F>> {
    let mut state = 0;
    if connection.answered {
        state |= flow_state::ESTABLISHED | flow_state::CONFIRMED;
    }
    if connection.half_closed {
        state |= flow_state::CLIENT_FIN;
    }
    let key = |src: SocketAddr, dst: SocketAddr| {
        Some(FlowKey {
            src: F::addr_from_std(src.ip())?,
            dst: F::addr_from_std(dst.ip())?,
            sport: Port::new(src.port()),
            dport: Port::new(dst.port()),
            proto: u16::from(connection.proto),
            _pad: 0,
        })
    };
    Some(Flow {
        forward: key(connection.client, connection.frontend)?,
        reply: key(connection.backend, connection.nat)?,
        seen: seconds_since_boot(),
        service: 0,
        epoch,
        flags: flow_flags::FOREIGN,
        client_state: state,
        backend_state: 0,
        _pad: [0; 3],
    })
}

/// The inverse: a flow as the connection that another proxy would make of it.
pub(super) fn connection<F: Family>(flow: &Flow<F>) -> Connection {
    let end = |addr: F::Addr, port: Port| SocketAddr::new(F::addr_to_std(addr), port.get());
    let Flow { forward, reply, .. } = flow;
    Connection {
        proto: u8::try_from(forward.proto).unwrap_or_default(),
        client: end(forward.src, forward.sport),
        frontend: end(forward.dst, forward.dport),
        backend: end(reply.src, reply.sport),
        nat: end(reply.dst, reply.dport),
        answered: flow.state() & flow_state::ESTABLISHED != 0,
        half_closed: flow.state() & flow_state::BOTH_FIN != 0,
    }
}

impl<F: Family> FamilyMaps<F>
where
    F::Addr: aya::Pod,
{
    /// What is there already is ours, or was taken over before.
    fn take_over(&self, connections: &[Connection], epoch: u16) -> Result<usize, Error> {
        let table = self.flows.open()?;
        let flows = connections.iter().filter_map(|c| flow::<F>(c, epoch));
        let taken = flows.filter(|flow| {
            table.get(&flow.forward).is_none()
                && table.get(&flow.reply).is_none()
                && table.insert(flow) == Insert::Done
        });
        Ok(taken.count())
    }

    fn place_taken_over(&self) -> Result<(), Error> {
        let frontends = &self.frontends;
        self.flows.open()?.place(|flow| {
            let scopes = [Scope::Internal, Scope::External];
            scopes.into_iter().find_map(|scope| {
                let key = FrontendKey {
                    addr: flow.forward.dst,
                    port: flow.forward.dport,
                    proto: u8::try_from(flow.forward.proto).ok()?,
                    scope: scope as u8,
                };
                Some(frontends.get(&key, 0).ok()?.service)
            })
        });
        Ok(())
    }
}

impl Maps {
    pub(in crate::dataplane) fn take_over(
        &mut self,
        connections: &[Connection],
    ) -> Result<usize, Error> {
        let epoch = self.epoch.get(&0, 0).map_err(failing("read", "EPOCH"))?;
        // Of the epoch before: whether their backends serve is still to be asked.
        let [low, high, ..] = epoch.wrapping_sub(1).to_le_bytes();
        let epoch = u16::from_le_bytes([low, high]);
        Ok(self.v4.take_over(connections, epoch)? + self.v6.take_over(connections, epoch)?)
    }

    pub(in crate::dataplane) fn place_taken_over(&mut self) -> Result<(), Error> {
        self.v4.place_taken_over()?;
        self.v6.place_taken_over()
    }
}
