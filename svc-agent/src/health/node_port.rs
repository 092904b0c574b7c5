//! Health check node ports (C14): a load balancer asks each node whether a Service with externalTrafficPolicy Local has
//! endpoints there. A port that cannot be had is said and tried again; the Service is served all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Health;
use super::http::{Always, Answer, accept};
use crate::desired::{Fault, HealthCheck, Refusal, ServiceName};

/// Another program may have let go of the port by then.
const RETRY: Duration = Duration::from_secs(5);

/// The listeners of all Services.
pub struct NodePortChecks {
    health: Arc<Health>,
    wanted: BTreeMap<ServiceName, HealthCheck>,
    /// Services that changed since the last [`NodePortChecks::settle`].
    changed: BTreeSet<ServiceName>,
    open: BTreeMap<ServiceName, BTreeMap<SocketAddr, Listener>>,
    retry: Option<Instant>,
}

struct Listener {
    task: JoinHandle<()>,
    ready: Arc<AtomicUsize>,
}

impl NodePortChecks {
    pub fn new(health: Arc<Health>) -> Self {
        Self {
            health,
            wanted: BTreeMap::new(),
            changed: BTreeSet::new(),
            open: BTreeMap::new(),
            retry: None,
        }
    }

    /// What is to be answered for a Service from the next [`NodePortChecks::settle`] on.
    pub fn set(&mut self, name: &ServiceName, check: Option<HealthCheck>) {
        if self.wanted.get(name) == check.as_ref() {
            return;
        }
        self.changed.insert(name.clone());
        match check {
            Some(check) => self.wanted.insert(name.clone(), check),
            None => self.wanted.remove(name),
        };
    }

    /// When a port that could not be had is to be tried again.
    pub fn due(&self) -> Option<Instant> {
        self.retry
    }

    /// Closes and opens listeners. Returns, of every Service that was looked at, what could not be had.
    pub async fn settle(&mut self) -> BTreeMap<ServiceName, Vec<Refusal>> {
        if self.retry.is_some_and(|when| when <= Instant::now()) {
            self.retry = None;
            self.changed.extend(self.wanted.keys().cloned());
        }
        let changed = std::mem::take(&mut self.changed);
        // What one gives up another may be waiting for.
        for name in &changed {
            self.close_unwanted(name).await;
        }
        let mut outcome = BTreeMap::new();
        for name in changed {
            let refusals = self.open_wanted(&name).await;
            if !refusals.is_empty() {
                self.retry = Some(Instant::now() + RETRY);
            }
            outcome.insert(name, refusals);
        }
        outcome
    }

    async fn close_unwanted(&mut self, name: &ServiceName) {
        let Some(open) = self.open.get_mut(name) else {
            return;
        };
        let wanted = self.wanted.get(name);
        let is_wanted = |at: &SocketAddr| {
            wanted.is_some_and(|c| c.port == at.port() && c.ready.contains_key(&at.ip()))
        };
        for (at, listener) in open.extract_if(.., |at, _| !is_wanted(at)) {
            tracing::debug!("Service {name}: closing the health check at {at}");
            listener.task.abort();
            // The port is free only when the task is gone.
            let _ = listener.task.await;
        }
        if open.is_empty() {
            self.open.remove(name);
        }
    }

    async fn open_wanted(&mut self, name: &ServiceName) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let Some(check) = self.wanted.get(name) else {
            return refusals;
        };
        for (&ip, &count) in &check.ready {
            let at = SocketAddr::new(ip, check.port);
            if let Some(listener) = self.open.get(name).and_then(|open| open.get(&at)) {
                listener.ready.store(count, Ordering::Relaxed);
                continue;
            }
            match TcpListener::bind(at).await {
                Ok(listener) => {
                    tracing::debug!("Service {name}: answering health checks at {at}");
                    let listener = listen(listener, name.clone(), count, self.health.clone());
                    self.open
                        .entry(name.clone())
                        .or_default()
                        .insert(at, listener);
                }
                Err(error) => refusals.push(Refusal::new(
                    Fault::FailedToStartServiceHealthcheck,
                    format!("Service {name}"),
                    format!(
                        "its health check at {at} cannot be served: {error}; free the port (`ss -ltnp`); the Service \
                         itself is served, and this is tried again"
                    ),
                )),
            }
        }
        refusals
    }
}

fn listen(listener: TcpListener, name: ServiceName, count: usize, health: Arc<Health>) -> Listener {
    let ready = Arc::new(AtomicUsize::new(count));
    let current = ready.clone();
    let always =
        Always(move || answer(&name, current.load(Ordering::Relaxed), health.is_healthy()));
    Listener {
        task: tokio::spawn(accept(listener, Arc::new(always))),
        ready,
    }
}

/// kube-proxy's body, keys in its order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Name<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

fn answer(name: &ServiceName, local_endpoints: usize, service_proxy_healthy: bool) -> Answer {
    let body = Body {
        service: Name {
            namespace: &name.namespace,
            name: &name.name,
        },
        local_endpoints,
        service_proxy_healthy,
    };
    Answer {
        well: local_endpoints > 0 && service_proxy_healthy,
        content_type: "application/json",
        body: serde_json::to_string(&body).expect("strings and numbers can be written as JSON"),
        weight: Some(local_endpoints),
    }
}

#[cfg(test)]
mod tests;
