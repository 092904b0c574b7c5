//! Between agents and the API server: passes on what is asked and answered, until it is told to make trouble.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use futures::{AsyncBufReadExt, StreamExt};
use kube::{Client, Config};
use svc_tests::apiserver::server::ApiServer;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch::{Receiver, Sender, channel};
use xtask::topology::{Topology, in_namespace};

const PORT: u16 = 8001;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Every request is answered by this status; watches end.
    Status(u16),
    /// Nothing is answered, nothing is closed. When it is over, what has waited is closed.
    Stall,
    /// Running watches end in the middle of their next event.
    Cut,
    /// Running watches are told that what they know is too old (410).
    Expired,
}

/// A proxy in the LAN; it ends with this value.
pub struct Proxy {
    trouble: Option<Sender<Trouble>>,
    thread: Option<JoinHandle<()>>,
    pub url: String,
}

impl Proxy {
    /// In front of the API server, with the rights that go with a token.
    pub fn start(topology: &Topology, api: &ApiServer, token: &str) -> Result<Self> {
        let lan = topology.place("lan");
        let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let listener = in_namespace(&lan.namespace_file(), || {
            std::net::TcpListener::bind(at).context("cannot listen for the proxy")
        })?;
        listener.set_nonblocking(true)?;
        let config = api.config(token)?;
        let (trouble, told) = channel(Trouble::None);
        let namespace = lan.namespace_file();
        let thread = std::thread::spawn(move || {
            let outcome = in_namespace(&namespace, || run(listener, config, told));
            if let Err(error) = outcome {
                println!("the proxy has failed: {error:#}");
            }
        });
        Ok(Self {
            trouble: Some(trouble),
            thread: Some(thread),
            url: format!("http://{}:{PORT}", lan.v4),
        })
    }

    pub fn make(&self, trouble: Trouble) {
        if let Some(sender) = &self.trouble {
            sender.send_replace(trouble);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.trouble = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    listener: std::net::TcpListener,
    config: Config,
    mut trouble: Receiver<Trouble>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        let client = Client::try_from(config)?;
        loop {
            tokio::select! {
                changed = trouble.changed() => if changed.is_err() {
                    return Ok(());
                },
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    // How a connection ends is for the agents to bear.
                    tokio::spawn(connection(stream, client.clone(), trouble.clone()));
                }
            }
        }
    })
}

async fn connection(
    stream: TcpStream,
    client: Client,
    mut trouble: Receiver<Trouble>,
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await? {
        let now = *trouble.borrow_and_update();
        match now {
            Trouble::Status(code) => {
                answer(&mut stream, code, &status(code)).await?;
                continue;
            }
            Trouble::Stall => return until_over(&mut trouble).await,
            Trouble::None | Trouble::Cut | Trouble::Expired => (),
        }
        let query = request.uri().query().unwrap_or_default();
        if query.contains("watch=true") || query.contains("watch=1") {
            return watch(&mut stream, client, request, trouble).await;
        }
        match client.request_text(request).await {
            Ok(text) => answer(&mut stream, 200, &text).await?,
            Err(kube::Error::Api(refused)) => {
                let text = serde_json::to_string(&refused)?;
                answer(&mut stream, refused.code, &text).await?;
            }
            Err(error) => bail!(error),
        }
    }
    Ok(())
}

async fn until_over(trouble: &mut Receiver<Trouble>) -> Result<()> {
    let over = trouble.wait_for(|now| *now != Trouble::Stall).await;
    over.map(drop).map_err(|_| anyhow!("the proxy ends"))
}

/// Passes events on, line by line.
async fn watch(
    stream: &mut BufReader<TcpStream>,
    client: Client,
    request: http::Request<Vec<u8>>,
    mut trouble: Receiver<Trouble>,
) -> Result<()> {
    let events = match client.request_stream(request).await {
        Ok(events) => events,
        Err(kube::Error::Api(refused)) => {
            let text = serde_json::to_string(&refused)?;
            return answer(stream, refused.code, &text).await;
        }
        Err(error) => bail!(error),
    };
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let events = std::pin::pin!(events);
    let mut lines = events.lines();
    let mut cut = false;
    loop {
        tokio::select! {
            line = lines.next() => match line.transpose()? {
                Some(line) if cut => {
                    return chunk(stream, &line[..line.len() / 2]).await;
                }
                Some(line) => chunk(stream, &format!("{line}\n")).await?,
                None => return Ok(stream.write_all(b"0\r\n\r\n").await?),
            },
            changed = trouble.changed() => {
                changed?;
                let now = *trouble.borrow_and_update();
                match now {
                    Trouble::None => (),
                    Trouble::Status(_) => return Ok(()),
                    Trouble::Stall => return until_over(&mut trouble).await,
                    Trouble::Cut => cut = true,
                    Trouble::Expired => {
                        let event = format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", status(410));
                        chunk(stream, &event).await?;
                        return Ok(stream.write_all(b"0\r\n\r\n").await?);
                    }
                }
            }
        }
    }
}

async fn chunk(stream: &mut BufReader<TcpStream>, text: &str) -> Result<()> {
    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all(chunk.as_bytes()).await?;
    Ok(stream.flush().await?)
}

async fn answer(stream: &mut BufReader<TcpStream>, code: u16, text: &str) -> Result<()> {
    let head = format!(
        "HTTP/1.1 {code} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(text.as_bytes()).await?;
    Ok(stream.flush().await?)
}

/// As the API server words it.
fn status(code: u16) -> String {
    let (reason, message) = match code {
        410 => ("Expired", "too old resource version"),
        429 => (
            "TooManyRequests",
            "the server has received too many requests",
        ),
        _ => (
            "InternalError",
            "an error on the server has prevented the request",
        ),
    };
    let status = serde_json::json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    });
    status.to_string()
}

/// The next request of a connection.
async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<http::Request<Vec<u8>>>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let (method, uri) = words.next().zip(words.next()).context("no request")?;
    let mut request = http::Request::builder().method(method).uri(uri);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse()?,
            name @ ("content-type" | "accept") => request = request.header(name, value),
            // Its own client says who it is.
            _ => (),
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(request.body(body)?))
}
