//! `svc-agent explain`, `describe` and `diff` on live nodes: what they say is what happens.

use std::fs;
use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::agents::eventually;
use xtask::traffic::{Conversation, Protocol};

use crate::Case;
use crate::lab::Lab;
use crate::paths::Way;

pub const CASES: &[Case] = &[
    Case {
        name: "explain_foretells_where_connections_go",
        settings: &[
            "packets_only",
            "packets_only_bridge",
            "socket_tcp",
            "dsr_geneve",
        ],
        test: foretold,
    },
    Case {
        name: "explain_names_pods_and_what_is_wrong",
        settings: &["packets_only"],
        test: reasons,
    },
    Case {
        name: "describe_shows_endpoints_and_their_connections",
        settings: &["packets_only", "socket_tcp"],
        test: described,
    },
    Case {
        name: "diff_finds_what_the_maps_do_not_say",
        settings: &["packets_only"],
        test: different,
    },
    Case {
        name: "explain_describe_and_diff_say_what_they_do_not_understand",
        settings: &["packets_only"],
        test: wrong,
    },
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a verb that looks at the manifests too, as node `node`.
fn ask(lab: &Lab, node: &str, verb: &str, more: &[&str]) -> Result<Output> {
    let folder = lab.manifests.display().to_string();
    let mut words = vec!["--manifests", &folder];
    if verb != "diff" {
        words.extend(["--hostname-override", node]);
    }
    words.extend(more);
    lab.agent(node, verb, &words)
}

fn explain(lab: &Lab, node: &str, from: Option<SocketAddr>, to: &str) -> Result<Value> {
    let from = from.map(|from| from.to_string());
    let mut words = vec!["-o", "json"];
    if let Some(from) = &from {
        words.extend(["--from", from]);
    }
    words.push(to);
    let output = ask(lab, node, "explain", &words)?;
    ensure!(
        output.status.success(),
        "{words:?}: {}",
        text(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("no JSON")
}

/// Before a connection is made: who may get it. Once it is there: who has it, and as whom it sees the client.
fn foretold(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL {
        let to = if way.is_udp() {
            format!("{}/udp", way.cluster_ip(1))
        } else {
            way.cluster_ip(1).to_string()
        };
        let pod = SocketAddr::new(lab.address("pod-a", way.v6), 45_000);
        let before = explain(lab, "node1", Some(pod), &to)?;
        ensure!(before["packet"]["client"] == "pod", "{before:#}");
        ensure!(before["verdict"] == "forwarded", "{before:#}");
        let may: Vec<&str> = before["endpoints"]
            .as_array()
            .context("no endpoints")?
            .iter()
            .filter(|endpoint| !endpoint["percent"].is_null())
            .filter_map(|endpoint| endpoint["backend"].as_str())
            .collect();
        ensure!(may.len() == 3, "{before:#}");
        for (from, place) in [("client", "outside"), ("pod-c", "outside")] {
            let to = way.node_port(lab, "node1", 3);
            let mut conversation = Conversation::open(&lab.topology, from, way.protocol, to)?;
            let (seen, _) = Lab::seen(&conversation.say()?)?;
            // Sockets of other nodes' pods may have gone to the pod itself.
            let Some(flow) = flow_of(lab, to, seen)? else {
                continue;
            };
            let protocol = if way.is_udp() { "/udp" } else { "" };
            let client: SocketAddr = flow["client"].as_str().context("no client")?.parse()?;
            let told = explain(lab, "node1", Some(client), &format!("{to}{protocol}"))?;
            ensure!(told["packet"]["client"] == place, "{told:#}");
            ensure!(told["flow"]["client"] == flow["client"], "{told:#}");
            ensure!(told["way"]["backend"] == flow["backend"], "{flow} {told:#}");
            ensure!(
                told["way"]["seen_as"] == seen.to_string(),
                "{seen} {told:#}"
            );
            ensure!(
                told["hooks"][0]["hook"] == "node_ingress"
                    || told["hooks"][0]["hook"] == "node_xdp",
                "{told:#}"
            );
        }
    }
    let own = explain(lab, "node1", None, "svc/default/all:tcp")?;
    ensure!(
        own["packet"]["client"] == "node" && own["verdict"] == "forwarded",
        "{own:#}"
    );
    Ok(())
}

/// The flow through a node port whose backend sees `seen`.
fn flow_of(lab: &Lab, to: SocketAddr, seen: SocketAddr) -> Result<Option<Value>> {
    let output = lab.agent("node1", "get", &["flows", "-o", "json"])?;
    let list: Value = serde_json::from_slice(&output.stdout)?;
    let flows = list["items"].as_array().cloned().unwrap_or_default();
    let seen = seen.to_string();
    let is_it = |flow: &Value| {
        let as_whom = if flow["nat"].is_null() {
            &flow["client"]
        } else {
            &flow["nat"]
        };
        flow["frontend"] == to.to_string() && *as_whom == seen
    };
    Ok(flows.into_iter().find(is_it))
}

fn reasons(lab: &mut Lab) -> Result<()> {
    let pod = SocketAddr::new(lab.address("pod-a", false), 45_000);
    let none = explain(lab, "node1", Some(pod), "svc/default/none:80")?;
    ensure!(
        none["verdict"] == "refused" && none["reason"] == "no-endpoints",
        "{none:#}"
    );
    ensure!(
        none["fix"]
            .as_str()
            .is_some_and(|fix| fix.contains("its selector no=such matches no Pod")),
        "{none:#}"
    );
    let named = ask(
        lab,
        "node1",
        "explain",
        &["--from", "pod/default/pod-a", "svc/default/one-c:80"],
    )?;
    let named = text(&named.stdout);
    for part in [
        "pod default/pod-a",
        "Service:    default/one-c:tcp, ClusterIP, asked from inside",
        "10.244.2.10:8080   default/pod-c   other   100.0%   ready",
        "Verdict:    forwarded: to the only backend that gets new connections",
    ] {
        ensure!(named.contains(part), "no {part:?} in\n{named}");
    }
    let words = ["--exit-code", "svc/default/none:80"];
    ensure!(ask(lab, "node1", "explain", &words)?.status.code() == Some(1));
    let words = ["--exit-code", "svc/default/one-a:80"];
    ensure!(ask(lab, "node1", "explain", &words)?.status.code() == Some(0));
    Ok(())
}

/// The cells of the line of a backend.
fn row(page: &str, backend: &str) -> Result<Vec<String>> {
    let line = page
        .lines()
        .find(|line| line.split_whitespace().next() == Some(backend))
        .with_context(|| format!("no {backend} in\n{page}"))?;
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

fn described(lab: &mut Lab) -> Result<()> {
    let way = Way::ALL[0];
    let to = way.cluster_ip(1);
    let page = |lab: &Lab| -> Result<String> {
        let output = ask(lab, "node1", "describe", &["service", "all"])?;
        ensure!(output.status.success(), "{}", text(&output.stderr));
        Ok(text(&output.stdout))
    };
    let before = page(lab)?;
    for part in [
        "Selector:    all=yes",
        "Type:        LoadBalancer",
        "Port:        tcp TCP",
    ] {
        ensure!(before.contains(part), "no {part:?} in\n{before}");
    }
    let count = |page: &str| -> Result<usize> {
        let row = row(page, "10.244.2.10:8080")?;
        ensure!(row[1..3] == ["default/pod-c", "other"], "{row:?}");
        Ok(row[5].parse::<usize>()? + row[6].parse::<usize>()?)
    };
    let idle = count(&before)?;
    let told = ask(lab, "node1", "describe", &["service", "all", "-o", "json"])?;
    let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    let connections = |told: &serde_json::Value| -> Option<u64> {
        let ports = told["ports"].as_array()?;
        let tcp = ports.iter().find(|port| port["port_name"] == "tcp")?;
        tcp["counted"]["connections"].as_u64()
    };
    ensure!(told["object"]["type"] == "LoadBalancer", "{told}");
    let counted = connections(&told).context("nothing is counted")?;
    let conversation = lab.conversation("pod-b", Protocol::Tcp, to, "pod-c")?;
    let busy = page(lab)?;
    ensure!(count(&busy)? > idle, "{idle}, and then\n{busy}");
    let told = ask(lab, "node1", "describe", &["service", "all", "-o", "json"])?;
    let told = serde_json::from_slice(&told.stdout)?;
    ensure!(
        connections(&told) > Some(counted),
        "{counted}, and then {told}"
    );
    // The pod leaves the Service, and the connection stays.
    lab.edit(
        "name: pod-c, labels: {all: 'yes', one: c}",
        "name: pod-c, labels: {all: 'yes', one: c}, deletionTimestamp: '2026-11-21T00:00:00Z'",
    )?;
    let leaving = eventually(
        "the page says who is leaving",
        Duration::from_secs(5),
        || Ok(page(lab)?.contains("terminating, and ready ones are left")),
    );
    let page_then = page(lab)?;
    leaving.with_context(|| page_then.clone())?;
    ensure!(page_then.contains("still open"), "{page_then}");
    drop(conversation);
    lab.restore()
}

fn different(lab: &mut Lab) -> Result<()> {
    let same = ask(lab, "node1", "diff", &[])?;
    ensure!(
        same.status.code() == Some(0)
            && text(&same.stdout).contains("the maps say what they should"),
        "{}{}",
        text(&same.stdout),
        text(&same.stderr)
    );
    // What the agent was told of its node, the maps know.
    let mut plain = lab
        .topology
        .command("node1", xtask::programs::workspace_binary("svc-agent")?)?;
    plain.args(["diff", "--hostname-override", "node1", "--manifests"]);
    plain.arg(&lab.manifests).arg("--bpf-root");
    let plain = plain.arg(lab.topology.bpf_root("node1")).output()?;
    ensure!(plain.status.code() == Some(0), "{}", text(&plain.stdout));
    let other = lab.topology.scratch().join("other");
    fs::create_dir_all(&other)?;
    let manifests = fs::read_to_string(lab.manifests.join("services.yaml"))?;
    let edited = manifests
        .replace("clusterIP: 10.96.0.2\n", "clusterIP: 10.96.0.99\n")
        .replace("10.96.0.2,", "10.96.0.99,");
    fs::write(other.join("services.yaml"), edited)?;
    let folder = other.display().to_string();
    let differs = lab.agent("node1", "diff", &["--manifests", &folder])?;
    let said = text(&differs.stdout);
    ensure!(
        differs.status.code() == Some(1),
        "{said}{}",
        text(&differs.stderr)
    );
    for line in [
        "+ frontend 10.96.0.99:80/TCP of default/one-a asked from inside is missing in the maps",
        "- frontend 10.96.0.2:80/TCP of default/one-a asked from inside is in the maps, and should not be",
    ] {
        ensure!(said.contains(line), "no {line:?} in\n{said}");
    }
    let json = lab.agent("node1", "diff", &["--manifests", &folder, "-o", "json"])?;
    let json: Value = serde_json::from_slice(&json.stdout)?;
    ensure!(
        json["same"] == false && json["writes"].as_u64() > Some(0),
        "{json:#}"
    );
    // Nothing was changed by looking.
    ensure!(ask(lab, "node1", "diff", &[])?.status.code() == Some(0));
    Ok(())
}

fn wrong(lab: &mut Lab) -> Result<()> {
    let usage: [(&str, &[&str], &str); 7] = [
        ("explain", &[], "<TARGET>"),
        ("explain", &["10.96.0.1"], "has no port"),
        (
            "explain",
            &["10.96.0.1:80/icmp"],
            "neither tcp, udp nor sctp",
        ),
        (
            "explain",
            &["--from", "pod-a", "10.96.0.1:80"],
            "pod/NAMESPACE/NAME",
        ),
        ("describe", &["pod", "x"], "possible values: service"),
        ("diff", &["extra"], "unexpected argument"),
        (
            "describe",
            &["service", "all", "-o", "xml"],
            "possible values: text, json, yaml",
        ),
    ];
    let failures: [(&str, &[&str], &str); 6] = [
        ("explain", &["svc/default/wbe:80"], "no Service default/wbe"),
        ("explain", &["svc/default/all:443x"], "it has"),
        (
            "explain",
            &["--from", "fd00:244:1::a", "10.96.0.1:80"],
            "different families",
        ),
        (
            "explain",
            &["--from", "pod/default/nobody", "10.96.0.1:80"],
            "no Pod default/nobody",
        ),
        ("describe", &["service", "wbe"], "no Service default/wbe"),
        (
            "describe",
            &["service", "all", "-n", "shop"],
            "there is default/all",
        ),
    ];
    let all = usage
        .into_iter()
        .map(|u| (2, u))
        .chain(failures.into_iter().map(|f| (1, f)));
    for (code, (verb, words, says)) in all {
        let output = ask(lab, "node1", verb, words)?;
        let errors = text(&output.stderr);
        ensure!(
            output.status.code() == Some(code) && errors.contains(says),
            "{verb} {words:?}: {}: {errors}",
            output.status
        );
        ensure!(code == 2 || errors.lines().count() == 1, "{errors}");
    }
    for verb in [
        &["explain", "10.96.0.1:80"][..],
        &["describe", "service", "all"],
        &["diff", "--manifests", "/"],
    ] {
        let mut command = lab
            .topology
            .command("node1", xtask::programs::workspace_binary("svc-agent")?)?;
        command
            .args(verb)
            .arg("--bpf-root")
            .arg(lab.topology.bpf_root("nobody"));
        let output = command.output()?;
        let errors = text(&output.stderr);
        ensure!(
            output.status.code() == Some(1)
                && errors.contains("no maps of svcplane are pinned there"),
            "{verb:?}: {}: {errors}",
            output.status
        );
    }
    Ok(())
}
