//! Which devices packets may be handed over at.

use std::collections::{BTreeMap, BTreeSet};

use crate::dataplane::{Hook, OwnPrograms};
use crate::node::{Device, Devices};

/// The pods' devices with nothing in the way that a packet would miss: no queue that shapes, no program of others.
pub fn peers(
    devices: &Devices,
    hooks: &BTreeMap<(u32, Hook), String>,
    own: &OwnPrograms,
) -> BTreeSet<u32> {
    hooks
        .keys()
        .filter(|(_, hook)| *hook == Hook::PodEgress)
        .map(|(ifindex, _)| *ifindex)
        .filter(|ifindex| devices.get(ifindex).is_some_and(is_free))
        .filter(|ifindex| {
            let name = devices.get(ifindex).map(|device| device.name.as_str());
            name.is_some_and(|name| !own.have_company(name, false))
        })
        .collect()
}

/// `bpf_redirect_peer` drops what has no other end in another namespace.
fn is_free(device: &Device) -> bool {
    device.peer_elsewhere
        && ["veth", "netkit"].contains(&device.kind.as_str())
        && matches!(device.qdisc.as_str(), "" | "noqueue")
        && !device.classified
}
