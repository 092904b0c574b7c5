//! The node's own facts, by netlink: its devices, their addresses, which of them lead outside and which to pods.
//!
//! A change is noticed by the kernel's notifications, then everything is read anew: no polling, no event to miss.

mod links;
mod reverse_path;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::{self, Glob};
use crate::dataplane::{DeviceAddresses, Hook, XdpMode};

pub use links::{Error, Watch};
pub use reverse_path::strictly_filtered;

/// What a device is, as far as it concerns us.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Device {
    pub name: String,
    /// `IFLA_INFO_KIND`: veth, bridge, vxlan, …; empty for hardware.
    pub kind: String,
    pub loopback: bool,
    /// Frames begin with an Ethernet header.
    pub ethernet: bool,
    /// Frames begin with the IP header.
    pub layer3: bool,
    /// The other end is in another network namespace.
    pub peer_elsewhere: bool,
    pub default_route: bool,
    /// The queueing discipline of what leaves by it; noqueue, where there is none.
    pub qdisc: String,
    /// Filters look at what comes in or leaves (qdisc ingress or clsact).
    pub classified: bool,
    /// The bond, bridge or the like that it is a port of.
    pub master: Option<u32>,
    /// The device below, of a VLAN device.
    pub parent: Option<u32>,
    /// One of its addresses has neighbours: a pod's host-side device has its gateway's address alone.
    pub has_subnet: bool,
    /// Global addresses in the kernel's order, which is that of preference.
    pub addresses: Vec<IpAddr>,
}

/// Every device of this network namespace, by index.
pub type Devices = BTreeMap<u32, Device>;

/// What the node is reached by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The addresses that it is known by.
    pub node: Vec<IpAddr>,
    /// Those that NodePorts are served on.
    pub node_ports: Vec<IpAddr>,
}

/// Which devices the agent is told to use.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub devices: Vec<Glob>,
    pub pod_devices: Vec<Glob>,
}

/// Tunnels bring in what other nodes send: answers to connections that this node masqueraded.
const TUNNELS: [&str; 7] = [
    "vxlan",
    "geneve",
    "gretap",
    "wireguard",
    "ipip",
    "sit",
    "ip6tnl",
];
const POD_KINDS: [&str; 2] = ["veth", "netkit"];
/// Pods may be behind a bridge, and nothing is behind a dummy: an address of theirs makes nobody come in there.
const INNER_KINDS: [&str; 2] = ["bridge", "dummy"];
/// Packets come in at these and not, once more, at their ports.
const MASTERS: [&str; 3] = ["bond", "team", "bridge"];

impl Selection {
    /// Whether packets from outside come in here.
    pub fn is_outside(&self, device: &Device, reached: &Reached) -> bool {
        if device.loopback || !(device.ethernet || device.layer3) {
            return false;
        }
        if !self.devices.is_empty() {
            return self.devices.iter().any(|glob| glob.matches(&device.name));
        }
        device.default_route
            || device.has_one_of(&reached.node)
            || device.serves(&reached.node_ports)
            || TUNNELS.contains(&device.kind.as_str())
    }

    /// Whether a pod is behind it.
    pub fn is_pod(&self, device: &Device, reached: &Reached) -> bool {
        if device.loopback || !device.ethernet || self.is_outside(device, reached) {
            return false;
        }
        if !self.pod_devices.is_empty() {
            return self
                .pod_devices
                .iter()
                .any(|glob| glob.matches(&device.name));
        }
        POD_KINDS.contains(&device.kind.as_str()) && device.peer_elsewhere
    }

    /// Every hook that belongs on a device.
    pub fn hooks(
        &self,
        devices: &Devices,
        reached: &Reached,
        xdp: config::Xdp,
    ) -> BTreeMap<(u32, Hook), String> {
        let mut hooks = BTreeMap::new();
        for (&ifindex, device) in devices {
            if self.is_met_at_its_master(device, devices, reached) {
                continue;
            }
            let mut on = |hook| hooks.insert((ifindex, hook), device.name.clone());
            if self.is_pod(device, reached) {
                on(Hook::PodIngress);
                on(Hook::PodEgress);
            } else if self.is_outside(device, reached) && device.layer3 {
                on(Hook::NodeIngressL3);
                on(Hook::NodeEgressL3);
            } else if self.is_outside(device, reached) {
                on(Hook::NodeIngress);
                on(Hook::NodeEgress);
                match xdp {
                    // On a software device native XDP costs more than it saves (docs/performance.md).
                    config::Xdp::Auto if may_have_xdp(ifindex, device, devices) => {
                        on(Hook::Xdp(XdpMode::Native))
                    }
                    config::Xdp::Native => on(Hook::Xdp(XdpMode::Native)),
                    config::Xdp::Generic => on(Hook::Xdp(XdpMode::Generic)),
                    config::Xdp::Auto | config::Xdp::Off => None,
                };
            }
        }
        hooks
    }

    /// A port of a bond, a team or a bridge that leads outside: what comes in there is seen at the master, and would be
    /// translated twice.
    fn is_met_at_its_master(&self, device: &Device, devices: &Devices, reached: &Reached) -> bool {
        let master = device.master.and_then(|index| devices.get(&index));
        master.is_some_and(|master| {
            MASTERS.contains(&master.kind.as_str())
                && self.is_outside(master, reached)
                && self.is_outside(device, reached)
        })
    }
}

/// Where XDP is tried unasked: hardware, and bonds, which hand it to their ports. Not below VLAN devices: a NIC may
/// have stripped the tag, and XDP would take the frame for an untagged one.
fn may_have_xdp(ifindex: u32, device: &Device, devices: &Devices) -> bool {
    let carries_vlans = devices
        .values()
        .any(|d| d.kind == "vlan" && d.parent == Some(ifindex));
    (device.kind.is_empty() || device.kind == "bond") && !carries_vlans
}

impl Device {
    fn has_one_of(&self, addresses: &[IpAddr]) -> bool {
        self.addresses.iter().any(|a| addresses.contains(a))
    }

    /// Whether its address is one that NodePorts are served on, and somebody may come in here to ask.
    fn serves(&self, node_ports: &[IpAddr]) -> bool {
        self.has_subnet && !INNER_KINDS.contains(&self.kind.as_str()) && self.has_one_of(node_ports)
    }
}

/// The addresses that a process of the node may have: packets to them may be answers to us.
pub fn own_addresses(devices: &Devices) -> BTreeSet<IpAddr> {
    devices
        .values()
        .filter(|d| !d.loopback)
        .flat_map(|d| d.addresses.iter().copied())
        .collect()
}

/// The node's address of each family, where nothing better is known: that of the default route's device.
pub fn default_addresses(devices: &Devices) -> Vec<IpAddr> {
    let of = |v6: bool| {
        let outside = devices.values().filter(|d| d.default_route);
        outside
            .flat_map(|d| &d.addresses)
            .find(|a| a.is_ipv6() == v6)
            .copied()
    };
    [of(false), of(true)].into_iter().flatten().collect()
}

/// The source address of what leaves by each device: its own, else the node's. Index 0 is the node itself.
pub fn device_addresses(devices: &Devices, primary: &[IpAddr]) -> DeviceAddresses {
    let mut table = DeviceAddresses::new();
    for v6 in [false, true] {
        let node = primary.iter().find(|a| a.is_ipv6() == v6).copied();
        if let Some(node) = node {
            table.insert((0, v6), node);
        }
        for (&ifindex, device) in devices.iter().filter(|(_, d)| !d.loopback) {
            let own = device.addresses.iter().find(|a| a.is_ipv6() == v6).copied();
            // A device that has the node's address leaves with that one, wherever it stands in its list.
            let own = if device.addresses.iter().any(|a| Some(*a) == node) {
                node
            } else {
                own
            };
            if let Some(addr) = own.or(node) {
                table.insert((ifindex, v6), addr);
            }
        }
    }
    table
}

/// What masqueraded connections may use as their source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatPorts {
    pub min: u16,
    pub max: u16,
    /// The node hands these out itself: there is no room around `ip_local_port_range`.
    pub shared: bool,
}

impl SnatPorts {
    /// Of this network namespace.
    pub fn read() -> Self {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        Self::beside(&range.unwrap_or_default())
    }

    /// The larger gap around `ip_local_port_range`, above the privileged ports and clear of the default node port range.
    pub fn beside(local_port_range: &str) -> Self {
        const UNPRIVILEGED: u16 = 1024;
        const NODE_PORTS: u16 = 30_000;
        /// With fewer, connections to one busy backend would run out.
        const ENOUGH: u16 = 4_096;
        let mut numbers = local_port_range
            .split_whitespace()
            .map_while(|n| n.parse::<u16>().ok());
        let (low, high) = match (numbers.next(), numbers.next()) {
            (Some(low), Some(high)) if low <= high => (low, high),
            _ => (32_768, 60_999),
        };
        let below = (UNPRIVILEGED, low.min(NODE_PORTS).saturating_sub(1));
        let above = (high.saturating_add(1).max(32_768), u16::MAX);
        let size = |(from, to): (u16, u16)| to.saturating_sub(from);
        let (min, max) = if size(below) >= size(above) {
            below
        } else {
            above
        };
        if size((min, max)) >= ENOUGH {
            Self {
                min,
                max,
                shared: false,
            }
        } else {
            Self {
                min: 20_000,
                max: NODE_PORTS - 1,
                shared: true,
            }
        }
    }

    /// What to do about shared ports.
    pub fn warning(&self) -> Option<String> {
        let Self { min, max, shared } = self;
        shared.then(|| {
            format!(
                "net.ipv4.ip_local_port_range leaves no ports for masquerading; {min}-{max} are used all the same: \
                 sysctl -w net.ipv4.ip_local_reserved_ports={min}-{max}"
            )
        })
    }
}

#[cfg(test)]
mod tests;
