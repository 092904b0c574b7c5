//! Tables and chains of nftables, iptables-nft's among them, read over netlink: the agent's image has no nft program.

use std::fmt;
use std::io;

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h, netlink.h
const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// nlmsghdr, and nfgenmsg behind it.
const HEADER: usize = 16;
const GENERIC: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Family(u8);

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "inet",
            2 => "ip",
            5 => "netdev",
            7 => "bridge",
            10 => "ip6",
            _ => "other",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) family: Family,
    pub(super) table: String,
    pub(super) name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) tables: Vec<(Family, String)>,
    pub(super) chains: Vec<Chain>,
}

/// Of this network namespace.
pub(super) fn read() -> io::Result<Ruleset> {
    let mut ruleset = Ruleset::default();
    for what in [GET_TABLE, GET_CHAIN] {
        dump(what, &mut ruleset)?;
    }
    Ok(ruleset)
}

fn dump(what: u16, ruleset: &mut Ruleset) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(what), 0)?;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        if bytes.is_empty() || take_in(&bytes, ruleset)? {
            return Ok(());
        }
    }
}

/// All families.
fn request(what: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + GENERIC);
    bytes.extend(((HEADER + GENERIC) as u32).to_ne_bytes());
    bytes.extend(what.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8 + GENERIC]);
    bytes
}

/// Reads the messages of one datagram; true when the dump is over.
pub(super) fn take_in(mut bytes: &[u8], ruleset: &mut Ruleset) -> io::Result<bool> {
    while let Some((header, _)) = bytes.split_at_checked(HEADER) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(message) = bytes.get(HEADER..length) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = message.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                return match code {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            NEW_TABLE | NEW_CHAIN => object(kind, message, ruleset),
            _ => (),
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

fn object(kind: u16, message: &[u8], ruleset: &mut Ruleset) {
    let Some((generic, attributes)) = message.split_at_checked(GENERIC) else {
        return;
    };
    let family = Family(generic[0]);
    let text = |wanted| text(attributes, wanted);
    if kind == NEW_TABLE {
        ruleset
            .tables
            .extend(text(TABLE_NAME).map(|name| (family, name)));
    } else if let (Some(table), Some(name)) = (text(CHAIN_TABLE), text(CHAIN_NAME)) {
        ruleset.chains.push(Chain {
            family,
            table,
            name,
        });
    }
}

/// The string of an attribute.
fn text(mut attributes: &[u8], wanted: u16) -> Option<String> {
    loop {
        let header: &[u8; 4] = attributes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        // The two highest bits say nested and network order.
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            let text = value.split(|b| *b == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}
