//! One scenario's part of the cluster: its namespace, the objects in it, as short as tests want them, and what clients
//! are to see of them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use xtask::agents::eventually;
use xtask::topology::{Topology, in_namespace};
use xtask::traffic::{Outcome, Probe, Protocol, spread};

use crate::cluster::{Cluster, TCP, UDP};
use crate::service::Service;

/// Clients inside: pods that most Services do not have as endpoints, and both nodes themselves.
pub const INSIDE: [&str; 4] = ["pod-b", "pod-d", "node1", "node2"];

/// How a connect() ends that the socket hook drops.
const NOT_PERMITTED: &str = "Operation not permitted (os error 1)";

/// Where agents say how they are.
const HEALTHZ: u16 = 10256;

const SOON: Duration = Duration::from_secs(15);

/// What a client is to see.
#[derive(Clone, Copy, Debug)]
pub enum Expect<'a> {
    /// Each of these answers, and nobody else.
    From(&'a [&'a str]),
    /// One of these answers all the time.
    OneOf(&'a [&'a str]),
    Refused,
    /// Nobody answers, and nobody refuses.
    Silence,
    /// Nobody answers: the address is none of ours (any more).
    Nobody,
}

/// One scenario's part of the cluster: its namespace.
pub struct Scene<'a> {
    pub cluster: &'a Cluster,
    pub namespace: String,
}

impl<'a> Scene<'a> {
    pub fn new(cluster: &'a Cluster, namespace: &str) -> Result<Self> {
        cluster.plane.namespace(namespace)?;
        Ok(Self {
            cluster,
            namespace: namespace.to_owned(),
        })
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// A ready Pod of this name at a place (a node: in the host's network), with one label: `app` is `label`.
    pub fn pod(&self, name: &str, place: &str, label: &str) -> Result<()> {
        self.pod_with(name, place, label, TCP)
    }

    /// One whose port named `http` is this one.
    pub fn pod_with(&self, name: &str, place: &str, label: &str, http: u16) -> Result<()> {
        let at = self.cluster.topology.place(place);
        let host = at.node == Some(at.name);
        let ports: Vec<Value> = [("http", http, "TCP"), ("dns", UDP, "UDP")]
            .into_iter()
            .map(|(name, port, protocol)| {
                let mut port = json!({"name": name, "containerPort": port, "protocol": protocol});
                if host {
                    port["hostPort"] = port["containerPort"].clone();
                }
                port
            })
            .collect();
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": label}},
            "spec": {
                "nodeName": at.node,
                "hostNetwork": host,
                "containers": [{"name": "server", "image": "none", "ports": ports}],
            },
        });
        self.cluster.plane.calls(&[
            ("POST", self.path("pods"), pod),
            (
                "PATCH",
                self.path(&format!("pods/{name}/status")),
                status(&at.addresses(), true),
            ),
        ])?;
        Ok(())
    }

    pub fn set_ready(&self, pod: &str, ready: bool) -> Result<()> {
        let ready = if ready { "True" } else { "False" };
        self.cluster.plane.patch(
            &self.path(&format!("pods/{pod}/status")),
            &json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}}),
        )?;
        Ok(())
    }

    pub fn relabel(&self, pod: &str, app: &str) -> Result<()> {
        self.cluster.plane.patch(
            &self.path(&format!("pods/{pod}")),
            &json!({"metadata": {"labels": {"app": app}}}),
        )?;
        Ok(())
    }

    /// Begins its end: it stays, terminating, until it is removed.
    pub fn terminate(&self, pod: &str) -> Result<()> {
        self.remove_within(pod, 3600)
    }

    pub fn remove(&self, pod: &str) -> Result<()> {
        self.remove_within(pod, 0)
    }

    fn remove_within(&self, pod: &str, seconds: u32) -> Result<()> {
        self.cluster.plane.delete(
            &self.path(&format!("pods/{pod}")),
            &json!({"gracePeriodSeconds": seconds}),
        )?;
        Ok(())
    }

    /// Makes a dual-stack Service `name` of the pods labelled so: TCP 80 and UDP 53; `spec` says what else.
    pub fn service(&self, name: &str, spec: &Value) -> Result<Service<'_>> {
        let mut service = json!({
            "metadata": {"name": name},
            "spec": {
                "selector": {"app": name},
                "ipFamilyPolicy": "PreferDualStack",
                "ports": [
                    {"name": "http", "port": 80, "targetPort": "http"},
                    {"name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP"},
                ],
            },
        });
        merge(&mut service["spec"], spec);
        let made = self.cluster.plane.post(&self.path("services"), &service)?;
        Ok(Service::new(self, name, made))
    }

    /// Everything that would take addresses from the next scenario.
    pub fn clear(&self) -> Result<()> {
        let services = self.cluster.plane.get(&self.path("services"))?;
        let calls: Vec<_> = services["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|service| service["metadata"]["name"].as_str())
            .map(|name| {
                (
                    "DELETE",
                    self.path(&format!("services/{name}")),
                    Value::Null,
                )
            })
            .collect();
        self.cluster.plane.calls(&calls).map(drop)
    }

    /// Waits until this is what clients in these places see, over both families when `to` gives both.
    pub fn expect(
        &self,
        from: &[&str],
        protocol: Protocol,
        to: &[SocketAddr],
        expected: Expect<'_>,
    ) -> Result<()> {
        ensure!(!to.is_empty(), "there is no address to ask");
        for place in from {
            for address in to {
                self.see(place, protocol, *address, expected)?;
            }
        }
        Ok(())
    }

    /// Whether every one of a few connections ends at this place.
    pub fn sees_only(&self, from: &str, to: SocketAddr, place: &str) -> bool {
        let answers = Probe::tcp(to).count(16).run(self.cluster.topology, from);
        answers.is_ok_and(|answers| answers.iter().all(|answer| answer.by() == Some(place)))
    }

    /// Waits until the health check node port of a node says this, on each of the node's addresses (C14).
    pub fn expect_health(&self, node: &str, port: u16, code: u16, endpoints: u64) -> Result<()> {
        for ip in self.cluster.topology.place(node).addresses() {
            let mut last = String::new();
            let as_expected = || {
                last = http_get(self.cluster.topology, (ip, port).into(), "/")
                    .unwrap_or_else(|e| format!("{e:#}"));
                let (head, body) = last.split_once("\r\n\r\n").unwrap_or((&last, ""));
                let head = head.to_lowercase();
                let body: Value = serde_json::from_str(body).unwrap_or_default();
                Ok(head.starts_with(&format!("http/1.1 {code}"))
                    && head.contains(&format!("x-load-balancing-endpoint-weight: {endpoints}"))
                    && body["localEndpoints"] == endpoints
                    && body["service"]["namespace"] == self.namespace.as_str())
            };
            let what =
                format!("the health check of {node} at {ip}:{port} says {code} and {endpoints}");
            if let Err(error) = eventually(&what, SOON, as_expected) {
                bail!("{error:#}; last: {last}");
            }
        }
        Ok(())
    }

    /// Waits until a node's agent answers its health server's path with this code (E1, E2).
    pub fn expect_code(&self, node: &str, path: &str, code: u16) -> Result<()> {
        let to = (self.cluster.topology.place(node).v4, HEALTHZ).into();
        let mut last = String::new();
        let as_expected = || {
            last = http_get(self.cluster.topology, to, path).unwrap_or_else(|e| format!("{e:#}"));
            Ok(last.starts_with(&format!("HTTP/1.1 {code}")))
        };
        let answered = eventually(
            &format!("{path} of {node} answers {code}"),
            SOON,
            as_expected,
        );
        answered.map(drop).with_context(|| format!("last: {last}"))
    }

    fn see(
        &self,
        from: &str,
        protocol: Protocol,
        to: SocketAddr,
        expected: Expect<'_>,
    ) -> Result<()> {
        let probe = Probe::new(protocol, to).timeout(Duration::from_millis(400));
        // One of two that is never chosen in 24 tries is no accident.
        let probe = match expected {
            Expect::From(all) if all.len() > 1 => probe.count(24 * (all.len() - 1)),
            Expect::OneOf(_) => probe.count(16),
            _ => probe.count(3).connected(),
        };
        let mut last = Vec::new();
        let as_expected = || {
            last = probe.run(self.cluster.topology, from)?;
            let who: BTreeSet<&str> = last.iter().filter_map(|answer| answer.by()).collect();
            let all = |outcome: &Outcome| last.iter().all(|answer| answer.outcome == *outcome);
            let answered = !who.is_empty() && last.iter().all(|answer| answer.by().is_some());
            Ok(match expected {
                Expect::From(wanted) => answered && who == wanted.iter().copied().collect(),
                Expect::OneOf(wanted) => {
                    answered && who.len() == 1 && who.iter().all(|one| wanted.contains(one))
                }
                Expect::Refused => all(&Outcome::Refused),
                // The socket hook cannot be silent: connect() fails at once.
                Expect::Silence => {
                    all(&Outcome::TimedOut) || all(&Outcome::Failed(NOT_PERMITTED.to_owned()))
                }
                Expect::Nobody => who.is_empty(),
            })
        };
        let what = format!("{from} → {protocol} {to}: {expected:?}");
        match eventually(&what, SOON, as_expected) {
            Ok(_) => Ok(()),
            Err(error) => bail!("{error:#}; last: {:?}, {:?}", spread(&last), last.last()),
        }
    }
}

fn status(addresses: &[IpAddr], ready: bool) -> Value {
    let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"status": {
        "phase": "Running",
        "podIP": addresses[0],
        "podIPs": ips,
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
    }})
}

/// What the outside client gets, as it came.
fn http_get(topology: &Topology, to: SocketAddr, path: &str) -> Result<String> {
    in_namespace(&topology.place("client").namespace_file(), || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
