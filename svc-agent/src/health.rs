//! What asks whether the agent is well: `/healthz` (may this node get load-balancer traffic?), `/livez` (is the proxy
//! itself well?), `/metrics`, `/proxyMode`. Paths, codes and bodies are kube-proxy's (E1–E3). Health check node ports: `node_port`.

mod http;
mod node_port;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use serde_json::json;
use tokio::net::TcpListener;

pub use http::Answer;
use http::{Answers, Paths, accept};
pub use node_port::NodePortChecks;

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
    stale_since: std::sync::Mutex<Option<Timestamp>>,
}

impl Health {
    /// Everything that is wanted is in the maps.
    pub fn synced(&self) {
        self.synced.store(true, Ordering::Release);
        self.set_stale(None);
    }

    /// The last attempt to write the maps failed, and is still to be made up for.
    pub fn failed(&self) {
        let mut since = self
            .stale_since
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        since.get_or_insert_with(Timestamp::now);
    }

    /// Whether the Node is on its way out, so that load balancers should look elsewhere.
    pub fn node_doomed(&self, doomed: bool) {
        self.node_doomed.store(doomed, Ordering::Release);
    }

    fn set_stale(&self, since: Option<Timestamp>) {
        *self
            .stale_since
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = since;
    }

    /// Whether what is served is what is wanted, whatever becomes of the node.
    pub fn is_healthy(&self) -> bool {
        self.synced.load(Ordering::Acquire) && self.stale_since().is_none()
    }

    /// Since when the maps are not what they should be.
    fn stale_since(&self) -> Option<Timestamp> {
        *self
            .stale_since
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Answers `/healthz` and `/livez`. When all is well, the last update is now.
    pub fn answer(&self, path: &str, now: Timestamp) -> Option<Answer> {
        let healthy = self.is_healthy();
        let eligible = !self.node_doomed.load(Ordering::Acquire);
        let updated = match self.stale_since() {
            None if healthy => now,
            None => Timestamp::UNIX_EPOCH,
            Some(since) => since,
        };
        let family = json!({ "lastUpdated": updated.to_string(), "healthy": healthy });
        let mut body = json!({
            "lastUpdated": updated.to_string(),
            "currentTime": now.to_string(),
            "healthy": healthy,
            "status": { "IPv4": family, "IPv6": family },
        });
        let well = match path {
            "/healthz" => {
                body["nodeEligible"] = eligible.into();
                healthy && eligible
            }
            "/livez" => healthy,
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
) -> Result<impl Future<Output = ()>, Error> {
    let paths = Paths(move |path: &str| health.answer(path, Timestamp::now()));
    serve(addr, paths).await
}

/// Listens for scrapes; `metrics` makes the text (Prometheus format) anew for each.
pub async fn serve_metrics<M>(
    addr: SocketAddr,
    health: Arc<Health>,
    metrics: M,
) -> Result<impl Future<Output = ()>, Error>
where
    M: Fn() -> String + Send + Sync + 'static,
{
    let paths = Paths(move |path: &str| match path {
        "/metrics" => Some(Answer {
            well: true,
            content_type: "text/plain; version=0.0.4",
            body: metrics(),
            weight: None,
        }),
        // The mode that kube-proxy would name: there is only one here.
        "/proxyMode" => Some(Answer {
            well: true,
            content_type: "text/plain; charset=utf-8",
            body: "ebpf".into(),
            weight: None,
        }),
        _ => health.answer(path, Timestamp::now()),
    });
    serve(addr, paths).await
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
