//! `svc-agent get` against live maps, and input that is wrong.

use std::fs;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::agents::eventually;
use xtask::traffic::{Conversation, Probe, Protocol};

use crate::Case;
use crate::lab::Lab;
use crate::life::new_connections;
use crate::paths::Way;

const ONE: &[&str] = &["packets_only"];

pub const CASES: &[Case] = &[
    Case {
        name: "get_services_shows_every_frontend",
        settings: ONE,
        test: services,
    },
    Case {
        name: "get_backends_shows_where_services_send",
        settings: ONE,
        test: backends,
    },
    Case {
        name: "get_flows_shows_who_talks_to_whom",
        settings: ONE,
        test: flows,
    },
    Case {
        name: "get_says_what_it_does_not_understand",
        settings: ONE,
        test: wrong,
    },
    Case {
        name: "bad_manifests_are_named_and_harm_nobody_else",
        settings: ONE,
        test: bad_manifests,
    },
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn get(lab: &Lab, node: &str, more: &[&str]) -> Result<String> {
    let mut words = vec![];
    words.extend_from_slice(more);
    let output = lab.agent(node, "get", &words)?;
    ensure!(
        output.status.success() && output.stderr.is_empty(),
        "get {more:?}: {}",
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}

/// The items of the same question in JSON and YAML.
fn items(lab: &Lab, node: &str, more: &[&str]) -> Result<Vec<Value>> {
    let json: Value = serde_json::from_str(&get(lab, node, &[more, &["-o", "json"]].concat())?)?;
    let yaml: Value = serde_saphyr::from_str(&get(lab, node, &[more, &["-o", "yaml"]].concat())?)?;
    let items = |list: Value| list["items"].as_array().cloned().context("no items");
    let (json, yaml) = (items(json)?, items(yaml)?);
    // Time passes between the two.
    ensure!(
        matches!(more[0], "flows" | "nat") || json == yaml,
        "JSON and YAML differ"
    );
    Ok(json)
}

/// Whether a line has these cells, in this order.
fn has_row(table: &str, cells: &[&str]) -> bool {
    table.lines().any(|line| {
        line.split_whitespace()
            .collect::<Vec<_>>()
            .windows(cells.len())
            .any(|w| w == cells)
    })
}

fn services(lab: &mut Lab) -> Result<()> {
    let table = get(lab, "node1", &["services"])?;
    for row in [
        [
            "default",
            "all:tcp",
            "ClusterIP",
            "10.96.0.1:80/TCP",
            "internal",
            "3",
        ],
        [
            "default",
            "all:udp",
            "ClusterIP",
            "[fd00:96::1]:53/UDP",
            "internal",
            "3",
        ],
        [
            "default",
            "all:tcp",
            "NodePort",
            "172.18.0.11:30080/TCP",
            "external",
            "3",
        ],
        [
            "default",
            "all:tcp",
            "LoadBalancer",
            "192.0.2.127:80/TCP",
            "external",
            "3",
        ],
        [
            "default",
            "one-c:tcp",
            "ClusterIP",
            "10.96.0.3:80/TCP",
            "internal",
            "1",
        ],
        [
            "default",
            "none:tcp",
            "ClusterIP",
            "10.96.0.4:80/TCP",
            "internal",
            "0",
        ],
    ] {
        ensure!(has_row(&table, &row), "{row:?} is not in\n{table}");
    }
    let wide = get(lab, "node1", &["services", "-o", "wide"])?;
    let row = [
        "172.18.0.11:30080/TCP",
        "external",
        "3",
        "2",
        "maglev",
        "cluster",
        "refuse",
    ];
    ensure!(has_row(&wide, &row), "{row:?} is not in\n{wide}");
    let items = items(lab, "node2", &["services", "one-c:tcp", "-n", "default"])?;
    // ClusterIP inside; NodePort inside and outside; of both families.
    ensure!(items.len() == 6, "{items:?}");
    ensure!(
        items
            .iter()
            .all(|item| item["name"] == "one-c" && item["local_backends"] == 1),
        "{items:?}"
    );
    ensure!(get(lab, "node1", &["services", "-n", "kube-system"])? == "nothing found\n");
    ensure!(self::items(lab, "node1", &["services", "no-such"])?.is_empty());
    Ok(())
}

fn backends(lab: &mut Lab) -> Result<()> {
    for (node, a, c) in [("node1", "local", "remote"), ("node2", "remote", "local")] {
        let table = get(lab, node, &["backends"])?;
        let rows = [
            ["default", "one-a:tcp", "10.244.1.10:8080/TCP", a],
            ["default", "one-c:udp", "10.244.2.10:5353/UDP", c],
        ];
        for row in rows {
            ensure!(has_row(&table, &row), "{row:?} is not in\n{table}");
        }
    }
    let items = items(lab, "node1", &["backends", "all:tcp"])?;
    ensure!(items.len() == 6, "{items:?}");
    Ok(())
}

fn flows(lab: &mut Lab) -> Result<()> {
    let way = Way::ALL[0];
    let to = way.node_port(lab, "node2", 2);
    let mut conversation = Conversation::open(&lab.topology, "client", Protocol::Tcp, to)?;
    let seen = Lab::seen(&conversation.say()?)?.0;
    let flows = items(lab, "node2", &["flows", "one-a"])?;
    let ours = flows
        .iter()
        .find(|flow| flow["frontend"] == to.to_string() && flow["nat"] == seen.to_string());
    let ours = ours.with_context(|| format!("no flow of {to} as {seen} in {flows:?}"))?;
    ensure!(
        ours["backend"] == "10.244.1.10:8080" && ours["protocol"] == "TCP",
        "{ours}"
    );
    let nat = items(lab, "node2", &["nat", "one-a", "-n", "default"])?;
    ensure!(
        nat.iter().any(|nat| nat["nat"] == ours["nat"]
            && nat["client"] == ours["client"]
            && nat["frontend"] == to.to_string()),
        "no {ours} in {nat:?}"
    );
    let table = get(lab, "node2", &["flows", "-o", "wide"])?;
    ensure!(
        has_row(&table, &[&to.to_string(), "10.244.1.10:8080"]),
        "no {to} in\n{table}"
    );
    Ok(())
}

fn fails(output: &Output, code: i32, says: &str) -> Result<()> {
    let errors = text(&output.stderr);
    ensure!(
        output.status.code() == Some(code) && errors.contains(says),
        "{}: {errors}",
        output.status
    );
    Ok(())
}

fn wrong(lab: &mut Lab) -> Result<()> {
    fails(
        &lab.agent("node1", "get", &["pods"])?,
        2,
        "services, backends, flows, nat, affinity",
    )?;
    fails(
        &lab.agent("node1", "get", &["services", "-o", "xml"])?,
        2,
        "table, wide, json, yaml",
    )?;
    fails(&lab.agent("node1", "get", &[])?, 2, "<WHAT>")?;
    let mut elsewhere = lab
        .topology
        .command("node1", xtask::programs::workspace_binary("svc-agent")?)?;
    elsewhere
        .args(["get", "services", "--bpf-root"])
        .arg(lab.topology.bpf_root("nobody"));
    let output = elsewhere.output()?;
    fails(&output, 1, "no maps of svcplane are pinned there")?;
    ensure!(
        text(&output.stderr).lines().count() == 1,
        "{}",
        text(&output.stderr)
    );
    Ok(())
}

const BAD: &str = "
apiVersion: v1
kind: Service
metadata: {name: addressless}
spec: {type: NodePort, selector: {one: a}, ports: [{name: tcp, port: 80, nodePort: 31000}]}
---
apiVersion: v1
kind: Service
metadata: {name: thief, creationTimestamp: '2026-11-20T00:00:00Z'}
spec:
  type: NodePort
  clusterIP: 10.96.0.20
  selector: {one: c}
  ports: [{name: tcp, port: 80, targetPort: 8080, nodePort: 30081}]
---
apiVersion: v1
kind: Service
metadata: {name: mixed}
spec: {clusterIP: 10.96.0.21, ports: [{name: tcp, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: mixed-1, labels: {kubernetes.io/service-name: mixed}}
addressType: IPv4
endpoints: [{addresses: ['fd00:244:1::a'], conditions: {ready: true}}, {addresses: [10.244.1.10], conditions: {ready: true}}]
ports: [{name: tcp, protocol: TCP, port: 8080}]
";

fn bad_manifests(lab: &mut Lab) -> Result<()> {
    lab.write(
        "broken.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: [\n",
    )?;
    lab.write(
        "odd.json",
        "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"spec\": 7}",
    )?;
    lab.write("bad.yaml", BAD)?;
    let way = Way::ALL[0];
    let answered = |n: u8| -> Result<bool> {
        let probe = Probe::tcp(way.cluster_ip(n)).timeout(Duration::from_millis(200));
        Ok(probe
            .run(&lab.topology, "pod-b")?
            .iter()
            .all(|a| a.by().is_some()))
    };
    eventually(
        "the good parts of a bad file are served",
        Duration::from_secs(3),
        || Ok(answered(20)? && answered(21)?),
    )?;
    // The clash: 30081 stays with one-a, thief has the rest.
    lab.answered_by(
        "client",
        Protocol::Tcp,
        way.node_port(lab, "node1", 2),
        &["pod-a"],
    )?;
    lab.answered_by("pod-b", Protocol::Tcp, way.cluster_ip(20), &["pod-c"])?;
    lab.answered_by("pod-b", Protocol::Tcp, way.cluster_ip(21), &["pod-a"])?;
    new_connections(lab)?;
    for agent in &lab.agents {
        let log = agent.log();
        for about in [
            &["broken.yaml"][..],
            &["odd.json"],
            &["addressless"],
            &["thief", "30081"],
            &["fd00:244:1::a"],
        ] {
            let line = log
                .lines()
                .find(|line| line.contains("WARN") && about.iter().all(|word| line.contains(word)));
            line.with_context(|| format!("{about:?} is not named in the log"))?;
        }
    }
    for name in ["broken.yaml", "odd.json", "bad.yaml"] {
        fs::remove_file(lab.manifests.join(name))?;
    }
    lab.wait_for("the bad ones have gone", |backends| {
        !backends.contains("mixed") && !backends.contains("thief")
    })
}
