//! A real control plane in the LAN of a topology, agents on its nodes, servers in its pods; and the objects, as short
//! as tests want them. There is no kubelet: a Pod object borrows the addresses of one of the topology's places, and
//! the test writes its status.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use xtask::agents::{Agent, eventually};
use xtask::programs::asset;
use xtask::topology::{NODES, Options, PODS, Topology, in_namespace};
use xtask::traffic::{Outcome, Probe, Protocol, Running, spread, start_server};

use crate::prepare::prepare;
use crate::server::{ADMIN, ApiServer, spawn};

/// What pods and nodes listen on. The last TCP port is for Services whose port number differs by pod.
pub const TCP: u16 = 8080;
pub const OTHER_TCP: u16 = 8081;
pub const UDP: u16 = 5353;

/// How a connect() ends that the socket hook drops.
const NOT_PERMITTED: &str = "Operation not permitted (os error 1)";

/// Where agents say how they are.
const HEALTHZ: u16 = 10256;

const SOON: Duration = Duration::from_secs(15);

pub struct ControlPlane {
    pub api: ApiServer<'static>,
    _controllers: Running,
}

impl ControlPlane {
    /// etcd, kube-apiserver, kube-controller-manager and the nodes, each in a zone of its own.
    pub fn start(topology: &'static Topology) -> Result<Self> {
        let api = ApiServer::start(topology)?;
        prepare(&api, topology)?;
        let kubeconfig = api.kubeconfig("controllers", &api.url(), ADMIN)?;
        let mut command = topology.command("lan", asset("kube-controller-manager")?)?;
        command.args([
            &format!("--kubeconfig={}", kubeconfig.display()),
            "--controllers=endpointslice-controller,endpointslice-mirroring-controller",
            "--leader-elect=false",
            "--secure-port=0",
            // So small that most Services have several slices (A5).
            "--max-endpoints-per-slice=2",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ]);
        let log = topology.scratch().join("kube-controller-manager.log");
        let plane = Self {
            _controllers: spawn(command, &log)?,
            api,
        };
        for (node, zone) in NODES.into_iter().zip(["zone-1", "zone-2"]) {
            plane.patch(
                &format!("/api/v1/nodes/{node}"),
                &json!({"metadata": {"labels": {
                    "topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": node}}}),
            )?;
        }
        Ok(plane)
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, &Value::Null)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call("POST", path, body)
    }

    /// A merge patch.
    pub fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.call("PATCH", path, body)
    }

    pub fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.call("DELETE", path, options)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        Ok(self
            .calls(&[(method, path.to_owned(), body.clone())])?
            .remove(0))
    }

    /// Several, one after the other, by one client.
    pub fn calls(&self, calls: &[(&str, String, Value)]) -> Result<Vec<Value>> {
        self.api.admin(|client| async move {
            let mut answers = Vec::new();
            for (method, path, body) in calls {
                let kind = match *method {
                    "PATCH" => "application/merge-patch+json",
                    _ => "application/json",
                };
                let body = if body.is_null() {
                    String::new()
                } else {
                    body.to_string()
                };
                let request = http::Request::builder()
                    .method(*method)
                    .uri(path)
                    .header("Content-Type", kind)
                    .body(body.into_bytes())?;
                let answer = client.request::<Value>(request).await;
                answers.push(answer.with_context(|| format!("{method} {path}"))?);
            }
            Ok(answers)
        })
    }

    /// A namespace in which pods can be made.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.post("/api/v1/namespaces", &json!({"metadata": {"name": name}}))?;
        self.post(
            &format!("/api/v1/namespaces/{name}/serviceaccounts"),
            &json!({"metadata": {"name": "default"}}),
        )?;
        Ok(())
    }
}

/// Servers in all pods and on all nodes, each answering with its place's name.
pub fn servers(topology: &Topology) -> Result<Vec<Running>> {
    PODS.iter()
        .chain(&NODES)
        .map(|place| start_server(topology, place, place, &[TCP, OTHER_TCP], &[UDP]))
        .collect()
}

/// The topology lives until the end of the process, so that what borrows it can be kept; `remove` it there.
pub fn topology() -> Result<&'static Topology> {
    Ok(Box::leak(Box::new(Topology::new(Options::default())?)))
}

/// The cluster that the scenarios share, each in a namespace of its own.
pub struct Cluster {
    pub agents: Vec<Agent>,
    _servers: Vec<Running>,
    pub plane: ControlPlane,
    pub topology: &'static Topology,
}

impl Cluster {
    pub fn start() -> Result<Self> {
        let topology = topology()?;
        let plane = ControlPlane::start(topology)?;
        let kubeconfig = plane.api.agent_kubeconfig()?.display().to_string();
        let agents =
            xtask::agents::start_agents(topology, &["--kubeconfig", &kubeconfig, "-v", "1"])?;
        Ok(Self {
            agents,
            _servers: servers(topology)?,
            plane,
            topology,
        })
    }

    pub fn logs(&self) -> String {
        let log = |agent: &Agent| {
            let log = agent.log();
            let lines: Vec<_> = log.lines().rev().take(15).collect();
            let lines: Vec<_> = lines.into_iter().rev().collect();
            format!("--- {}\n{}\n", agent.node, lines.join("\n"))
        };
        self.agents.iter().map(log).collect()
    }
}

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

    fn path(&self, rest: &str) -> String {
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
        Ok(Service {
            scene: self,
            name: name.to_owned(),
            object: made,
        })
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

/// A Service as the API server has it.
pub struct Service<'a> {
    scene: &'a Scene<'a>,
    pub name: String,
    pub object: Value,
}

impl Service<'_> {
    fn path(&self) -> String {
        self.scene.path(&format!("services/{}", self.name))
    }

    pub fn patch(&mut self, spec: &Value) -> Result<()> {
        self.object = self
            .scene
            .cluster
            .plane
            .patch(&self.path(), &json!({"spec": spec}))?;
        Ok(())
    }

    pub fn patch_metadata(&mut self, metadata: &Value) -> Result<()> {
        let body = json!({"metadata": metadata});
        self.object = self.scene.cluster.plane.patch(&self.path(), &body)?;
        Ok(())
    }

    /// What a cloud's controller would write.
    pub fn set_ingress(&mut self, ingress: &Value) -> Result<()> {
        let body = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        let path = format!("{}/status", self.path());
        self.object = self.scene.cluster.plane.patch(&path, &body)?;
        Ok(())
    }

    pub fn delete(&self) -> Result<()> {
        self.scene
            .cluster
            .plane
            .delete(&self.path(), &Value::Null)
            .map(drop)
    }

    /// Its ClusterIPs, with this port.
    pub fn cluster_ips(&self, port: u16) -> Result<Vec<SocketAddr>> {
        let ips = self.object["spec"]["clusterIPs"]
            .as_array()
            .context("no clusterIPs")?;
        ips.iter()
            .map(|ip| {
                Ok((
                    ip.as_str().context("not a string")?.parse::<IpAddr>()?,
                    port,
                )
                    .into())
            })
            .collect()
    }

    /// The NodePort of one of its ports, on both addresses of a node.
    pub fn node_port(&self, port: &str, node: &str) -> Result<Vec<SocketAddr>> {
        let ports = self.object["spec"]["ports"]
            .as_array()
            .context("no ports")?;
        let number = ports
            .iter()
            .find(|one| one["name"] == port)
            .and_then(|one| one["nodePort"].as_u64())
            .with_context(|| format!("port {port} has no nodePort"))?;
        let number = u16::try_from(number)?;
        let addresses = self.scene.cluster.topology.place(node).addresses();
        Ok(addresses.map(|ip| (ip, number).into()).to_vec())
    }
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

/// These addresses with this port.
pub fn at(addresses: &[&str], port: u16) -> Vec<SocketAddr> {
    addresses
        .iter()
        .map(|ip| (ip.parse::<IpAddr>().expect("an address"), port).into())
        .collect()
}
