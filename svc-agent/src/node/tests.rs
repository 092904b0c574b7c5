use super::*;

fn nic() -> Device {
    Device {
        name: "eth0".into(),
        ethernet: true,
        default_route: true,
        addresses: vec![
            "172.18.0.11".parse().unwrap(),
            "fd00:18::11".parse().unwrap(),
        ],
        ..Device::default()
    }
}

fn pod() -> Device {
    Device {
        name: "vetha".into(),
        kind: "veth".into(),
        ethernet: true,
        peer_elsewhere: true,
        ..Device::default()
    }
}

#[test]
fn the_default_route_leads_outside_and_a_veth_with_its_end_elsewhere_leads_to_a_pod() {
    let all = Selection::default();
    assert!(
        all.is_outside(&nic(), &Reached::default()) && !all.is_pod(&nic(), &Reached::default())
    );
    assert!(
        all.is_pod(&pod(), &Reached::default()) && !all.is_outside(&pod(), &Reached::default())
    );
}

#[test]
fn the_node_of_a_kind_cluster_has_a_veth_that_leads_outside() {
    let eth0 = Device {
        default_route: true,
        ..pod()
    };
    assert!(Selection::default().is_outside(&eth0, &Reached::default()));
    assert!(!Selection::default().is_pod(&eth0, &Reached::default()));
}

#[test]
fn a_device_with_the_address_of_the_node_is_outside_without_any_default_route() {
    let device = Device {
        default_route: false,
        ..nic()
    };
    assert!(!Selection::default().is_outside(&device, &Reached::default()));
    let known = Reached {
        node: device.addresses.clone(),
        ..Reached::default()
    };
    assert!(Selection::default().is_outside(&device, &known));
}

#[test]
fn flags_decide_when_they_are_given() {
    let selection = Selection {
        devices: vec!["bond*".parse().unwrap()],
        pod_devices: vec!["tap*".parse().unwrap()],
    };
    assert!(!selection.is_outside(&nic(), &Reached::default()));
    assert!(!selection.is_pod(&pod(), &Reached::default()));
    assert!(selection.is_pod(
        &Device {
            name: "tap1".into(),
            kind: "tun".into(),
            ..pod()
        },
        &Reached::default()
    ));
}

#[test]
fn auto_puts_xdp_on_hardware_only() {
    let devices = Devices::from([
        (2, nic()),
        (
            3,
            Device {
                name: "eth1".into(),
                kind: "veth".into(),
                ..nic()
            },
        ),
    ]);
    let hooks = Selection::default().hooks(&devices, &Reached::default(), config::Xdp::Auto);
    let xdp: Vec<u32> = hooks
        .keys()
        .filter(|(_, hook)| matches!(hook, Hook::Xdp(_)))
        .map(|(ifindex, _)| *ifindex)
        .collect();
    assert_eq!(xdp, [2]);
}

/// A device of another kind, beside the NIC.
fn of_kind(kind: &str, name: &str) -> Device {
    Device {
        name: name.into(),
        kind: kind.into(),
        ..nic()
    }
}

/// The devices with an outside hook, and those with XDP.
fn hooked(devices: Pair, reached: &Reached) -> (Vec<u32>, Vec<u32>) {
    let hooks = Selection::default().hooks(&Devices::from(devices), reached, config::Xdp::Auto);
    let with = |wanted: Hook| {
        let at = hooks.keys().filter(|(_, hook)| *hook == wanted);
        at.map(|(ifindex, _)| *ifindex).collect()
    };
    (with(Hook::NodeIngress), with(Hook::Xdp(XdpMode::Native)))
}

type Pair = [(u32, Device); 2];

#[test]
fn a_bond_is_met_at_itself_and_its_ports_are_left_alone() {
    let port = Device {
        master: Some(3),
        ..nic()
    };
    let bond = |kind| [(2, port.clone()), (3, of_kind(kind, "bond0"))];
    assert_eq!(
        hooked(bond("bond"), &Reached::default()),
        (vec![3], vec![3])
    );
    assert_eq!(hooked(bond("team"), &Reached::default()), (vec![3], vec![]));
    assert_eq!(
        hooked(bond("bridge"), &Reached::default()),
        (vec![3], vec![])
    );
    assert_eq!(
        hooked(bond("vrf"), &Reached::default()).0,
        [2, 3],
        "a VRF is a routing table, no way in"
    );
    // A port whose master is nobody's business is met itself: the pods of a bridge are.
    let inner = Device {
        default_route: false,
        ..of_kind("bridge", "cni0")
    };
    assert_eq!(
        hooked([(2, port.clone()), (3, inner)], &Reached::default()).0,
        [2]
    );
}

#[test]
fn a_vlan_device_has_its_own_hooks_and_the_nic_below_no_xdp() {
    let vlan = Device {
        parent: Some(2),
        ..of_kind("vlan", "eth0.100")
    };
    let (outside, xdp) = hooked([(2, nic()), (3, vlan)], &Reached::default());
    assert_eq!((outside, xdp), (vec![2, 3], vec![]));
}

#[test]
fn whoever_has_a_node_port_address_and_neighbours_leads_outside() {
    let addr: IpAddr = "10.9.9.1".parse().unwrap();
    let reached = Reached {
        node: vec![],
        node_ports: vec![addr],
    };
    let second = |kind: &str, has_subnet| Device {
        addresses: vec![addr],
        default_route: false,
        has_subnet,
        ..of_kind(kind, "second")
    };
    for (kind, has_subnet, outside) in [
        ("", true, true),
        ("vlan", true, true),
        ("veth", true, true),
        // A pod's gateway on its host-side device.
        ("veth", false, false),
        ("bridge", true, false),
        ("dummy", true, false),
    ] {
        let device = second(kind, has_subnet);
        assert_eq!(
            Selection::default().is_outside(&device, &reached),
            outside,
            "{kind} {has_subnet}"
        );
        assert!(!Selection::default().is_outside(&device, &Reached::default()));
    }
}

#[test]
fn devices_without_an_address_leave_with_that_of_the_node() {
    let devices = Devices::from([(2, nic()), (3, pod())]);
    let table = device_addresses(&devices, &default_addresses(&devices));
    let v4: IpAddr = "172.18.0.11".parse().unwrap();
    assert_eq!(
        [table[&(0, false)], table[&(2, false)], table[&(3, false)]],
        [v4; 3]
    );
    assert_eq!(table[&(3, true)], "fd00:18::11".parse::<IpAddr>().unwrap());
}

#[test]
fn snat_ports_stay_clear_of_what_the_node_hands_out() {
    let ports = |range| {
        let SnatPorts { min, max, shared } = SnatPorts::beside(range);
        (min, max, shared)
    };
    assert_eq!(ports("32768\t60999\n"), (1024, 29_999, false));
    assert_eq!(ports("1024 20000"), (32_768, 65_535, false));
    assert_eq!(ports("10000 65535"), (1024, 9_999, false));
    assert_eq!(ports("nonsense"), (1024, 29_999, false));
}

#[test]
fn a_node_that_hands_out_every_port_shares_some_and_says_so() {
    for range in ["1024 65535", "1024 65000"] {
        let ports = SnatPorts::beside(range);
        assert_eq!((ports.min, ports.max), (20_000, 29_999));
        assert!(
            ports
                .warning()
                .is_some_and(|text| text.contains("ip_local_reserved_ports=20000-29999"))
        );
    }
    assert_eq!(SnatPorts::beside("32768 60999").warning(), None);
}

#[test]
fn a_tunnel_without_ethernet_headers_has_hooks_of_its_own_and_no_xdp() {
    let tunnel = |kind: &str| Device {
        name: "tunl0".into(),
        kind: kind.into(),
        layer3: true,
        ..Device::default()
    };
    let hooks = |device: Device| -> Vec<Hook> {
        let devices = Devices::from([(7, device)]);
        Selection::default()
            .hooks(&devices, &Reached::default(), config::Xdp::Native)
            .into_keys()
            .map(|(_, hook)| hook)
            .collect()
    };
    for kind in ["ipip", "wireguard", "sit", "ip6tnl"] {
        let expected = [Hook::NodeIngressL3, Hook::NodeEgressL3];
        assert_eq!(hooks(tunnel(kind)), expected, "{kind}");
    }
    // A TUN device is anybody's, unless the default route goes there.
    assert_eq!(hooks(tunnel("tun")), []);
    let default_route = true;
    assert_eq!(
        hooks(Device {
            default_route,
            ..tunnel("tun")
        })
        .len(),
        2
    );
}
