use super::*;
use crate::node::Device;

fn attribute(kind: u16, text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((4 + text.len() as u16 + 1).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    [&[family, 0, 0, 0][..], &attributes.concat()].concat()
}

fn table(family: u8, name: &str) -> Vec<u8> {
    message(family, &[attribute(1, name)])
}

fn chain(family: u8, table: &str, name: &str) -> Vec<u8> {
    let attributes = [
        attribute(1, table),
        attribute(2, "handle8"),
        attribute(3, name),
    ];
    message(family, &attributes)
}

#[test]
fn tables_and_chains_of_kube_proxy_are_named_and_those_of_others_are_not() {
    let tables = [
        table(2, "kube-proxy"),
        table(10, "kube-proxy"),
        table(1, "firewalld"),
    ];
    let chains = [
        chain(2, "nat", "KUBE-SERVICES"),
        chain(2, "filter", "KUBE-SERVICES"),
        chain(2, "mangle", "KUBE-KUBELET-CANARY"),
        chain(10, "nat", "KUBE-NODEPORTS"),
    ];
    let ruleset = Ruleset {
        tables: tables.iter().filter_map(|t| nftables::table(t)).collect(),
        chains: chains.iter().filter_map(|c| nftables::chain(c)).collect(),
    };
    let found = in_nftables(&ruleset);
    assert_eq!(found.len(), 2, "{found:?}");
    for part in [
        "table ip kube-proxy, table ip6 kube-proxy",
        "kube-proxy --cleanup",
        "--takeover",
    ] {
        assert!(found[0].contains(part), "{found:?}");
    }
    assert!(
        found[1].contains(
            "(chain ip nat KUBE-SERVICES, ip filter KUBE-SERVICES, ip6 nat KUBE-NODEPORTS)"
        ),
        "{found:?}"
    );
    assert_eq!(in_nftables(&Ruleset::default()), Vec::<String>::new());
}

#[test]
fn a_message_that_is_cut_off_is_never_a_panic() {
    for whole in [table(2, "kube-proxy"), chain(2, "nat", "KUBE-SERVICES")] {
        for length in 0..whole.len() {
            let _ = (
                nftables::table(&whole[..length]),
                nftables::chain(&whole[..length]),
            );
        }
    }
}

#[test]
fn legacy_chains_are_read_from_what_iptables_saves() {
    let rules = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n";
    assert_eq!(legacy_chains(rules), ["KUBE-SERVICES"]);
}

#[test]
fn ipvs_and_other_dataplanes_are_known_by_their_services_and_devices() {
    let with = |name: &str| {
        let device = Device {
            name: name.into(),
            ..Device::default()
        };
        Devices::from([(5, device)])
    };
    let head = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n";
    let one = format!(
        "{head}TCP  0A600001:0050 rr\n  -> 0AF4010A:1F90      Masq    1      0          0\n"
    );
    assert_eq!(in_ipvs(head, &Devices::new()), None);
    assert!(
        in_ipvs(&one, &Devices::new())
            .unwrap()
            .starts_with("IPVS has 1 virtual services")
    );
    assert!(
        in_ipvs(&one, &with("kube-ipvs0"))
            .unwrap()
            .contains("device kube-ipvs0, 1 virtual")
    );
    assert!(by_device(&with("cilium_host"))[0].contains("kubeProxyReplacement"));
    assert!(by_device(&with("bpfin.cali"))[0].contains("bpfEnabled"));
    assert!(by_device(&with("eth0")).is_empty());
}

#[test]
fn the_listener_on_a_port_is_found_in_proc_net_tcp() {
    let sockets = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                   0: 0100007F:2810 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 111 1\n\
                   1: 00000000:2810 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1\n";
    assert_eq!(process::listener(sockets, 10256), Some(222));
    assert_eq!(process::listener(sockets, 10249), None);
}
