//! From family-neutral desired values to what lies in the maps.

use svc_common::family::{Family, Port};
use svc_common::table::{Backend, FrontendKey, address_flags, backend_flags};

use crate::desired::{Algorithm, FrontendAddr, FrontendKind, Run};
use crate::{maglev, shares};

/// The key of a frontend; `None` when its address is of the other family.
pub(super) fn key<F: Family>(at: &FrontendAddr) -> Option<FrontendKey<F>> {
    let addr = F::addr_from_std(at.ip)?;
    Some(FrontendKey {
        addr,
        port: Port::new(at.port),
        proto: at.protocol.number(),
        scope: at.scope as u8,
    })
}

/// The slots of a run: each endpoint as often as its weight says, or the whole Maglev table.
pub(super) fn run<F: Family>(run: &Run) -> Vec<Backend<F>> {
    let mut keys = Vec::with_capacity(run.endpoints.len());
    let mut backends = Vec::with_capacity(run.endpoints.len());
    let mut weights = Vec::with_capacity(run.endpoints.len());
    for endpoint in &run.endpoints {
        if let Some(addr) = F::addr_from_std(endpoint.ip) {
            let flags = if endpoint.local {
                backend_flags::LOCAL
            } else {
                0
            };
            backends.push(Backend {
                addr,
                port: Port::new(endpoint.port),
                flags,
            });
            // Without the flag: every node must build the same table.
            keys.push(maglev::key(endpoint.ip, endpoint.port));
            weights.push(endpoint.weight);
        }
    }
    let order: Vec<usize> = match run.algorithm {
        Algorithm::Random | Algorithm::LeastConnections => shares::shares(&weights)
            .into_iter()
            .enumerate()
            .flat_map(|(i, share)| (0..share).map(move |_| i))
            .collect(),
        Algorithm::RoundRobin => shares::round(&shares::shares(&weights)),
        Algorithm::Maglev => maglev::table(&keys, &weights, maglev::size_for(&weights)),
    };
    order.into_iter().map(|i| backends[i]).collect()
}

/// What a frontend of this kind makes of its address.
pub(super) fn flags(kind: FrontendKind) -> u32 {
    match kind {
        FrontendKind::ClusterIp => address_flags::CLUSTER_IP,
        FrontendKind::NodePort => address_flags::NODE,
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp => address_flags::EXTERNAL,
    }
}
