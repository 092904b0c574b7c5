//! Which packets to try on a cluster: every kind of client, and every destination that means something in it or nearly
//! does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::scenario::Step;
use super::world;
use crate::model::objects::{Cluster, From, Node, Packet, Protocol, Service};

/// One step per number.
pub fn steps(cluster: &Cluster, node: &Node, numbers: &[u64]) -> Vec<Step> {
    let targets = targets(cluster, node);
    numbers
        .iter()
        .map(|number| step(*number, &targets))
        .collect()
}

type Target = (SocketAddr, Protocol);

/// Takes a number apart.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        let side = self.0 % sides as u64;
        self.0 /= sides as u64;
        side as usize
    }
}

fn step(number: u64, targets: &[Target]) -> Step {
    let mut dice = Dice(number);
    match dice.roll(16) {
        15 if dice.roll(2) == 0 => return Step::Wait([8, 120, 400][dice.roll(3)]),
        12..=15 => return Step::Again(dice.roll(1 << 16) as u16),
        _ => (),
    }
    let from = [
        From::Pod,
        From::OtherPod,
        From::Node,
        From::Outside,
        From::Outside,
    ][dice.roll(5)];
    let host = dice.roll(3) as u8 + 1;
    let other = world::OTHER_PODS[dice.roll(2)];
    let (to, protocol) = targets[dice.roll(targets.len())];
    // Nobody else's loopback is this node's.
    let from = if to.ip().is_loopback() {
        From::Node
    } else {
        from
    };
    let v6 = to.is_ipv6();
    let client = match from {
        From::Pod => world::at(v6, (world::PODS, host)),
        From::OtherPod => world::at(v6, (other, host)),
        From::Outside => world::at(v6, (world::OUTSIDE, host)),
        From::Node => world::at(v6, world::NODE),
    };
    Step::Packet(Packet {
        from,
        client,
        to,
        protocol,
    })
}

fn targets(cluster: &Cluster, node: &Node) -> Vec<Target> {
    let mut targets: Vec<Target> = cluster
        .services
        .iter()
        .flat_map(|service| of_service(service, node))
        .collect();
    for v6 in [false, true] {
        let nowhere = SocketAddr::new(world::at(v6, (world::PODS, 1)), 8_080);
        targets.push((nowhere, Protocol::Tcp));
        targets.push((
            SocketAddr::new(world::at(v6, world::NODE), 22),
            Protocol::Tcp,
        ));
    }
    targets
}

fn of_service(service: &Service, node: &Node) -> Vec<Target> {
    let ingress = service.ingress.iter().map(|i| i.ip);
    let vips = service.cluster_ips.iter().chain(&service.external_ips);
    let vips: Vec<IpAddr> = vips.copied().chain(ingress).collect();
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let others = [world::at(false, (0, 2)), world::at(true, (0, 2))];
    let nodes: Vec<IpAddr> = node
        .addresses
        .iter()
        .copied()
        .chain(loopback)
        .chain(others)
        .collect();
    let mut targets = Vec::new();
    for port in &service.ports {
        for vip in &vips {
            targets.extend([(SocketAddr::new(*vip, port.port), port.protocol); 6]);
        }
        if let Some(node_port) = port.node_port {
            let ips = nodes.iter().chain(&node.ips).chain(&node.ips);
            targets.extend(ips.map(|ip| (SocketAddr::new(*ip, node_port), port.protocol)));
        }
    }
    for vip in vips {
        targets.push((SocketAddr::new(vip, 443), Protocol::Udp));
    }
    targets
}
