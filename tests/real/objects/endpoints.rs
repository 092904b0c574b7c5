//! Which endpoints: selectors, readiness, termination, topology, policies (rows A and B).

use anyhow::Result;
use serde_json::json;
use xtask::traffic::Protocol::{Tcp, Udp};

use crate::Scenario;
use crate::cluster::OTHER_TCP;
use crate::scene::Expect::{From, OneOf, Refused, Silence};
use crate::scene::{INSIDE, Scene};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "endpoints_follow_the_selector_and_the_labels_of_pods",
        test: selector,
    },
    Scenario {
        name: "endpoints_in_several_slices_are_one_set",
        test: several_slices,
    },
    Scenario {
        name: "an_unready_pod_gets_nothing_until_it_is_ready_again",
        test: readiness,
    },
    Scenario {
        name: "terminating_pods_that_serve_are_used_when_nobody_is_ready",
        test: terminating,
    },
    Scenario {
        name: "publish_not_ready_addresses_makes_unready_pods_endpoints",
        test: publish_not_ready,
    },
    Scenario {
        name: "a_named_port_is_each_pods_own",
        test: named_ports,
    },
    Scenario {
        name: "internal_policy_local_stays_on_the_node_or_is_silent",
        test: internal_local,
    },
    Scenario {
        name: "external_policy_local_keeps_outside_traffic_on_the_node_only",
        test: external_local,
    },
    Scenario {
        name: "external_policy_local_falls_back_to_local_terminating_pods",
        test: external_local_terminating,
    },
    Scenario {
        name: "prefer_same_zone_stays_in_the_zone_while_it_has_endpoints",
        test: same_zone,
    },
    Scenario {
        name: "a_nodes_new_zone_label_is_followed",
        test: zone_label,
    },
    Scenario {
        name: "prefer_same_node_stays_on_the_node_while_it_has_endpoints",
        test: same_node,
    },
    Scenario {
        name: "session_affinity_keeps_a_client_with_its_pod_by_every_frontend",
        test: affinity,
    },
    Scenario {
        name: "a_pod_reaches_itself_through_its_service",
        test: hairpin,
    },
    Scenario {
        name: "pods_in_the_nodes_network_are_endpoints",
        test: host_network,
    },
    Scenario {
        name: "a_udp_client_is_refused_without_endpoints_and_served_once_there_is_one",
        test: first_endpoint,
    },
];

/// A4, A7.
fn selector(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service("web", &json!({}))?;
    let to = web.cluster_ips(80)?;
    scene.expect(&INSIDE, Tcp, &to, Refused)?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod("c", "pod-c", "other")?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-a"]))?;
    scene.expect(&["pod-b"], Udp, &web.cluster_ips(53)?, From(&["pod-a"]))?;
    scene.relabel("c", "web")?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-a", "pod-c"]))?;
    web.patch(&json!({"selector": {"app": "elsewhere"}}))?;
    scene.expect(&INSIDE, Tcp, &to, Refused)?;
    web.patch(&json!({"selector": {"app": "web"}}))?;
    scene.remove("a")?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-c"]))
}

/// A5: the controller here writes slices of two; the same address in more than one of them counts once.
fn several_slices(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service("web", &json!({}))?;
    for place in ["pod-a", "pod-b", "pod-c", "pod-d"] {
        scene.pod(place, place, "web")?;
    }
    let to = web.cluster_ips(80)?;
    scene.expect(
        &["node1"],
        Tcp,
        &to,
        From(&["pod-a", "pod-b", "pod-c", "pod-d"]),
    )?;
    scene.pod("again", "pod-c", "web")?;
    scene.terminate("again")?;
    scene.remove("pod-a")?;
    scene.expect(&["node1"], Tcp, &to, From(&["pod-b", "pod-c", "pod-d"]))
}

/// B1, A6.
fn readiness(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service("web", &json!({}))?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod("c", "pod-c", "web")?;
    let to = web.cluster_ips(80)?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-a", "pod-c"]))?;
    scene.set_ready("a", false)?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-c"]))?;
    scene.set_ready("c", false)?;
    scene.expect(&INSIDE, Tcp, &to, Refused)?;
    scene.set_ready("a", true)?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-a"]))
}

/// B1, B2, B4.
fn terminating(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service("web", &json!({}))?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod("c", "pod-c", "web")?;
    let to = web.cluster_ips(80)?;
    scene.terminate("a")?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-c"]))?;
    scene.terminate("c")?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-a", "pod-c"]))?;
    scene.set_ready("a", false)?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-c"]))?;
    scene.set_ready("c", false)?;
    scene.expect(&INSIDE, Tcp, &to, Refused)?;
    scene.pod("b", "pod-b", "web")?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-b"]))
}

/// A10.
fn publish_not_ready(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service("web", &json!({}))?;
    scene.pod("a", "pod-a", "web")?;
    scene.set_ready("a", false)?;
    let to = web.cluster_ips(80)?;
    scene.expect(&INSIDE, Tcp, &to, Refused)?;
    web.patch(&json!({"publishNotReadyAddresses": true}))?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-a"]))?;
    scene.terminate("a")?;
    scene.pod("c", "pod-c", "web")?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-a", "pod-c"]))?;
    web.patch(&json!({"publishNotReadyAddresses": false}))?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-c"]))
}

/// A8.
fn named_ports(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service("web", &json!({}))?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod_with("c", "pod-c", "web", OTHER_TCP)?;
    scene.pod_with("d", "pod-d", "web", 9)?;
    scene.set_ready("d", false)?;
    scene.expect(
        &INSIDE,
        Tcp,
        &web.cluster_ips(80)?,
        From(&["pod-a", "pod-c"]),
    )
}

/// B3, B6.
fn internal_local(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service(
        "web",
        &json!({"internalTrafficPolicy": "Local", "type": "NodePort"}),
    )?;
    scene.pod("a", "pod-a", "web")?;
    let to = web.cluster_ips(80)?;
    scene.expect(&["pod-b", "node1"], Tcp, &to, From(&["pod-a"]))?;
    scene.expect(&["pod-d", "node2"], Tcp, &to, Silence)?;
    // External paths have a policy of their own.
    scene.expect(
        &["client"],
        Tcp,
        &web.node_port("http", "node2")?,
        From(&["pod-a"]),
    )?;
    scene.pod("c", "pod-c", "web")?;
    scene.expect(&["pod-d", "node2"], Tcp, &to, From(&["pod-c"]))?;
    scene.expect(&["pod-b", "node1"], Tcp, &to, From(&["pod-a"]))?;
    web.patch(&json!({"internalTrafficPolicy": "Cluster"}))?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-a", "pod-c"]))
}

/// B3, B5, B7: both sets are programmed at once.
fn external_local(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service(
        "web",
        &json!({"externalTrafficPolicy": "Local", "type": "NodePort"}),
    )?;
    scene.pod("a", "pod-a", "web")?;
    scene.expect(
        &["client"],
        Tcp,
        &web.node_port("http", "node1")?,
        From(&["pod-a"]),
    )?;
    scene.expect(&["client"], Tcp, &web.node_port("http", "node2")?, Silence)?;
    scene.expect(
        &["pod-d", "node2"],
        Tcp,
        &web.node_port("http", "node2")?,
        From(&["pod-a"]),
    )?;
    scene.pod("c", "pod-c", "web")?;
    scene.expect(
        &["client"],
        Tcp,
        &web.node_port("http", "node2")?,
        From(&["pod-c"]),
    )?;
    scene.expect(
        &["pod-d", "node2"],
        Tcp,
        &web.node_port("http", "node2")?,
        From(&["pod-a", "pod-c"]),
    )?;
    scene.expect(
        &["pod-d", "node1"],
        Tcp,
        &web.cluster_ips(80)?,
        From(&["pod-a", "pod-c"]),
    )?;
    web.patch(&json!({"externalTrafficPolicy": "Cluster"}))?;
    scene.expect(
        &["client"],
        Tcp,
        &web.node_port("http", "node2")?,
        From(&["pod-a", "pod-c"]),
    )
}

/// B3: local endpoints only, even if ready ones exist elsewhere.
fn external_local_terminating(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service(
        "web",
        &json!({"externalTrafficPolicy": "Local", "type": "NodePort"}),
    )?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod("b", "pod-b", "web")?;
    scene.pod("c", "pod-c", "web")?;
    let to = web.node_port("http", "node1")?;
    scene.terminate("a")?;
    scene.expect(&["client"], Tcp, &to, From(&["pod-b"]))?;
    scene.terminate("b")?;
    scene.expect(&["client"], Tcp, &to, From(&["pod-a", "pod-b"]))?;
    scene.set_ready("a", false)?;
    scene.set_ready("b", false)?;
    scene.expect(&["client"], Tcp, &to, Silence)?;
    scene.expect(&["pod-b", "node1"], Tcp, &to, From(&["pod-c"]))
}

/// B9, B11: the controller writes the hints.
fn same_zone(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service("web", &json!({"trafficDistribution": "PreferSameZone"}))?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod("b", "pod-b", "web")?;
    scene.pod("c", "pod-c", "web")?;
    let to = web.cluster_ips(80)?;
    scene.expect(&["pod-b", "node1"], Tcp, &to, From(&["pod-a", "pod-b"]))?;
    scene.expect(&["pod-d", "node2"], Tcp, &to, From(&["pod-c"]))?;
    scene.set_ready("c", false)?;
    scene.expect(&["pod-d", "node2"], Tcp, &to, From(&["pod-a", "pod-b"]))?;
    scene.set_ready("c", true)?;
    web.patch(&json!({"trafficDistribution": null}))?;
    scene.expect(
        &["pod-d", "node2"],
        Tcp,
        &to,
        From(&["pod-a", "pod-b", "pod-c"]),
    )
}

/// B9: the agent watches its Node.
fn zone_label(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service("web", &json!({"trafficDistribution": "PreferSameZone"}))?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod("c", "pod-c", "web")?;
    let to = web.cluster_ips(80)?;
    scene.expect(&["pod-d"], Tcp, &to, From(&["pod-c"]))?;
    let zone = |zone: &str| {
        let labels = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        scene
            .cluster
            .plane
            .patch("/api/v1/nodes/node2", &labels)
            .map(drop)
    };
    zone("zone-1")?;
    let moved = scene.expect(&["pod-d"], Tcp, &to, From(&["pod-a", "pod-c"]));
    zone("zone-2")?;
    moved?;
    scene.expect(&["pod-d"], Tcp, &to, From(&["pod-c"]))
}

/// B10.
fn same_node(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service("web", &json!({"trafficDistribution": "PreferSameNode"}))?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod("c", "pod-c", "web")?;
    let to = web.cluster_ips(80)?;
    scene.expect(&["pod-b", "node1"], Tcp, &to, From(&["pod-a"]))?;
    scene.expect(&["pod-d", "node2"], Tcp, &to, From(&["pod-c"]))?;
    scene.remove("c")?;
    scene.expect(&["pod-d", "node2"], Tcp, &to, From(&["pod-a"]))
}

/// B15: the key is the client and the service port, whatever the frontend.
fn affinity(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service(
        "web",
        &json!({"type": "NodePort", "sessionAffinity": "ClientIP"}),
    )?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod("c", "pod-c", "web")?;
    let both = ["pod-a", "pod-c"];
    let mut ways = web.node_port("http", "node1")?;
    scene.expect(&["client"], Tcp, &ways, OneOf(&both))?;
    ways.extend(web.cluster_ips(80)?);
    for family in [
        |ip: &std::net::SocketAddr| ip.is_ipv4(),
        |ip: &std::net::SocketAddr| ip.is_ipv6(),
    ] {
        let ways: Vec<_> = ways.iter().copied().filter(family).collect();
        let chosen = both
            .into_iter()
            .find(|pod| scene.sees_only("pod-b", ways[0], pod));
        let chosen =
            chosen.ok_or_else(|| anyhow::anyhow!("pod-b is not kept with a pod at {}", ways[0]))?;
        scene.expect(&["pod-b"], Tcp, &ways, OneOf(&[chosen]))?;
        // Its pod goes: the other one takes over.
        let (name, other) = if chosen == "pod-a" {
            ("a", "pod-c")
        } else {
            ("c", "pod-a")
        };
        scene.set_ready(name, false)?;
        scene.expect(&["pod-b"], Tcp, &ways, From(&[other]))?;
        scene.set_ready(name, true)?;
    }
    web.patch(&json!({"sessionAffinity": "None"}))?;
    scene.expect(&["pod-b"], Tcp, &ways, From(&both))
}

/// D1.
fn hairpin(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service("web", &json!({"type": "NodePort"}))?;
    scene.pod("a", "pod-a", "web")?;
    for protocol in [Tcp, Udp] {
        let (port, name) = if protocol == Tcp {
            (80, "http")
        } else {
            (53, "dns")
        };
        scene.expect(
            &["pod-a"],
            protocol,
            &web.cluster_ips(port)?,
            From(&["pod-a"]),
        )?;
        scene.expect(
            &["pod-a"],
            protocol,
            &web.node_port(name, "node1")?,
            From(&["pod-a"]),
        )?;
    }
    Ok(())
}

/// D4. A node's wildcard UDP server answers its own pods from the device's address, whoever the proxy is: not asked.
fn host_network(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service("web", &json!({"type": "NodePort"}))?;
    scene.pod("n1", "node1", "web")?;
    scene.expect(&INSIDE, Tcp, &web.cluster_ips(80)?, From(&["node1"]))?;
    scene.expect(
        &["pod-d", "node1", "node2"],
        Udp,
        &web.cluster_ips(53)?,
        From(&["node1"]),
    )?;
    for node in ["node1", "node2"] {
        for (protocol, name) in [(Tcp, "http"), (Udp, "dns")] {
            scene.expect(
                &["client"],
                protocol,
                &web.node_port(name, node)?,
                From(&["node1"]),
            )?;
        }
    }
    Ok(())
}

/// B4, D8.
fn first_endpoint(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service("web", &json!({"type": "NodePort"}))?;
    scene.pod("a", "pod-a", "web")?;
    scene.set_ready("a", false)?;
    let inside = web.cluster_ips(53)?;
    let outside = web.node_port("dns", "node2")?;
    scene.expect(&INSIDE, Udp, &inside, Refused)?;
    scene.expect(&["client"], Udp, &outside, Refused)?;
    scene.set_ready("a", true)?;
    scene.expect(&INSIDE, Udp, &inside, From(&["pod-a"]))?;
    scene.expect(&["client"], Udp, &outside, From(&["pod-a"]))
}
