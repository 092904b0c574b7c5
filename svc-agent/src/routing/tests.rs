use super::*;
use crate::rivals::nftables::{Base, Chain, FORWARD, POSTROUTING, PREROUTING, Ruleset};

const INPUT: u32 = 1;

/// A message's worth: family, hook, type, rules, whether the policy drops.
fn chain(family: u8, hook: u32, kind: &str, rules: u32, drops: bool) -> Chain {
    Chain {
        family: family.into(),
        table: "t".into(),
        name: "C".into(),
        base: Some(Base {
            hook,
            kind: kind.into(),
            rules,
            drops,
        }),
    }
}

fn auto(chains: &[Chain]) -> Verdict {
    let ruleset = Ruleset {
        tables: Vec::new(),
        chains: chains.to_vec(),
    };
    verdict(HostRouting::Auto, false, &Facts::of_ruleset(&ruleset))
}

const IP: u8 = 2;
const INET: u8 = 1;
const NETDEV: u8 = 5;
const BRIDGE: u8 = 7;

#[test]
fn without_rules_for_forwarded_packets_auto_skips_the_stack() {
    let verdict = auto(&[
        chain(IP, INPUT, "filter", 9, true),
        chain(IP, FORWARD, "filter", 0, false),
        chain(INET, PREROUTING, "nat", 0, false),
        chain(BRIDGE, FORWARD, "filter", 3, false),
        Chain {
            base: None,
            ..chain(IP, FORWARD, "filter", 3, true)
        },
    ]);
    assert!(verdict.from_pods && verdict.from_outside, "{verdict:?}");
}

#[test]
fn a_rule_that_forwarded_packets_meet_keeps_them_in_the_stack_and_is_named() {
    for chain in [
        chain(IP, FORWARD, "filter", 1, false),
        chain(INET, FORWARD, "filter", 0, true),
        chain(IP, PREROUTING, "nat", 1, false),
        chain(INET, PREROUTING, "filter", 2, false),
        chain(10, POSTROUTING, "filter", 1, false),
        chain(NETDEV, 0, "filter", 1, false),
    ] {
        let verdict = auto(std::slice::from_ref(&chain));
        assert!(!verdict.from_pods && !verdict.from_outside, "{chain:?}");
        assert!(verdict.why.contains(" t C"), "{verdict:?}");
    }
}

#[test]
fn source_nat_of_what_leaves_is_no_rule_for_traffic_between_pods_here() {
    let verdict = auto(&[chain(IP, POSTROUTING, "nat", 4, false)]);
    assert!(verdict.from_pods && !verdict.from_outside, "{verdict:?}");
    assert!(verdict.why.contains("chain ip t C"), "{verdict:?}");
}

#[test]
fn told_is_told_except_while_kube_proxys_connections_need_the_stack() {
    let rules = Facts {
        of_pods: vec!["rules".into(), "more".into()],
        of_outside: Vec::new(),
    };
    assert!(verdict(HostRouting::Bpf, false, &rules).from_outside);
    assert!(!verdict(HostRouting::Kernel, false, &Facts::default()).from_pods);
    for wanted in [HostRouting::Auto, HostRouting::Bpf] {
        let verdict = verdict(wanted, true, &Facts::default());
        assert!(!verdict.from_pods && verdict.why.contains("--takeover"));
    }
    let why = verdict(HostRouting::Auto, false, &rules).why;
    assert_eq!(why, "by the host's stack: rules, and 1 more");
}
