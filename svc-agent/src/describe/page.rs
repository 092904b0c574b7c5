//! What is said of one Service. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use svc_common::family::Addr;
use svc_common::table::{BackendState, Flow, Scope, backend_state};

use super::description::{CountItem, Description, EndpointItem, ObjectItem, PortItem};
use crate::cluster::{Service, ServiceType, TrafficPolicy};
use crate::desired::{Protocol, ServiceName};
use crate::explain::mismatch;
use crate::explain::tables::{Maps, Side};
use crate::inspect::standing::{self, View};
use crate::inspect::{self, Filter, ServiceItem};
use crate::plan::{Actual, Label};
use crate::sockets::Live;
use crate::source::once::Objects;
use crate::tally::Counts;

/// What it is made of.
pub struct Page<'a> {
    pub name: &'a ServiceName,
    pub maps: &'a Maps,
    pub objects: Option<&'a Objects>,
    /// None: they could not be looked for.
    pub sockets: Option<Live>,
    /// None: nothing is counted.
    pub counts: Option<Counts>,
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

pub fn description(page: &Page<'_>) -> Description {
    Description {
        namespace: page.name.namespace.to_string(),
        name: page.name.name.to_string(),
        object: page.service().map(object),
        ports: page
            .ports()
            .into_iter()
            .map(|(id, label)| page.port(id, &label))
            .collect(),
        notes: page.notes(),
    }
}

/// What the object says that the maps do not.
fn object(service: &Service) -> ObjectItem {
    let policy = |policy| match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    };
    let selector = service.selector.iter();
    ObjectItem {
        r#type: match service.r#type {
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
            ServiceType::ExternalName => "ExternalName",
        },
        selector: selector
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
        internal_policy: policy(service.internal_policy),
        external_policy: policy(service.external_policy),
    }
}

impl Page<'_> {
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

    fn port(&self, id: u32, label: &Label) -> PortItem {
        let filter = Filter {
            namespace: Some(&self.name.namespace),
            name: Some(&self.name.name),
        };
        let mut frontends = inspect::service_items(&self.maps.snapshot, filter);
        frontends.retain(|item| item.id == id);
        let endpoints = self.endpoints(id, label, &frontends);
        let counted = self.counts.as_ref().and_then(|counts| counts.get(&id));
        PortItem {
            port_name: label.port.port.to_string(),
            protocol: label.protocol.to_string(),
            counted: counted.map(CountItem::from),
            frontends,
            no_endpoints: endpoints.is_empty().then(|| self.mismatch()).flatten(),
            endpoints,
        }
    }

    /// Why a Service with a selector has no endpoints.
    fn mismatch(&self) -> Option<String> {
        let (service, objects) = self.service().zip(self.objects)?;
        if service.selector.is_empty() {
            return None;
        }
        mismatch(self.name, service, objects)
    }

    fn endpoints(&self, id: u32, label: &Label, frontends: &[ServiceItem]) -> Vec<EndpointItem> {
        let mut rows = self.rows(&self.maps.snapshot.v4, id, label.protocol);
        rows.extend(self.rows(&self.maps.snapshot.v6, id, label.protocol));
        rows.sort_by_key(|row| row.at);
        let cluster = self.objects.map(|objects| &objects.cluster);
        let said = cluster.map(|cluster| standing::said(cluster, &label.port, label.protocol));
        // Where every way in is Local, being elsewhere is what keeps an endpoint out.
        let view = View {
            local_set: !frontends.is_empty() && frontends.iter().all(|f| f.policy == "local"),
            node: cluster.map_or("", |cluster| cluster.node_name()),
            zone: cluster.and_then(|cluster| cluster.node()?.zone()),
        };
        let of = |row: &Row| {
            let its = said
                .as_ref()
                .and_then(|said| said.get(&(row.at.ip(), row.at.port())));
            let why = match &said {
                Some(_) if its.is_none() => "in no slice: see svc-agent diff".to_owned(),
                _ => standing::why(row.state, its.copied(), view),
            };
            let elsewhere = left_out(row, frontends).unwrap_or_default();
            self.endpoint(row, why + elsewhere)
        };
        rows.iter().map(of).collect()
    }

    fn endpoint(&self, row: &Row, why: String) -> EndpointItem {
        let names = self.objects.map(|objects| &objects.names);
        let leaves = row.shares == [None, None];
        let safe = match (leaves, row.packets + row.sockets, &self.sockets) {
            (true, 0, Some(_)) => "; no connections from here: safe to stop".to_owned(),
            (true, 0, None) => "; no connections by packets".into(),
            (true, 1, _) => "; 1 connection is still open".into(),
            (true, n, _) => format!("; {n} connections are still open"),
            (false, ..) => String::new(),
        };
        let sockets = self.sockets.is_some().then_some(row.sockets);
        EndpointItem {
            endpoint: row.at.to_string(),
            pod: names.and_then(|names| names.get(&row.at.ip()).cloned()),
            node: match row.state.flags & (backend_state::LOCAL | backend_state::REMOTE) {
                backend_state::LOCAL => Some("this"),
                backend_state::REMOTE => Some("other"),
                _ => None,
            },
            internal_percent: row.shares[0],
            external_percent: row.shares[1],
            packet_connections: row.packets,
            socket_connections: sockets,
            safe_to_stop: leaves && row.packets == 0 && sockets == Some(0),
            why: why + &safe,
        }
    }

    fn rows<F: Side>(&self, actual: &Actual<F>, id: u32, protocol: Protocol) -> Vec<Row> {
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
        let open = |flow: &Flow<F>| flow.is_open(self.maps.flows.now, &self.maps.config);
        let flows = F::flows(self.maps).iter();
        for flow in flows.filter(|flow| flow.service == id && open(flow)) {
            let at = SocketAddr::new(F::addr_to_std(flow.reply.src), flow.reply.sport.get());
            if let Some(row) = rows.get_mut(&at) {
                row.packets += 1;
            }
        }
        for ((frontend, backend, proto), count) in self.sockets.iter().flatten() {
            // A NodePort on loopback is that of the node's own address.
            let asked = own.contains(frontend)
                || frontend.ip().is_loopback()
                    && own.iter().any(|own| own.port() == frontend.port());
            if let Some(row) = rows.get_mut(backend)
                && protocol.number() == *proto
                && asked
            {
                row.sockets += count;
            }
        }
        rows.into_values().collect()
    }

    /// What is not known.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.objects.is_none() {
            notes.push("from the maps alone: with --kubeconfig or --manifests there are names of Pods, and exact reasons".into());
        }
        if self.sockets.is_none() {
            notes.push(
                "sockets are not counted: network namespaces cannot be entered from here".into(),
            );
        }
        notes
    }
}

/// What a Local policy keeps from an endpoint that gets its part from the other side.
fn left_out(row: &Row, frontends: &[ServiceItem]) -> Option<&'static str> {
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
