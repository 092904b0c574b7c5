//! The rules of kube-proxy's nftables table, read over netlink: the agent's image has no nft program. Of a rule only what
//! leads to an endpoint is understood: where it goes on, what it looks up, what it writes.

use std::collections::BTreeMap;
use std::io;

use nix::sys::socket::SockProtocol;

use crate::netlink::{What, ask, attribute, attributes, text};

// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
const SUBSYSTEM: u16 = 10 << 8;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_SET: u16 = SUBSYSTEM | 10;
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
/// The table is the first attribute of rules, sets and elements alike.
const TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const LOOKUP_SET: u16 = 1;
const LOOKUP_RESULT: u16 = 3;
const META_SOURCE: u16 = 3;
const SET_NAME: u16 = 2;
const SET_TIMEOUT: u16 = 11;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const GOTO: i32 = -4;
const JUMP: i32 = -3;
const DROP: i32 = 0;
/// `struct nfgenmsg`.
const GENERIC: usize = 4;
const NAME: &[u8] = b"kube-proxy\0";

/// What one expression of a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Only some packets go on to the next expression.
    Test,
    /// Only those whose key is in the set.
    In(String),
    /// The map says what follows.
    By(String),
    Then(Verdict),
    /// A constant, for an expression after it.
    Value(Vec<u8>),
    SetsMark,
    Translates,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Goto(String),
    Jump(String),
    Drop,
    Other,
}

/// What a map has for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    Verdict(Verdict),
    Value(Vec<u8>),
    /// It is a set.
    None,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    pub elements: Vec<(Vec<u8>, Data)>,
    /// In seconds; 0: none.
    pub timeout: u64,
}

/// One family's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// By chain, in order.
    pub chains: BTreeMap<String, Vec<Vec<Step>>>,
    pub sets: BTreeMap<String, Set>,
}

/// Of this network namespace. None: there is no such table.
pub fn read(v6: bool) -> io::Result<Option<Rules>> {
    let mut rules = Rules::default();
    for body in dump(v6, GET_RULE, &[(TABLE, NAME)])? {
        if let Some((chain, rule)) = rule(body.get(GENERIC..).unwrap_or_default()) {
            rules.chains.entry(chain).or_default().push(rule);
        }
    }
    for body in dump(v6, GET_SET, &[(TABLE, NAME)])? {
        let attributes = body.get(GENERIC..).unwrap_or_default();
        let Some(name) = text(attributes, SET_NAME) else {
            continue;
        };
        let mut set = Set {
            timeout: timeout(attributes),
            ..Set::default()
        };
        // Whom clients are bound to is not asked.
        if set.timeout == 0 {
            let zero = [name.as_bytes(), &[0]].concat();
            for body in dump(v6, GET_ELEMENTS, &[(TABLE, NAME), (ELEMENTS_SET, &zero)])? {
                let listed = body
                    .get(GENERIC..)
                    .and_then(|body| attribute(body, ELEMENTS));
                set.elements
                    .extend(attributes_of(listed).filter_map(element));
            }
        }
        rules.sets.insert(name, set);
    }
    let is_there = !rules.chains.is_empty() || !rules.sets.is_empty();
    Ok(is_there.then_some(rules))
}

fn dump(v6: bool, what: u16, wanted: &[(u16, &[u8])]) -> io::Result<Vec<Vec<u8>>> {
    let family = if v6 { 10 } else { 2 };
    let mut body = vec![family, 0, 0, 0];
    for (kind, content) in wanted {
        let len = u16::try_from(content.len() + 4).map_err(io::Error::other)?;
        body.extend(len.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(*content);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    match ask(SockProtocol::NetlinkNetFilter, what, What::Dump, &body) {
        // No such table; no nftables at all.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
            Ok(Vec::new())
        }
        other => other,
    }
}

fn attributes_of(bytes: Option<&[u8]>) -> impl Iterator<Item = &[u8]> {
    attributes(bytes.unwrap_or_default()).map(|(_, content)| content)
}

fn rule(bytes: &[u8]) -> Option<(String, Vec<Step>)> {
    let expressions = attributes_of(attribute(bytes, RULE_EXPRESSIONS));
    Some((
        text(bytes, RULE_CHAIN)?,
        expressions.filter_map(step).collect(),
    ))
}

fn step(expression: &[u8]) -> Option<Step> {
    let name = text(expression, EXPRESSION_NAME)?;
    let data = attribute(expression, EXPRESSION_DATA).unwrap_or_default();
    match name.as_str() {
        "immediate" => match self::data(attribute(data, IMMEDIATE_DATA)?) {
            Data::Verdict(verdict) => Some(Step::Then(verdict)),
            Data::Value(value) => Some(Step::Value(value)),
            Data::None => None,
        },
        "lookup" => {
            let set = text(data, LOOKUP_SET)?;
            Some(match attribute(data, LOOKUP_RESULT) {
                Some(_) => Step::By(set),
                None => Step::In(set),
            })
        }
        "meta" => attribute(data, META_SOURCE).map(|_| Step::SetsMark),
        "nat" => Some(Step::Translates),
        "cmp" | "range" => Some(Step::Test),
        _ => None,
    }
}

fn element(bytes: &[u8]) -> Option<(Vec<u8>, Data)> {
    let key = attribute(attribute(bytes, ELEMENT_KEY)?, DATA_VALUE)?;
    let data = attribute(bytes, ELEMENT_DATA).map_or(Data::None, data);
    Some((key.to_vec(), data))
}

fn data(bytes: &[u8]) -> Data {
    if let Some(value) = attribute(bytes, DATA_VALUE) {
        return Data::Value(value.to_vec());
    }
    let Some(verdict) = attribute(bytes, DATA_VERDICT) else {
        return Data::None;
    };
    let code = attribute(verdict, VERDICT_CODE)
        .and_then(|code| code.try_into().ok())
        .map(i32::from_be_bytes);
    Data::Verdict(match (code, text(verdict, VERDICT_CHAIN)) {
        (Some(GOTO), Some(chain)) => Verdict::Goto(chain),
        (Some(JUMP), Some(chain)) => Verdict::Jump(chain),
        (Some(DROP), _) => Verdict::Drop,
        _ => Verdict::Other,
    })
}

/// Milliseconds, rounded up.
fn timeout(set: &[u8]) -> u64 {
    attribute(set, SET_TIMEOUT)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, |bytes| u64::from_be_bytes(bytes).div_ceil(1_000))
}
