//! What else can be seen of a dataplane without an agent: where its programs are, and what it knows of the node.

use std::collections::BTreeSet;

use super::links::{Hook, SOCKET_HOOKS, entries};
use super::{DeviceAddresses, Error, Pinned};
use crate::plan::Capacities;
use crate::sockets::Connected;

/// Where programs are, by their pins. Before Linux 6.6 those at devices have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Program and index of the device.
    pub devices: BTreeSet<(&'static str, u32)>,
    /// Programs at the cgroup.
    pub sockets: BTreeSet<&'static str>,
}

impl Attached {
    pub fn is_at(&self, program: &str, ifindex: u32) -> bool {
        self.devices.contains(&(program, ifindex))
    }

    pub fn has_socket_hook(&self, v6: bool) -> bool {
        self.sockets
            .contains(if v6 { "connect6" } else { "connect4" })
    }
}

impl Pinned {
    /// Where the programs are.
    pub fn attached(&self) -> Result<Attached, Error> {
        let mut attached = Attached::default();
        for path in entries(&self.folder.join("links"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some((pin, at)) = name.split_once('@') else {
                continue;
            };
            if let Some((program, _)) = SOCKET_HOOKS.iter().find(|(program, _)| *program == pin) {
                attached.sockets.insert(program);
            }
            let hook = Hook::ALL.into_iter().find(|hook| hook.pin_name() == pin);
            if let (Some(hook), Ok(ifindex)) = (hook, at.parse()) {
                attached.devices.insert((hook.program(), ifindex));
            }
        }
        Ok(attached)
    }

    /// The address that what leaves by each device has; index 0 is the node itself.
    pub fn device_addresses(&self) -> Result<DeviceAddresses, Error> {
        self.maps.device_addresses()
    }

    /// The devices of pods that packets are handed to past the stack.
    pub fn peers(&self) -> Result<BTreeSet<u32>, Error> {
        self.maps.peers()
    }

    /// The sockets that were connected to a backend, with the frontend that each believes it talks to.
    pub fn connected_sockets(&self) -> Result<Connected, Error> {
        self.maps.connected_sockets()
    }

    pub fn epoch(&self) -> Result<u16, Error> {
        self.maps.epoch()
    }

    /// How many entries the maps have room for.
    pub fn capacities(&self) -> Result<Capacities, Error> {
        super::capacities(|name| self.folder.join("maps").join(name))
    }
}
