//! The same of kube-proxy's iptables mode, as `iptables-save` prints it: nobody else can read the rules of the old
//! iptables, and those of the new one are for its own eyes, too.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result};

use super::proxy::{DEEPEST, Fate, Frontend, Key};
use crate::desired::Protocol;

/// Both, for one of them may be the other's empty shell.
const PROGRAMS: [[&str; 2]; 2] = [
    ["iptables-nft-save", "ip6tables-nft-save"],
    ["iptables-legacy-save", "ip6tables-legacy-save"],
];

/// The rules by chain, of all tables: kube-proxy's chains have different names in each.
pub type Rules = BTreeMap<String, Vec<Rule>>;

/// What is understood of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    to: Option<IpAddr>,
    protocol: Option<u8>,
    port: Option<u16>,
    target: String,
    destination: Option<SocketAddr>,
    /// `-m recent --rcheck`.
    bound: Option<u64>,
    /// Only some packets: other matches than of the frontend, and chance.
    tested: bool,
    /// To a range of addresses.
    ranged: bool,
    /// Where the match says so: `namespace/name:port`.
    service: Option<String>,
}

/// None: there are no rules of kube-proxy.
pub fn read(v6: bool) -> Result<Option<Rules>> {
    for programs in PROGRAMS {
        let program = programs[usize::from(v6)];
        let Ok(output) = Command::new(program).output() else {
            continue;
        };
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(anyhow::anyhow!(
                "{}",
                why.lines().next().unwrap_or("it failed")
            ))
            .with_context(|| format!("reading kube-proxy's rules by {program}"));
        }
        let rules = parse(&String::from_utf8_lossy(&output.stdout));
        if rules.contains_key("KUBE-SERVICES") {
            return Ok(Some(rules));
        }
    }
    Ok(None)
}

fn parse(text: &str) -> Rules {
    let mut rules = Rules::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("-A ")) {
        let Some((chain, rest)) = line.split_once(' ') else {
            continue;
        };
        rules.entry(chain.into()).or_default().push(rule(rest));
    }
    rules
}

fn rule(text: &str) -> Rule {
    let mut rule = Rule::default();
    let words = words(text);
    let mut words = words.iter().map(String::as_str);
    let (mut recent, mut seconds) = (false, None);
    while let Some(word) = words.next() {
        match word {
            "-d" => {
                let to = words.next().unwrap_or_default();
                rule.to = host(to);
                // A range is nobody's frontend: NodePorts at 127.0.0.0/8.
                rule.ranged = rule.to.is_none();
            }
            "-p" => rule.protocol = words.next().and_then(number),
            "--dport" => rule.port = words.next().and_then(|port| port.parse().ok()),
            "-j" | "-g" => rule.target = words.next().unwrap_or_default().into(),
            "--to-destination" => rule.destination = words.next().and_then(|to| to.parse().ok()),
            "--comment" => rule.service = words.next().and_then(service),
            "--rcheck" => recent = true,
            "--seconds" => seconds = words.next().and_then(|seconds| seconds.parse().ok()),
            "-s" | "--src-type" | "!" => rule.tested = true,
            _ => (),
        }
    }
    if recent {
        rule.bound = seconds;
    }
    rule
}

/// As a shell would split them.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, next) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = next.trim_start();
    }
    words
}

fn host(text: &str) -> Option<IpAddr> {
    let (ip, bits) = text.split_once('/').unwrap_or((text, ""));
    ip.parse()
        .ok()
        .filter(|_| ["", "32", "128"].contains(&bits))
}

fn number(name: &str) -> Option<u8> {
    Protocol::from_name(&name.to_ascii_uppercase()).map(Protocol::number)
}

/// `namespace/name:port cluster IP`, `namespace/name has no endpoints`.
fn service(comment: &str) -> Option<String> {
    let first = comment.split(' ').next()?;
    first.contains('/').then(|| first.to_owned())
}

/// All frontends of one family; NodePorts at the addresses of the node.
pub fn frontends(rules: &Rules, node: &[IpAddr]) -> BTreeMap<Key, Frontend> {
    let mut found: BTreeMap<Key, Frontend> = BTreeMap::new();
    let chain = |name: &str| rules.get(name).into_iter().flatten();
    // --nodeport-addresses; without, all that are local.
    let ports_at: Vec<IpAddr> = chain("KUBE-SERVICES")
        .filter(|rule| rule.target == "KUBE-NODEPORTS")
        .filter_map(|rule| rule.to)
        .collect();
    let node = if ports_at.is_empty() { node } else { &ports_at };
    for rule in chain("KUBE-SERVICES").chain(chain("KUBE-NODEPORTS")) {
        for key in keys(rule, node) {
            if !rule.target.starts_with("KUBE-") {
                continue;
            }
            let frontend = found.entry(key).or_default();
            frontend.service = rule.service.clone();
            // Of policy Cluster, and Local.
            frontend.is_cluster_ip |= ["KUBE-SVC-", "KUBE-SVL-"]
                .iter()
                .any(|kind| rule.target.starts_with(kind));
            frontend.restricted |= rule.target.starts_with("KUBE-FW-");
            let mut walk = Walk { rules, affinity: 0 };
            frontend.inside = walk.fate(&rule.target, true);
            frontend.outside = walk.fate(&rule.target, false);
            frontend.affinity = walk.affinity;
        }
    }
    for rule in chain("KUBE-PROXY-FIREWALL") {
        for key in keys(rule, node) {
            found.entry(key).or_default().restricted = true;
        }
    }
    // In the filter table: what is refused, or not told.
    let filtered = ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS"];
    for rule in filtered.into_iter().flat_map(chain) {
        if !matches!(rule.target.as_str(), "REJECT" | "DROP") {
            continue;
        }
        let fate = Fate::nobody(rule.target == "DROP");
        for key in keys(rule, node) {
            let frontend = found.entry(key).or_default();
            frontend.service = frontend.service.take().or_else(|| rule.service.clone());
            frontend.otherwise(&fate);
        }
    }
    found
}

fn keys(rule: &Rule, node: &[IpAddr]) -> Vec<Key> {
    let Some((protocol, port)) = rule.protocol.zip(rule.port).filter(|_| !rule.ranged) else {
        return Vec::new();
    };
    let addresses = match &rule.to {
        Some(ip) => std::slice::from_ref(ip),
        None => node,
    };
    let key = |ip: &IpAddr| (SocketAddr::new(*ip, port), protocol);
    addresses.iter().map(key).collect()
}

struct Walk<'a> {
    rules: &'a Rules,
    affinity: u64,
}

impl Walk<'_> {
    fn fate(&mut self, chain: &str, inside: bool) -> Option<Fate> {
        Fate::reached(|fate| self.walk(chain, inside, 0, fate))
    }

    fn walk(&mut self, chain: &str, inside: bool, depth: usize, fate: &mut Fate) {
        let rules = self.rules;
        for rule in rules
            .get(chain)
            .filter(|_| depth < DEEPEST)
            .into_iter()
            .flatten()
        {
            self.affinity = self.affinity.max(rule.bound.unwrap_or(0));
            // Pods and the node itself.
            let past_policy = rule.tested && rule.target.starts_with("KUBE-SVC-");
            match rule.target.as_str() {
                "DNAT" => fate.backends.extend(rule.destination),
                "KUBE-MARK-MASQ" if !rule.tested && !chain.starts_with("KUBE-SEP-") => {
                    fate.masquerades = Some(true);
                }
                "KUBE-MARK-MASQ" => (),
                to if past_policy && inside => {
                    self.walk(to, inside, depth + 1, fate);
                    return;
                }
                to if !past_policy && to.starts_with("KUBE-") => {
                    self.walk(to, inside, depth + 1, fate)
                }
                _ => (),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::backends;
    use super::*;

    const SAVED: &str = r#"
*nat
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "shop/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-AAA
-A KUBE-SERVICES -d 192.0.2.1/32 -p tcp -m comment --comment "shop/web:http loadbalancer IP" -m tcp --dport 80 -j KUBE-FW-AAA
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment "shop/web:http" -m tcp --dport 30080 -j KUBE-EXT-AAA
-A KUBE-NODEPORTS -d 127.0.0.0/8 -p tcp -m comment --comment "shop/web:http" -m tcp --dport 30080 -j KUBE-EXT-AAA
-A KUBE-FW-AAA -s 10.0.0.0/8 -m comment --comment "shop/web:http loadbalancer IP" -j KUBE-EXT-AAA
-A KUBE-EXT-AAA -s 10.244.0.0/16 -m comment --comment "pod traffic for shop/web:http external destinations" -j KUBE-SVC-AAA
-A KUBE-EXT-AAA -m comment --comment "masquerade LOCAL traffic" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
-A KUBE-EXT-AAA -m comment --comment "route LOCAL traffic" -m addrtype --src-type LOCAL -j KUBE-SVC-AAA
-A KUBE-EXT-AAA -j KUBE-SVL-AAA
-A KUBE-SVC-AAA ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment "shop/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-AAA -m comment --comment "shop/web:http -> 10.244.1.7:8080" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-A --mask 255.255.255.255 --rsource -j KUBE-SEP-A
-A KUBE-SVC-AAA -m comment --comment "shop/web:http -> 10.244.1.7:8080" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-A
-A KUBE-SVC-AAA -m comment --comment "shop/web:http -> 10.244.2.7:8080" -j KUBE-SEP-B
-A KUBE-SVL-AAA -m comment --comment "shop/web:http -> 10.244.1.7:8080" -j KUBE-SEP-A
-A KUBE-SEP-A -s 10.244.1.7/32 -m comment --comment "shop/web:http" -j KUBE-MARK-MASQ
-A KUBE-SEP-A -p tcp -m comment --comment "shop/web:http" -m tcp -j DNAT --to-destination 10.244.1.7:8080
-A KUBE-SEP-B -p tcp -m comment --comment "shop/web:http" -m tcp -j DNAT --to-destination 10.244.2.7:8080
COMMIT
*filter
-A KUBE-SERVICES -d 10.96.0.2/32 -p udp -m comment --comment "shop/none:dns has no endpoints" -m udp --dport 53 -j REJECT --reject-with icmp-port-unreachable
COMMIT
"#;

    #[test]
    fn what_iptables_save_prints_is_followed_to_the_endpoints() {
        let node = ["172.18.0.11".parse().unwrap()];
        let found = frontends(&parse(SAVED), &node);
        let at = |text: &str, proto| &found[&(text.parse().unwrap(), proto)];
        let both = ["10.244.1.7:8080", "10.244.2.7:8080"];
        let web = at("10.96.0.1:80", 6);
        assert!(web.is_cluster_ip && !web.restricted);
        assert_eq!(web.affinity, 10_800);
        assert_eq!(web.service.as_deref(), Some("shop/web:http"));
        assert_eq!(backends(&web.inside), both);
        for to in ["172.18.0.11:30080", "192.0.2.1:80"] {
            let external = at(to, 6);
            assert_eq!(backends(&external.inside), both, "{to}");
            assert_eq!(backends(&external.outside), both[..1], "{to}");
            assert_eq!(
                external.outside.as_ref().and_then(|fate| fate.masquerades),
                Some(false)
            );
        }
        assert!(at("192.0.2.1:80", 6).restricted);
        let none = at("10.96.0.2:53", 17);
        assert!(backends(&none.inside).is_empty());
        assert!(none.inside.as_ref().is_some_and(|fate| !fate.drops));
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn node_ports_are_at_the_addresses_that_kube_proxy_was_told() {
        let told = SAVED.replace(
            "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
            "-d 172.18.0.12/32 -j KUBE-NODEPORTS",
        );
        let node = [
            "172.18.0.11".parse().unwrap(),
            "172.18.0.12".parse().unwrap(),
        ];
        let at = |saved: &str| {
            let keys = frontends(&parse(saved), &node).into_keys();
            keys.filter(|(to, _)| to.port() == 30_080)
                .map(|(to, _)| to.ip().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(at(SAVED), ["172.18.0.11", "172.18.0.12"]);
        assert_eq!(at(&told), ["172.18.0.12"]);
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        for text in [
            "-A",
            "-A X",
            "-A X -d",
            "-A KUBE-SERVICES -p tcp --dport x -j KUBE-SVC-A \"",
            "\u{fffd}",
        ] {
            assert!(frontends(&parse(text), &[]).is_empty(), "{text}");
        }
    }
}
