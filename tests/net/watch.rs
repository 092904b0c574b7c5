//! What operators watch: `/metrics` and its neighbours, and `svc-agent monitor`, against live agents.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use xtask::agents::eventually;
use xtask::topology::in_namespace;
use xtask::traffic::{Probe, Protocol, Running};

use crate::Case;
use crate::lab::Lab;
use crate::paths::Way;

const BOTH: &[&str] = &["packets_only", "socket_tcp"];
const ONE: &[&str] = &["packets_only"];

pub const CASES: &[Case] = &[
    Case {
        name: "metrics_are_what_their_page_says",
        settings: BOTH,
        test: metrics,
    },
    Case {
        name: "connections_are_counted_by_service_and_packets_where_asked_for",
        settings: BOTH,
        test: counted,
    },
    Case {
        name: "top_shows_who_is_busy",
        settings: BOTH,
        test: busy,
    },
    Case {
        name: "an_agent_says_how_it_is",
        settings: ONE,
        test: pages,
    },
    Case {
        name: "monitor_shows_what_is_lost_and_what_is_new",
        settings: BOTH,
        test: shows,
    },
    Case {
        name: "monitors_do_not_disturb_each_other_and_cost_nothing_when_gone",
        settings: ONE,
        test: several,
    },
    Case {
        name: "monitor_says_what_it_does_not_understand",
        settings: ONE,
        test: wrong,
    },
];

/// What an HTTP server of a node answers, headers and all.
pub fn ask(lab: &Lab, node: &str, port: u16, request: &str, body: &str) -> Result<String> {
    in_namespace(&lab.topology.place(node).namespace_file(), || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let length = body.len();
        stream.write_all(
            format!("{request} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                .as_bytes(),
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

fn get(lab: &Lab, port: u16, path: &str) -> Result<String> {
    let text = ask(lab, "node1", port, &format!("GET {path}"), "")?;
    let (head, body) = text.split_once("\r\n\r\n").context("no body")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {text}");
    Ok(body.to_owned())
}

pub const METRICS: u16 = 10249;
const HEALTH: u16 = 10256;

fn metrics(lab: &mut Lab) -> Result<()> {
    let refused = Way::ALL[0].cluster_ip(4);
    lab.refused("pod-b", Protocol::Tcp, refused)?;
    let text = get(lab, METRICS, "/metrics")?;
    let told: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let page = include_str!("../../docs/metrics.md");
    let listed: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    ensure!(told == listed, "{told:?}\nand the page: {listed:?}");
    let value = |series: &str| value(&text, series);
    for series in [
        "svcplane_not_forwarded_total{reason=\"no-endpoints\"}",
        "svcplane_table_entries{table=\"frontends\",ip_family=\"IPv6\"}",
        "svcplane_table_capacity{table=\"service_ports\"}",
        "svcplane_flow_table_capacity{ip_family=\"IPv4\"}",
        "svcplane_self_test_ok{ip_family=\"IPv4\"}",
        "svcplane_self_test_ok{ip_family=\"IPv6\"}",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"}",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ] {
        ensure!(value(series)? > 0.0, "{series} is {}", value(series)?);
    }
    for program in ["pod_ingress", "node_ingress", "node_egress"] {
        let wanted = value(&format!("svcplane_hooks_wanted{{program=\"{program}\"}}"))?;
        let attached = value(&format!("svcplane_hooks_attached{{program=\"{program}\"}}"))?;
        ensure!(
            wanted > 0.0 && wanted == attached,
            "{program}: {attached} of {wanted}"
        );
    }
    ensure!(value("svcplane_device_attached{device=\"eth0\",program=\"node_ingress\"}")? == 1.0);
    promtool(&text)
}

fn value(text: &str, series: &str) -> Result<f64> {
    let line = text
        .lines()
        .find(|line| line.rsplit_once(' ').is_some_and(|(s, _)| s == series));
    let line = line.with_context(|| format!("no {series} in\n{text}"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

fn counted(lab: &mut Lab) -> Result<()> {
    let [tcp, udp] = [Way::ALL[0], Way::ALL[1]].map(|way| way.cluster_ip(1));
    let of = |what: &str, protocol: &str, more: &str| {
        let port = protocol.to_lowercase();
        format!(
            "svcplane_service_{what}_total{{namespace=\"default\",name=\"all\",port=\"{port}\",protocol=\"{protocol}\"{more}}}"
        )
    };
    // By packets, or by a socket: a connection is a connection. They outlive the agent.
    let connections = |lab: &Lab, protocol| -> Result<f64> {
        value(
            &get(lab, METRICS, "/metrics")?,
            &of("connections", protocol, ""),
        )
    };
    let before = connections(lab, "TCP")?;
    lab.answered("pod-b", Protocol::Tcp, tcp, 5)?;
    ensure!(connections(lab, "TCP")? == before + 5.0);
    ensure!(!get(lab, METRICS, "/metrics")?.contains("svcplane_service_packets_total{"));
    let restart = |lab: &mut Lab, more: &[&str]| -> Result<()> {
        let mut agents = lab.agents.iter_mut();
        agents.try_for_each(|agent| agent.stop().map(drop))?;
        lab.start(more)
    };
    restart(lab, &["--service-metrics", "traffic"])?;
    ensure!(connections(lab, "TCP")? == before + 5.0);
    let before = connections(lab, "UDP")?;
    lab.refused("pod-b", Protocol::Udp, tcp)?;
    lab.answered("pod-b", Protocol::Udp, udp, 5)?;
    let text = get(lab, METRICS, "/metrics")?;
    ensure!(value(&text, &of("connections", "UDP", ""))? == before + 5.0);
    for way in ["in", "out"] {
        let direction = format!(",direction=\"{way}\"");
        let packets = value(&text, &of("packets", "UDP", &direction))?;
        let bytes = value(&text, &of("bytes", "UDP", &direction))?;
        ensure!(packets >= 5.0, "{packets} {way}");
        ensure!(bytes >= 28.0 * packets, "{bytes} bytes {way}");
    }
    restart(lab, &["--service-metrics", "off"])?;
    let text = get(lab, METRICS, "/metrics")?;
    ensure!(
        !text.contains("svcplane_service_connections_total{"),
        "{text}"
    );
    restart(lab, &[])
}

fn busy(lab: &mut Lab) -> Result<()> {
    let to = Way::ALL[0].cluster_ip(1);
    let top = |more: &[&str]| -> Result<String> {
        let output = lab.agent("node1", "top", more)?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{more:?}: {output:?}");
        Ok(told)
    };
    let open = lab.conversation("pod-b", Protocol::Tcp, to, "pod-c")?;
    let mut looking = lab.topology.agent("node1", "top")?;
    let mut looking = looking
        .args(["services", "--interval", "2s", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()?;
    // Whenever it begins to look.
    while looking.try_wait()?.is_none() {
        lab.answered("pod-b", Protocol::Tcp, to, 20)?;
    }
    let told: Value = serde_json::from_slice(&looking.wait_with_output()?.stdout)?;
    let first = &told["items"][0];
    ensure!(
        first["name"] == "all" && first["port_name"] == "tcp",
        "{told:#}"
    );
    ensure!(
        first["connections_per_second"].as_f64() > Some(5.0),
        "{first:#}"
    );
    ensure!(first["live_connections"].as_u64() >= Some(1), "{first:#}");
    ensure!(first["backends"].as_u64() > Some(1), "{first:#}");
    ensure!(first["packets_in_per_second"].is_null(), "{first:#}");
    drop(open);
    // Not a terminal: one table.
    let table = top(&[
        "services",
        "all:tcp",
        "--interval",
        "100ms",
        "-n",
        "default",
    ])?;
    let names = table.lines().map(|line| line.split_whitespace().nth(1));
    ensure!(names.eq([Some("NAME"), Some("all:tcp")]), "{table}");
    for (words, says) in [
        (["pods", ""], "possible values: services"),
        (["--interval", "soon"], "is no time"),
    ] {
        let words = words.into_iter().filter(|word| !word.is_empty());
        let words: Vec<&str> = words.collect();
        let output = lab.agent("node1", "top", &words)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(2) && errors.contains(says),
            "{errors}"
        );
    }
    Ok(())
}

/// Where it is installed.
fn promtool(text: &str) -> Result<()> {
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        return Ok(());
    };
    promtool
        .stdin
        .take()
        .context("stdin")?
        .write_all(text.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    // kube-proxy's own name for a gauge.
    let ours = complaints
        .lines()
        .find(|line| !line.contains("no_local_endpoints_total"));
    ensure!(ours.is_none(), "{complaints}");
    Ok(())
}

fn pages(lab: &mut Lab) -> Result<()> {
    for path in ["/healthz", "/livez", "/readyz"] {
        let body: Value = serde_json::from_str(&get(lab, HEALTH, path)?)?;
        ensure!(
            body["healthy"] == true
                && body["status"]["IPv4"]["healthy"] == true
                && body["status"]["IPv6"]["healthy"] == true,
            "{path}: {body}"
        );
    }
    ensure!(get(lab, METRICS, "/proxyMode")? == "ebpf");
    let settings: Value = serde_json::from_str(&get(lab, METRICS, "/configz")?)?;
    ensure!(settings["svcplane.io"]["socket-lb"] == "off", "{settings}");
    ensure!(get(lab, METRICS, "/flagz")?.contains("\nsocket-lb=off\n"));
    let status = get(lab, METRICS, "/statusz")?;
    ensure!(
        status.contains("\nNode: node1\n")
            && status.contains("\nHealthy: true\n")
            && !status.contains("NOT"),
        "{status}"
    );
    // As kube-proxy's verbosity is changed; here also by module.
    let put = |body| ask(lab, "node1", METRICS, "PUT /debug/flags/v", body);
    ensure!(put("svc_agent=chatty")?.starts_with("HTTP/1.1 400"));
    let done = put("info,svc_agent::run=trace")?;
    ensure!(
        done.ends_with("successfully set the log's levels to svc_agent::run=trace,info\n"),
        "{done}"
    );
    ensure!(get(lab, METRICS, "/statusz")?.contains("\nLog levels: svc_agent::run=trace,info\n"));
    ensure!(put("1")?.starts_with("HTTP/1.1 200"));
    let log = lab.agents[0].log();
    ensure!(
        log.contains("the log's levels are now svc_agent::run=trace,info"),
        "{log}"
    );
    Ok(())
}

/// A monitor of node1 that watches already.
struct Monitor {
    process: Running,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Monitor {
    fn start(lab: &Lab, flags: &[&str]) -> Result<Self> {
        let mut command = lab.topology.agent("node1", "monitor")?;
        let mut child = command
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("stdout")?;
        let mut started = String::new();
        BufReader::new(child.stderr.take().context("stderr")?).read_line(&mut started)?;
        ensure!(started.starts_with("svc-agent: watching"), "{started}");
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Ok(Self {
            process: Running(child),
            lines,
        })
    }

    /// Waits for a line that is as wanted.
    fn line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let mut others = String::new();
        let until = std::time::Instant::now() + Duration::from_secs(3);
        while let Ok(line) = self
            .lines
            .recv_timeout(until.saturating_duration_since(std::time::Instant::now()))
        {
            if wanted(&line) {
                return Ok(line);
            }
            others += &format!("{line}\n");
        }
        anyhow::bail!("{what}: not shown; there was\n{others}")
    }

    /// Ends it as Ctrl-C does. What it has said since.
    fn end(self) -> Result<Vec<String>> {
        let Self { mut process, lines } = self;
        let child: &mut Child = &mut process.0;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
        let status = child.wait()?;
        ensure!(status.code() == Some(0), "{status}");
        Ok(lines.iter().collect())
    }
}

fn shows(lab: &mut Lab) -> Result<()> {
    let monitor = Monitor::start(lab, &["-o", "json"])?;
    let text = Monitor::start(lab, &["--drops"])?;
    let json = |what: &str, wanted: &dyn Fn(&Value) -> bool| -> Result<Value> {
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_default();
        monitor
            .line(what, |line| wanted(&parse(line)))
            .map(|line| parse(&line))
    };
    for way in Way::ALL {
        let protocol = if way.is_udp() { "UDP" } else { "TCP" };
        // From outside: a new flow, of a pod there and a node port here.
        let to = way.node_port(lab, "node1", 2);
        lab.answered_afresh("client", way.protocol, to, &["pod-a"])?;
        let found = json("a new flow", &|e| {
            e["event"] == "new" && e["frontend"] == to.to_string()
        })?;
        let client = lab.address("client", way.v6).to_string();
        ensure!(
            found["name"] == "one-a"
                && found["namespace"] == "default"
                && found["protocol"] == protocol
                && found["device"] == "eth0"
                && found["hook"] == "tc"
                && found["backend"] == way.direct(lab, "pod-a").to_string()
                && found["client"]
                    .as_str()
                    .is_some_and(|c| c.contains(&client))
                && found["reason"].is_null(),
            "{found}"
        );
        // A Service without endpoints refuses.
        let to = way.cluster_ip(4);
        lab.refused("pod-b", way.protocol, to)?;
        let found = json("a refusal", &|e| {
            e["event"] == "refused" && e["frontend"] == to.to_string()
        })?;
        ensure!(
            found["reason"] == "no-endpoints"
                && found["name"] == "none"
                && found["protocol"] == protocol,
            "{found}"
        );
        let is_socket = lab.setting.socket_lb == "tcp" && !way.is_udp();
        ensure!(
            (found["hook"] == "socket") == is_socket && found["pid"].is_u64() == is_socket,
            "{found}"
        );
        text.line("a refusal", |line| {
            line.contains("refused")
                && line.contains("default/none:")
                && line.contains(&to.to_string())
        })?;
        // A ClusterIP is not for those outside.
        let to = way.cluster_ip(1);
        lab.silent("client", way.protocol, to)?;
        let found = json("a drop", &|e| {
            e["event"] == "dropped" && e["frontend"] == to.to_string()
        })?;
        ensure!(
            found["reason"] == "cluster-ip-from-outside" && found["name"] == "all",
            "{found}"
        );
    }
    if lab.setting.socket_lb == "tcp" {
        let to = Way::ALL[0].cluster_ip(3);
        lab.answered_by("pod-b", Protocol::Tcp, to, &["pod-c"])?;
        let found = json("a socket", &|e| {
            e["event"] == "connected" && e["frontend"] == to.to_string()
        })?;
        ensure!(
            found["process"] == "xtask"
                && found["name"] == "one-c"
                && found["backend"] == "10.244.2.10:8080",
            "{found}"
        );
    }
    let drops = text.end()?;
    ensure!(
        drops.iter().all(|line| !line.contains("  new  ")),
        "{drops:?}"
    );
    monitor.end().map(drop)
}

fn several(lab: &mut Lab) -> Result<()> {
    let way = Way::ALL[0];
    let client = lab.address("client", false).to_string();
    let all = Monitor::start(lab, &[])?;
    let ours = Monitor::start(lab, &["--service", "none:tcp", "-n", "default"])?;
    let others = Monitor::start(lab, &["-n", "kube-system"])?;
    let from = Monitor::start(lab, &["--from", &format!("{client}/32"), "--drops"])?;
    for n in 0..40 {
        lab.refused("pod-b", Protocol::Tcp, way.cluster_ip(4))?;
        if n % 10 == 0 {
            let probe = Probe::tcp(way.node_port(lab, "node1", 4)).timeout(Duration::from_secs(1));
            probe.run(&lab.topology, "client")?;
        }
    }
    all.line("the first", |line| line.contains("default/none:tcp"))?;
    from.line("a client's", |line| line.contains(&client))?;
    let count = |lines: Vec<String>| {
        lines
            .iter()
            .filter(|l| l.contains("default/none:tcp"))
            .count()
    };
    std::thread::sleep(Duration::from_millis(200));
    let (all, ours, from) = (all.end()?, ours.end()?, from.end()?);
    ensure!(others.end()?.is_empty());
    ensure!(from.iter().all(|line| line.contains(&client)), "{from:?}");
    // Three of each `refused`, four of the client's.
    let (all, ours) = (count(all) + 1, count(ours));
    ensure!(all == ours && all >= 120, "{all} and {ours}");
    // One that dies is forgotten, and nothing is written any more.
    let mut killed = Monitor::start(lab, &[])?;
    killed.process.kill();
    drop(killed);
    let head = || -> Result<u64> {
        let path = lab.topology.bpf_root("node1").join("v1/maps/EVENT_HEAD");
        let map = aya::maps::MapData::from_pin(path)?;
        let map = aya::maps::Array::<_, u64>::try_from(aya::maps::Map::from_map_data(map)?)?;
        Ok(map.get(&0, 0)?)
    };
    eventually(
        "events are not written any more",
        Duration::from_secs(8),
        || {
            let before = head()?;
            lab.refused("pod-b", Protocol::Tcp, way.cluster_ip(4))?;
            Ok(head()? == before)
        },
    )?;
    Ok(())
}

fn wrong(lab: &mut Lab) -> Result<()> {
    for (flags, code, says) in [
        (
            &["--from", "pod-a"][..],
            2,
            "\"pod-a\" is no address and no range",
        ),
        (&["-o", "yaml"], 2, "text, json"),
        (
            &["--bpf-root", "/sys/fs/bpf/nobody"],
            1,
            "no maps of svcplane are pinned there",
        ),
    ] {
        let output = lab.agent("node1", "monitor", flags)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(code) && errors.contains(says) && output.stdout.is_empty(),
            "{flags:?}: {}: {errors}",
            output.status
        );
    }
    // Whose reader is gone ends by itself, also when nothing happens.
    let mut command = lab.topology.agent("node1", "monitor")?;
    let mut child = Running(
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?,
    );
    drop(child.0.stdout.take());
    eventually(
        "a monitor without a reader ends",
        Duration::from_secs(3),
        || Ok(child.0.try_wait()?.is_some_and(|status| status.success())),
    )?;
    Ok(())
}
