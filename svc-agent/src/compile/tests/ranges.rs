//! C11.

use super::*;

/// Whether load balancer addresses are restricted in IPv4 and IPv6, and to which ranges.
fn restricted(ranges: &[&str]) -> ([bool; 2], Vec<String>) {
    let service = cluster::Service {
        source_ranges: ranges.iter().map(|range| (*range).to_owned()).collect(),
        ..service()
    };
    let (service, _) = compiled(service, vec![endpoint(1, "here", State::Ready)]);
    let port = &service.ports[0];
    for frontend in port.frontends.values() {
        assert!(!frontend.restricted || frontend.kind == FrontendKind::LoadBalancer);
    }
    let of_family = |v4: bool| {
        let of = |(at, f): &(&FrontendAddr, &desired::Frontend)| {
            f.kind == FrontendKind::LoadBalancer && at.ip.is_ipv4() == v4
        };
        let restricted: Vec<bool> = port
            .frontends
            .iter()
            .filter(of)
            .map(|(_, f)| f.restricted)
            .collect();
        assert_eq!(restricted.len(), 2);
        assert_eq!(
            restricted[0], restricted[1],
            "pods and outside clients alike"
        );
        restricted[0]
    };
    let ranges = port.ranges.iter().map(ToString::to_string).collect();
    ([of_family(true), of_family(false)], ranges)
}

fn to(families: [bool; 2], ranges: &[&str]) -> ([bool; 2], Vec<String>) {
    (families, ranges.iter().map(|r| (*r).to_owned()).collect())
}

#[test]
fn ranges_restrict_their_own_family_only() {
    assert_eq!(restricted(&[]), to([false, false], &[]));
    assert_eq!(
        restricted(&[" 192.0.2.77/24 "]),
        to([true, false], &["192.0.2.0/24"])
    );
    assert_eq!(
        restricted(&["2001:db8::/32"]),
        to([false, true], &["2001:db8::/32"])
    );
    assert_eq!(
        restricted(&["192.0.2.0/24", "2001:db8::/32", "198.51.100.0/24"]),
        to(
            [true, true],
            &["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"]
        )
    );
}

#[test]
fn a_range_of_everything_opens_its_family() {
    assert_eq!(
        restricted(&["192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32"]),
        to([false, true], &["2001:db8::/32"])
    );
}

#[test]
fn a_range_with_the_node_in_it_lets_the_load_balancers_own_address_in() {
    assert_eq!(
        restricted(&["172.18.0.0/16", "2001:db8::/32"]),
        to(
            [true, true],
            &["172.18.0.0/16", "192.0.2.127/32", "2001:db8::/32"]
        )
    );
    assert_eq!(
        restricted(&["fd00:18::11/128"]),
        to([false, true], &["2001:db8::127/128", "fd00:18::11/128"])
    );
}

#[test]
fn what_cannot_be_read_lets_nobody_in() {
    assert_eq!(restricted(&["192.0.2.0/33"]), to([true, false], &[]));
    assert_eq!(restricted(&["2001:db8::/x"]), to([false, true], &[]));
    assert_eq!(restricted(&["office"]), to([true, true], &[]));
    assert_eq!(
        restricted(&["office", "192.0.2.0/24", "::/0"]),
        to([true, false], &["192.0.2.0/24"])
    );
}
