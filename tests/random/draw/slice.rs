//! EndpointSlices: who is in them, in which state, with which hints.

use proptest::bool::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::service::DrawnService;
use crate::model::objects::*;
use crate::random::world;

/// Every kind of place that an endpoint can be at: pods here and elsewhere, and three nodes' own addresses.
pub(super) const PLACES: [(u8, u8); 9] = [
    (1, 1),
    (1, 2),
    (1, 3),
    (2, 1),
    (2, 2),
    (4, 1),
    world::NODE,
    (0, 2),
    (3, 2),
];

/// One of the Service's slices, by numbers of its ports and places.
#[derive(Clone, Debug)]
pub(super) struct DrawnSlice {
    v6: bool,
    misfit: u8,
    weight: Option<u16>,
    /// Per service port, in its order.
    numbers: Vec<Option<u16>>,
    /// Place, and whether it is leaving.
    endpoints: Vec<(usize, bool)>,
}

pub(super) fn slice() -> impl Strategy<Value = DrawnSlice> {
    let misfit = prop_oneof![20 => Just(0_u8), 1 => 1_u8..5];
    let number = select(vec![
        Some(8_080),
        Some(8_080),
        Some(8_081),
        Some(8_080),
        Some(8_080),
        Some(9_090),
        Some(0),
        None,
    ]);
    let endpoints = prop::collection::vec((0..PLACES.len(), weighted(0.25)), 0..6);
    (
        any::<bool>(),
        misfit,
        prop::collection::vec(number, 3),
        endpoints,
        prop::option::weighted(0.3, select(vec![0, 0, 1, 2, 5])),
    )
        .prop_map(|(v6, misfit, numbers, endpoints, weight)| DrawnSlice {
            v6,
            misfit,
            weight,
            numbers,
            endpoints,
        })
}

/// What the API says of an endpoint, while it runs and while it terminates.
#[derive(Clone, Debug)]
pub(super) struct Place {
    ready: [Option<bool>; 2],
    serving: [Option<bool>; 2],
    node_known: bool,
    second_address: bool,
    zones: Vec<String>,
    nodes: Vec<String>,
    hinted: bool,
}

pub(super) fn place() -> impl Strategy<Value = Place> {
    let maybe = || select(vec![None, Some(true), Some(true), Some(false)]);
    let names = |names: [&str; 2]| subsequence(names.map(str::to_owned).to_vec(), 1..=2);
    (
        [maybe(), maybe()],
        [maybe(), maybe()],
        weighted(0.95),
        weighted(0.2),
        (names(["zone-a", "zone-b"]), names(["node1", "node2"])),
        weighted(0.8),
    )
        .prop_map(
            |(ready, serving, node_known, second_address, (zones, nodes), hinted)| Place {
                ready,
                serving,
                node_known,
                second_address,
                zones,
                nodes,
                hinted,
            },
        )
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Hints {
    None,
    Zones,
    Nodes,
    Both,
    /// Some have both, some have nothing.
    Patchy,
}

pub(super) fn hints() -> impl Strategy<Value = Hints> {
    use Hints::{Both, Nodes, None, Patchy, Zones};
    select(vec![None, None, Zones, Nodes, Both, Patchy])
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Readiness {
    All,
    Mixed,
    None,
}

pub(super) fn readiness() -> impl Strategy<Value = Readiness> {
    select(vec![
        Readiness::All,
        Readiness::All,
        Readiness::Mixed,
        Readiness::Mixed,
        Readiness::Mixed,
        Readiness::None,
    ])
}

impl DrawnService {
    pub(super) fn slice(&self, drawn: &DrawnSlice) -> Slice {
        let mut ports = Vec::new();
        for (port, number) in self.service.ports.iter().zip(&drawn.numbers) {
            ports.push(SlicePort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: *number,
            });
        }
        // A port that the Service does not have.
        ports.push(SlicePort {
            name: "metrics".into(),
            protocol: Protocol::Tcp,
            port: Some(9_100),
        });
        let family = if drawn.v6 { "IPv6" } else { "IPv4" };
        let endpoints = drawn.endpoints.iter();
        Slice {
            name: String::new(),
            service: match drawn.misfit {
                1 => None,
                2 => Some("somebody-else".into()),
                _ => Some(self.service.name.clone()),
            },
            headless: drawn.misfit == 3,
            address_type: if drawn.misfit == 4 { "FQDN" } else { family }.into(),
            ports,
            endpoints: endpoints
                .map(|(place, leaving)| self.endpoint(*place, drawn.v6, *leaving))
                .collect(),
            weight: drawn.weight.filter(|_| self.weighs),
        }
    }

    fn endpoint(&self, place: usize, v6: bool, leaving: bool) -> Endpoint {
        let drawn = &self.places[place * 2 + usize::from(v6)];
        let at = PLACES[place];
        let mut addresses = vec![world::at(v6, at).to_string()];
        if drawn.second_address {
            addresses.push(world::at(v6, (2, 9)).to_string());
        }
        let hinted = self.hints != Hints::Patchy || drawn.hinted;
        let only = |names: &[String], with: &[Hints]| {
            let kept = hinted && with.contains(&self.hints);
            names.iter().filter(|_| kept).cloned().collect::<Vec<_>>()
        };
        let ready = match self.readiness {
            // publishNotReadyAddresses: ready even while terminating (A10).
            Readiness::All => Some(true),
            Readiness::Mixed => drawn.ready[usize::from(leaving)],
            Readiness::None => Some(false),
        };
        Endpoint {
            addresses,
            ready,
            serving: drawn.serving[usize::from(leaving)],
            terminating: if leaving {
                Some(true)
            } else {
                ready.filter(|ready| !ready)
            },
            node_name: drawn.node_known.then(|| node_of(at).to_owned()),
            for_zones: only(&drawn.zones, &[Hints::Zones, Hints::Both, Hints::Patchy]),
            for_nodes: only(&drawn.nodes, &[Hints::Nodes, Hints::Both, Hints::Patchy]),
        }
    }
}

fn node_of(place: (u8, u8)) -> &'static str {
    match place {
        (2, _) | (0, 2) => "node2",
        (4, _) | (3, 2) => "node3",
        _ => "node1",
    }
}
