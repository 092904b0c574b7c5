//! On which addresses: ClusterIP, NodePort, load balancers, external addresses, their filters (rows C).

use anyhow::{Context, Result, ensure};
use serde_json::json;
use xtask::traffic::Protocol::{Tcp, Udp};

use crate::Scenario;
use crate::scene::Expect::{From, Nobody, Refused, Silence};
use crate::scene::{INSIDE, Scene};
use crate::service::at;

const EVERYONE: [&str; 5] = ["pod-b", "pod-d", "node1", "node2", "client"];
const VIPS: [&str; 2] = ["192.0.2.50", "2001:db8:2::50"];
const EXTERNAL: [&str; 2] = ["198.51.100.50", "2001:db8:3::50"];

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a_cluster_ip_answers_inside_and_not_outside",
        test: cluster_ip,
    },
    Scenario {
        name: "a_deleted_and_created_service_has_its_new_cluster_ip",
        test: new_cluster_ip,
    },
    Scenario {
        name: "ports_of_a_service_come_and_go",
        test: ports,
    },
    Scenario {
        name: "a_node_port_answers_on_every_node",
        test: node_port,
    },
    Scenario {
        name: "a_load_balancers_address_is_served_while_its_status_has_it",
        test: load_balancer,
    },
    Scenario {
        name: "a_load_balancers_address_of_mode_proxy_is_not_served",
        test: ip_mode,
    },
    Scenario {
        name: "a_load_balancer_may_have_no_node_ports",
        test: no_node_ports,
    },
    Scenario {
        name: "source_ranges_filter_the_load_balancers_address_only",
        test: source_ranges,
    },
    Scenario {
        name: "external_ips_are_served",
        test: external_ips,
    },
    Scenario {
        name: "a_health_check_node_port_counts_local_ready_pods",
        test: health_check,
    },
];

/// C1.
fn cluster_ip(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service("web", &json!({}))?;
    scene.pod("a", "pod-a", "web")?;
    scene.expect(&INSIDE, Tcp, &web.cluster_ips(80)?, From(&["pod-a"]))?;
    scene.expect(&INSIDE, Udp, &web.cluster_ips(53)?, From(&["pod-a"]))?;
    scene.expect(&["client"], Tcp, &web.cluster_ips(80)?, Silence)
}

/// C1, A1.
fn new_cluster_ip(scene: &Scene<'_>) -> Result<()> {
    let web = scene.service("web", &json!({}))?;
    scene.pod("a", "pod-a", "web")?;
    let old = web.cluster_ips(80)?;
    scene.expect(&INSIDE, Tcp, &old, From(&["pod-a"]))?;
    web.delete()?;
    let web = scene.service("web", &json!({"clusterIP": "10.96.77.7"}))?;
    let new = web.cluster_ips(80)?;
    ensure!(old != new, "the API server gave the same ClusterIPs again");
    scene.expect(&INSIDE, Tcp, &new, From(&["pod-a"]))?;
    scene.expect(&INSIDE, Tcp, &old[..1], Nobody)
}

/// C2, C16: the same number by two protocols. A9: what an appProtocol says is nothing to a proxy.
fn ports(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service("web", &json!({}))?;
    scene.pod("a", "pod-a", "web")?;
    scene.expect(&INSIDE, Tcp, &web.cluster_ips(80)?, From(&["pod-a"]))?;
    scene.expect(&INSIDE, Tcp, &web.cluster_ips(81)?, Refused)?;
    scene.expect(&["pod-b"], Udp, &web.cluster_ips(80)?, Refused)?;
    web.patch(&json!({"ports": [
        {"name": "http", "port": 81, "targetPort": "http", "appProtocol": "kubernetes.io/h2c"},
        {"name": "dns", "port": 81, "targetPort": "dns", "protocol": "UDP"},
    ]}))?;
    scene.expect(&INSIDE, Tcp, &web.cluster_ips(81)?, From(&["pod-a"]))?;
    scene.expect(&INSIDE, Udp, &web.cluster_ips(81)?, From(&["pod-a"]))?;
    scene.expect(&INSIDE, Tcp, &web.cluster_ips(80)?, Refused)
}

/// C4, C6.
fn node_port(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service("web", &json!({"type": "NodePort"}))?;
    scene.pod("a", "pod-a", "web")?;
    for node in ["node1", "node2"] {
        scene.expect(
            &EVERYONE,
            Tcp,
            &web.node_port("http", node)?,
            From(&["pod-a"]),
        )?;
        scene.expect(
            &EVERYONE,
            Udp,
            &web.node_port("dns", node)?,
            From(&["pod-a"]),
        )?;
    }
    let old = web.node_port("http", "node1")?;
    web.patch(&json!({"type": "ClusterIP"}))?;
    scene.expect(&["client", "pod-d", "node1"], Tcp, &old, Refused)
}

/// C8.
fn load_balancer(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service("web", &json!({"type": "LoadBalancer"}))?;
    scene.pod("a", "pod-a", "web")?;
    let to = at(&VIPS, 80);
    scene.expect(&["client"], Tcp, &to, Nobody)?;
    web.set_ingress(&json!([{"ip": VIPS[0]}, {"ip": VIPS[1], "ipMode": "VIP"}]))?;
    scene.expect(&EVERYONE, Tcp, &to, From(&["pod-a"]))?;
    scene.expect(&EVERYONE, Udp, &at(&VIPS, 53), From(&["pod-a"]))?;
    scene.pod("c", "pod-c", "web")?;
    scene.expect(&EVERYONE, Tcp, &to, From(&["pod-a", "pod-c"]))?;
    web.set_ingress(&json!([{"ip": VIPS[1]}, {"hostname": "lb.example"}]))?;
    scene.expect(&EVERYONE, Tcp, &to[..1], Nobody)?;
    scene.expect(&EVERYONE, Tcp, &to[1..], From(&["pod-a", "pod-c"]))
}

/// C9.
fn ip_mode(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service("web", &json!({"type": "LoadBalancer"}))?;
    scene.pod("a", "pod-a", "web")?;
    web.set_ingress(&json!([{"ip": VIPS[0], "ipMode": "VIP"}]))?;
    scene.expect(&EVERYONE, Tcp, &at(&VIPS[..1], 80), From(&["pod-a"]))?;
    web.set_ingress(&json!([{"ip": VIPS[0], "ipMode": "Proxy"}]))?;
    scene.expect(&EVERYONE, Tcp, &at(&VIPS[..1], 80), Nobody)
}

/// C12, C13.
fn no_node_ports(scene: &Scene<'_>) -> Result<()> {
    let spec = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
        "loadBalancerClass": "example.com/none-of-ours"});
    let mut web = scene.service("web", &spec)?;
    scene.pod("a", "pod-a", "web")?;
    web.set_ingress(&json!([{"ip": VIPS[0]}, {"ip": VIPS[1]}]))?;
    scene.expect(&EVERYONE, Tcp, &at(&VIPS, 80), From(&["pod-a"]))?;
    ensure!(
        web.node_port("http", "node1").is_err(),
        "there is a nodePort"
    );
    Ok(())
}

/// C11.
fn source_ranges(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service(
        "web",
        &json!({
            "type": "LoadBalancer",
            "externalIPs": EXTERNAL,
            "loadBalancerSourceRanges": ["172.18.0.100/32", "fd00:18::100/128"],
        }),
    )?;
    scene.pod("a", "pod-a", "web")?;
    web.set_ingress(&json!([{"ip": VIPS[0]}, {"ip": VIPS[1]}]))?;
    let to = at(&VIPS, 80);
    scene.expect(&["client"], Tcp, &to, From(&["pod-a"]))?;
    scene.expect(&["pod-b", "pod-d", "node2"], Tcp, &to, Silence)?;
    scene.expect(
        &["pod-b", "client"],
        Tcp,
        &web.node_port("http", "node1")?,
        From(&["pod-a"]),
    )?;
    scene.expect(
        &["pod-b", "client"],
        Tcp,
        &at(&EXTERNAL, 80),
        From(&["pod-a"]),
    )?;
    // Only the other family's: this one is open.
    web.patch(&json!({"loadBalancerSourceRanges": ["10.244.2.0/24"]}))?;
    scene.expect(&["client"], Tcp, &to[..1], Silence)?;
    scene.expect(&["pod-d"], Tcp, &to[..1], From(&["pod-a"]))?;
    scene.expect(
        &["client", "pod-b", "pod-d"],
        Tcp,
        &to[1..],
        From(&["pod-a"]),
    )?;
    web.patch(&json!({"loadBalancerSourceRanges": ["0.0.0.0/0"]}))?;
    scene.expect(&["client", "pod-b"], Tcp, &to, From(&["pod-a"]))
}

/// C10.
fn external_ips(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service("web", &json!({"externalIPs": EXTERNAL}))?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod("c", "pod-c", "web")?;
    scene.expect(
        &EVERYONE,
        Tcp,
        &at(&EXTERNAL, 80),
        From(&["pod-a", "pod-c"]),
    )?;
    scene.expect(
        &EVERYONE,
        Udp,
        &at(&EXTERNAL, 53),
        From(&["pod-a", "pod-c"]),
    )?;
    web.patch(&json!({"externalTrafficPolicy": "Local"}))?;
    scene.expect(&["client"], Tcp, &at(&EXTERNAL, 80), From(&["pod-a"]))?;
    scene.expect(
        &["pod-b"],
        Tcp,
        &at(&EXTERNAL, 80),
        From(&["pod-a", "pod-c"]),
    )?;
    web.patch(&json!({"externalIPs": null}))?;
    scene.expect(&EVERYONE, Tcp, &at(&EXTERNAL, 80), Nobody)
}

/// C14: terminating pods never count, though they may still get traffic.
fn health_check(scene: &Scene<'_>) -> Result<()> {
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let mut web = scene.service("web", &spec)?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod("b", "pod-b", "web")?;
    web.set_ingress(&json!([{"ip": VIPS[0]}, {"ip": VIPS[1]}]))?;
    let port = web.object["spec"]["healthCheckNodePort"].as_u64();
    let port = u16::try_from(port.context("no healthCheckNodePort")?)?;
    scene.expect_health("node1", port, 200, 2)?;
    scene.expect_health("node2", port, 503, 0)?;
    scene.terminate("a")?;
    scene.expect_health("node1", port, 200, 1)?;
    scene.terminate("b")?;
    scene.expect_health("node1", port, 503, 0)?;
    scene.expect(&["client"], Tcp, &at(&VIPS, 80), From(&["pod-a", "pod-b"]))?;
    scene.pod("c", "pod-c", "web")?;
    scene.expect_health("node2", port, 200, 1)
}
