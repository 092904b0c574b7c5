//! A stand-in for the API server: one state of the cluster, to be listed and watched over HTTP on a node's loopback. It
//! gives kube-proxy and svcplane 50,000 Services within seconds; how the rules got there makes no difference to packets.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use xtask::topology::in_namespace;

use super::objects::{Objects, Resource};

const PORT: u16 = 6443;

/// A kubeconfig for whoever is on a node with a stand-in.
pub fn kubeconfig() -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{PORT}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    })
    .to_string()
}

/// Serves until it is dropped; connections that are open then last until their clients go.
pub struct StandIn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    pub fn start(namespace: &Path, objects: Arc<Objects>) -> Result<Self> {
        let listener = in_namespace(namespace, || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
                .context("cannot listen in the place of the API server")?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let objects = objects.clone();
                        // Its client has gone away, or has asked for what is not HTTP.
                        thread::spawn(move || serve(stream, &objects).ok());
                    }
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, objects: &Objects) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = BufWriter::new(stream);
    while let Some(target) = request(&mut input)? {
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let Some(resource) = objects.get(path) else {
            let (status, body) = single(path, objects);
            whole(&mut output, status, &body)?;
            continue;
        };
        let wanted = |item: &&String| chosen(item, query);
        if has(query, "watch") {
            watch(
                &mut output,
                resource,
                query,
                resource.items.iter().filter(wanted),
            )?;
            // Nothing ever changes; the client's end is what is waited for.
            return io::copy(&mut input, &mut io::sink()).map(drop);
        }
        let items: Vec<&str> = resource
            .items
            .iter()
            .filter(wanted)
            .map(String::as_str)
            .collect();
        let body = format!(
            r#"{{"kind":"{}List","apiVersion":"{}","metadata":{{"resourceVersion":"1"}},"items":[{}]}}"#,
            resource.kind,
            resource.api_version,
            items.join(",")
        );
        whole(&mut output, "200 OK", &body)?;
    }
    Ok(())
}

/// The target of the next GET or of whatever else; its body is passed over.
fn request(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut target = None;
    let mut body = 0;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if target.is_none() {
            target = Some(line.split(' ').nth(1).unwrap_or_default().to_owned());
        } else if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            body = value.trim().parse().unwrap_or(0);
        }
    }
    io::copy(&mut input.take(body), &mut io::sink())?;
    Ok(target)
}

fn has(query: &str, name: &str) -> bool {
    query.split('&').any(|pair| {
        pair.split_once('=')
            .is_some_and(|(key, value)| key == name && ["1", "true"].contains(&value))
    })
}

/// Whether an object is meant by a `fieldSelector` of its name; there are no others.
fn chosen(item: &str, query: &str) -> bool {
    let selector = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name%3D"));
    selector.is_none_or(|name| item.contains(&format!(r#""name":"{name}""#)))
}

fn watch<'a>(
    output: &mut impl Write,
    resource: &Resource,
    query: &str,
    items: impl Iterator<Item = &'a String>,
) -> io::Result<()> {
    output.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    let mut event = |kind: &str, object: &str| {
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        write!(output, "{:x}\r\n{line}\r\n", line.len())
    };
    if has(query, "sendInitialEvents") {
        for item in items {
            event("ADDED", item)?;
        }
        let end = json!({
            "kind": resource.kind,
            "apiVersion": resource.api_version,
            "metadata": {
                "resourceVersion": "1",
                "creationTimestamp": null,
                "annotations": {"k8s.io/initial-events-end": "true"},
            },
        });
        event("BOOKMARK", &end.to_string())?;
    }
    output.flush()
}

/// The object of a path such as /api/v1/nodes/node1.
fn single(path: &str, objects: &Objects) -> (&'static str, String) {
    let found = path.rsplit_once('/').and_then(|(list, name)| {
        let named = |item: &&String| {
            serde_json::from_str::<Value>(item)
                .is_ok_and(|object| object["metadata"]["name"] == name)
        };
        objects.get(list)?.items.iter().find(named)
    });
    match found {
        Some(item) => ("200 OK", item.clone()),
        None => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                "status": "Failure", "reason": "NotFound", "code": 404, "message": path});
            ("404 Not Found", status.to_string())
        }
    }
}

fn whole(output: &mut impl Write, status: &str, body: &str) -> io::Result<()> {
    write!(
        output,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    output.flush()
}
