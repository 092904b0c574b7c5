//! The Kubernetes API as a source: Services, EndpointSlices and this node's own Node (with DSR: all), watched; lists and watches are
//! taken up again by themselves when the API server was away.

mod events;
mod outage;
mod trimmed;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{Receiver, Sender};

use super::convert::{self, Converted, LABEL_SELECTOR};
use crate::cluster::{Change, Event};
use crate::metrics::Watches;
use crate::notices::{Notice, Notices, Regarding};
use crate::refusals::Refusals;
use outage::Outage;
use trimmed::Trimmed;

/// The API server sends a bookmark about every minute: a watch that is silent for longer than this is dead.
const SILENCE: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the kubeconfig: {0}; see --kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error(
        "not in a cluster ({0}); give --kubeconfig FILE or --manifests DIR, or, in a pod, KUBERNETES_SERVICE_HOST the API server's own address"
    )]
    InCluster(#[from] kube::config::InClusterError),
    #[error("making a client for the API server: {0}")]
    Client(#[from] kube::Error),
}

/// A client by a kubeconfig, or by the pod's service account.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, Error> {
    let mut config = match kubeconfig {
        Some(path) => {
            Config::from_custom_kubeconfig(
                Kubeconfig::read_from(path)?,
                &KubeConfigOptions::default(),
            )
            .await?
        }
        None => Config::incluster()?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // 429, 503 and 504 would be tried again out of sight, after up to 1000 s. Watches have waits of their own.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Where the API server is asked, if that is written as an address: its own, or a load balancer's in front of it.
pub fn address(kubeconfig: Option<&Path>) -> Option<SocketAddr> {
    let url = match kubeconfig {
        Some(path) => server(&Kubeconfig::read_from(path).ok()?)?,
        None => Config::incluster().ok()?.cluster_url.to_string(),
    };
    of_url(&url)
}

/// That of the context in use.
fn server(config: &Kubeconfig) -> Option<String> {
    let wanted = config.current_context.as_ref();
    let mut contexts = config.contexts.iter();
    let context = contexts.find(|named| Some(&named.name) == wanted)?;
    let wanted = &context.context.as_ref()?.cluster;
    let cluster = config.clusters.iter().find(|named| named.name == *wanted)?;
    cluster.cluster.as_ref()?.server.clone()
}

fn of_url(url: &str) -> Option<SocketAddr> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let port = if scheme == "http" { 80 } else { 443 };
    let with_default = || {
        Some(SocketAddr::new(
            authority.trim_matches(['[', ']']).parse().ok()?,
            port,
        ))
    };
    authority.parse().ok().or_else(with_default)
}

/// Turns notices into Events, until nobody has any more.
pub async fn record(client: Client, node_name: &str, notices: Receiver<Notice>) {
    events::record(client, node_name, notices).await;
}

/// Which Node objects are watched.
pub enum Nodes {
    /// This node's own.
    Named(String),
    /// Also the others', whose tunnels are to be believed (DSR).
    All,
}

/// Watches until the receiver is gone.
pub async fn run(
    client: Client,
    nodes: Nodes,
    events: Sender<Event>,
    notices: &Notices,
    watches: &Watches,
) {
    let ours = watcher::Config::default().labels(LABEL_SELECTOR);
    let (watched, nodes) = match nodes {
        Nodes::Named(name) => (
            "this Node",
            watcher::Config::default().fields(&format!("metadata.name={name}")),
        ),
        Nodes::All => ("Nodes", watcher::Config::default()),
    };
    tokio::join!(
        watch::<Service, _, _>(
            &client,
            "Services",
            ours.clone(),
            convert::service,
            Event::Service,
            &events,
            (notices, watches)
        ),
        watch::<EndpointSlice, _, _>(
            &client,
            "EndpointSlices",
            ours,
            convert::slice,
            Event::Slice,
            &events,
            (notices, watches)
        ),
        watch::<Node, _, _>(
            &client,
            watched,
            nodes,
            convert::node,
            Event::Node,
            &events,
            (notices, watches)
        ),
    );
}

/// Watches one kind. Objects are converted, and so trimmed, as they come.
async fn watch<O, K, V>(
    client: &Client,
    what: &str,
    config: watcher::Config,
    convert: fn(&O) -> Converted<K, V>,
    event: fn(Change<K, V>) -> Event,
    events: &Sender<Event>,
    (notices, watches): (&Notices, &Watches),
) where
    O: Resource<DynamicType = ()> + Clone + Debug + Send + 'static,
    Trimmed<O>: Resource<DynamicType = ()> + DeserializeOwned,
    K: Ord + Clone,
{
    let kind = resource::<O>();
    let mut refusals = Refusals::default();
    let mut listed = BTreeMap::new();
    let mut trouble: Option<String> = None;
    let open = || {
        // Each attempt at a list begins with an Ok, Init: only time without an error may reset the waiting.
        let retry = ResetTimerBackoff::new(Retry::default(), Retry::LAST * 2);
        let api = Api::<Trimmed<O>>::all(client.clone());
        Box::pin(watcher(api, config.clone()).backoff(retry))
    };
    let mut stream = open();
    let mut outage = Outage::default();
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            () = until(outage.relist()) => {
                tracing::info!("watching {what}: listing all anew, as the API server was away");
                outage.lists();
                stream = open();
                continue;
            }
        };
        let Some(next) = next else { return };
        let mut taken_in = |object: &O| {
            let Converted {
                key,
                value,
                refusals: found,
                trigger,
            } = convert(object);
            let new = refusals.update(&name(object), found);
            notices.refused(regarding(object).as_ref(), &new);
            (key, value, trigger)
        };
        if next.is_ok() {
            watches.heard(kind);
        }
        let mut triggered = None;
        let change = match next {
            Ok(watcher::Event::Init) => {
                listed.clear();
                outage.lists();
                continue;
            }
            Ok(watcher::Event::InitApply(Trimmed(object))) => {
                let (key, value, _) = taken_in(&object);
                listed.extend(value.map(|value| (key, value)));
                continue;
            }
            Ok(watcher::Event::InitDone) => {
                watches.listed(kind);
                outage.listed(listed.len());
                Change::All(std::mem::take(&mut listed))
            }
            Ok(watcher::Event::Apply(Trimmed(object))) => match taken_in(&object) {
                (key, Some(value), trigger) => {
                    triggered = trigger.map(Event::Triggered);
                    Change::Applied(key, value)
                }
                (key, None, _) => Change::Deleted(key),
            },
            Ok(watcher::Event::Delete(Trimmed(object))) => {
                refusals.update(&name(&object), []);
                Change::Deleted(convert(&object).key)
            }
            Err(error) => {
                watches.failed(kind);
                outage.failed(Instant::now());
                let error = one_line(&error);
                if trouble.as_ref() != Some(&error) {
                    tracing::warn!("watching {what}: {error}; trying again, what is served stays");
                }
                trouble = Some(error);
                continue;
            }
        };
        if trouble.take().is_some() {
            tracing::info!("watching {what}: the API server answers again");
        }
        for event in std::iter::once(event(change)).chain(triggered) {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Never, where there is no time for it.
async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// Users look at their Services. Slices are written by controllers, some of them for others than proxies.
fn regarding<O: Resource<DynamicType = ()>>(object: &O) -> Option<Regarding> {
    let meta = object.meta();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let kind = O::kind(&()).into_owned();
    (kind == "Service").then(|| Regarding {
        api_version: O::api_version(&()).into_owned(),
        kind,
        namespace: text(&meta.namespace),
        name: text(&meta.name),
        uid: text(&meta.uid),
    })
}

/// As metrics name the kind.
fn resource<O: Resource<DynamicType = ()>>() -> &'static str {
    match O::plural(&()).as_ref() {
        "services" => "services",
        "endpointslices" => "endpointslices",
        _ => "nodes",
    }
}

fn name<O: Resource>(object: &O) -> String {
    let meta = object.meta();
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

/// The error and all that it was caused by.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.contains(&cause_text) {
            line = format!("{line}: {cause_text}");
        }
        source = cause.source();
    }
    line.replace('\n', " ")
}

/// Waits 0.2 s, doubling up to 5 s: with the API server back, the node is up to date within seconds.
struct Retry(Duration);

impl Retry {
    const FIRST: Duration = Duration::from_millis(200);
    const LAST: Duration = Duration::from_secs(5);
}

impl Default for Retry {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.0;
        self.0 = (wait * 2).min(Self::LAST);
        Some(wait)
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.0 = Self::FIRST;
    }
}

#[cfg(test)]
mod tests;
