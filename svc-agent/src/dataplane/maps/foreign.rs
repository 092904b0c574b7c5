//! `--takeover`: another proxy's connections as flows of FLOWS.

use std::io::ErrorKind;

use aya::maps::MapError;
use svc_common::family::{Family, Port};
use svc_common::table::{Flow, FrontendKey, Scope, flow_flags, flow_state};

use super::{FamilyMaps, Maps, failing, gone, seconds_since_boot};
use crate::conntrack::Connection;
use crate::dataplane::Error;

/// `BPF_NOEXIST`: what is there already is ours, or was taken over before.
const ONLY_NEW: u64 = 1;
/// `BPF_EXIST`: what has gone meanwhile stays away.
const ONLY_KNOWN: u64 = 2;

fn flow<F: Family>(connection: &Connection, epoch: u16) -> Option<Flow<F>> {
    let mut state = 0;
    if connection.answered {
        state |= flow_state::ESTABLISHED;
    }
    if connection.half_closed {
        state |= flow_state::CLIENT_FIN;
    }
    Some(Flow {
        seen: seconds_since_boot(),
        service: 0,
        client: F::addr_from_std(connection.client.ip())?,
        frontend: F::addr_from_std(connection.frontend.ip())?,
        backend: F::addr_from_std(connection.backend.ip())?,
        nat: F::addr_from_std(connection.nat.ip())?,
        client_port: Port::new(connection.client.port()),
        frontend_port: Port::new(connection.frontend.port()),
        backend_port: Port::new(connection.backend.port()),
        nat_port: Port::new(connection.nat.port()),
        flags: flow_flags::FOREIGN,
        state,
        epoch,
    })
}

impl<F: Family> FamilyMaps<F>
where
    F::Addr: aya::Pod,
{
    fn take_over(&mut self, connections: &[Connection], epoch: u16) -> Result<usize, Error> {
        let mut taken = 0;
        for connection in connections {
            let Some(flow) = flow::<F>(connection, epoch) else {
                continue;
            };
            let proto = u16::from(connection.proto);
            let reply = Flow {
                flags: flow.flags | flow_flags::REPLY,
                ..flow
            };
            let halves = [
                (flow.forward_key(proto), flow),
                (reply.reply_key(proto), reply),
            ];
            for (key, half) in halves {
                match self.flows.insert(key, half, ONLY_NEW) {
                    Ok(()) => taken += usize::from(half.flags & flow_flags::REPLY == 0),
                    Err(MapError::SyscallError(e))
                        if e.io_error.kind() == ErrorKind::AlreadyExists =>
                    {
                        break;
                    }
                    Err(cause) => return Err(failing("write", self.names.flows)(cause)),
                }
            }
        }
        Ok(taken)
    }

    fn place_taken_over(&mut self) -> Result<(), Error> {
        for (key, mut flow) in self.flows()? {
            if flow.flags & flow_flags::FOREIGN == 0 || flow.service != 0 {
                continue;
            }
            let frontend = [Scope::Internal, Scope::External]
                .into_iter()
                .find_map(|scope| {
                    let key = FrontendKey {
                        addr: flow.frontend,
                        port: flow.frontend_port,
                        proto: u8::try_from(key.proto).ok()?,
                        scope: scope as u8,
                    };
                    self.frontends.get(&key, 0).ok()
                });
            if let Some(frontend) = frontend {
                flow.service = frontend.service;
                gone(self.flows.insert(key, flow, ONLY_KNOWN))
                    .map_err(failing("write", self.names.flows))?;
            }
        }
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
