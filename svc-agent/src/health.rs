//! What asks whether the agent is well: `/healthz` (may this node get load-balancer traffic?), `/livez` (is the proxy
//! itself well?), `/readyz`; and the `pages` of the metrics address. Paths, codes and bodies are kube-proxy's (E1–E3).
//! Health check node ports: `node_port`.

mod http;
mod node_port;
mod pages;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use http::Answer;
use http::{Answers, Asked, Paths, accept};
pub use node_port::NodePortChecks;
pub use pages::Pages;

use crate::metrics::{FAMILIES, Metrics};

#[derive(Debug, thiserror::Error)]
#[error(
    "listening on {addr}: {source}; give another --healthz-bind-address or --metrics-bind-address, and see `svc-agent check`: does kube-proxy still run?"
)]
pub struct Error {
    addr: SocketAddr,
    source: std::io::Error,
}

/// What the agent's other parts say of themselves. Unhealthy until [`Health::synced`] was called.
#[derive(Debug, Default)]
pub struct Health {
    synced: AtomicBool,
    node_doomed: AtomicBool,
    since: Mutex<Since>,
}

#[derive(Debug, Default)]
struct Since {
    stale: Option<Timestamp>,
    /// Of IPv4 and of IPv6: since when, and why, its self-test fails.
    failing: [Option<(Timestamp, String)>; 2],
}

impl Health {
    /// Everything that is wanted is in the maps.
    pub fn synced(&self) {
        self.synced.store(true, Ordering::Release);
        self.since().stale = None;
    }

    /// The last attempt to write the maps failed, and is still to be made up for.
    pub fn failed(&self) {
        self.since().stale.get_or_insert_with(Timestamp::now);
    }

    /// What the test packets of IPv4 and IPv6 have shown.
    pub fn tested(&self, results: &[Result<(), String>; 2]) {
        let mut since = self.since();
        for (failing, result) in since.failing.iter_mut().zip(results) {
            *failing = match (failing.take(), result) {
                (_, Ok(())) => None,
                (Some((when, _)), Err(why)) => Some((when, why.clone())),
                (None, Err(why)) => Some((Timestamp::now(), why.clone())),
            };
        }
    }

    /// Whether the Node is on its way out, so that load balancers should look elsewhere.
    pub fn node_doomed(&self, doomed: bool) {
        self.node_doomed.store(doomed, Ordering::Release);
    }

    fn since(&self) -> MutexGuard<'_, Since> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is served is what is wanted, whatever becomes of the node.
    pub fn is_healthy(&self) -> bool {
        self.trouble().is_empty()
    }

    /// What is wrong, for people.
    pub fn trouble(&self) -> Vec<String> {
        let since = self.since();
        let stale = since.stale.map(|when| {
            format!("the maps are not what they should be since {when}: the log says why")
        });
        let failing = FAMILIES.into_iter().zip(&since.failing);
        let failing = failing.filter_map(|(family, failing)| {
            let (when, why) = failing.as_ref()?;
            Some(format!(
                "the self-test of {family} fails since {when}: {why}"
            ))
        });
        let unsynced = (!self.synced.load(Ordering::Acquire))
            .then(|| "not everything that is wanted was written yet".to_owned());
        unsynced.into_iter().chain(stale).chain(failing).collect()
    }

    /// Whether one family is well, and since when it is not.
    fn family(&self, number: usize) -> (bool, Option<Timestamp>) {
        let since = self.since();
        let failing = since.failing[number].as_ref().map(|(when, _)| *when);
        let bad = since.stale.into_iter().chain(failing).min();
        (self.synced.load(Ordering::Acquire) && bad.is_none(), bad)
    }

    /// Answers `/healthz`, `/livez` and `/readyz`. When all is well, the last update is now.
    pub fn answer(&self, path: &str, now: Timestamp) -> Option<Answer> {
        let families = [self.family(0), self.family(1)];
        let healthy = families.iter().all(|(healthy, _)| *healthy);
        let eligible = !self.node_doomed.load(Ordering::Acquire);
        let updated = |healthy: bool, bad: Option<Timestamp>| match bad {
            None if healthy => now,
            None => Timestamp::UNIX_EPOCH,
            Some(since) => since,
        };
        let bad = families.iter().filter_map(|(_, bad)| *bad).min();
        let family = |(healthy, bad): (bool, Option<Timestamp>)| json!({ "lastUpdated": updated(healthy, bad).to_string(), "healthy": healthy });
        let mut body = json!({
            "lastUpdated": updated(healthy, bad).to_string(),
            "currentTime": now.to_string(),
            "healthy": healthy,
            "status": { "IPv4": family(families[0]), "IPv6": family(families[1]) },
        });
        let well = match path {
            "/healthz" => {
                body["nodeEligible"] = eligible.into();
                healthy && eligible
            }
            "/livez" | "/readyz" => healthy,
            _ => return None,
        };
        Some(Answer {
            well,
            content_type: "application/json",
            body: body.to_string(),
            weight: None,
        })
    }
}

/// Listens for health checks.
pub async fn serve_health(
    addr: SocketAddr,
    health: Arc<Health>,
    metrics: Metrics,
) -> Result<impl Future<Output = ()>, Error> {
    let get = move |asked: Asked| {
        let answer = health.answer(&asked.path, Timestamp::now());
        if let Some(answer) = &answer {
            metrics.answered(&asked.path, answer.well);
        }
        std::future::ready(answer)
    };
    serve(addr, Paths { get, put: no_put }).await
}

/// Listens for scrapes, and for people who look at the agent.
pub async fn serve_metrics(
    addr: SocketAddr,
    pages: Arc<Pages>,
) -> Result<impl Future<Output = ()>, Error> {
    let get = by_turns(move |asked| pages.answer(asked));
    serve(
        addr,
        Paths {
            get,
            put: pages::put,
        },
    )
    .await
}

/// Pages that are made at once. More would take processors and memory from the node, and be ready no sooner.
const AT_ONCE: usize = 2;

/// Makes pages in threads: maps are read for them, which the agent shall not wait for.
fn by_turns<R>(
    make: impl Fn(&Asked) -> R + Send + Sync + 'static,
) -> impl Fn(Asked) -> BoxFuture<'static, R>
where
    R: Default + Send + 'static,
{
    let (make, room) = (Arc::new(make), Arc::new(Semaphore::new(AT_ONCE)));
    move |asked| {
        let (make, room) = (make.clone(), room.clone());
        async move {
            let Ok(place) = room.acquire_owned().await else {
                return R::default();
            };
            let made = tokio::task::spawn_blocking(move || {
                // Until it is made, whether or not somebody still waits for it.
                let _place = place;
                make(&asked)
            });
            made.await.unwrap_or_default()
        }
        .boxed()
    }
}

fn no_put(_: &Asked, _: &str) -> Option<Result<String, String>> {
    None
}

/// Binds at once, so that a port in use is known before anything else happens; the future returned serves for ever.
async fn serve(addr: SocketAddr, answers: impl Answers) -> Result<impl Future<Output = ()>, Error> {
    let listener = TcpListener::bind(addr)
        .await
        .map_err(|source| Error { addr, source })?;
    Ok(accept(listener, Arc::new(answers)))
}

#[cfg(test)]
mod tests;
