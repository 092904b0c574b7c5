//! The API server with its etcd, who writes to it, and who follows it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};
use xtask::agents::{Agent, eventually};
use xtask::topology::{Topology, in_namespace};
use xtask::traffic::Running;

use super::Side;
use super::objects::{self, Entry};

const TOKEN: &str = "the-admin-of-this-benchmark";
const PORT: u16 = 6443;
const ETCD: u16 = 2379;
/// Services per request to etcd: about a megabyte.
const AT_ONCE: u32 = 100;

/// What runs beside svcplane.
pub(super) struct Programs {
    pub(super) etcd: PathBuf,
    pub(super) api_server: PathBuf,
    pub(super) kube_proxy: PathBuf,
}

pub(super) struct Plane<'a> {
    topology: &'a Topology,
    programs: Programs,
    dir: PathBuf,
    // In the order of their end.
    _api_server: Running,
    _etcd: Running,
}

impl<'a> Plane<'a> {
    pub(super) fn start(topology: &'a Topology, programs: Programs) -> Result<Self> {
        let dir = topology.scratch().join("plane");
        fs::create_dir_all(&dir)?;
        fs::write(
            dir.join("tokens.csv"),
            format!("{TOKEN},admin,0,system:masters\n"),
        )?;
        fs::write(dir.join("sa.key"), signing_key()?)?;
        let mut etcd = topology.command("lan", &programs.etcd)?;
        etcd.arg("--unsafe-no-fsync")
            .arg("--data-dir")
            .arg(dir.join("etcd"))
            .args(["--max-txn-ops=1000", "--max-request-bytes=16777216"])
            .arg("--quota-backend-bytes=6442450944");
        let etcd = spawn(etcd, &dir.join("etcd.log"))?;
        let address = topology.place("lan").v4;
        let mut command = topology.command("lan", &programs.api_server)?;
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        command.args([
            &format!("--etcd-servers=http://127.0.0.1:{ETCD}"),
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            &format!("--bind-address={address}"),
            &format!("--secure-port={PORT}"),
            &flag("cert-dir", &dir),
            &flag("token-auth-file", &dir.join("tokens.csv")),
            &flag("service-account-key-file", &dir.join("sa.key")),
            &flag("service-account-signing-key-file", &dir.join("sa.key")),
        ]);
        let log = dir.join("kube-apiserver.log");
        let api_server = spawn(command, &log)?;
        let plane = Self {
            topology,
            programs,
            dir,
            _api_server: api_server,
            _etcd: etcd,
        };
        plane.write_kubeconfig()?;
        Ok(plane)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    fn write_kubeconfig(&self) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {
                "server": format!("https://{}:{PORT}", self.topology.place("lan").v4),
                "insecure-skip-tls-verify": true,
            }}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "admin"}}],
        });
        Ok(fs::write(self.kubeconfig(), config.to_string())?)
    }

    /// Makes sure that Services of these numbers are there.
    pub(super) fn fill(&self, numbers: Range<u32>, endpoints: u32) -> Result<()> {
        for first in numbers.clone().step_by(AT_ONCE as usize) {
            let some = first..numbers.end.min(first + AT_ONCE);
            let entries: Vec<Entry> = some
                .flat_map(|number| objects::service(number, endpoints))
                .collect();
            self.put(&entries)?;
        }
        Ok(())
    }

    /// Writes objects into etcd, as the API server would have; it takes JSON as well as its own format.
    pub(super) fn put(&self, entries: &[Entry]) -> Result<()> {
        let puts: Vec<Value> = entries
            .iter()
            .map(|(key, value)| {
                let value = value.to_string() + "\n";
                json!({"requestPut": {"key": BASE64.encode(key), "value": BASE64.encode(value)}})
            })
            .collect();
        let body = json!({ "success": puts }).to_string();
        let answer = in_namespace(&self.topology.place("lan").namespace_file(), || {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ETCD))?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            write!(
                stream,
                "POST /v3/kv/txn HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
        .context("writing to etcd")?;
        let status = answer.lines().next().unwrap_or_default();
        ensure!(status.contains(" 200 "), "etcd refuses objects: {answer}");
        Ok(())
    }

    /// A client of the API server, once that is ready.
    pub(super) fn writer(&self, program: &Path) -> Result<Writer> {
        let mut command = self.topology.command("lan", program)?;
        command.arg(self.kubeconfig());
        Writer::start(command)
    }

    /// Takes away what a side has left on its node.
    pub(super) fn clean(&self, side: Side) -> Result<()> {
        let mut command = match side.mode {
            None => self.topology.agent(side.node, "cleanup")?,
            Some(_) => {
                let mut command = self.topology.command(side.node, "nft")?;
                command.args(["flush", "ruleset"]);
                command
            }
        };
        let status = command.stdout(Stdio::null()).status();
        let status = status.with_context(|| format!("cannot clean {}", side.node))?;
        ensure!(status.success(), "cannot clean {} of rules", side.node);
        Ok(())
    }

    /// Starts a side on its node.
    pub(super) fn follow(&self, side: Side) -> Result<Running> {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig().display());
        let Some(mode) = side.mode else {
            return Ok(Agent::start(self.topology, side.node, &[&kubeconfig])?.process);
        };
        let mut command = self
            .topology
            .command(side.node, &self.programs.kube_proxy)?;
        command.args([
            &*kubeconfig,
            &format!("--proxy-mode={mode}"),
            &format!("--hostname-override={}", side.node),
            "--cluster-cidr=10.244.0.0/16",
            // These belong to the whole machine.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
        ]);
        spawn(command, &self.log_file(side.node))
    }

    fn log_file(&self, node: &str) -> PathBuf {
        self.topology.scratch().join(format!("{node}.log"))
    }

    /// The last lines of who serves a node.
    pub(super) fn log(&self, node: &str) -> String {
        let text = fs::read_to_string(self.log_file(node)).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

fn spawn(mut command: Command, log: &Path) -> Result<Running> {
    let log = File::options().create(true).append(true).open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command.spawn();
    let program = command.get_program().display().to_string();
    Ok(Running(
        child.with_context(|| format!("cannot start {program}"))?,
    ))
}

/// `svc-writer`: a line for each request, a line for each answer.
pub(super) struct Writer {
    _process: Running,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Answers that nobody has waited for.
    waiting: usize,
}

impl Writer {
    fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start svc-writer")?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let mut writer = Self {
            _process: Running(child),
            requests: requests.context("svc-writer has no input")?,
            answers: BufReader::new(answers.context("svc-writer has no output")?),
            waiting: 0,
        };
        eventually("the API server is ready", Duration::from_secs(90), || {
            Ok(writer.write("GET", "/readyz", &Value::Null).is_ok())
        })?;
        Ok(writer)
    }

    /// Writes, and waits for the answer; returns when that came (CLOCK_MONOTONIC).
    pub(super) fn write(&mut self, method: &str, path: &str, body: &Value) -> Result<u64> {
        self.send(method, path, body)?;
        self.settle()
    }

    /// Writes and does not wait.
    pub(super) fn send(&mut self, method: &str, path: &str, body: &Value) -> Result<()> {
        self.waiting += 1;
        writeln!(self.requests, "{method} {path} {body}").context("svc-writer has ended")
    }

    /// Waits for all answers; returns when the last one came. They come in the order of the requests.
    pub(super) fn settle(&mut self) -> Result<u64> {
        let mut last = 0;
        let mut refused = None;
        while self.waiting > 0 {
            self.waiting -= 1;
            let mut line = String::new();
            self.answers.read_line(&mut line)?;
            match line.trim().split_once(' ') {
                Some((when, "ok")) => last = when.parse()?,
                Some((_, error)) => refused = Some(error.to_owned()),
                None => bail!("svc-writer has ended"),
            }
        }
        match refused {
            None => Ok(last),
            Some(error) => bail!("the API server: {error}"),
        }
    }
}

/// A key for the tokens of ServiceAccounts, which nobody here has: any number is one for the curve P-256 (SEC 1, C.4).
fn signing_key() -> Result<String> {
    let mut number = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut number)?;
    // Below the order of the curve.
    number[0] &= 0x7f;
    let head = [0x30, 0x31, 0x02, 0x01, 0x01, 0x04, 0x20];
    let curve = [
        0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    let der = [&head[..], &number, &curve].concat();
    Ok(format!(
        "-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n",
        BASE64.encode(der)
    ))
}
