//! What `describe` says: the same for people and, as JSON or YAML, for scripts. Fields only ever get more.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

use crate::inspect::{ServiceItem, columns};
use crate::tally::Count;

/// One Service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    pub namespace: String,
    pub name: String,
    /// What the cluster says of it; `null`: it could not be asked.
    pub object: Option<ObjectItem>,
    pub ports: Vec<PortItem>,
    /// What is not known.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectItem {
    pub r#type: &'static str,
    pub selector: BTreeMap<String, String>,
    /// `Cluster` or `Local`.
    pub internal_policy: &'static str,
    pub external_policy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortItem {
    /// Empty when it has none.
    pub port_name: String,
    pub protocol: String,
    /// `null`: nothing is counted (`--service-metrics`).
    pub counted: Option<CountItem>,
    /// As `get services` shows them.
    pub frontends: Vec<ServiceItem>,
    pub endpoints: Vec<EndpointItem>,
    /// Why there are none, if that is known.
    pub no_endpoints: Option<String>,
}

/// Since the port is served by this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CountItem {
    /// New ones.
    pub connections: u64,
    /// To the backends; `null`, as those that follow: not counted.
    pub packets_in: Option<u64>,
    pub bytes_in: Option<u64>,
    /// And back.
    pub packets_out: Option<u64>,
    pub bytes_out: Option<u64>,
}

impl From<&Count> for CountItem {
    fn from(count: &Count) -> Self {
        Self {
            connections: count.connections,
            packets_in: count.traffic.map(|t| t.packets_in),
            bytes_in: count.traffic.map(|t| t.bytes_in),
            packets_out: count.traffic.map(|t| t.packets_out),
            bytes_out: count.traffic.map(|t| t.bytes_out),
        }
    }
}

impl fmt::Display for CountItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = |n: u64, what| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        write!(f, "{}", some(self.connections, "connection"))?;
        for (way, packets, bytes) in [
            ("in", self.packets_in, self.bytes_in),
            ("out", self.packets_out, self.bytes_out),
        ] {
            if let (Some(packets), Some(bytes)) = (packets, bytes) {
                let (packets, bytes) = (some(packets, "packet"), some(bytes, "byte"));
                write!(f, "; {packets} of {bytes} {way}")?;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointItem {
    /// `address:port`.
    pub endpoint: String,
    /// `namespace/name`; `null`: not known.
    pub pod: Option<String>,
    /// `this` or `other`; `null`: not known.
    pub node: Option<&'static str>,
    /// Its share of new connections; `null`: it gets none.
    pub internal_percent: Option<f64>,
    pub external_percent: Option<f64>,
    /// Flows of the packet path that have not ended.
    pub packet_connections: usize,
    /// Open sockets that were connected to it; `null`: they could not be looked for.
    pub socket_connections: Option<usize>,
    /// It gets nothing new and has no connections, as far as this node goes.
    pub safe_to_stop: bool,
    pub why: String,
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Name:        {}", self.name)?;
        writeln!(f, "Namespace:   {}", self.namespace)?;
        if let Some(object) = &self.object {
            let pairs: Vec<String> = object
                .selector
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            let selector = match pairs.is_empty() {
                true => "<none>".to_owned(),
                false => pairs.join(","),
            };
            writeln!(f, "Selector:    {selector}")?;
            writeln!(f, "Type:        {}", object.r#type)?;
            writeln!(f, "Internal:    policy {}", object.internal_policy)?;
            writeln!(f, "External:    policy {}", object.external_policy)?;
        }
        self.ports.iter().try_for_each(|port| write!(f, "{port}"))?;
        let mut notes = self.notes.iter();
        notes.try_for_each(|note| writeln!(f, "Note:        {note}"))
    }
}

impl fmt::Display for PortItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &*self.port_name {
            "" => "(unnamed)",
            name => name,
        };
        writeln!(f, "Port:        {name} {}", self.protocol)?;
        if let Some(counted) = &self.counted {
            writeln!(f, "  Counted:   {counted}")?;
        }
        writeln!(f, "  Frontends:")?;
        let header = [
            "KIND",
            "ADDRESS",
            "ASKED FROM",
            "POLICY",
            "ALGORITHM",
            "AFFINITY",
            "SOURCES",
            "BACKENDS",
            "EMPTY",
        ];
        let rows: Vec<Vec<String>> = self.frontends.iter().map(frontend).collect();
        table(f, &header, &rows)?;
        if self.endpoints.is_empty() {
            writeln!(f, "  Endpoints: none")?;
            let why = self.no_endpoints.iter();
            return why.into_iter().try_for_each(|why| writeln!(f, "    {why}"));
        }
        writeln!(f, "  Endpoints:")?;
        let header = [
            "ENDPOINT", "POD", "NODE", "INSIDE", "OUTSIDE", "PACKETS", "SOCKETS", "WHY",
        ];
        let rows: Vec<Vec<String>> = self.endpoints.iter().map(endpoint).collect();
        table(f, &header, &rows)
    }
}

fn table(f: &mut fmt::Formatter<'_>, header: &[&str], rows: &[Vec<String>]) -> fmt::Result {
    let table = columns(header, rows);
    table.lines().try_for_each(|line| writeln!(f, "    {line}"))
}

fn frontend(item: &ServiceItem) -> Vec<String> {
    let affinity = match item.affinity_seconds {
        0 => "-".into(),
        seconds => format!("{seconds}s"),
    };
    let sources = match &item.source_ranges {
        None => "any".into(),
        Some(ranges) if ranges.is_empty() => "none".into(),
        Some(ranges) => ranges.join(","),
    };
    let inside = item.scope == "internal";
    vec![
        item.kind.clone(),
        SocketAddr::new(item.address, item.port).to_string(),
        if inside { "inside" } else { "outside" }.into(),
        item.policy.into(),
        item.algorithm.into(),
        affinity,
        sources,
        item.backends.to_string(),
        match item.backends {
            0 => format!("{}s", item.when_empty),
            _ => "-".into(),
        },
    ]
}

fn endpoint(item: &EndpointItem) -> Vec<String> {
    let share = |share: Option<f64>| share.map_or_else(|| "-".into(), |s| format!("{s:.1}%"));
    let sockets = item.socket_connections;
    vec![
        item.endpoint.clone(),
        item.pod.clone().unwrap_or_else(|| "-".into()),
        item.node.unwrap_or("-").into(),
        share(item.internal_percent),
        share(item.external_percent),
        item.packet_connections.to_string(),
        sockets.map_or_else(|| "?".into(), |n| n.to_string()),
        item.why.clone(),
    ]
}
