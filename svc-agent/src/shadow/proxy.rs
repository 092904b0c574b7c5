//! What kube-proxy's rules do for each frontend. Pure: rules in, frontends out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::rules::{Data, Rules, Step, Verdict};

/// Chains lead no further than this.
pub const DEEPEST: usize = 8;

/// What a client gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fate {
    pub backends: BTreeSet<SocketAddr>,
    /// Where there are none: the client is not told.
    pub drops: bool,
    /// Backends see the node in the client's place, wherever they are. None: not to be told.
    pub masquerades: Option<bool>,
}

impl Fate {
    /// What a walk through the rules finds. None: it leads nowhere.
    pub fn reached(walk: impl FnOnce(&mut Self)) -> Option<Self> {
        let mut fate = Self {
            masquerades: Some(false),
            ..Self::default()
        };
        walk(&mut fate);
        (!fate.backends.is_empty()).then_some(fate)
    }

    /// Nobody answers, and the client is told so or not.
    pub fn nobody(drops: bool) -> Self {
        Self {
            drops,
            ..Self::default()
        }
    }
}

/// One address, port and protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    /// For pods and processes of the node; None: nobody answers.
    pub inside: Option<Fate>,
    /// For everybody else.
    pub outside: Option<Fate>,
    /// Session affinity in seconds.
    pub affinity: u64,
    /// Only some sources may ask.
    pub restricted: bool,
    /// `namespace/name`, and a port's name behind a colon.
    pub service: Option<String>,
    pub is_cluster_ip: bool,
}

impl Frontend {
    /// For whom no rule leads to a backend.
    pub fn otherwise(&mut self, fate: &Fate) {
        for side in [&mut self.inside, &mut self.outside] {
            side.get_or_insert_with(|| fate.clone());
        }
    }
}

pub type Key = (SocketAddr, u8);

/// All frontends of one family, and the node's addresses that NodePorts are at (none: all of them).
pub fn frontends(rules: &Rules, v6: bool, node: &[IpAddr]) -> BTreeMap<Key, Frontend> {
    let ports_at: BTreeSet<IpAddr> = keys(rules, "nodeport-ips")
        .filter_map(|(key, _)| address(key, v6))
        .collect();
    let ports_at: Vec<IpAddr> = if ports_at.is_empty() {
        node.to_vec()
    } else {
        ports_at.into_iter().collect()
    };
    let cluster_ips: BTreeSet<IpAddr> = keys(rules, "cluster-ips")
        .filter_map(|(key, _)| address(key, v6))
        .collect();
    let mut found: BTreeMap<Key, Frontend> = BTreeMap::new();
    let at = |key: &[u8], with_address: bool| -> Vec<Key> {
        let (addresses, rest) = if with_address {
            let len = if v6 { 16 } else { 4 };
            (address(key, v6).into_iter().collect(), key.get(len..))
        } else {
            (ports_at.clone(), Some(key))
        };
        let Some((proto, port)) = rest.and_then(proto_port) else {
            return Vec::new();
        };
        let key = |ip| (SocketAddr::new(ip, port), proto);
        addresses.into_iter().map(key).collect()
    };
    for (set, with_address) in [("service-ips", true), ("service-nodeports", false)] {
        for (key, data) in keys(rules, set) {
            let Data::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)) = data else {
                continue;
            };
            for key in at(key, with_address) {
                let frontend = found.entry(key).or_default();
                let mut walk = Walk::new(rules, v6);
                frontend.inside = walk.fate(chain, true);
                frontend.outside = walk.fate(chain, false);
                frontend.affinity = walk.affinity;
                frontend.service = service(chain);
            }
        }
    }
    let empty = [
        ("no-endpoint-services", true),
        ("no-endpoint-nodeports", false),
    ];
    for (set, with_address) in empty {
        for (key, data) in keys(rules, set) {
            let fate = Fate::nobody(*data == Data::Verdict(Verdict::Drop));
            for key in at(key, with_address) {
                found.entry(key).or_default().otherwise(&fate);
            }
        }
    }
    for (key, _) in keys(rules, "firewall-ips") {
        for key in at(key, true) {
            found.entry(key).or_default().restricted = true;
        }
    }
    for ((to, _), frontend) in &mut found {
        frontend.is_cluster_ip = cluster_ips.contains(&to.ip());
    }
    found
}

fn keys<'a>(rules: &'a Rules, set: &str) -> impl Iterator<Item = (&'a [u8], &'a Data)> {
    let elements = rules.sets.get(set).map(|set| &set.elements);
    elements
        .into_iter()
        .flatten()
        .map(|(key, data)| (key.as_slice(), data))
}

/// From a chain to the endpoints that it leads to.
struct Walk<'a> {
    rules: &'a Rules,
    v6: bool,
    affinity: u64,
}

impl<'a> Walk<'a> {
    const fn new(rules: &'a Rules, v6: bool) -> Self {
        Self {
            rules,
            v6,
            affinity: 0,
        }
    }

    fn fate(&mut self, chain: &str, inside: bool) -> Option<Fate> {
        Fate::reached(|fate| self.walk(chain, inside, 0, fate))
    }

    fn walk(&mut self, chain: &str, inside: bool, depth: usize, fate: &mut Fate) {
        let rules = self.rules;
        let Some(chain) = rules.chains.get(chain).filter(|_| depth < DEEPEST) else {
            return;
        };
        for rule in chain {
            let tested = rule.contains(&Step::Test);
            if rule.contains(&Step::Translates) {
                fate.backends.extend(self.translated(rule));
                return;
            }
            if rule.contains(&Step::SetsMark) && !tested && depth == 0 {
                fate.masquerades = Some(true);
            }
            for step in rule {
                match step {
                    Step::In(set) => {
                        let timeout = rules.sets.get(set).map_or(0, |set| set.timeout);
                        self.affinity = self.affinity.max(timeout);
                    }
                    Step::By(map) => {
                        for (_, data) in keys(rules, map) {
                            if let Data::Verdict(Verdict::Goto(to) | Verdict::Jump(to)) = data {
                                self.walk(to, inside, depth + 1, fate);
                            }
                        }
                    }
                    Step::Then(Verdict::Jump(to))
                        if to == "mark-for-masquerade" && !tested && depth == 0 =>
                    {
                        fate.masquerades = Some(true);
                    }
                    Step::Then(Verdict::Goto(to)) => {
                        let is_bound = rule.iter().any(|step| matches!(step, Step::In(_)));
                        if tested && inside {
                            // Past the traffic policy.
                            self.walk(to, inside, depth + 1, fate);
                            return;
                        }
                        if !tested && !is_bound {
                            self.walk(to, inside, depth + 1, fate);
                            return;
                        }
                    }
                    _ => (),
                }
            }
        }
    }

    /// Where a rule that translates sends: constants, or what a map of endpoints has.
    fn translated(&self, rule: &[Step]) -> Vec<SocketAddr> {
        let (mut ip, mut port, mut found) = (None, None, Vec::new());
        for step in rule {
            match step {
                Step::By(map) => {
                    for (_, data) in keys(self.rules, map) {
                        if let Data::Value(value) = data {
                            found.extend(endpoint(value, self.v6));
                        }
                    }
                }
                Step::Value(value) if value.len() == 2 => port = number(value),
                Step::Value(value) => ip = address(value, self.v6).or(ip),
                _ => (),
            }
        }
        found.extend(ip.zip(port).map(|(ip, port)| SocketAddr::new(ip, port)));
        found
    }
}

/// An address at the begin of a key.
fn address(bytes: &[u8], v6: bool) -> Option<IpAddr> {
    if v6 {
        let bytes: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
        return Some(Ipv6Addr::from(bytes).into());
    }
    let bytes: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes).into())
}

fn endpoint(bytes: &[u8], v6: bool) -> Option<SocketAddr> {
    let ip = address(bytes, v6)?;
    let port = number(bytes.get(if v6 { 16 } else { 4 }..)?)?;
    Some(SocketAddr::new(ip, port))
}

/// Each part of a key fills words.
fn proto_port(bytes: &[u8]) -> Option<(u8, u16)> {
    Some((*bytes.first()?, number(bytes.get(4..)?)?))
}

fn number(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// `external-ABCDEFGH-namespace/name/tcp/port`.
fn service(chain: &str) -> Option<String> {
    let (_, rest) = chain.split_once('-')?;
    let (_, path) = rest.split_once('-')?;
    let mut parts = path.split('/');
    let (namespace, name) = (parts.next()?, parts.next()?);
    let port = parts.nth(1).filter(|port| !port.is_empty());
    let port = port.map_or(String::new(), |port| format!(":{port}"));
    Some(format!("{namespace}/{name}{port}"))
}

#[cfg(test)]
mod tests {
    use super::super::backends;
    use super::super::rules::Set;
    use super::*;

    fn goto(chain: &str) -> Data {
        Data::Verdict(Verdict::Goto(chain.into()))
    }

    fn to(chain: &str) -> Step {
        Step::Then(Verdict::Goto(chain.into()))
    }

    fn map(elements: Vec<(Vec<u8>, Data)>) -> Set {
        Set {
            elements,
            timeout: 0,
        }
    }

    /// A Service with external policy Local, one endpoint of two on this node, and one without endpoints.
    fn rules() -> Rules {
        let cluster_ip = vec![10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0];
        let empty = vec![10, 96, 0, 2, 6, 0, 0, 0, 0, 80, 0, 0];
        let endpoint = |last| Data::Value(vec![10, 244, 1, last, 0x1f, 0x90, 0, 0]);
        let sets = [
            ("cluster-ips", map(vec![(vec![10, 96, 0, 1], Data::None)])),
            (
                "nodeport-ips",
                map(vec![(vec![172, 18, 0, 11], Data::None)]),
            ),
            (
                "service-ips",
                map(vec![(cluster_ip, goto("service-AAAA-shop/web/tcp/http"))]),
            ),
            (
                "service-nodeports",
                map(vec![(
                    vec![6, 0, 0, 0, 0x75, 0x30, 0, 0],
                    goto("external-AAAA-shop/web/tcp/http"),
                )]),
            ),
            (
                "no-endpoint-services",
                map(vec![(empty, goto("reject-chain"))]),
            ),
            (
                "__map0",
                map(vec![(vec![0], endpoint(7)), (vec![1], endpoint(8))]),
            ),
        ];
        let service = "service-AAAA-shop/web/tcp/http";
        let chains = [
            (
                service,
                vec![vec![
                    Step::Test,
                    Step::By("__map0".into()),
                    Step::Translates,
                ]],
            ),
            (
                "local-AAAA-shop/web/tcp/http",
                vec![vec![
                    Step::Test,
                    Step::Value(vec![10, 244, 1, 7]),
                    Step::Value(vec![0x1f, 0x90]),
                    Step::Translates,
                ]],
            ),
            (
                "external-AAAA-shop/web/tcp/http",
                vec![
                    vec![Step::Test, to(service)],
                    vec![Step::Test, Step::SetsMark],
                    vec![to("local-AAAA-shop/web/tcp/http")],
                ],
            ),
        ];
        Rules {
            chains: chains.map(|(name, rules)| (name.into(), rules)).into(),
            sets: sets.map(|(name, set)| (name.into(), set)).into(),
        }
    }

    #[test]
    fn a_frontend_has_the_endpoints_that_its_chains_lead_to() {
        let found = frontends(&rules(), false, &[]);
        let at = |text: &str| &found[&(text.parse().unwrap(), 6)];
        let web = at("10.96.0.1:80");
        assert!(web.is_cluster_ip);
        assert_eq!(web.service.as_deref(), Some("shop/web:http"));
        assert_eq!(
            backends(&web.inside),
            ["10.244.1.7:8080", "10.244.1.8:8080"]
        );
        let node_port = at("172.18.0.11:30000");
        assert_eq!(backends(&node_port.outside), ["10.244.1.7:8080"]);
        assert_eq!(
            backends(&node_port.inside),
            ["10.244.1.7:8080", "10.244.1.8:8080"],
            "past the policy"
        );
        assert_eq!(
            node_port.outside.as_ref().and_then(|fate| fate.masquerades),
            Some(false)
        );
        let empty = at("10.96.0.2:80").inside.as_ref().unwrap();
        assert!(empty.backends.is_empty() && !empty.drops);
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn affinity_is_told_by_the_sets_of_clients_and_its_endpoints_counted_once() {
        let mut rules = rules();
        let bound = Step::In("affinity-AAAA".into());
        let endpoint = "endpoint-AAAA-shop/web/tcp/http__10.244.1.9/8080";
        rules.sets.insert(
            "affinity-AAAA".into(),
            Set {
                elements: Vec::new(),
                timeout: 10_800,
            },
        );
        rules
            .sets
            .insert("__map0".into(), map(vec![(vec![0], goto(endpoint))]));
        rules.chains.insert(
            "service-AAAA-shop/web/tcp/http".into(),
            vec![vec![bound, to(endpoint)], vec![Step::By("__map0".into())]],
        );
        rules.chains.insert(
            endpoint.into(),
            vec![
                vec![Step::Test, Step::SetsMark],
                vec![
                    Step::Test,
                    Step::Value(vec![10, 244, 1, 9]),
                    Step::Value(vec![0x1f, 0x90]),
                    Step::Translates,
                ],
            ],
        );
        let found = frontends(&rules, false, &[]);
        let web = &found[&("10.96.0.1:80".parse().unwrap(), 6)];
        assert_eq!(web.affinity, 10_800);
        assert_eq!(backends(&web.inside), ["10.244.1.9:8080"]);
    }

    #[test]
    fn chains_that_lead_round_in_circles_end() {
        let mut rules = rules();
        rules.chains.insert(
            "service-AAAA-shop/web/tcp/http".into(),
            vec![vec![to("service-AAAA-shop/web/tcp/http")]],
        );
        let found = frontends(&rules, false, &[]);
        assert_eq!(found[&("10.96.0.1:80".parse().unwrap(), 6)].inside, None);
    }
}
