//! Tables and chains of nftables, iptables-nft's among them, read over netlink: the agent's image has no nft program.

use std::fmt;
use std::io;

use nix::sys::socket::SockProtocol;

use crate::netlink::{What, ask, attribute, text};

// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
/// Hook numbers of families ip, ip6 and inet (include/uapi/linux/netfilter.h).
pub const PREROUTING: u32 = 0;
pub const FORWARD: u32 = 2;
pub const POSTROUTING: u32 = 4;
/// struct nfgenmsg: the family, a version, and nothing of ours.
const GENERIC: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family(u8);

impl From<u8> for Family {
    fn from(number: u8) -> Self {
        Self(number)
    }
}

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
pub struct Chain {
    pub family: Family,
    pub table: String,
    pub name: String,
    /// None: met only from other chains.
    pub base: Option<Base>,
}

/// A chain that packets meet at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub hook: u32,
    /// filter, nat or route.
    pub kind: String,
    /// How many rules it has.
    pub rules: u32,
    /// What no rule decides is dropped.
    pub drops: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub tables: Vec<(Family, String)>,
    pub chains: Vec<Chain>,
}

/// Of this network namespace.
pub fn read() -> io::Result<Ruleset> {
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

pub fn table(message: &[u8]) -> Option<(Family, String)> {
    let (family, attributes) = generic(message)?;
    Some((family, text(attributes, TABLE_NAME)?))
}

pub fn chain(message: &[u8]) -> Option<Chain> {
    let (family, attributes) = generic(message)?;
    Some(Chain {
        family,
        table: text(attributes, CHAIN_TABLE)?,
        name: text(attributes, CHAIN_NAME)?,
        base: base(attributes),
    })
}

fn base(attributes: &[u8]) -> Option<Base> {
    let number = |bytes: &[u8]| {
        let bytes: [u8; 4] = bytes.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    let of = |wanted| attribute(attributes, wanted).and_then(number);
    let hook = attribute(attribute(attributes, CHAIN_HOOK)?, HOOK_NUMBER)?;
    Some(Base {
        hook: number(hook)?,
        kind: text(attributes, CHAIN_TYPE).unwrap_or_default(),
        // Nothing can jump to it, so only its rules use it.
        rules: of(CHAIN_USE).unwrap_or(0),
        drops: of(CHAIN_POLICY) == Some(0),
    })
}

fn generic(message: &[u8]) -> Option<(Family, &[u8])> {
    let (generic, attributes) = message.split_at_checked(GENERIC)?;
    Some((Family(generic[0]), attributes))
}
