//! The HTTP server behind every answer of the agent: one task per listener, and with the task its connections end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A client that does not finish its request is sent away.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection ends at this age: between two requests at once, in the middle of one after [`PATIENCE`].
const LONGEST: Duration = Duration::from_secs(120);

/// A client that takes nothing of its answer for so long is gone; in milliseconds.
const STALLED: u32 = 10_000;

/// Bytes of a request without its body.
const MOST_ASKED: usize = 16 << 10;

/// Connections of one listener at once. More are nobody's who only asks how the node is.
pub(super) const MOST: usize = 128;

/// Bytes that can be put.
const MOST_PUT: usize = 4096;

/// What is sent back: 200 when well, else 503.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub well: bool,
    pub content_type: &'static str,
    pub body: String,
    /// `X-Load-Balancing-Endpoint-Weight`: how large a part this node can take.
    pub weight: Option<usize>,
}

/// What a listener answers: by path, or (a health check node port) the same to whatever is asked.
pub(super) trait Answers: Send + Sync + 'static {
    fn answer(
        &self,
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// A request, as far as anybody cares.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) accept: String,
}

/// Answers of a server with paths. What `get` does not know is not found; what `put` does not know cannot be put.
pub(super) struct Paths<G, P> {
    pub(super) get: G,
    /// Ok: what to say. Err: what is wrong with the text that was put.
    pub(super) put: P,
}

impl<G, P, R> Answers for Paths<G, P>
where
    G: Fn(Asked) -> R + Send + Sync + 'static,
    R: Future<Output = Option<Answer>> + Send,
    P: Fn(&Asked, &str) -> Option<Result<String, String>> + Send + Sync + 'static,
{
    async fn answer(&self, request: Request<Incoming>, from: SocketAddr) -> Response<Full<Bytes>> {
        let plain = |status, body: &str| response(status, "text/plain", body.to_owned());
        let accept = request.headers().get(ACCEPT);
        let asked = Asked {
            path: request.uri().path().to_owned(),
            accept: accept
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
        };
        match *request.method() {
            Method::GET | Method::HEAD => match (self.get)(asked).await {
                Some(answer) => answer.into_response(),
                None => plain(StatusCode::NOT_FOUND, "not here\n"),
            },
            Method::PUT => {
                let body = Limited::new(request.into_body(), MOST_PUT).collect();
                let body = match tokio::time::timeout(PATIENCE, body).await {
                    Ok(Ok(body)) => body,
                    Ok(Err(_)) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "too long\n"),
                    Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "too slow\n"),
                };
                let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                // Whoever may reach the address may look; to change anything one has to be on the node.
                if !from.ip().to_canonical().is_loopback() {
                    return plain(StatusCode::FORBIDDEN, "only from the node itself\n");
                }
                match (self.put)(&asked, &text) {
                    Some(Ok(done)) => plain(StatusCode::OK, &done),
                    Some(Err(wrong)) => plain(StatusCode::BAD_REQUEST, &wrong),
                    None => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
                }
            }
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        }
    }
}

/// One answer whatever the path and the method.
pub(super) struct Always<A>(pub(super) A);

impl<A: Fn() -> Answer + Send + Sync + 'static> Answers for Always<A> {
    async fn answer(&self, _: Request<Incoming>, _: SocketAddr) -> Response<Full<Bytes>> {
        (self.0)().into_response()
    }
}

impl Answer {
    fn into_response(self) -> Response<Full<Bytes>> {
        let status = if self.well {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let mut response = response(status, self.content_type, self.body);
        if let Some(weight) = self.weight {
            response
                .headers_mut()
                .insert("x-load-balancing-endpoint-weight", weight.into());
        }
        response
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
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

/// Serves until it is dropped, which closes the listener and every connection. When there are too many of these, the one
/// that is open longest is closed: who asks now is answered.
pub(super) async fn accept(listener: TcpListener, answers: Arc<impl Answers>) {
    let mut connections = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    let mut trouble = false;
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others have to close some first. Whoever causes that is not to fill
                // the log, too.
                if !std::mem::replace(&mut trouble, true) {
                    tracing::warn!("accepting a health check: {error}; trying on");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        trouble = false;
        while connections.try_join_next().is_some() {}
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MOST
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(connections.spawn(converse(stream, from, answers.clone())));
    }
}

async fn converse(stream: TcpStream, from: SocketAddr, answers: Arc<impl Answers>) {
    let service = service_fn(move |request| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answers.answer(request, from).await) }
    });
    // An older kernel than those that know it: then the connection's age is what ends it.
    let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &STALLED);
    let mut http = http1::Builder::new();
    let http = http
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MOST_ASKED);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut served = tokio::time::timeout(LONGEST, connection.as_mut()).await;
    if served.is_err() {
        connection.as_mut().graceful_shutdown();
        served = tokio::time::timeout(PATIENCE, connection).await;
    }
    match served {
        Ok(Ok(())) => (),
        Ok(Err(error)) => tracing::debug!("a health check was cut off: {error}"),
        Err(_) => tracing::debug!("a health check by {from} took too long"),
    }
}
