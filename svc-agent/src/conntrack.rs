//! The kernel's connections whose destination another proxy has translated: read for `--takeover`, and written for
//! `cleanup --hand-over`.

mod write;

pub use write::{establish, forget};

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::SockProtocol;

use crate::netlink::{What, ask, attribute};

/// A connection: as its client sees it, and as its backend answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub proto: u8,
    pub client: SocketAddr,
    pub frontend: SocketAddr,
    pub backend: SocketAddr,
    /// The client as the backend sees it.
    pub nat: SocketAddr,
    pub answered: bool,
    /// One side has sent its FIN.
    pub half_closed: bool,
}

// Messages of `NFNL_SUBSYS_CTNETLINK` (linux/netfilter/nfnetlink_conntrack.h).
const NEW: u16 = 1 << 8;
const GET: u16 = NEW | 1;
const DELETE: u16 = NEW | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CONFIRMED: u32 = 1 << 3;
const DST_NAT: u32 = 1 << 5;
// enum tcp_conntrack
const SYN_SENT: u8 = 1;
const ESTABLISHED: u8 = 3;
const FIN_WAIT: u8 = 4;
const CLOSE_WAIT: u8 = 5;

/// The translated connections of this network namespace that live.
pub fn translated() -> io::Result<Vec<Connection>> {
    // struct nfgenmsg: any family, version 0.
    let bodies = ask(SockProtocol::NetlinkNetFilter, GET, What::Dump, &[0; 4])?;
    Ok(bodies
        .iter()
        .filter_map(|body| connection(body.get(4..)?))
        .collect())
}

fn connection(bytes: &[u8]) -> Option<Connection> {
    let (proto, client, frontend) = tuple(attribute(bytes, TUPLE_ORIG)?)?;
    let (_, backend, nat) = tuple(attribute(bytes, TUPLE_REPLY)?)?;
    let status = u32::from_be_bytes(attribute(bytes, STATUS)?.try_into().ok()?);
    if status & DST_NAT == 0 {
        return None;
    }
    let state = attribute(bytes, PROTOINFO)
        .and_then(|info| attribute(info, PROTOINFO_TCP))
        .and_then(|tcp| attribute(tcp, TCP_STATE)?.first().copied());
    // What has hardly begun begins again with us; what is closed has nothing more to say.
    if state.is_some_and(|state| state <= SYN_SENT || state > CLOSE_WAIT) {
        return None;
    }
    Some(Connection {
        proto,
        client,
        frontend,
        backend,
        nat,
        answered: status & SEEN_REPLY != 0,
        half_closed: state.is_some_and(|state| state >= FIN_WAIT),
    })
}

/// Protocol, source and destination.
fn tuple(bytes: &[u8]) -> Option<(u8, SocketAddr, SocketAddr)> {
    let (ip, proto) = (attribute(bytes, TUPLE_IP)?, attribute(bytes, TUPLE_PROTO)?);
    // CTA_IP_V4_SRC, _DST, CTA_IP_V6_SRC, _DST; CTA_PROTO_NUM, _SRC_PORT, _DST_PORT.
    let (src, dst) = match (attribute(ip, 1), attribute(ip, 2)) {
        (Some(src), Some(dst)) => (v4(src)?, v4(dst)?),
        _ => (v6(attribute(ip, 3)?)?, v6(attribute(ip, 4)?)?),
    };
    let port = |kind| Some(u16::from_be_bytes(attribute(proto, kind)?.try_into().ok()?));
    Some((
        *attribute(proto, 1)?.first()?,
        SocketAddr::new(src, port(2)?),
        SocketAddr::new(dst, port(3)?),
    ))
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{nest, put};

    fn side(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16) -> Vec<u8> {
        let ip = [put(1, &src), put(2, &dst)];
        let proto = [
            put(1, &[6]),
            put(2, &sport.to_be_bytes()),
            put(3, &dport.to_be_bytes()),
        ];
        [nest(TUPLE_IP, &ip), nest(TUPLE_PROTO, &proto)].concat()
    }

    fn entry(status: u32, state: u8) -> Vec<u8> {
        let client = ([10, 0, 0, 5], 4_000);
        [
            put(TUPLE_ORIG, &side(client.0, client.1, [10, 96, 0, 1], 80)),
            put(TUPLE_REPLY, &side([10, 1, 0, 2], 8_080, client.0, client.1)),
            put(STATUS, &status.to_be_bytes()),
            put(PROTOINFO, &put(PROTOINFO_TCP, &put(TCP_STATE, &[state]))),
        ]
        .concat()
    }

    #[test]
    fn a_translated_connection_is_read() {
        let found = connection(&entry(DST_NAT | SEEN_REPLY, 3)).unwrap();
        assert_eq!(found.client, "10.0.0.5:4000".parse().unwrap());
        assert_eq!(found.frontend, "10.96.0.1:80".parse().unwrap());
        assert_eq!(found.backend, "10.1.0.2:8080".parse().unwrap());
        assert_eq!(found.nat, found.client);
        assert!(found.answered && !found.half_closed);
        assert!(connection(&entry(DST_NAT, CLOSE_WAIT)).unwrap().half_closed);
    }

    #[test]
    fn what_is_not_translated_or_does_not_live_is_left_out() {
        assert_eq!(connection(&entry(SEEN_REPLY, 3)), None);
        for state in [0, SYN_SENT, 6, 7, 8] {
            assert_eq!(connection(&entry(DST_NAT, state)), None, "state {state}");
        }
        assert_eq!(connection(&[1, 2, 3]), None);
    }
}
