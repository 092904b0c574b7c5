//! What `explain` says: the same for people and, as JSON or YAML, for scripts. Fields only ever get more.

use std::fmt::Write;

use serde::Serialize;

use crate::inspect::{AffinityItem, FlowItem, ServiceItem, columns};

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    pub packet: PacketItem,
    /// The frontend that is asked for, as `get services` shows it; `null`: there is none.
    pub frontend: Option<ServiceItem>,
    /// What each hook does, in the order in which they are met.
    pub hooks: Vec<HookItem>,
    /// The connection that the packet belongs to, as `get flows` shows it; `null`: it would be a new one.
    pub flow: Option<FlowItem>,
    /// Which backend the client had last, as `get affinity` shows it.
    pub affinity: Option<AffinityItem>,
    /// Every endpoint of the service port in this family.
    pub endpoints: Vec<EndpointItem>,
    pub verdict: Verdict,
    /// Of what is refused or dropped, the name of its counter.
    pub reason: Option<&'static str>,
    /// The verdict in words.
    pub why: String,
    /// What to do about it, where it fails.
    pub fix: Option<String>,
    /// Where the packet goes, if that can be foretold.
    pub way: Option<WayItem>,
    /// What is not known, or is odd.
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// To a backend.
    Forwarded,
    /// None of our business: on as it is.
    Passed,
    /// The client is told at once.
    Refused,
    /// The client is not told.
    Dropped,
}

impl Verdict {
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Refused | Self::Dropped)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PacketItem {
    pub protocol: String,
    /// `address:port`; the port is `*` where any will do.
    pub from: String,
    /// `node` (a process of it), `pod` (of this node) or `outside`.
    pub client: &'static str,
    /// Its Pod, `namespace/name`, where that is known.
    pub pod: Option<String>,
    /// Where it comes in; of the node's own packets, where they leave.
    pub device: Option<String>,
    pub to: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookItem {
    /// The program's name: `connect4`, `pod_ingress`, `node_egress`, `node_xdp`, `node_ingress`, …
    pub hook: String,
    /// A device, or `cgroup`.
    pub at: String,
    /// `passes`, `connects`, `forwards`, `refuses`, `drops` or `absent`.
    pub does: &'static str,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointItem {
    /// `address:port`.
    pub backend: String,
    pub pod: Option<String>,
    /// On this node; `null`: nobody says.
    pub local: Option<bool>,
    /// Part of the new connections, in percent; `null`: none.
    pub percent: Option<f64>,
    pub why: String,
    /// Where a packet goes if the choice falls on it.
    pub way: Option<WayItem>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WayItem {
    /// `address:port`.
    pub backend: String,
    /// The client as the backend sees it, `address:port`; the port is `*` where it is the client's own, whatever that is.
    pub seen_as: String,
    pub masqueraded: bool,
    /// `socket`, `stack`, `forward`, `inject`, `tunnel` or `peer`.
    pub route: &'static str,
    pub device: Option<String>,
    /// `null`: the backend is a neighbour, or on this node.
    pub next_hop: Option<std::net::IpAddr>,
    /// All of that in words.
    pub words: String,
}

/// More are of no use to a reader.
const MOST_WAYS: usize = 8;

impl Explanation {
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text)
            .expect("writing to a String does not fail");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let packet = &self.packet;
        writeln!(
            out,
            "Packet:     {} {} -> {}",
            packet.protocol, packet.from, packet.to
        )?;
        writeln!(out, "Client:     {}", self.client())?;
        match &self.frontend {
            Some(frontend) => {
                let port = match frontend.port_name.as_str() {
                    "" => String::new(),
                    name => format!(":{name}"),
                };
                writeln!(
                    out,
                    "Service:    {}/{}{port}, {}, asked from {}",
                    frontend.namespace,
                    frontend.name,
                    frontend.kind,
                    if frontend.scope == "internal" {
                        "inside"
                    } else {
                        "outside"
                    }
                )?;
                writeln!(out, "Policy:     {}", policy(frontend))?;
            }
            None => writeln!(out, "Service:    none")?,
        }
        if let Some(affinity) = &self.affinity {
            writeln!(
                out,
                "Affinity:   had {} {}s ago, {}s left",
                affinity.backend,
                affinity.age_seconds,
                affinity.remaining_seconds.unwrap_or(0)
            )?;
        }
        if let Some(flow) = &self.flow {
            writeln!(
                out,
                "Flow:       {} -> {}, {}, idle {}s",
                flow.client, flow.backend, flow.state, flow.idle_seconds
            )?;
        }
        writeln!(out, "Hooks:")?;
        let rows = self
            .hooks
            .iter()
            .map(|hook| {
                vec![
                    hook.hook.clone(),
                    hook.at.clone(),
                    hook.does.into(),
                    hook.why.clone(),
                ]
            })
            .collect::<Vec<_>>();
        out.push_str(&indented(&columns(&["HOOK", "AT", "DOES", "WHY"], &rows)));
        if !self.endpoints.is_empty() {
            writeln!(out, "Endpoints:")?;
            let rows: Vec<_> = self.endpoints.iter().map(EndpointItem::cells).collect();
            let header = ["ENDPOINT", "POD", "NODE", "SHARE", "WHY"];
            out.push_str(&indented(&columns(&header, &rows)));
        }
        let verdict = match self.verdict {
            Verdict::Forwarded => "forwarded",
            Verdict::Passed => "passed on as it is",
            Verdict::Refused => "REFUSED",
            Verdict::Dropped => "DROPPED",
        };
        match self.reason {
            Some(reason) => writeln!(out, "Verdict:    {verdict} ({reason}): {}", self.why)?,
            None => writeln!(out, "Verdict:    {verdict}: {}", self.why)?,
        }
        if let Some(way) = &self.way {
            writeln!(out, "Way:        {}", way.words)?;
        } else {
            let mut ways = self.endpoints.iter().filter_map(|e| e.way.as_ref());
            for way in ways.by_ref().take(MOST_WAYS) {
                writeln!(out, "Way:        {}", way.words)?;
            }
            match ways.count() {
                0 => (),
                more => writeln!(out, "            and {more} more, which -o json has")?,
            }
        }
        if let Some(fix) = &self.fix {
            writeln!(out, "Fix:        {fix}")?;
        }
        for note in &self.notes {
            writeln!(out, "Note:       {note}")?;
        }
        Ok(())
    }

    fn client(&self) -> String {
        let packet = &self.packet;
        let mut text = match packet.client {
            "node" => "a process of this node".to_owned(),
            "pod" => "a pod of this node".to_owned(),
            _ => "outside of this node".to_owned(),
        };
        if let Some(pod) = &packet.pod {
            text += &format!(", pod {pod}");
        }
        if let Some(device) = &packet.device {
            let way = if packet.client == "node" {
                "leaves by"
            } else {
                "comes in by"
            };
            text += &format!(", {way} {device}");
        }
        text
    }
}

impl EndpointItem {
    fn cells(&self) -> Vec<String> {
        let node = self
            .local
            .map_or("-", |local| if local { "this" } else { "other" });
        vec![
            self.backend.clone(),
            self.pod.clone().unwrap_or_else(|| "-".into()),
            node.into(),
            self.percent
                .map_or_else(|| "-".into(), |percent| format!("{percent:.1}%")),
            self.why.clone(),
        ]
    }
}

fn policy(frontend: &ServiceItem) -> String {
    let endpoints = match frontend.policy {
        "local" => "Local: endpoints of this node only",
        _ => "Cluster: endpoints of all nodes",
    };
    let affinity = match frontend.affinity_seconds {
        0 => "no session affinity".to_owned(),
        seconds => format!("session affinity of {seconds}s"),
    };
    let who = match &frontend.source_ranges {
        None => String::new(),
        Some(ranges) if ranges.is_empty() => "; nobody may ask (loadBalancerSourceRanges)".into(),
        Some(ranges) => format!("; only {} may ask", ranges.join(", ")),
    };
    format!("{endpoints}; {}; {affinity}{who}", frontend.algorithm)
}

fn indented(table: &str) -> String {
    table.lines().map(|line| format!("  {line}\n")).collect()
}
