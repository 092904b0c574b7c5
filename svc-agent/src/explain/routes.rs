//! The way to an address, as the kernel has it: RTM_GETROUTE.

use std::net::IpAddr;

use nix::sys::socket::SockProtocol;

use super::tables::Way;
use crate::netlink::{What, ask, attribute, u32_at};

// include/uapi/linux/rtnetlink.h
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
/// `struct rtmsg`.
const HEADER: usize = 12;
const TYPE: usize = 7;

/// None: there is no route, or none that leads anywhere.
pub fn way_to(ip: IpAddr) -> Option<Way> {
    let answers = ask(
        SockProtocol::NetlinkRoute,
        RTM_GETROUTE,
        What::Action,
        &question(ip),
    )
    .ok()?;
    way(answers.first()?)
}

fn question(ip: IpAddr) -> Vec<u8> {
    let (family, octets) = match ip {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    let bits = octets.len() as u8 * 8;
    let mut body = vec![0; HEADER];
    (body[0], body[1]) = (family as u8, bits);
    body.extend((4 + octets.len() as u16).to_ne_bytes());
    body.extend(RTA_DST.to_ne_bytes());
    body.extend(octets);
    body
}

fn way(answer: &[u8]) -> Option<Way> {
    let kind = *answer.get(TYPE)?;
    let attributes = answer.get(HEADER..)?;
    let address = |bytes: &[u8]| -> Option<IpAddr> {
        match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
            _ => None,
        }
    };
    // RTA_VIA: a gateway of the other family, behind the number of that.
    let via = || attribute(attributes, RTA_VIA).and_then(|via| address(via.get(2..)?));
    matches!(kind, RTN_UNICAST | RTN_LOCAL).then_some(())?;
    Some(Way {
        ifindex: u32_at(attribute(attributes, RTA_OIF)?, 0)?,
        gateway: attribute(attributes, RTA_GATEWAY)
            .and_then(address)
            .or_else(via),
        local: kind == RTN_LOCAL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_an_outgoing_device_is_no_way() {
        assert_eq!(way(&[]), None);
        assert_eq!(way(&[0; HEADER]), None);
        let mut answer = vec![0; HEADER];
        answer[TYPE] = RTN_UNICAST;
        assert_eq!(way(&answer), None);
        answer.extend([8, 0, RTA_OIF as u8, 0, 7, 0, 0, 0]);
        answer.extend([8, 0, RTA_GATEWAY as u8, 0, 192, 0, 2, 1]);
        let found = Way {
            ifindex: 7,
            gateway: Some("192.0.2.1".parse().unwrap()),
            local: false,
        };
        assert_eq!(way(&answer), Some(found));
        for len in 0..answer.len() {
            let _ = way(&answer[..len]);
        }
    }

    #[test]
    fn loopback_is_this_node() {
        let way = way_to("127.0.0.1".parse().unwrap()).expect("there is loopback everywhere");
        assert!(way.local);
    }
}
