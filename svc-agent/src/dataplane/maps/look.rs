//! What the agent has told the programs of the node, read back.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use aya::maps::MapError;
use svc_common::family::{Family, Port};

use super::{FamilyMaps, Maps, failing};
use crate::dataplane::{DeviceAddresses, Error};
use crate::sockets::Connected;

impl<F: Family> FamilyMaps<F>
where
    F::Addr: aya::Pod,
{
    fn add_device_addresses(&self, all: &mut DeviceAddresses) -> Result<(), Error> {
        let entries: Result<Vec<(u32, F::Addr)>, MapError> = self.devices.iter().collect();
        for (ifindex, addr) in entries.map_err(failing("read", self.names.devices))? {
            all.insert((ifindex, F::VERSION == 6), F::addr_to_std(addr));
        }
        Ok(())
    }

    fn add_connected_sockets(&self, all: &mut Connected) -> Result<(), Error> {
        let at = |addr, port: Port| SocketAddr::new(F::addr_to_std(addr), port.get());
        for entry in self.sockets.iter() {
            let (socket, peer) = entry.map_err(failing("read", self.names.sockets))?;
            let key = (socket.cookie, at(socket.addr, socket.port));
            all.insert(key, at(peer.addr, peer.port));
        }
        Ok(())
    }
}

impl Maps {
    pub(in crate::dataplane) fn connected_sockets(&self) -> Result<Connected, Error> {
        let mut all = Connected::new();
        self.v4.add_connected_sockets(&mut all)?;
        self.v6.add_connected_sockets(&mut all)?;
        Ok(all)
    }

    pub(in crate::dataplane) fn device_addresses(&self) -> Result<DeviceAddresses, Error> {
        let mut all = DeviceAddresses::new();
        self.v4.add_device_addresses(&mut all)?;
        self.v6.add_device_addresses(&mut all)?;
        Ok(all)
    }

    pub(in crate::dataplane) fn peers(&self) -> Result<BTreeSet<u32>, Error> {
        let devices: Result<BTreeSet<u32>, MapError> = self.peers.keys().collect();
        devices.map_err(failing("read", "PEERS"))
    }

    /// As the programs cut it.
    pub(in crate::dataplane) fn epoch(&self) -> Result<u16, Error> {
        let epoch = self.epoch.get(&0, 0).map_err(failing("read", "EPOCH"))?;
        Ok(epoch as u16)
    }
}
