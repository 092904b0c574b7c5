//! What asks whether the agent is well: `/healthz` (may this node get load-balancer traffic?), `/livez` (is the proxy
//! itself well?), `/metrics`. Paths, codes and bodies are kube-proxy's (E1–E3).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use serde_json::json;
use tokio::net::TcpListener;

/// A client that does not finish its request is sent away.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
#[error(
    "listening on {addr}: {source}; give another --healthz-bind-address or --metrics-bind-address"
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

    fn is_healthy(&self) -> bool {
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
        })
    }
}

/// What is sent back: 200 when well, else 503.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub well: bool,
    pub content_type: &'static str,
    pub body: String,
}

/// Listens for health checks.
pub async fn serve_health(
    addr: SocketAddr,
    health: Arc<Health>,
) -> Result<impl Future<Output = ()>, Error> {
    serve(addr, move |path| health.answer(path, Timestamp::now())).await
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
    serve(addr, move |path| match path {
        "/metrics" => Some(Answer {
            well: true,
            content_type: "text/plain; version=0.0.4",
            body: metrics(),
        }),
        _ => health.answer(path, Timestamp::now()),
    })
    .await
}

/// Binds at once, so that a port in use is known before anything else happens; the future returned serves for ever.
async fn serve<A>(addr: SocketAddr, answer: A) -> Result<impl Future<Output = ()>, Error>
where
    A: Fn(&str) -> Option<Answer> + Send + Sync + 'static,
{
    let listener = TcpListener::bind(addr)
        .await
        .map_err(|source| Error { addr, source })?;
    Ok(accept(listener, Arc::new(answer)))
}

async fn accept<A>(listener: TcpListener, answer: Arc<A>)
where
    A: Fn(&str) -> Option<Answer> + Send + Sync + 'static,
{
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others have to close some first.
                tracing::warn!("accepting a health check: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = respond(&request, answer.as_ref());
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            let http = http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!("a health check was cut off: {error}");
            }
        });
    }
}

fn respond(
    request: &Request<Incoming>,
    answer: &impl Fn(&str) -> Option<Answer>,
) -> Response<Full<Bytes>> {
    let plain = |status, body: &'static str| (status, "text/plain", body.to_owned());
    let (status, content_type, body) = if ![Method::GET, Method::HEAD].contains(request.method()) {
        plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n")
    } else {
        match answer(request.uri().path()) {
            Some(Answer {
                well: true,
                content_type,
                body,
            }) => (StatusCode::OK, content_type, body),
            Some(Answer {
                well: false,
                content_type,
                body,
            }) => (StatusCode::SERVICE_UNAVAILABLE, content_type, body),
            None => plain(StatusCode::NOT_FOUND, "not here\n"),
        }
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests;
