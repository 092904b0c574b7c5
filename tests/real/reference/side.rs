//! One node with its proxy: its places, the addresses and objects of its Services, and the names by which both sides are
//! the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use xtask::topology::{Topology, in_namespace};
use xtask::traffic::Protocol;

use super::matrix::{Frontend, LAST, Question, State, VARIANTS, Variant};
use crate::cluster::{ControlPlane, TCP, UDP};

/// One node with its proxy, and the names by which both sides are the same.
pub struct Side {
    number: u8,
    own: [Place; 3],
    other: [Place; 3],
}

struct Place {
    role: &'static str,
    name: &'static str,
    addresses: [IpAddr; 2],
}

impl Side {
    pub fn new(topology: &Topology, number: u8) -> Self {
        let place = |role, name| Place {
            role,
            name,
            addresses: topology.place(name).addresses(),
        };
        let first = |roles: [&'static str; 3]| {
            [
                place(roles[0], "node1"),
                place(roles[1], "pod-a"),
                place(roles[2], "pod-b"),
            ]
        };
        let second = |roles: [&'static str; 3]| {
            [
                place(roles[0], "node2"),
                place(roles[1], "pod-c"),
                place(roles[2], "pod-d"),
            ]
        };
        let [own, other] = [
            ["this node", "own-1", "own-2"],
            ["that node", "other-1", "other-2"],
        ];
        let (own, other) = match number {
            1 => (first(own), second(other)),
            _ => (second(own), first(other)),
        };
        Self { number, own, other }
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.own.iter().chain(&self.other)
    }

    /// The topology's name of a role.
    pub fn name(&self, role: &'static str) -> &'static str {
        self.places()
            .find(|place| place.role == role)
            .map_or(role, |place| place.name)
    }

    /// The role of a place of the topology.
    pub fn role<'a>(&self, name: &'a str) -> &'a str {
        self.places()
            .find(|place| place.name == name)
            .map_or(name, |place| place.role)
    }

    /// Who has this address, as the client of a question sees it.
    pub fn who(&self, ip: IpAddr, question: &Question) -> String {
        if self.gateways().contains(&ip) || self.own[0].addresses.contains(&ip) {
            return "this node".to_owned();
        }
        if ip == self.address(question) {
            return "the frontend".to_owned();
        }
        if ["172.18.0.100", "fd00:18::100"].contains(&ip.to_string().as_str()) {
            return "client".to_owned();
        }
        let place = self.places().find(|place| place.addresses.contains(&ip));
        place.map_or(ip.to_string(), |place| place.role.to_owned())
    }

    fn gateways(&self) -> [IpAddr; 2] {
        let number = u16::from(self.number);
        [
            Ipv4Addr::new(10, 244, self.number, 1).into(),
            Ipv6Addr::new(0xfd00, 0x244, number, 0, 0, 0, 0, 1).into(),
        ]
    }

    fn cluster_ip(&self, variant: usize) -> [IpAddr; 2] {
        let (side, last) = (
            self.number,
            u8::try_from(variant + 1).expect("few variants"),
        );
        [
            Ipv4Addr::new(10, 96, 100 + side, last).into(),
            Ipv6Addr::new(
                0xfd00,
                0x96,
                0,
                0,
                0,
                0,
                0,
                u16::from(side) << 8 | u16::from(last),
            )
            .into(),
        ]
    }

    /// The second side's are above 128: they are routed to its node.
    fn outside_ip(&self, net: [u8; 3], v6: u16, variant: usize) -> [IpAddr; 2] {
        let last = u8::try_from(variant + 1).expect("few variants");
        [
            Ipv4Addr::new(net[0], net[1], net[2], (self.number - 1) * 128 + last).into(),
            Ipv6Addr::new(0x2001, 0xdb8, v6, self.number.into(), 0, 0, 0, last.into()).into(),
        ]
    }

    fn load_balancer(&self, variant: usize) -> [IpAddr; 2] {
        self.outside_ip([192, 0, 2], 2, variant)
    }

    fn external_ip(&self, variant: usize) -> [IpAddr; 2] {
        self.outside_ip([198, 51, 100], 3, variant)
    }

    /// From the lowest 86, which the API server gives to nobody by itself.
    fn node_port(&self, variant: usize, udp: bool) -> u16 {
        let variant = u16::try_from(variant).expect("few variants");
        30_000 + u16::from(self.number - 1) * 40 + variant * 2 + u16::from(udp)
    }

    /// Where a question is asked; an echo has no port.
    pub fn to(&self, question: &Question) -> SocketAddr {
        let udp = question.protocol == Some(Protocol::Udp);
        let port = match question.frontend {
            _ if question.protocol.is_none() => 0,
            Frontend::UndefinedPort | Frontend::LoadBalancerUndefinedPort => 81,
            Frontend::NodePort | Frontend::Loopback | Frontend::OtherNodeAddress => {
                self.node_port(question.variant, udp)
            }
            _ if udp => 53,
            _ => 80,
        };
        (self.address(question), port).into()
    }

    fn address(&self, question: &Question) -> IpAddr {
        let addresses = match question.frontend {
            Frontend::ClusterIp | Frontend::UndefinedPort => self.cluster_ip(question.variant),
            Frontend::NodePort => self.own[0].addresses,
            Frontend::Loopback => [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Frontend::OtherNodeAddress => self.gateways(),
            Frontend::LoadBalancer | Frontend::LoadBalancerUndefinedPort => {
                self.load_balancer(question.variant)
            }
            Frontend::ExternalIp => self.external_ip(question.variant),
        };
        addresses[usize::from(question.v6)]
    }

    /// The ClusterIPs of the Service that is made last.
    pub fn last(&self) -> [SocketAddr; 2] {
        self.cluster_ip(VARIANTS.len()).map(|ip| (ip, 80).into())
    }

    /// Creates this side's Services and Pods.
    pub fn make(&self, plane: &ControlPlane) -> Result<()> {
        let namespace = format!("side{}", self.number);
        plane.namespace(&namespace)?;
        let path = |rest: &str| format!("/api/v1/namespaces/{namespace}/{rest}");
        let mut calls = Vec::new();
        for (index, variant) in VARIANTS.iter().chain([&LAST]).enumerate() {
            let name = format!("v{index}");
            for (role, state) in variant.endpoints {
                let pod = format!("{name}-{}", role.replace(' ', "-"));
                calls.push(("POST", path("pods"), self.pod(&pod, &name, role)));
                let status = self.status(role, *state != State::Unready);
                calls.push(("PATCH", path(&format!("pods/{pod}/status")), status));
                if *state == State::Terminating {
                    let grace = json!({"gracePeriodSeconds": 3600});
                    calls.push(("DELETE", path(&format!("pods/{pod}")), grace));
                }
            }
            calls.push((
                "POST",
                path("services"),
                self.service(&name, index, variant)?,
            ));
            let ingress = self
                .load_balancer(index)
                .map(|ip| json!({"ip": ip, "ipMode": variant.ip_mode}));
            let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
            calls.push(("PATCH", path(&format!("services/{name}/status")), status));
        }
        plane.calls(&calls).map(drop)
    }

    fn pod(&self, name: &str, label: &str, role: &'static str) -> Value {
        let host = role.ends_with("node");
        let node = match role {
            "own-1" | "own-2" | "this node" => self.own[0].name,
            _ => self.other[0].name,
        };
        let port = |name: &str, port: u16, protocol: &str| {
            let mut port = json!({"name": name, "containerPort": port, "protocol": protocol});
            if host {
                port["hostPort"] = port["containerPort"].clone();
            }
            port
        };
        json!({
            "metadata": {"name": name, "labels": {"app": label}},
            "spec": {"nodeName": node, "hostNetwork": host, "containers": [{
                "name": "server", "image": "none",
                "ports": [port("http", TCP, "TCP"), port("dns", UDP, "UDP")],
            }]},
        })
    }

    fn status(&self, role: &str, ready: bool) -> Value {
        let place = self.places().find(|place| place.role == role);
        let addresses = place.expect("roles have places").addresses;
        let ips = addresses.map(|ip| json!({"ip": ip}));
        let ready = if ready { "True" } else { "False" };
        json!({"status": {"phase": "Running", "podIP": addresses[0], "podIPs": ips,
            "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn service(&self, name: &str, index: usize, variant: &Variant) -> Result<Value> {
        let cluster_ips = self.cluster_ip(index);
        let mut spec = json!({
            "type": "LoadBalancer",
            "selector": {"app": name},
            "clusterIP": cluster_ips[0],
            "clusterIPs": cluster_ips,
            "ipFamilyPolicy": "RequireDualStack",
            "externalIPs": self.external_ip(index),
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http", "nodePort": self.node_port(index, false)},
                {"name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP",
                    "nodePort": self.node_port(index, true)},
            ],
        });
        let more: Value = serde_json::from_str(variant.spec)?;
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        Ok(json!({"metadata": {"name": name}, "spec": spec}))
    }

    /// The outside client's routes: this side's addresses by this side's node.
    pub fn route(&self, topology: &Topology) -> Result<()> {
        let number = self.number;
        let half = (number - 1) * 128;
        let [v4, v6] = self.own[0].addresses;
        let routes = [
            format!("192.0.2.{half}/25 via {v4}"),
            format!("198.51.100.{half}/25 via {v4}"),
            format!("10.96.{}.0/24 via {v4}", 100 + number),
            format!("2001:db8:2:{number}::/64 via {v6}"),
            format!("2001:db8:3:{number}::/64 via {v6}"),
            format!("fd00:96::{number}00/120 via {v6}"),
        ];
        in_namespace(&topology.place("client").namespace_file(), || {
            for route in &routes {
                let words = ["route", "replace"].into_iter().chain(route.split(' '));
                let status = Command::new("ip").args(words).status()?;
                ensure!(status.success(), "`ip route replace {route}` failed");
            }
            Ok(())
        })
    }
}
