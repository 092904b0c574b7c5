//! The network that the demo and the net layer stand on, without any Service in it. Needs root.

#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::process::Command;

use xtask::topology::{Cni, NODES, Options, PODS, Topology};
use xtask::traffic::{Outcome, Probe, start_server};

fn everyone_reaches_everyone(options: Options) {
    let topology = Topology::new(options).unwrap();
    let servers: Vec<_> = PODS
        .iter()
        .chain(&NODES)
        .map(|place| start_server(&topology, place, place, &[8080], &[5353]).unwrap())
        .collect();
    for from in PODS.iter().chain(&NODES).chain(&["client"]) {
        for to in PODS.iter().chain(&NODES) {
            if *from == "client" && PODS.contains(to) {
                continue; // A client outside has no route to pods.
            }
            for address in topology.place(to).addresses() {
                let tcp = Probe::tcp((address, 8080).into()).bytes(100_000);
                let udp = Probe::udp((address, 5353).into()).bytes(3000);
                for probe in [tcp, udp] {
                    let answers = probe.run(&topology, from).unwrap();
                    assert_eq!(
                        answers[0].by(),
                        Some(*to),
                        "{from} → {probe:?}: {answers:?}"
                    );
                }
            }
        }
    }
    drop(servers);
}

#[test]
fn everyone_reaches_everyone_over_routed_veths() {
    everyone_reaches_everyone(Options::default());
}

#[test]
fn everyone_reaches_everyone_over_a_bridge_with_nic_like_veths() {
    everyone_reaches_everyone(Options {
        cni: Cni::Bridge,
        like_nics: true,
        ..Options::default()
    });
}

#[test]
fn a_closed_port_refuses_tcp_and_connected_udp() {
    let topology = Topology::new(Options::default()).unwrap();
    for address in topology.place("node1").addresses() {
        for probe in [
            Probe::tcp((address, 81).into()),
            Probe::udp((address, 81).into()).connected(),
        ] {
            let answers = probe.run(&topology, "client").unwrap();
            assert_eq!(answers[0].outcome, Outcome::Refused, "{probe:?}");
        }
    }
}

#[test]
fn nothing_is_left_of_a_dropped_topology() {
    let topology = Topology::new(Options::default()).unwrap();
    let name = topology.name.clone();
    let mut server = start_server(&topology, "pod-a", "pod-a", &[8080], &[]).unwrap();
    let (cgroup, pins) = (
        topology.place("pod-a").cgroup.clone(),
        topology.bpf_root("node1"),
    );
    assert!(cgroup.exists() && pins.exists());
    drop(topology);
    assert!(!cgroup.exists() && !pins.exists());
    assert!(
        server.0.wait().unwrap().code().is_none(),
        "the server should have been killed"
    );
    let namespaces = Command::new("ip").arg("netns").output().unwrap();
    assert!(
        !String::from_utf8(namespaces.stdout)
            .unwrap()
            .contains(&name)
    );
}
