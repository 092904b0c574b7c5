//! Health check node ports (C14), asked by a load balancer outside; and what `check` says of a kube-proxy.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::agents::eventually;
use xtask::topology::in_namespace;
use xtask::traffic::{Protocol, Running};

use crate::Case;
use crate::lab::Lab;

const SOON: Duration = Duration::from_secs(3);

pub const CASES: &[Case] = &[
    Case {
        name: "a_load_balancer_is_told_how_many_ready_endpoints_each_node_has",
        settings: &["socket_tcp", "xdp_native"],
        test: counts,
    },
    Case {
        name: "a_health_check_port_in_use_is_said_once_and_the_service_works",
        settings: &["socket_tcp"],
        test: in_use,
    },
    Case {
        name: "a_kube_proxy_is_found_by_check_and_at_start",
        settings: &["socket_tcp"],
        test: kube_proxy,
    },
];

const FILE: &str = "health.yaml";

/// A Service on LoadBalancer address 192.0.2.140 and NodePort 30140 with these fields and IPv4 endpoints.
fn manifest(kind: &str, policy: &str, check_port: u16, endpoints: &str) -> String {
    let check = if check_port == 0 {
        String::new()
    } else {
        format!("healthCheckNodePort: {check_port}, ")
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: checked}}\nspec: {{type: {kind}, externalTrafficPolicy: {policy}, {check}\
         clusterIPs: [10.96.0.140, 'fd00:96::140'], ports: [{{name: tcp, port: 80, nodePort: 30140}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: checked-4, labels: {{kubernetes.io/service-name: checked}}}}\naddressType: IPv4\n\
         endpoints: [{endpoints}]\nports: [{{name: tcp, port: 8080}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: checked-6, labels: {{kubernetes.io/service-name: checked}}}}\naddressType: IPv6\n\
         endpoints: [{{addresses: ['fd00:244:1::a'], nodeName: node1}}]\nports: [{{name: tcp, port: 8080}}]\n"
    )
}

const POD_A: &str = "{addresses: [10.244.1.10], nodeName: node1}";
const POD_B: &str = "{addresses: [10.244.1.11], nodeName: node1}";
const POD_C: &str = "{addresses: [10.244.2.10], nodeName: node2}";
const LEAVING_A: &str = "{addresses: [10.244.1.10], nodeName: node1, conditions: {ready: false, serving: true, terminating: true}}";

/// Status line, headers and body of the answer to a GET from the client; none when nobody listens.
fn ask(lab: &Lab, at: SocketAddr) -> Result<Option<String>> {
    in_namespace(&lab.topology.place("client").namespace_file(), || {
        let Ok(mut stream) = TcpStream::connect_timeout(&at, Duration::from_millis(500)) else {
            return Ok(None);
        };
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        if stream.write_all(request.as_bytes()).is_err() {
            return Ok(None);
        }
        // A connection that nobody took before the listener went is reset.
        let mut text = String::new();
        Ok(stream.read_to_string(&mut text).is_ok().then_some(text))
    })
}

fn at(lab: &Lab, node: &str, v6: bool, port: u16) -> SocketAddr {
    SocketAddr::new(lab.address(node, v6), port)
}

/// Waits until a node tells so many endpoints, as kube-proxy would say it.
fn told(lab: &Lab, node: &str, v6: bool, port: u16, count: usize) -> Result<()> {
    let at = at(lab, node, v6, port);
    let status = if count > 0 {
        "200 OK"
    } else {
        "503 Service Unavailable"
    };
    let body = format!(
        "\r\n\r\n{{\"service\":{{\"namespace\":\"default\",\"name\":\"checked\"}},\"localEndpoints\":{count},\"serviceProxyHealthy\":true}}"
    );
    let mut last = None;
    let answer = eventually(&format!("{at} tells {count} endpoints"), SOON, || {
        last = ask(lab, at)?;
        Ok(last.as_ref().is_some_and(|text| {
            text.starts_with(&format!("HTTP/1.1 {status}\r\n")) && text.ends_with(&body)
        }))
    });
    answer.with_context(|| format!("last answer: {last:?}"))?;
    let text = last.unwrap_or_default();
    for header in [
        "content-type: application/json\r\n".to_owned(),
        "x-content-type-options: nosniff\r\n".to_owned(),
        format!("x-load-balancing-endpoint-weight: {count}\r\n"),
    ] {
        ensure!(text.contains(&header), "{at}: no {header:?} in {text:?}");
    }
    Ok(())
}

fn closed(lab: &Lab, port: u16) -> Result<()> {
    for (node, v6) in [("node1", false), ("node1", true), ("node2", false)] {
        let at = at(lab, node, v6, port);
        eventually(&format!("{at} is closed"), SOON, || {
            Ok(ask(lab, at)?.is_none())
        })?;
    }
    Ok(())
}

fn counts(lab: &mut Lab) -> Result<()> {
    let write = |kind: &str, policy: &str, port: u16, endpoints: &[&str]| {
        lab.write(FILE, &manifest(kind, policy, port, &endpoints.join(", ")))
    };
    write("LoadBalancer", "Local", 32_140, &[POD_A, POD_B, POD_C])?;
    told(lab, "node1", false, 32_140, 2)?;
    told(lab, "node2", false, 32_140, 1)?;
    // Each family is told of its own endpoints.
    told(lab, "node1", true, 32_140, 1)?;
    told(lab, "node2", true, 32_140, 0)?;
    // Leaving endpoints still get traffic, but load balancers are sent away (corner case 6).
    write("LoadBalancer", "Local", 32_140, &[LEAVING_A, POD_C])?;
    told(lab, "node1", false, 32_140, 0)?;
    told(lab, "node2", false, 32_140, 1)?;
    let node_port = at(lab, "node1", false, 30_140);
    lab.answered_by("client", Protocol::Tcp, node_port, &["pod-a"])?;
    write("LoadBalancer", "Local", 32_141, &[POD_A])?;
    told(lab, "node1", false, 32_141, 1)?;
    closed(lab, 32_140)?;
    for (kind, policy) in [("LoadBalancer", "Cluster"), ("NodePort", "Local")] {
        write("LoadBalancer", "Local", 32_141, &[POD_A])?;
        told(lab, "node1", false, 32_141, 1)?;
        write(kind, policy, 32_141, &[POD_A])?;
        closed(lab, 32_141)?;
    }
    write("LoadBalancer", "Local", 32_141, &[POD_A])?;
    told(lab, "node2", false, 32_141, 0)?;
    fs::remove_file(lab.manifests.join(FILE))?;
    closed(lab, 32_141)
}

fn in_use(lab: &mut Lab) -> Result<()> {
    let port = 32_142;
    let busy = at(lab, "node1", false, port);
    let taken = in_namespace(&lab.topology.place("node1").namespace_file(), || {
        Ok(TcpListener::bind(busy)?)
    })?;
    lab.write(FILE, &manifest("LoadBalancer", "Local", port, POD_A))?;
    let line = format!("its health check at 172.18.0.11:{port} cannot be served");
    let said = |lab: &Lab| lab.agents[0].log().matches(&line).count();
    eventually("the log says it", SOON, || Ok(said(lab) == 1))?;
    // The other family's and the other node's are there, and so is the Service.
    told(lab, "node1", true, port, 1)?;
    told(lab, "node2", false, port, 0)?;
    let node_port = at(lab, "node1", false, 30_140);
    lab.answered_by("client", Protocol::Tcp, node_port, &["pod-a"])?;
    drop(taken);
    eventually("it is had when it is free", Duration::from_secs(8), || {
        Ok(ask(lab, busy)?.is_some())
    })?;
    told(lab, "node1", false, port, 1)?;
    ensure!(said(lab) == 1, "said {} times", said(lab));
    fs::remove_file(lab.manifests.join(FILE))?;
    closed(lab, port)
}

fn check(lab: &Lab, node: &str) -> Result<String> {
    let output = lab.agent(node, "check", &[])?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Signs of a kube-proxy in each of its modes: how they are made, what is said of them, how they are removed.
const SIGNS: [(&str, &str, &str); 5] = [
    (
        "nft add table ip kube-proxy",
        "kube-proxy's nftables rules are here (table ip kube-proxy)",
        "nft delete table ip kube-proxy",
    ),
    (
        "nft add table ip6 kube-proxy",
        "kube-proxy's nftables rules are here (table ip6 kube-proxy)",
        "nft delete table ip6 kube-proxy",
    ),
    (
        "iptables-nft -t nat -N KUBE-SERVICES",
        "kube-proxy's iptables (nft) rules are here (chain ip nat KUBE-SERVICES)",
        "iptables-nft -t nat -X KUBE-SERVICES",
    ),
    (
        "iptables-legacy -t nat -N KUBE-SERVICES",
        "kube-proxy's iptables (legacy) rules are here (chain KUBE-SERVICES)",
        "iptables-legacy -t nat -X KUBE-SERVICES",
    ),
    (
        "ip link add kube-ipvs0 type bridge",
        "kube-proxy's IPVS mode is here (device kube-ipvs0",
        "ip link del kube-ipvs0",
    ),
];

/// On node2: the tables of the old iptables stay, and packets for its pods by the stack.
fn kube_proxy(lab: &mut Lab) -> Result<()> {
    let clean = check(lab, "node2")?;
    ensure!(
        clean.contains("ok       no other service proxy is here"),
        "{clean}"
    );
    for (make, says, remove) in SIGNS {
        lab.tool("node2", make)?;
        let text = check(lab, "node2")?;
        ensure!(text.contains(says), "{make}: {text}");
        ensure!(
            text.contains("kube-proxy --cleanup") && text.contains("--takeover"),
            "{text}"
        );
        lab.tool("node2", remove)?;
    }
    // A process of that name in the node's namespace, not one elsewhere.
    let program = lab.topology.scratch().join("kube-proxy");
    fs::copy("/bin/sleep", &program)?;
    for (place, here) in [("node1", false), ("node2", true)] {
        let process = Running(lab.topology.command(place, &program)?.arg("60").spawn()?);
        let text = check(lab, "node2")?;
        let says = format!("kube-proxy is running (process {})", process.0.id());
        ensure!(text.contains(&says) == here, "{place}: {text}");
    }
    let clean = check(lab, "node2")?;
    ensure!(clean.contains("no other service proxy is here"), "{clean}");

    lab.tool("node2", "nft add table ip kube-proxy")?;
    lab.agents
        .iter_mut()
        .try_for_each(|agent| agent.stop().map(drop))?;
    for agent in &lab.agents {
        fs::write(&agent.log_file, "")?;
    }
    lab.start(&[])?;
    let says = "kube-proxy's nftables rules are here (table ip kube-proxy)";
    for (agent, times) in lab.agents.iter().zip([0, 1]) {
        let log = agent.log();
        ensure!(log.matches(says).count() == times, "{}: {log}", agent.node);
    }
    lab.tool("node2", "nft delete table ip kube-proxy")?;
    Ok(())
}
