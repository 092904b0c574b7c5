//! Source ranges of load balancer addresses (semantics C11). They are `spec.loadBalancerSourceRanges` alone: the
//! annotation of the same name is for the firewalls of cloud providers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Facts, Refused};
use crate::cluster::{Service, ServiceType};
use crate::config::Cidr;

/// Who may ask at a Service's load balancer addresses.
#[derive(Default)]
pub(super) struct Restriction {
    v4: bool,
    v6: bool,
    ranges: BTreeSet<Cidr>,
}

impl Restriction {
    pub(super) fn new(service: &Service, facts: &Facts, refused: &mut Refused) -> Self {
        if service.r#type != ServiceType::LoadBalancer || service.load_balancer_ips.is_empty() {
            return Self::default();
        }
        let mut told = Told::default();
        for text in &service.source_ranges {
            told.read(text.trim(), refused);
        }
        let mut restriction = Self {
            v4: told.restricts(true),
            v6: told.restricts(false),
            ranges: BTreeSet::new(),
        };
        let (v4, v6) = (restriction.v4, restriction.v6);
        told.ranges
            .retain(|range| if range.is_ipv4() { v4 } else { v6 });
        for &vip in &service.load_balancer_ips {
            if told.has_node_of(vip, facts) {
                restriction.ranges.insert(Cidr::host(vip));
            }
        }
        restriction.ranges.extend(told.ranges);
        restriction
    }

    pub(super) fn restricts(&self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }

    pub(super) fn ranges(&self) -> &BTreeSet<Cidr> {
        &self.ranges
    }
}

/// What the object says.
#[derive(Default)]
struct Told {
    ranges: BTreeSet<Cidr>,
    /// Something unreadable may have been meant for IPv4, for IPv6.
    unreadable: [bool; 2],
}

impl Told {
    fn read(&mut self, text: &str, refused: &mut Refused) {
        match text.parse::<Cidr>() {
            Ok(range) => {
                self.ranges.insert(range.canonical());
            }
            Err(why) => {
                refused.because(format!(
                    "loadBalancerSourceRanges: {why}; nobody is let in by it"
                ));
                let (dot, colon) = (text.contains('.'), text.contains(':'));
                self.unreadable[0] |= dot || !colon;
                self.unreadable[1] |= colon || !dot;
            }
        }
    }

    /// A family is open when nothing is said about it, or all of it is let in. It is not open because what was said
    /// could not be read.
    fn restricts(&self, v4: bool) -> bool {
        let mut of_family = self.ranges.iter().filter(|r| r.is_ipv4() == v4).peekable();
        match of_family.peek() {
            Some(_) => !of_family.any(|range| range.length() == 0),
            None => self.unreadable[usize::from(!v4)],
        }
    }

    /// A node that has the load balancer's address as one of its own asks from it.
    fn has_node_of(&self, vip: IpAddr, facts: &Facts) -> bool {
        facts
            .node_addresses
            .iter()
            .filter(|node| node.is_ipv4() == vip.is_ipv4())
            .any(|node| self.ranges.iter().any(|range| range.contains(*node)))
    }
}
