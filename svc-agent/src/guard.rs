//! What external addresses may not take, whoever asks for them (CVE-2020-8554): the API server's own address, and ports
//! that processes of this node listen on. Pure; what the node listens on is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::cluster::Cluster;
use crate::desired::{Protocol, ServiceName};

/// An address, port and protocol.
pub type Place = (SocketAddr, Protocol);

/// Who has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    ApiServer,
    /// A process of this node.
    Process,
}

/// Places that are taken.
pub type Held = BTreeMap<Place, Holder>;

/// A socket of the node that takes connections or datagrams of anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Unspecified: every address.
    pub at: SocketAddr,
    pub protocol: Protocol,
    /// An IPv6 socket for every address takes IPv4 too, unless told not to.
    pub v6_only: bool,
}

impl Listener {
    /// A process that names no address means those that the node is known by (`known`): it need not know of a load
    /// balancer's address that somebody has put on a device.
    fn holds(&self, (at, protocol): &Place, known: &[IpAddr]) -> bool {
        if self.at.port() != at.port() || self.protocol != *protocol {
            return false;
        }
        match self.at.ip() {
            ip if !ip.is_unspecified() => ip == at.ip(),
            IpAddr::V4(_) => at.is_ipv4() && known.contains(&at.ip()),
            IpAddr::V6(_) => (at.is_ipv6() || !self.v6_only) && known.contains(&at.ip()),
        }
    }
}

/// Of the places that are asked for, those that processes listen on.
pub fn of_processes(
    asked: &BTreeSet<Place>,
    listeners: &[Listener],
    known: &[IpAddr],
) -> BTreeSet<Place> {
    let is_held = |place: &&Place| listeners.iter().any(|l| l.holds(place, known));
    asked.iter().filter(is_held).copied().collect()
}

/// The Service whose endpoints are the API servers.
pub fn kubernetes() -> ServiceName {
    ServiceName {
        namespace: "default".into(),
        name: "kubernetes".into(),
    }
}

/// Where the API server is: by the endpoints of its Service.
pub fn api_servers(cluster: &Cluster) -> BTreeSet<SocketAddr> {
    let mut found = BTreeSet::new();
    for slice in cluster.slices_of(&kubernetes()) {
        for (_, protocol, port) in &slice.ports {
            let tcp = *protocol == Protocol::Tcp;
            let endpoints = slice.endpoints.iter().filter(|_| tcp);
            found.extend(endpoints.map(|endpoint| SocketAddr::new(endpoint.ip, *port)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        (text.parse().unwrap(), Protocol::Tcp)
    }

    fn listener(text: &str) -> Listener {
        Listener {
            at: text.parse().unwrap(),
            protocol: Protocol::Tcp,
            v6_only: false,
        }
    }

    #[test]
    fn a_process_has_its_port_where_it_listens_and_without_an_address_where_the_node_is_known() {
        let known = ["172.18.0.11", "fd00:18::11"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let asked = [
            "172.18.0.11:22",
            "172.18.0.11:80",
            "[fd00:18::11]:22",
            "192.0.2.7:22",
        ]
        .map(place);
        let asked = BTreeSet::from(asked);
        let held = |listeners: &[Listener]| -> Vec<String> {
            let held = of_processes(&asked, listeners, &known);
            held.iter().map(|(at, _)| at.to_string()).collect()
        };
        assert_eq!(held(&[listener("0.0.0.0:22")]), ["172.18.0.11:22"]);
        let both = ["172.18.0.11:22", "[fd00:18::11]:22"];
        assert_eq!(held(&[listener("[::]:22")]), both);
        let v6_only = Listener {
            v6_only: true,
            ..listener("[::]:22")
        };
        assert_eq!(held(&[v6_only]), ["[fd00:18::11]:22"]);
        // Somebody means this one address, whatever the node is known by.
        assert_eq!(held(&[listener("192.0.2.7:22")]), ["192.0.2.7:22"]);
        let udp = Listener {
            protocol: Protocol::Udp,
            ..listener("0.0.0.0:22")
        };
        assert!(held(&[udp, listener("127.0.0.1:80")]).is_empty());
    }
}
