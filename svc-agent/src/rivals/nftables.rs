//! Tables and chains of nftables, iptables-nft's among them, read over netlink: the agent's image has no nft program.

use std::fmt;
use std::io;

use nix::sys::socket::SockProtocol;

use crate::netlink::{What, ask, attribute};

// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
/// struct nfgenmsg: the family, a version, and nothing of ours.
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
    let dump = |what| {
        ask(
            SockProtocol::NetlinkNetFilter,
            what,
            What::Dump,
            &[0; GENERIC],
        )
    };
    Ok(Ruleset {
        tables: dump(GET_TABLE)?.iter().filter_map(|t| table(t)).collect(),
        chains: dump(GET_CHAIN)?.iter().filter_map(|c| chain(c)).collect(),
    })
}

pub(super) fn table(message: &[u8]) -> Option<(Family, String)> {
    let (family, attributes) = generic(message)?;
    Some((family, text(attributes, TABLE_NAME)?))
}

pub(super) fn chain(message: &[u8]) -> Option<Chain> {
    let (family, attributes) = generic(message)?;
    Some(Chain {
        family,
        table: text(attributes, CHAIN_TABLE)?,
        name: text(attributes, CHAIN_NAME)?,
    })
}

fn generic(message: &[u8]) -> Option<(Family, &[u8])> {
    let (generic, attributes) = message.split_at_checked(GENERIC)?;
    Some((Family(generic[0]), attributes))
}

/// The string of an attribute.
fn text(attributes: &[u8], wanted: u16) -> Option<String> {
    let value = attribute(attributes, wanted)?;
    let text = value.split(|b| *b == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(text).into_owned())
}
