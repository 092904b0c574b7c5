//! A look at the cluster's objects, once: what `explain`, `describe` and `diff` hold the maps against.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::de::DeserializeOwned;

use super::convert::{self, Converted, LABEL_SELECTOR, name};
use super::{kube as api, manifests};
use crate::cluster::{Change, Cluster, Event};
use crate::desired::{Refusal, ServiceName};

/// A list that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same where nobody has asked for the API server by name.
const CASUAL_PATIENCE: Duration = Duration::from_secs(5);
const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Manifests(#[from] manifests::Error),
    #[error(transparent)]
    Client(#[from] api::Error),
    #[error("listing {0} at the API server: {1}")]
    List(&'static str, Box<kube::Error>),
    #[error("listing {0}: the API server did not answer within {1} s")]
    Silent(&'static str, u64),
}

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Manifests(PathBuf),
    Kubeconfig(PathBuf),
    /// The pod's service account.
    InCluster,
}

/// A Pod, as far as people ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub ips: Vec<IpAddr>,
    pub host_network: bool,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub cluster: Cluster,
    /// None: they could not be listed, for whatever reason.
    pub pods: Option<Vec<Pod>>,
    /// The Pods behind addresses, `namespace/name`.
    pub names: BTreeMap<IpAddr, String>,
    pub refusals: Vec<Refusal>,
}

/// Which objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of<'a> {
    /// What the agent watches: Services, slices, this Node.
    All,
    /// What concerns one Service, and the Pods of its namespace.
    Service(&'a ServiceName),
}

/// Reads them.
pub async fn read(place: &Place, mut cluster: Cluster, of: Of<'_>) -> Result<Objects, Error> {
    let (events, mut objects) = match place {
        Place::Manifests(dir) => in_folder(dir)?,
        Place::Kubeconfig(path) => {
            let client = api::client(Some(path)).await?;
            Lister::new(client, PATIENCE)
                .list(cluster.node_name(), of)
                .await?
        }
        Place::InCluster => {
            let client = api::client(None).await?;
            let patience = if of == Of::All {
                PATIENCE
            } else {
                CASUAL_PATIENCE
            };
            Lister::new(client, patience)
                .list(cluster.node_name(), of)
                .await?
        }
    };
    for event in events {
        cluster.apply(event);
    }
    objects.cluster = cluster;
    for pod in objects
        .pods
        .iter()
        .flatten()
        .filter(|pod| !pod.host_network)
    {
        for ip in &pod.ips {
            objects
                .names
                .insert(*ip, format!("{}/{}", pod.namespace, pod.name));
        }
    }
    Ok(objects)
}

fn in_folder(dir: &Path) -> Result<(Vec<Event>, Objects), Error> {
    let seen = manifests::read_all(dir)?;
    let mut objects = Objects {
        pods: Some(seen.pods.iter().filter_map(pod).collect()),
        refusals: seen.refusals,
        ..Objects::default()
    };
    for slice in &seen.slices {
        add_names(slice, &mut objects.names);
    }
    Ok((seen.events, objects))
}

/// None: it has run to its end.
fn pod(object: &core::Pod) -> Option<Pod> {
    let (namespace, name) = name(&object.metadata);
    let status = object.status.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let ips = status.pod_ips.into_iter().flatten().map(|ip| ip.ip);
    let ips = ips.chain(status.pod_ip);
    let spec = object.spec.as_ref();
    Some(Pod {
        namespace,
        name,
        labels: object.metadata.labels.clone().unwrap_or_default(),
        ips: ips.filter_map(|ip| ip.parse().ok()).collect(),
        host_network: spec.is_some_and(|spec| spec.host_network == Some(true)),
    })
}

/// Slices say which Pods their addresses are, to whoever may not list Pods.
fn add_names(slice: &EndpointSlice, names: &mut BTreeMap<IpAddr, String>) {
    let (namespace, _) = name(&slice.metadata);
    for endpoint in slice.endpoints.iter() {
        let Some(target) = endpoint
            .target_ref
            .as_ref()
            .filter(|target| target.kind.as_deref() == Some("Pod"))
        else {
            continue;
        };
        let namespace = target.namespace.as_deref().unwrap_or(&namespace);
        let named = target
            .name
            .as_ref()
            .map(|name| format!("{namespace}/{name}"));
        let ip = endpoint.addresses.first().and_then(|ip| ip.parse().ok());
        names.extend(ip.zip(named));
    }
}

/// Lists by an API server.
struct Lister {
    client: Client,
    patience: Duration,
}

impl Lister {
    fn new(client: Client, patience: Duration) -> Self {
        Self { client, patience }
    }

    async fn list(&self, node: &str, of: Of<'_>) -> Result<(Vec<Event>, Objects), Error> {
        let all = ListParams::default();
        let (services, slices) = match of {
            Of::All => {
                let ours = all.clone().labels(LABEL_SELECTOR);
                let services: Api<core::Service> = Api::all(self.client.clone());
                let slices: Api<EndpointSlice> = Api::all(self.client.clone());
                (
                    self.items("Services", services, &ours).await?,
                    self.items("EndpointSlices", slices, &ours).await?,
                )
            }
            Of::Service(ServiceName { namespace, name }) => {
                let named = all.clone().fields(&format!("metadata.name={name}"));
                let its = all.clone().labels(&format!("{SERVICE_NAME}={name}"));
                let services: Api<core::Service> = Api::namespaced(self.client.clone(), namespace);
                let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), namespace);
                (
                    self.items("Services", services, &named).await?,
                    self.items("EndpointSlices", slices, &its).await?,
                )
            }
        };
        let nodes = self.nodes(node, of).await?;
        let mut objects = Objects::default();
        for slice in &slices {
            add_names(slice, &mut objects.names);
        }
        let refusals = &mut objects.refusals;
        let events = vec![
            Event::Node(Change::All(converted(&nodes, convert::node, refusals))),
            Event::Slice(Change::All(converted(&slices, convert::slice, refusals))),
            Event::Service(Change::All(converted(
                &services,
                convert::service,
                refusals,
            ))),
        ];
        if let Of::Service(service) = of {
            let pods: Api<core::Pod> = Api::namespaced(self.client.clone(), &service.namespace);
            // The agent's own account may not.
            let pods = self.items("Pods", pods, &all).await;
            objects.pods = pods.ok().map(|pods| pods.iter().filter_map(pod).collect());
        }
        Ok((events, objects))
    }

    /// This Node; for `diff` all of them, because tunnels of the others may be believed.
    async fn nodes(&self, node: &str, of: Of<'_>) -> Result<Vec<core::Node>, Error> {
        let which = match of {
            Of::All => ListParams::default(),
            Of::Service(_) => ListParams::default().fields(&format!("metadata.name={node}")),
        };
        self.items("Nodes", Api::all(self.client.clone()), &which)
            .await
    }

    async fn items<O>(
        &self,
        what: &'static str,
        api: Api<O>,
        which: &ListParams,
    ) -> Result<Vec<O>, Error>
    where
        O: Clone + Debug + DeserializeOwned,
    {
        match tokio::time::timeout(self.patience, api.list(which)).await {
            Ok(Ok(list)) => Ok(list.items),
            Ok(Err(error)) => Err(Error::List(what, Box::new(error))),
            Err(_) => Err(Error::Silent(what, self.patience.as_secs())),
        }
    }
}

fn converted<O, K: Ord, V>(
    objects: &[O],
    convert: fn(&O) -> Converted<K, V>,
    refusals: &mut Vec<Refusal>,
) -> BTreeMap<K, V> {
    let mut all = BTreeMap::new();
    for object in objects {
        let converted = convert(object);
        refusals.extend(converted.refusals);
        all.extend(converted.value.map(|value| (converted.key, value)));
    }
    all
}
