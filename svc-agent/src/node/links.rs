//! Reading and watching devices, addresses and default routes over rtnetlink.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{FutureExt, StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::packet_route::tc::{TcAttribute, TcMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};

use super::{Device, Devices};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a netlink socket: {0}")]
    Open(std::io::Error),
    #[error("cannot read the node's {what}: {source}")]
    Read {
        what: &'static str,
        source: rtnetlink::Error,
    },
    #[error("netlink notifications ended")]
    Ended,
}

/// A netlink connection with notifications.
pub struct Watch {
    handle: Handle,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
}

impl Watch {
    /// Must be called in the network namespace of the node, inside a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Tc,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, messages) =
            new_multicast_connection(&groups).map_err(Error::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle, messages })
    }

    /// Waits until a device, an address or a default route changed. May be dropped and called again.
    pub async fn changed(&mut self) -> Result<(), Error> {
        while let Some((message, _)) = self.messages.next().await {
            let NetlinkPayload::InnerMessage(message) = message.payload else {
                // An overrun lost something: read everything.
                return Ok(());
            };
            // Other routes come and go all the time, where a routing daemon runs.
            let other_route = matches!(
                &message,
                RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) if !is_default(route)
            );
            if !other_route {
                return Ok(());
            }
        }
        Err(Error::Ended)
    }

    /// Forgets the notifications that have come in: what they are about is read next.
    pub fn drain(&mut self) {
        while self.messages.next().now_or_never().flatten().is_some() {}
    }

    /// Reads all devices.
    pub async fn devices(&self) -> Result<Devices, Error> {
        let read = |what| move |source| Error::Read { what, source };
        let links: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(read("devices"))?;
        let mut devices: Devices = links
            .into_iter()
            .map(|link| (link.header.index, device(link)))
            .collect();
        let addresses: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(read("addresses"))?;
        for message in addresses {
            if let (Some(device), Some(addr)) =
                (devices.get_mut(&message.header.index), address(&message))
            {
                device.addresses.push(addr);
                device.has_subnet |=
                    message.header.prefix_len < if addr.is_ipv4() { 32 } else { 128 };
            }
        }
        for ifindex in self.default_route_devices().await.map_err(read("routes"))? {
            if let Some(device) = devices.get_mut(&ifindex) {
                device.default_route = true;
            }
        }
        for ifindex in self.classified_devices().await {
            if let Some(device) = devices.get_mut(&ifindex) {
                device.classified = true;
            }
        }
        Ok(devices)
    }

    /// Those with a qdisc for filters alone. A kernel without traffic control has none.
    async fn classified_devices(&self) -> BTreeSet<u32> {
        let qdiscs = self.handle.qdisc().get().execute();
        let qdiscs: Vec<TcMessage> = qdiscs.try_collect().await.unwrap_or_default();
        let for_filters = |qdisc: &&TcMessage| {
            qdisc.attributes.iter().any(|attribute| {
                matches!(attribute, TcAttribute::Kind(kind) if kind == "ingress" || kind == "clsact")
            })
        };
        let classified = qdiscs.iter().filter(for_filters);
        classified
            .map(|qdisc| qdisc.header.index.cast_unsigned())
            .collect()
    }

    async fn default_route_devices(&self) -> Result<BTreeSet<u32>, rtnetlink::Error> {
        let mut devices = BTreeSet::new();
        for any in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let routes: Vec<RouteMessage> =
                self.handle.route().get(any).execute().try_collect().await?;
            for route in routes.iter().filter(|route| is_default(route)) {
                devices.extend(
                    route
                        .attributes
                        .iter()
                        .filter_map(|attribute| match attribute {
                            RouteAttribute::Oif(ifindex) => Some(*ifindex),
                            _ => None,
                        }),
                );
                let hops = route
                    .attributes
                    .iter()
                    .filter_map(|attribute| match attribute {
                        RouteAttribute::MultiPath(hops) => Some(hops),
                        _ => None,
                    });
                devices.extend(hops.flatten().map(|hop| hop.interface_index));
            }
        }
        Ok(devices)
    }
}

fn is_default(route: &RouteMessage) -> bool {
    use rtnetlink::packet_route::route::{RouteHeader, RouteType};
    route.header.destination_prefix_length == 0
        && route.header.kind == RouteType::Unicast
        && route.header.table == RouteHeader::RT_TABLE_MAIN
}

fn device(link: LinkMessage) -> Device {
    let mut device = Device {
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        // WireGuard and TUN; IPIP, ip6tnl and SIT; modems.
        layer3: matches!(
            link.header.link_layer_type,
            LinkLayerType::None
                | LinkLayerType::Tunnel
                | LinkLayerType::Tunnel6
                | LinkLayerType::Sit
                | LinkLayerType::Rawip
        ),
        ..Device::default()
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name = name,
            LinkAttribute::Controller(index) => device.master = Some(index).filter(|i| *i != 0),
            // Of a veth, the index of its peer in another namespace.
            LinkAttribute::Link(index) => device.parent = Some(index),
            LinkAttribute::Qdisc(name) => device.qdisc = name,
            LinkAttribute::LinkNetNsId(_) => device.peer_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        device.kind = kind_name(&kind);
                    }
                }
            }
            _ => (),
        }
    }
    device
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}

/// A global address that may be used as a source.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let unusable = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => (),
        }
    }
    let scope = message.header.scope;
    if flags.intersects(unusable)
        || matches!(
            scope,
            AddressScope::Link | AddressScope::Host | AddressScope::Nowhere
        )
    {
        return None;
    }
    // On a point-to-point device ADDRESS is the peer.
    local.or(address).filter(|ip| !ip.is_loopback())
}
