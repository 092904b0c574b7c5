//! A connection of ours as one that the kernel translates.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::SockProtocol;
use svc_common::table::TCP;

use super::{
    ASSURED, CONFIRMED, Connection, DELETE, ESTABLISHED, FIN_WAIT, NEW, PROTOINFO, PROTOINFO_TCP,
    SEEN_REPLY, STATUS, SYN_SENT, TCP_STATE, TUPLE_IP, TUPLE_ORIG, TUPLE_PROTO, TUPLE_REPLY,
};
use crate::netlink::{What, ask, nest, put};

const NAT_SRC: u16 = 6;
const TIMEOUT: u16 = 7;
const NAT_DST: u16 = 13;
const NAT_PROTO: u16 = 3;
const TCP_FLAGS: [u16; 2] = [4, 5];
/// Flags and their mask: `IP_CT_TCP_FLAG_BE_LIBERAL`, for nobody knows the windows of a connection that has begun elsewhere.
const BE_LIBERAL: [u8; 2] = [8, 8];

/// Writes it down, for so many seconds of silence. Fails with `EEXIST` where the kernel knows one of its tuples.
pub fn establish(connection: &Connection, seconds: u32) -> io::Result<()> {
    let Connection {
        proto,
        client,
        frontend,
        backend,
        nat,
        answered,
        half_closed,
    } = *connection;
    let mut attributes = vec![
        nest(TUPLE_ORIG, &tuple(proto, client, frontend)),
        // As if nothing were translated: the kernel makes of it what the translations below say.
        nest(TUPLE_REPLY, &tuple(proto, frontend, client)),
        put(TIMEOUT, &seconds.to_be_bytes()),
        nest(NAT_DST, &to(backend)),
    ];
    if nat != client {
        attributes.push(nest(NAT_SRC, &to(nat)));
    }
    if answered {
        attributes.push(put(
            STATUS,
            &(SEEN_REPLY | ASSURED | CONFIRMED).to_be_bytes(),
        ));
    }
    if proto == TCP {
        let state = match (answered, half_closed) {
            (_, true) => FIN_WAIT,
            (true, false) => ESTABLISHED,
            (false, false) => SYN_SENT,
        };
        let [client, server] = TCP_FLAGS.map(|kind| put(kind, &BE_LIBERAL));
        let tcp = nest(PROTOINFO_TCP, &[put(TCP_STATE, &[state]), client, server]);
        attributes.push(nest(PROTOINFO, &[tcp]));
    }
    send(NEW, What::Create, frontend, &attributes)
}

/// Makes the kernel forget a connection by the tuple of its client's packets, as it sees them.
pub fn forget(proto: u8, src: SocketAddr, dst: SocketAddr) -> io::Result<()> {
    let tuple = nest(TUPLE_ORIG, &tuple(proto, src, dst));
    match send(DELETE, What::Action, dst, &[tuple]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        outcome => outcome,
    }
}

fn send(message: u16, what: What, of: SocketAddr, attributes: &[Vec<u8>]) -> io::Result<()> {
    let family = if of.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // struct nfgenmsg
    let mut body = vec![family.to_le_bytes()[0], 0, 0, 0];
    body.extend(attributes.concat());
    ask(SockProtocol::NetlinkNetFilter, message, what, &body).map(drop)
}

fn tuple(proto: u8, src: SocketAddr, dst: SocketAddr) -> [Vec<u8>; 2] {
    // CTA_IP_V4_SRC, CTA_IP_V6_SRC; the destination is the next one.
    let first = if src.is_ipv4() { 1 } else { 3 };
    let ip = [
        put(first, &bytes(src.ip())),
        put(first + 1, &bytes(dst.ip())),
    ];
    let ports = [
        put(1, &[proto]),
        put(2, &src.port().to_be_bytes()),
        put(3, &dst.port().to_be_bytes()),
    ];
    [nest(TUPLE_IP, &ip), nest(TUPLE_PROTO, &ports)]
}

/// A translation to one address and port. Without the greatest the least is it.
fn to(addr: SocketAddr) -> [Vec<u8>; 2] {
    // CTA_NAT_V4_MINIP, CTA_NAT_V6_MINIP.
    let kind = if addr.is_ipv4() { 1 } else { 4 };
    let port = put(1, &addr.port().to_be_bytes());
    [put(kind, &bytes(addr.ip())), nest(NAT_PROTO, &[port])]
}

fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
