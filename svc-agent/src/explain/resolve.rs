//! What people wrote → a question with nothing left to look up.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use svc_common::family::Family;
use svc_common::steer::Client;
use svc_common::table::address_flags;

use super::judge::Asked;
use super::question::{Host, PortName, Target};
use super::tables::{Maps, Way};
use crate::desired::{Protocol, ServiceName};
use crate::inspect::{self, Filter, ServiceItem};
use crate::plan::Label;
use crate::source::once::Objects;

/// The Service that a target names, or that has its address.
pub fn service_of(target: &Target, maps: &Maps) -> Option<ServiceName> {
    match &target.host {
        Host::Service { namespace, name } => Some(ServiceName {
            namespace: namespace.as_str().into(),
            name: name.as_str().into(),
        }),
        Host::Address(ip) => {
            let asked = if ip.is_loopback() {
                maps.node_address(ip.is_ipv6())?
            } else {
                *ip
            };
            let owner = owner_of(maps, asked, target.port.as_ref())?;
            Some(
                Label::parse(maps.snapshot.services.get(&owner)?)?
                    .port
                    .service,
            )
        }
    }
}

fn owner_of(maps: &Maps, ip: IpAddr, port: Option<&PortName>) -> Option<u32> {
    fn of<F: Family>(actual: &crate::plan::Actual<F>, ip: IpAddr, port: u16) -> Option<u32> {
        let addr = F::addr_from_std(ip)?;
        let mut there = actual.frontends.iter().filter(|(key, _)| key.addr == addr);
        there
            .clone()
            .find(|(key, _)| key.port.get() == port)
            .or_else(|| there.next())
            .map(|(_, frontend)| frontend.service)
    }
    let port = match port {
        Some(PortName::Number(number)) => *number,
        _ => 0,
    };
    of(&maps.snapshot.v4, ip, port).or_else(|| of(&maps.snapshot.v6, ip, port))
}

/// Address, port and protocol of a target. `like`: the client's address, whose family is preferred.
pub fn target(
    target: &Target,
    like: Option<IpAddr>,
    maps: &Maps,
    objects: Option<&Objects>,
) -> Result<(SocketAddr, Protocol)> {
    let (namespace, name) = match (&target.host, &target.port) {
        (Host::Address(ip), Some(PortName::Number(port))) => {
            let protocol = target.protocol.unwrap_or(Protocol::Tcp);
            return Ok((SocketAddr::new(*ip, *port), protocol));
        }
        (Host::Address(ip), _) => bail!("{ip} has no port; write {ip}:PORT"),
        (Host::Service { namespace, name }, _) => (namespace, name),
    };
    let filter = Filter {
        namespace: Some(namespace),
        name: Some(name),
    };
    let mut items = inspect::service_items(&maps.snapshot, filter);
    items.retain(|item| item.scope == "internal" && item.kind.contains("ClusterIP"));
    if items.is_empty() {
        bail!("{}", absent(namespace, name, maps, objects));
    }
    let all = ports(&items);
    let fits = |item: &&ServiceItem| like.is_none_or(|ip| ip.is_ipv4() == item.address.is_ipv4());
    let cluster_ip = items.iter().find(fits).map(|item| item.address);
    items.retain(|item| {
        let port = match &target.port {
            None => true,
            Some(PortName::Number(number)) => item.port == *number,
            Some(PortName::Name(name)) => item.port_name == *name,
        };
        port && target
            .protocol
            .is_none_or(|p| item.protocol == p.to_string())
    });
    let asked: BTreeSet<u16> = items.iter().map(|item| item.port).collect();
    if items.is_empty() {
        // The number is good enough to see it refused.
        let (Some(PortName::Number(port)), Some(ip)) = (&target.port, cluster_ip) else {
            bail!("Service {namespace}/{name} has no such port; it has {all}");
        };
        let protocol = target.protocol.unwrap_or(Protocol::Tcp);
        return Ok((SocketAddr::new(ip, *port), protocol));
    }
    if asked.len() > 1 {
        bail!("Service {namespace}/{name} has ports {all}; say which: svc/{namespace}/{name}:PORT");
    }
    let Some(item) = items.iter().find(fits) else {
        bail!(
            "Service {namespace}/{name} has no ClusterIP of the client's family; it has {}",
            items[0].address
        );
    };
    let of = |p: &Protocol| items.iter().any(|item| item.protocol == p.name());
    let protocol = Protocol::ALL.into_iter().find(of);
    let protocol = protocol.unwrap_or(Protocol::Tcp);
    Ok((SocketAddr::new(item.address, item.port), protocol))
}

fn ports(items: &[ServiceItem]) -> String {
    let ports: BTreeSet<String> = items
        .iter()
        .map(|item| match item.port_name.as_str() {
            "" => format!("{}/{}", item.port, item.protocol),
            name => format!("{}/{} ({name})", item.port, item.protocol),
        })
        .collect();
    ports.into_iter().collect::<Vec<_>>().join(", ")
}

/// Why the maps have nothing of a Service.
pub fn absent(namespace: &str, name: &str, maps: &Maps, objects: Option<&Objects>) -> String {
    let service = ServiceName {
        namespace: namespace.into(),
        name: name.into(),
    };
    let known = objects.map(|objects| objects.cluster.service(&service));
    match known {
        Some(Some(service)) if service.headless => format!(
            "Service {namespace}/{name} is headless: clients get its endpoints by DNS and ask them directly"
        ),
        Some(Some(service)) if service.r#type == crate::cluster::ServiceType::ExternalName => {
            format!("Service {namespace}/{name} is an ExternalName: DNS answers with another name")
        }
        Some(Some(service)) if service.cluster_ips.is_empty() => {
            format!("Service {namespace}/{name} has no clusterIP: nobody can ask for it")
        }
        Some(Some(_)) => format!(
            "Service {namespace}/{name} is not in the maps of this node; see svc-agent diff and the agent's log"
        ),
        Some(None) | None => {
            let mut text = format!("no Service {namespace}/{name} is in the maps");
            let elsewhere: BTreeSet<String> = maps
                .snapshot
                .services
                .values()
                .filter_map(|text| Label::parse(text))
                .map(|label| label.port.service)
                .filter(|other| *other.name == *name && *other.namespace != *namespace)
                .map(|other| other.to_string())
                .collect();
            if let Some(other) = elsewhere.first() {
                text += &format!("; there is {other}");
            } else {
                text += "; `svc-agent get services` lists them";
            }
            text
        }
    }
}

/// Who a client is, and the device that its packets come in by; of the node's own, that they leave by.
pub fn client(
    ip: IpAddr,
    to: IpAddr,
    maps: &Maps,
    route: impl Fn(IpAddr) -> Option<Way>,
) -> (Client, Option<u32>) {
    let device = |ip| route(ip).filter(|way| !way.local).map(|way| way.ifindex);
    let way = route(ip);
    let own = ip.is_loopback() || maps.address_flags(ip) & address_flags::NODE != 0;
    if own || way.is_some_and(|way| way.local) {
        return (Client::Node, device(to));
    }
    let Some(ifindex) = way.map(|way| way.ifindex) else {
        return (Client::Outside, None);
    };
    let attached = &maps.attached;
    let is_outside = ["node_ingress", "node_ingress_l3"]
        .iter()
        .any(|program| attached.is_at(program, ifindex));
    // A pod's device, or a bridge of them; before Linux 6.6 there are no pins to see.
    let known = maps.devices.get(&ifindex);
    let is_inside = if attached.devices.is_empty() {
        !known.is_some_and(|device| device.default_route)
    } else {
        let ports = maps
            .devices
            .iter()
            .filter(|(_, d)| d.master == Some(ifindex));
        attached.is_at("pod_ingress", ifindex)
            || ports
                .map(|(port, _)| port)
                .any(|port| attached.is_at("pod_ingress", *port))
    };
    if is_inside && !is_outside {
        (Client::Pod, Some(ifindex))
    } else {
        (Client::Outside, Some(ifindex))
    }
}

/// A process of this node: it sends with its own address.
pub fn node(
    to: IpAddr,
    maps: &Maps,
    route: impl Fn(IpAddr) -> Option<Way>,
) -> Result<(IpAddr, Option<u32>)> {
    let v6 = to.is_ipv6();
    let device = route(to).filter(|way| !way.local).map(|way| way.ifindex);
    let leaving = device.and_then(|device| maps.addresses.get(&(device, v6)).copied());
    let own = if to.is_loopback() {
        Some(to)
    } else {
        leaving.or_else(|| maps.node_address(v6))
    };
    match own {
        Some(ip) => Ok((ip, device)),
        None => bail!(
            "this node has no {} address in the maps; say who asks: --from IP",
            if v6 { "IPv6" } else { "IPv4" }
        ),
    }
}

/// Puts the parts together.
pub fn asked(
    from: Option<(IpAddr, Option<u16>)>,
    (to, protocol): (SocketAddr, Protocol),
    maps: &Maps,
    route: impl Fn(IpAddr) -> Option<Way>,
) -> Result<Asked> {
    let Some((ip, from_port)) = from else {
        let (from, device) = node(to.ip(), maps, route)?;
        return Ok(Asked {
            client: Client::Node,
            from,
            from_port: None,
            device,
            to,
            protocol,
        });
    };
    if ip.is_ipv4() != to.ip().is_ipv4() {
        bail!(
            "{ip} and {} are of different families; give a --from of the other",
            to.ip()
        );
    }
    let (client, device) = client(ip, to.ip(), maps, route);
    Ok(Asked {
        client,
        from: ip,
        from_port,
        device,
        to,
        protocol,
    })
}
