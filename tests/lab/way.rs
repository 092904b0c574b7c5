//! Every way to ask: by both families and both protocols.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use xtask::traffic::Protocol;

use super::{Lab, TCP_PORT, UDP_PORT};

/// The backends of the first Service.
pub const PODS: [&str; 3] = ["pod-a", "pod-b", "pod-c"];

/// One of the four ways to ask.
#[derive(Clone, Copy)]
pub struct Way {
    pub v6: bool,
    pub protocol: Protocol,
}

impl Way {
    pub const ALL: [Way; 4] = [
        Way {
            v6: false,
            protocol: Protocol::Tcp,
        },
        Way {
            v6: false,
            protocol: Protocol::Udp,
        },
        Way {
            v6: true,
            protocol: Protocol::Tcp,
        },
        Way {
            v6: true,
            protocol: Protocol::Udp,
        },
    ];

    pub fn name(self) -> String {
        format!("{}_{}", if self.v6 { "v6" } else { "v4" }, self.protocol)
    }

    pub fn is_udp(self) -> bool {
        self.protocol == Protocol::Udp
    }

    pub fn pick<T>(self, v4: T, v6: T) -> T {
        if self.v6 { v6 } else { v4 }
    }

    /// The ClusterIP of the n-th Service.
    pub fn cluster_ip(self, n: u8) -> SocketAddr {
        let v6 = std::net::Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, n.into());
        let ip: IpAddr = self.pick(IpAddr::from([10, 96, 0, n]), v6.into());
        SocketAddr::new(ip, if self.is_udp() { 53 } else { 80 })
    }

    /// A node port of the n-th Service.
    pub fn node_port(self, lab: &Lab, node: &str, n: u16) -> SocketAddr {
        let port = if self.is_udp() {
            30_052 + n
        } else {
            30_079 + n
        };
        SocketAddr::new(lab.address(node, self.v6), port)
    }

    /// A pod itself.
    pub fn direct(self, lab: &Lab, pod: &str) -> SocketAddr {
        SocketAddr::new(
            lab.address(pod, self.v6),
            if self.is_udp() { UDP_PORT } else { TCP_PORT },
        )
    }

    /// The LoadBalancer address of the first Service.
    pub fn load_balancer(self) -> Result<SocketAddr> {
        self.at("192.0.2.127", "2001:db8:2::127")
    }

    /// Another address of a Service, on its ports.
    pub fn at(self, v4: &str, v6: &str) -> Result<SocketAddr> {
        Ok(SocketAddr::new(
            self.pick(v4, v6).parse()?,
            if self.is_udp() { 53 } else { 80 },
        ))
    }
}
