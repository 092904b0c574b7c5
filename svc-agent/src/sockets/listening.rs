//! The sockets of this network namespace that take connections or datagrams of anybody, by socket diagnostics.

use std::io;

use nix::sys::socket::SockProtocol;

use super::{BY_FAMILY, ID_LEN, MESSAGE_ID, own, request};
use crate::desired::Protocol;
use crate::guard::Listener;
use crate::netlink::{What, ask, attribute};

/// `1 << TCP_LISTEN`; a UDP socket that is connected to nobody is in state `TCP_CLOSE`.
const LISTENS: [(Protocol, u32); 2] = [(Protocol::Tcp, 1 << 10), (Protocol::Udp, 1 << 7)];
/// `struct inet_diag_msg`; attributes follow.
const MESSAGE_LEN: usize = 72;
/// `INET_DIAG_SKV6ONLY` (linux/inet_diag.h).
const V6_ONLY: u16 = 11;

/// Lists them. SCTP has no such diagnostics in common kernels.
pub fn listening() -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (protocol, state) in LISTENS {
            let question = request(family, protocol.number(), state, &[0; ID_LEN]);
            let listed = ask(
                SockProtocol::NetlinkSockDiag,
                BY_FAMILY,
                What::Dump,
                &question,
            )?;
            found.extend(listed.iter().filter_map(|m| listener(family, protocol, m)));
        }
    }
    Ok(found)
}

fn listener(family: i32, protocol: Protocol, message: &[u8]) -> Option<Listener> {
    let at = own(family, message.get(MESSAGE_ID..MESSAGE_ID + ID_LEN)?)?;
    let attributes = message.get(MESSAGE_LEN..).unwrap_or_default();
    Some(Listener {
        at,
        protocol,
        v6_only: attribute(attributes, V6_ONLY).is_some_and(|value| value.first() == Some(&1)),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn what_listens_is_listed_and_what_is_connected_is_not() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(tcp.local_addr().unwrap()).unwrap();
        let found = match listening() {
            Ok(found) => found,
            Err(error) => panic!("the kernel has socket diagnostics of TCP and UDP: {error}"),
        };
        let has = |at, protocol| found.iter().any(|l| l.at == at && l.protocol == protocol);
        assert!(has(tcp.local_addr().unwrap(), Protocol::Tcp));
        assert!(has(udp.local_addr().unwrap(), Protocol::Udp));
        assert!(!has(connected.local_addr().unwrap(), Protocol::Udp));
    }
}
