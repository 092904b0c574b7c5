//! What the node is, followed live: addresses, devices, its zone and its Node object.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::agents::{Agent, eventually};
use xtask::programs::workspace_binary;
use xtask::traffic::{Outcome, Probe, Protocol, Running, spread};

use crate::Case;
use crate::lab::Lab;
use crate::life::links;
use crate::paths::PODS;

const SOON: Duration = Duration::from_secs(3);

pub const CASES: &[Case] = &[
    Case {
        name: "node_ports_follow_addresses_and_devices_that_come_and_go",
        settings: &["packets_only", "socket_tcp"],
        test: addresses,
    },
    Case {
        name: "endpoints_follow_the_zone_of_the_node",
        settings: &["socket_tcp"],
        test: zone,
    },
    Case {
        name: "node_ports_follow_the_addresses_of_the_node_object",
        settings: &["socket_tcp"],
        test: node_object,
    },
    Case {
        name: "a_service_labelled_for_another_proxy_is_given_up_and_taken_back",
        settings: &["socket_tcp", "packets_only"],
        test: another_proxy,
    },
    Case {
        name: "a_local_firewall_sees_backends_and_never_node_ports",
        settings: &["packets_only"],
        test: firewall,
    },
];

/// NodePort of Service `all`.
const NODE_PORT: u16 = 30_080;

fn node_port(ip: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ip.parse::<IpAddr>()?, NODE_PORT))
}

/// Waits until clients outside are answered at an address.
fn served(lab: &Lab, ip: &str) -> Result<()> {
    let to = node_port(ip)?;
    eventually(&format!("{to} is served"), SOON, || {
        let probe = Probe::tcp(to).timeout(Duration::from_millis(300));
        Ok(probe.run(&lab.topology, "client")?[0].by().is_some())
    })?;
    lab.answered_by("client", Protocol::Tcp, to, &PODS)
        .map(drop)
}

/// Waits until no frontend of node1 has an address.
fn gone(lab: &Lab, ip: &str) -> Result<()> {
    eventually(&format!("{ip} is no frontend any more"), SOON, || {
        let output = lab.agent("node1", "get", &["services", "-o", "wide"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(text.contains("172.18.0.11"), "{text}");
        Ok(!text.contains(&format!("{ip}:")))
    })
    .map(drop)
}

fn restart(lab: &mut Lab, flags: &[&str]) -> Result<()> {
    lab.agents
        .iter_mut()
        .try_for_each(|agent| agent.stop().map(drop))?;
    for agent in &lab.agents {
        fs::write(&agent.log_file, "")?;
    }
    lab.start(flags)
}

fn addresses(lab: &mut Lab) -> Result<()> {
    let ranges = "172.18.0.0/24,10.99.0.0/16,fd00:18::/64";
    restart(lab, &["--nodeport-addresses", ranges])?;
    let before = links(lab, "node1");
    served(lab, "172.18.0.11")?;

    // A second address of the NIC.
    lab.tool("node1", "ip addr add 172.18.0.111/24 dev eth0")?;
    served(lab, "172.18.0.111")?;
    lab.tool("node1", "ip addr del 172.18.0.111/24 dev eth0")?;
    gone(lab, "172.18.0.111")?;

    // An address on a device that nobody comes in by: a dummy would be the same, where the kernel has it.
    lab.tool("client", "ip route add 10.99.1.1 via 172.18.0.11")?;
    lab.tool("node1", "ip link add extra type bridge")?;
    lab.tool("node1", "ip addr add 10.99.1.1/32 dev extra")?;
    lab.tool("node1", "ip link set extra up")?;
    served(lab, "10.99.1.1")?;
    ensure!(
        links(lab, "node1") == before,
        "an inner device needs no hooks"
    );
    lab.tool("node1", "ip link del extra")?;
    gone(lab, "10.99.1.1")?;
    lab.tool("client", "ip route del 10.99.1.1")?;

    // Another NIC.
    let client = lab.topology.place("client").namespace.clone();
    lab.tool(
        "node1",
        &format!("ip link add nic2 type veth peer name nic2 netns {client}"),
    )?;
    lab.tool("client", "ip addr add 10.99.0.100/24 dev nic2")?;
    lab.tool("client", "ip link set nic2 up")?;
    lab.tool("node1", "ip addr add 10.99.0.11/24 dev nic2")?;
    lab.tool("node1", "ip link set nic2 up")?;
    served(lab, "10.99.0.11")?;
    let with_nic2 = links(lab, "node1");
    let new: BTreeSet<String> = with_nic2
        .difference(&before)
        .filter_map(|pin| Some(pin.split_once('@')?.0.to_owned()))
        .collect();
    ensure!(
        new == BTreeSet::from(["node_egress".into(), "node_ingress".into()]),
        "{new:?}"
    );
    // Down, renamed and up again it is still the same.
    for line in [
        "ip link set nic2 down",
        "ip link set nic2 name nic3",
        "ip link set nic3 up",
    ] {
        lab.tool("node1", line)?;
    }
    served(lab, "10.99.0.11")?;
    ensure!(links(lab, "node1") == with_nic2, "renamed: other hooks");
    lab.tool("node1", "ip link del nic3")?;
    gone(lab, "10.99.0.11")?;
    eventually("its hooks are gone", SOON, || {
        Ok(links(lab, "node1") == before)
    })?;
    served(lab, "172.18.0.11")?;

    let log = lab.agents[0].log();
    let complaint = log.lines().find(|line| {
        !line.contains("default/none") && (line.contains("WARN") || line.contains("ERROR"))
    });
    ensure!(complaint.is_none(), "{complaint:?}");
    restart(lab, &[])
}

/// A1, while it is served.
fn another_proxy(lab: &mut Lab) -> Result<()> {
    let to = node_port("172.18.0.11")?;
    for _ in 0..2 {
        served(lab, "172.18.0.11")?;
        lab.edit(
            "{name: all}",
            "{name: all, labels: {service.kubernetes.io/service-proxy-name: other}}",
        )?;
        let probe = Probe::tcp(to).timeout(Duration::from_millis(300));
        eventually("its NodePort is nobody's", SOON, || {
            Ok(probe.run(&lab.topology, "client")?[0].outcome == Outcome::Refused)
        })?;
        lab.restore()?;
    }
    served(lab, "172.18.0.11")
}

/// D5: local pods are behind FORWARD, backends elsewhere behind no chain of this node.
fn firewall(lab: &mut Lab) -> Result<()> {
    let to = node_port("172.18.0.11")?;
    for line in [
        "nft add table inet fw",
        "nft add chain inet fw input { type filter hook input priority 0 ; }",
        "nft add rule inet fw input tcp dport 30080 drop",
    ] {
        lab.tool("node1", line)?;
    }
    lab.answered_by("client", Protocol::Tcp, to, &PODS)?;
    lab.tool(
        "node1",
        "nft add chain inet fw forward { type filter hook forward priority 0 ; policy drop ; }",
    )?;
    let answers = Probe::tcp(to)
        .count(20)
        .timeout(Duration::from_millis(100))
        .run(&lab.topology, "client")?;
    let by: BTreeSet<String> = answers
        .iter()
        .filter_map(|a| a.by().map(str::to_owned))
        .collect();
    lab.tool("node1", "nft delete table inet fw")?;
    ensure!(
        by == BTreeSet::from(["pod-c".into()]),
        "{:?}",
        spread(&answers)
    );
    lab.answered_by("client", Protocol::Tcp, to, &PODS)
        .map(drop)
}

const FILE: &str = "facts.yaml";

/// Node1 in a zone with an address, and a Service with one endpoint for each of two zones.
fn manifest(zone: &str, address: &str) -> String {
    let endpoint = |ip: &str, node: &str, zone: &str| {
        format!(
            "{{addresses: [{ip}], nodeName: {node}, zone: {zone}, hints: {{forZones: [{{name: {zone}}}]}}}}"
        )
    };
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: node1, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n\
         status: {{addresses: [{{type: InternalIP, address: {address}}}, {{type: InternalIP, address: 'fd00:18::11'}}]}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: zoned}}\n\
         spec: {{clusterIP: 10.96.0.150, ports: [{{name: tcp, port: 80}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: zoned-4, labels: {{kubernetes.io/service-name: zoned}}}}\naddressType: IPv4\n\
         endpoints: [{}, {}]\nports: [{{name: tcp, port: 8080}}]\n",
        endpoint("10.244.1.10", "node1", "a"),
        endpoint("10.244.2.10", "node2", "b"),
    )
}

fn zone(lab: &mut Lab) -> Result<()> {
    let to: SocketAddr = "10.96.0.150:80".parse()?;
    for (zone, pod) in [("a", "pod-a"), ("b", "pod-c"), ("a", "pod-a")] {
        lab.write(FILE, &manifest(zone, "172.18.0.11"))?;
        eventually(&format!("zone {zone} is served by {pod}"), SOON, || {
            let answers = Probe::tcp(to)
                .count(10)
                .timeout(Duration::from_millis(300))
                .run(&lab.topology, "pod-b")?;
            Ok(spread(&answers).keys().eq([pod]))
        })?;
    }
    // In a zone that no hint names, all are used.
    lab.write(FILE, &manifest("c", "172.18.0.11"))?;
    eventually("zone c is served by both", SOON, || {
        let answers = Probe::tcp(to).count(20).run(&lab.topology, "pod-b")?;
        Ok(spread(&answers).keys().eq(["pod-a", "pod-c"]))
    })?;
    fs::remove_file(lab.manifests.join(FILE))?;
    Ok(())
}

/// An agent that is not told the node's addresses.
fn untold(lab: &Lab) -> Result<Agent> {
    let place = lab.topology.place("node1");
    let log_file = lab.topology.scratch().join("node1.log");
    let log = File::create(&log_file)?;
    let mut command = lab
        .topology
        .command("node1", workspace_binary("svc-agent")?)?;
    command
        .args(["run", "--hostname-override", "node1", "--bpf-root"])
        .arg(lab.topology.bpf_root("node1"))
        .arg("--cgroup-root")
        .arg(&place.cgroup)
        .args(lab.flags())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let process = Running(command.spawn().context("cannot start svc-agent")?);
    Ok(Agent {
        process,
        node: "node1",
        log_file,
    })
}

fn node_object(lab: &mut Lab) -> Result<()> {
    lab.tool("node1", "ip addr add 172.18.0.112/24 dev eth0")?;
    lab.write(FILE, &manifest("a", "172.18.0.11"))?;
    lab.agents[0].stop()?;
    lab.agents[0] = untold(lab)?;
    let topology = &lab.topology;
    lab.agents[0].wait_until_healthy(topology, Duration::from_secs(20))?;
    served(lab, "172.18.0.11")?;
    for (is, was) in [
        ("172.18.0.112", "172.18.0.11"),
        ("172.18.0.11", "172.18.0.112"),
    ] {
        lab.write(FILE, &manifest("a", is))?;
        served(lab, is)?;
        let old = Probe::tcp(node_port(was)?).timeout(Duration::from_millis(300));
        eventually(&format!("{was} is not served any more"), SOON, || {
            Ok(old.run(&lab.topology, "client")?[0].outcome == Outcome::Refused)
        })?;
    }
    lab.tool("node1", "ip addr del 172.18.0.112/24 dev eth0")?;
    fs::remove_file(lab.manifests.join(FILE))?;
    restart(lab, &[])
}
