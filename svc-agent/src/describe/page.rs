//! The page of one Service. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;

use svc_common::family::Addr;
use svc_common::table::{BackendState, Flow, Scope, backend_state, flow_flags};

use crate::cluster::{Service, ServiceType, TrafficPolicy};
use crate::desired::ServiceName;
use crate::explain::mismatch;
use crate::explain::tables::{Maps, Side};
use crate::inspect::standing::{self, View};
use crate::inspect::{self, Filter, ServiceItem, columns};
use crate::plan::Label;
use crate::sockets::Live;
use crate::source::once::Objects;

/// What is put on it.
pub struct Page<'a> {
    pub name: &'a ServiceName,
    pub maps: &'a Maps,
    pub objects: Option<&'a Objects>,
    /// None: they could not be looked for.
    pub sockets: Option<Live>,
}

/// One endpoint of a port.
struct Row {
    at: SocketAddr,
    state: BackendState,
    /// In percent, from inside and from outside.
    shares: [Option<f64>; 2],
    packets: usize,
    sockets: usize,
}

pub fn page(page: &Page<'_>) -> String {
    let mut text = String::new();
    page.write(&mut text)
        .expect("writing to a String does not fail");
    text
}

impl Page<'_> {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "Name:        {}", self.name.name)?;
        writeln!(out, "Namespace:   {}", self.name.namespace)?;
        if let Some(service) = self.service() {
            self.write_object(service, out)?;
        }
        let frontends = self.frontends();
        for (id, label) in self.ports() {
            let its: Vec<&ServiceItem> = frontends.iter().filter(|item| item.id == id).collect();
            let name = match &*label.port.port {
                "" => "(unnamed)",
                name => name,
            };
            writeln!(out, "Port:        {name} {}", label.protocol)?;
            self.write_frontends(&its, out)?;
            self.write_endpoints(id, &label, &its, out)?;
        }
        self.write_notes(out)
    }

    fn service(&self) -> Option<&Service> {
        self.objects?.cluster.service(self.name)
    }

    /// Its ports, by their ids.
    fn ports(&self) -> Vec<(u32, Label)> {
        let labels = self.maps.snapshot.services.iter();
        labels
            .filter_map(|(id, text)| Some((*id, Label::parse(text)?)))
            .filter(|(_, label)| label.port.service == *self.name)
            .collect()
    }

    fn frontends(&self) -> Vec<ServiceItem> {
        let filter = Filter {
            namespace: Some(&self.name.namespace),
            name: Some(&self.name.name),
        };
        inspect::service_items(&self.maps.snapshot, filter)
    }

    /// What the object says that the maps do not.
    fn write_object(&self, service: &Service, out: &mut String) -> std::fmt::Result {
        let kind = match service.r#type {
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
            ServiceType::ExternalName => "ExternalName",
        };
        let policy = |policy| match policy {
            TrafficPolicy::Cluster => "Cluster",
            TrafficPolicy::Local => "Local",
        };
        let selector = match service.selector.is_empty() {
            true => "<none>".to_owned(),
            false => {
                let pairs = service.selector.iter().map(|(k, v)| format!("{k}={v}"));
                pairs.collect::<Vec<_>>().join(",")
            }
        };
        writeln!(out, "Selector:    {selector}")?;
        writeln!(out, "Type:        {kind}")?;
        writeln!(
            out,
            "Internal:    policy {}",
            policy(service.internal_policy)
        )?;
        writeln!(
            out,
            "External:    policy {}",
            policy(service.external_policy)
        )
    }

    fn write_frontends(&self, frontends: &[&ServiceItem], out: &mut String) -> std::fmt::Result {
        writeln!(out, "  Frontends:")?;
        let rows: Vec<Vec<String>> = frontends
            .iter()
            .map(|item| {
                let affinity = match item.affinity_seconds {
                    0 => "-".into(),
                    seconds => format!("{seconds}s"),
                };
                let sources = match &item.source_ranges {
                    None => "any".into(),
                    Some(ranges) if ranges.is_empty() => "none".into(),
                    Some(ranges) => ranges.join(","),
                };
                vec![
                    item.kind.clone(),
                    SocketAddr::new(item.address, item.port).to_string(),
                    if item.scope == "internal" {
                        "inside"
                    } else {
                        "outside"
                    }
                    .into(),
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
            })
            .collect();
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
        out.push_str(&indented(&columns(&header, &rows)));
        Ok(())
    }

    fn write_endpoints(
        &self,
        id: u32,
        label: &Label,
        frontends: &[&ServiceItem],
        out: &mut String,
    ) -> std::fmt::Result {
        let mut rows = self.rows(&self.maps.snapshot.v4, id);
        rows.extend(self.rows(&self.maps.snapshot.v6, id));
        rows.sort_by_key(|row| row.at);
        if rows.is_empty() {
            writeln!(out, "  Endpoints: none")?;
            let told = self.service().zip(self.objects);
            if let Some(why) = told.and_then(|(service, o)| {
                (!service.selector.is_empty()).then(|| mismatch(self.name, service, o))?
            }) {
                writeln!(out, "    {why}")?;
            }
            return Ok(());
        }
        writeln!(out, "  Endpoints:")?;
        let cluster = self.objects.map(|objects| &objects.cluster);
        let said = cluster.map(|cluster| standing::said(cluster, &label.port, label.protocol));
        // Where every way in is Local, being elsewhere is what keeps an endpoint out.
        let view = View {
            local_set: !frontends.is_empty() && frontends.iter().all(|f| f.policy == "local"),
            node: cluster.map_or("", |cluster| cluster.node_name()),
            zone: cluster.and_then(|cluster| cluster.node()?.zone()),
        };
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                let its = said
                    .as_ref()
                    .and_then(|said| said.get(&(row.at.ip(), row.at.port())));
                let why = match &said {
                    Some(_) if its.is_none() => "in no slice: see svc-agent diff".to_owned(),
                    _ => standing::why(row.state, its.copied(), view),
                };
                let elsewhere = left_out(row, frontends).unwrap_or_default();
                self.cells(row, why + elsewhere)
            })
            .collect();
        let header = [
            "ENDPOINT", "POD", "NODE", "INSIDE", "OUTSIDE", "PACKETS", "SOCKETS", "WHY",
        ];
        out.push_str(&indented(&columns(&header, &cells)));
        Ok(())
    }

    fn cells(&self, row: &Row, why: String) -> Vec<String> {
        let share = |share: Option<f64>| share.map_or_else(|| "-".into(), |s| format!("{s:.1}%"));
        let pod = self
            .objects
            .and_then(|objects| objects.names.get(&row.at.ip()));
        let node = match row.state.flags & (backend_state::LOCAL | backend_state::REMOTE) {
            backend_state::LOCAL => "this",
            backend_state::REMOTE => "other",
            _ => "-",
        };
        let leaves = row.shares == [None, None];
        let safe = match (leaves, row.packets + row.sockets, &self.sockets) {
            (true, 0, Some(_)) => "; no connections from here: safe to stop".to_owned(),
            (true, 0, None) => "; no connections by packets".into(),
            (true, 1, _) => "; 1 connection is still open".into(),
            (true, n, _) => format!("; {n} connections are still open"),
            (false, ..) => String::new(),
        };
        vec![
            row.at.to_string(),
            pod.cloned().unwrap_or_else(|| "-".into()),
            node.into(),
            share(row.shares[0]),
            share(row.shares[1]),
            row.packets.to_string(),
            match &self.sockets {
                Some(_) => row.sockets.to_string(),
                None => "?".into(),
            },
            why + &safe,
        ]
    }

    fn rows<F: Side>(&self, actual: &crate::plan::Actual<F>, id: u32) -> Vec<Row> {
        let mut rows: BTreeMap<SocketAddr, Row> = BTreeMap::new();
        let listed = actual
            .backends
            .iter()
            .filter(|(key, _)| key.service == id && key.addr != F::Addr::UNSPECIFIED);
        for (key, state) in listed {
            let at = SocketAddr::new(F::addr_to_std(key.addr), key.port.get());
            let row = Row {
                at,
                state: *state,
                shares: [None, None],
                packets: 0,
                sockets: 0,
            };
            rows.insert(at, row);
        }
        let frontends = actual.frontends.iter().filter(|(_, f)| f.service == id);
        let mut own = BTreeSet::new();
        for (key, frontend) in frontends {
            own.insert(SocketAddr::new(F::addr_to_std(key.addr), key.port.get()));
            let scope = usize::from(key.scope != Scope::Internal as u8);
            let run = actual.run(frontend).unwrap_or_default();
            let mut slots: BTreeMap<SocketAddr, u32> = BTreeMap::new();
            for backend in run {
                let at = SocketAddr::new(F::addr_to_std(backend.addr), backend.port.get());
                *slots.entry(at).or_default() += 1;
            }
            for (at, slots) in slots {
                let share = (f64::from(slots) * 1000.0 / f64::from(frontend.count)).round() / 10.0;
                if let Some(row) = rows.get_mut(&at) {
                    let known = &mut row.shares[scope];
                    *known = Some(known.map_or(share, |k| k.max(share)));
                }
            }
        }
        let over = |flow: &&Flow<F>| flow.is_over(self.maps.flows.now, true, &self.maps.config);
        for flow in F::flows(self.maps)
            .iter()
            .filter(|flow| flow.service == id && flow.flags & flow_flags::LATE == 0 && !over(flow))
        {
            let at = SocketAddr::new(F::addr_to_std(flow.reply.src), flow.reply.sport.get());
            if let Some(row) = rows.get_mut(&at) {
                row.packets += 1;
            }
        }
        let protocol = Label::parse(
            self.maps
                .snapshot
                .services
                .get(&id)
                .map_or("", String::as_str),
        );
        for ((frontend, backend, proto), count) in self.sockets.iter().flatten() {
            let same = protocol
                .as_ref()
                .is_some_and(|label| label.protocol.number() == *proto);
            // A NodePort on loopback is that of the node's own address.
            let asked = own.contains(frontend)
                || frontend.ip().is_loopback()
                    && own.iter().any(|own| own.port() == frontend.port());
            if let Some(row) = rows.get_mut(backend)
                && same
                && asked
            {
                row.sockets += count;
            }
        }
        rows.into_values().collect()
    }

    fn write_notes(&self, out: &mut String) -> std::fmt::Result {
        if self.objects.is_none() {
            writeln!(
                out,
                "Note:        from the maps alone: with --kubeconfig or --manifests there are names of Pods, and exact reasons"
            )?;
        }
        if self.sockets.is_none() {
            writeln!(
                out,
                "Note:        sockets are not counted: network namespaces cannot be entered from here"
            )?;
        }
        Ok(())
    }
}

/// What a Local policy keeps from an endpoint that gets its part from the other side.
fn left_out(row: &Row, frontends: &[&ServiceItem]) -> Option<&'static str> {
    let is_local = |scope: &str| {
        frontends
            .iter()
            .any(|f| f.scope == scope && f.policy == "local")
    };
    match row.shares {
        [Some(_), None] if is_local("external") => {
            Some("; not on this node, so not for outside (policy Local)")
        }
        [None, Some(_)] if is_local("internal") => {
            Some("; not on this node, so not for inside (policy Local)")
        }
        _ => None,
    }
}

fn indented(table: &str) -> String {
    table.lines().map(|line| format!("    {line}\n")).collect()
}
