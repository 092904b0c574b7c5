//! Which sockets of the socket hooks have lost their backend.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use svc_common::family::{Addr, Family, Port};
use svc_common::table::{BackendKey, FrontendKey, Scope, UDP, backend_state};

use super::{FamilyMaps, Maps, failing};
use crate::dataplane::Error;

/// Cookies of sockets, with the backend that each must not talk to any more.
pub type Deserted = BTreeSet<([u32; 2], SocketAddr)>;

impl<F: Family> FamilyMaps<F>
where
    F::Addr: aya::Pod,
{
    /// As the packet path judges a UDP flow. Of a frontend that is gone nothing is known, and its sockets stay.
    fn deserted_sockets(&self, found: &mut Deserted) -> Result<(), Error> {
        // A NodePort on loopback is that of the node's primary address (C5).
        let node = self.devices.get(&0, 0).ok();
        for entry in self.sockets.iter() {
            let (socket, peer) = entry.map_err(failing("read", self.names.sockets))?;
            let addr = if F::is_loopback(&peer.addr) {
                node.unwrap_or(peer.addr)
            } else {
                peer.addr
            };
            let frontend = FrontendKey {
                addr,
                port: peer.port,
                proto: UDP,
                scope: Scope::Internal as u8,
            };
            let Ok(frontend) = self.frontends.get(&frontend, 0) else {
                continue;
            };
            let state = |addr, port| {
                let key = BackendKey {
                    service: frontend.service,
                    addr,
                    port,
                    _pad: 0,
                };
                self.backends.get(&key, 0).ok()
            };
            let serves = state(socket.addr, socket.port)
                .is_some_and(|state| state.flags & backend_state::SERVING != 0);
            if !serves && state(F::Addr::UNSPECIFIED, Port(0)).is_some() {
                let backend = SocketAddr::new(F::addr_to_std(socket.addr), socket.port.get());
                found.insert((socket.cookie, backend));
            }
        }
        Ok(())
    }
}

impl Maps {
    pub(in crate::dataplane) fn deserted_sockets(&self) -> Result<Deserted, Error> {
        let mut found = Deserted::new();
        self.v4.deserted_sockets(&mut found)?;
        self.v6.deserted_sockets(&mut found)?;
        Ok(found)
    }
}
