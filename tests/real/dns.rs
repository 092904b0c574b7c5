//! Names are CoreDNS's work; that it is reached is ours: the real CoreDNS reads the API through the ClusterIP of
//! `kubernetes`, and is asked at the ClusterIP of `kube-dns`.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use xtask::agents::eventually;
use xtask::programs::{asset, workspace_binary};
use xtask::topology::in_namespace;
use xtask::traffic::Running;

use crate::Scenario;
use crate::scene::Scene;
use crate::server::{ADMIN, spawn, tail};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "names_resolve_through_the_cluster_ip_of_kube_dns",
    test: names,
}];

const HOME: &str = "pod-c";
const DNS_PORT: u16 = 53;
const COREFILE: &str = "\
.:53 {
    errors
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig KUBECONFIG test
        endpoint_pod_names
        ttl 0
    }
    loadbalance
}
";

/// C1: what every pod does first.
fn names(scene: &Scene<'_>) -> Result<()> {
    let _coredns = start(scene)?;
    let dns = scene.service(
        "kube-dns",
        &json!({"ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]}),
    )?;
    scene.pod("coredns", HOME, "kube-dns")?;

    let web = scene.service("web", &json!({}))?;
    scene.service(
        "headless",
        &json!({"clusterIP": "None", "selector": {"app": "web"}}),
    )?;
    scene.service(
        "elsewhere",
        &json!({"type": "ExternalName", "externalName": "www.example.com", "selector": null,
            "ipFamilyPolicy": null, "ports": null}),
    )?;
    scene.pod("a", "pod-a", "web")?;
    scene.pod("d", "pod-d", "web")?;

    let domain = format!("{}.svc.cluster.local", scene.namespace);
    let [v4, v6] = [0, 1].map(|family| web.cluster_ips(80).map(|ips| ips[family].ip()));
    let (v4, v6) = (format!("A {}", v4?), format!("AAAA {}", v6?));
    let pod = |name: &str| scene.cluster.topology.place(name).addresses();
    let of_pods = |kind: &str, family: usize| {
        ["pod-a", "pod-d"].map(|name| format!("{kind} {}", pod(name)[family]))
    };
    let questions = [
        (format!("web.{domain}"), "A", vec![v4]),
        (format!("web.{domain}"), "AAAA", vec![v6]),
        (
            format!("_http._tcp.web.{domain}"),
            "SRV",
            vec![format!("SRV 80 web.{domain}.")],
        ),
        (format!("headless.{domain}"), "A", of_pods("A", 0).to_vec()),
        (
            format!("headless.{domain}"),
            "AAAA",
            of_pods("AAAA", 1).to_vec(),
        ),
        (
            format!("_http._tcp.headless.{domain}"),
            "SRV",
            ["a", "d"]
                .map(|pod| format!("SRV 8080 {pod}.headless.{domain}."))
                .to_vec(),
        ),
        (
            format!("a.headless.{domain}"),
            "A",
            vec![format!("A {}", pod("pod-a")[0])],
        ),
        (
            format!("elsewhere.{domain}"),
            "CNAME",
            vec!["CNAME www.example.com.".to_owned()],
        ),
        (format!("nobody.{domain}"), "A", vec!["error 3".to_owned()]),
    ];
    for server in dns.cluster_ips(DNS_PORT)? {
        for protocol in ["udp", "tcp"] {
            for (name, kind, expected) in &questions {
                let question = [protocol, &server.to_string(), name, kind];
                expect(scene, &question, expected)?;
            }
        }
    }
    Ok(())
}

/// Its API server is the ClusterIP that kube-apiserver gives itself.
fn start(scene: &Scene<'_>) -> Result<Running> {
    let topology = scene.cluster.topology;
    // The way back from the API server to pods, which a cluster's network has.
    let (pods, node) = (topology.place(HOME), topology.place("node2"));
    in_namespace(&topology.place("lan").namespace_file(), || {
        let routes = [
            format!("route replace {} via {}", pods.v4, node.v4),
            format!("route replace {} via {}", pods.v6, node.v6),
        ];
        for route in routes {
            let status = std::process::Command::new("ip")
                .args(route.split(' '))
                .status()?;
            anyhow::ensure!(status.success(), "`ip {route}` failed");
        }
        Ok(())
    })?;
    let kubernetes = scene
        .cluster
        .plane
        .get("/api/v1/namespaces/default/services/kubernetes")?;
    let ip = kubernetes["spec"]["clusterIP"]
        .as_str()
        .context("kubernetes has no ClusterIP")?;
    let kubeconfig =
        scene
            .cluster
            .plane
            .api
            .kubeconfig("coredns", &format!("https://{ip}"), ADMIN)?;
    let corefile = topology.scratch().join("Corefile");
    fs::write(
        &corefile,
        COREFILE.replace("KUBECONFIG", &kubeconfig.display().to_string()),
    )?;
    let mut command = topology.command(HOME, asset("coredns")?)?;
    command.arg("-conf").arg(&corefile);
    spawn(command, &topology.scratch().join("coredns.log"))
}

fn expect(scene: &Scene<'_>, question: &[&str], expected: &[String]) -> Result<()> {
    let topology = scene.cluster.topology;
    let mut last = String::new();
    let as_expected = || {
        let mut command = topology.command("pod-b", workspace_binary("xtask")?)?;
        let output = command.arg("ask").args(question).output()?;
        last = String::from_utf8_lossy(&output.stdout).into_owned();
        last += &String::from_utf8_lossy(&output.stderr);
        let lines: BTreeSet<_> = last.lines().collect();
        // A server that knows the target's addresses may add them.
        let wanted: Vec<_> = lines
            .iter()
            .filter(|line| !line.starts_with("CNAME") || question[3] == "CNAME")
            .copied()
            .collect();
        Ok(wanted
            == expected
                .iter()
                .map(String::as_str)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>())
    };
    let what = format!("{} is answered by {expected:?}", question.join(" "));
    if let Err(error) = eventually(&what, Duration::from_secs(15), as_expected) {
        let log = tail(&topology.scratch().join("coredns.log"));
        bail!("{error:#}; last: {last}\n{log}");
    }
    Ok(())
}
