//! A kube-apiserver with its etcd in the LAN of a topology, in RBAC mode, and the token of the agent's ServiceAccount.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::AuthInfo;
use kube::{Api, Client, Config};
use xtask::agents::eventually;
use xtask::programs::asset;
use xtask::topology::{Topology, in_namespace};
use xtask::traffic::Running;

pub const ADMIN: &str = "the-admin-of-this-test";
const PORT: u16 = 6443;

/// What the agents ask for is written down.
const AUDIT: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ['system:serviceaccount:kube-system:svc-agent']
- level: None
";

pub struct ApiServer<'a> {
    topology: &'a Topology,
    dir: PathBuf,
    etcd: Option<Running>,
    process: Option<Running>,
    address: Ipv4Addr,
}

impl<'a> ApiServer<'a> {
    pub fn start(topology: &'a Topology) -> Result<Self> {
        let dir = topology.scratch().join("apiserver");
        fs::create_dir_all(&dir)?;
        fs::write(
            dir.join("tokens.csv"),
            format!("{ADMIN},admin,0,system:masters\n"),
        )?;
        let [private, public] = signing_keys()?;
        fs::write(dir.join("sa.key"), private)?;
        fs::write(dir.join("sa.pub"), public)?;
        fs::write(dir.join("audit.yaml"), AUDIT)?;
        let address = topology.place("lan").v4;
        let mut server = Self {
            topology,
            dir,
            etcd: None,
            process: None,
            address,
        };
        server.start_at(address)?;
        Ok(server)
    }

    /// Starts kube-apiserver on this address of the LAN namespace, and waits until it is ready.
    pub fn start_at(&mut self, address: Ipv4Addr) -> Result<()> {
        self.kill();
        self.start_etcd()?;
        self.address = address;
        let mut command = self.topology.command("lan", asset("kube-apiserver")?)?;
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        command.args([
            "--etcd-servers=http://127.0.0.1:2379",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            &format!("--bind-address={address}"),
            &format!("--advertise-address={}", self.topology.place("lan").v4),
            &format!("--secure-port={PORT}"),
            &flag("audit-policy-file", &self.dir.join("audit.yaml")),
            &flag("audit-log-path", &self.dir.join("audit.log")),
            &flag("cert-dir", &self.dir),
            &flag("token-auth-file", &self.dir.join("tokens.csv")),
            &flag("service-account-key-file", &self.dir.join("sa.pub")),
            &flag("service-account-signing-key-file", &self.dir.join("sa.key")),
        ]);
        let log = self.dir.join("kube-apiserver.log");
        let mut process = spawn(command, &log)?;
        let ready = || {
            if let Some(status) = process.0.try_wait()? {
                bail!("kube-apiserver ended ({status})");
            }
            Ok(self
                .admin(|client| async move { Ok(client.request_text(get("/readyz")?).await?) })
                .is_ok())
        };
        eventually("the API server is ready", Duration::from_secs(60), ready)
            .with_context(|| tail(&log))?;
        self.process = Some(process);
        Ok(())
    }

    /// Unless it runs.
    fn start_etcd(&mut self) -> Result<()> {
        if self.etcd.is_none() {
            let mut etcd = self.topology.command("lan", asset("etcd")?)?;
            etcd.arg("--unsafe-no-fsync")
                .arg("--data-dir")
                .arg(self.dir.join("etcd"));
            self.etcd = Some(spawn(etcd, &self.dir.join("etcd.log"))?);
        }
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Copies what etcd has. The API server is away meanwhile.
    pub fn back_up(&mut self) -> Result<()> {
        self.kill();
        self.etcd = None;
        copy(&self.dir.join("etcd"), &self.dir.join("backup"))?;
        self.start_at(self.address)
    }

    /// Goes back to the copy: resource versions begin again at an earlier one.
    pub fn restore(&mut self) -> Result<()> {
        self.kill();
        self.etcd = None;
        copy(&self.dir.join("backup"), &self.dir.join("etcd"))?;
        // Nobody is faster.
        std::thread::sleep(Duration::from_secs(5));
        self.start_at(self.address)
    }

    /// Does something with a client that may do everything.
    pub fn admin<T: Send, F: Future<Output = Result<T>>>(
        &self,
        work: impl FnOnce(Client) -> F + Send,
    ) -> Result<T> {
        self.with_token(ADMIN, work)
    }

    /// Does something with a client that has this token.
    pub fn with_token<T: Send, F: Future<Output = Result<T>>>(
        &self,
        token: &str,
        work: impl FnOnce(Client) -> F + Send,
    ) -> Result<T> {
        let mut config = self.config(token)?;
        config.read_timeout = Some(Duration::from_secs(10));
        in_namespace(&self.topology.place("lan").namespace_file(), || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async { work(Client::try_from(config)?).await })
        })
    }

    /// What a client with this token needs, inside the LAN namespace.
    pub fn config(&self, token: &str) -> Result<Config> {
        let mut config = Config::new(format!("https://{}:{PORT}", self.address).parse()?);
        config.accept_invalid_certs = true;
        config.auth_info = AuthInfo {
            token: Some(token.to_owned().into()),
            ..AuthInfo::default()
        };
        Ok(config)
    }

    /// What the agents have asked for: API group, resource and verb, with the code of the answer.
    pub fn asked(&self) -> Result<BTreeSet<([String; 3], i64)>> {
        let log = fs::read_to_string(self.dir.join("audit.log"))?;
        let requests = log.lines().map(|line| {
            let request: serde_json::Value = serde_json::from_str(line)?;
            let text = |path: &str| {
                let value = request.pointer(path).and_then(|value| value.as_str());
                value.unwrap_or_default().to_owned()
            };
            let code = request["responseStatus"]["code"].as_i64();
            let what = [
                text("/objectRef/apiGroup"),
                text("/objectRef/resource"),
                text("/verb"),
            ];
            Ok((what, code.unwrap_or_default()))
        });
        requests.collect()
    }

    /// A token of the agent's ServiceAccount, as a pod would have it.
    pub fn agent_token(&self) -> Result<String> {
        let spec = TokenRequestSpec {
            audiences: vec![],
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest {
            spec,
            ..TokenRequest::default()
        };
        let answer: TokenRequest = self.admin(|client| async move {
            let accounts: Api<ServiceAccount> = Api::namespaced(client, "kube-system");
            Ok(accounts
                .create_subresource("token", "svc-agent", &PostParams::default(), &request)
                .await?)
        })?;
        Ok(answer.status.context("no token was issued")?.token)
    }

    /// A kubeconfig with that token.
    pub fn agent_kubeconfig(&self) -> Result<PathBuf> {
        self.kubeconfig("svc-agent", &self.url(), &self.agent_token()?)
    }

    /// Where the API server is, for whoever asks it directly.
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", self.topology.place("lan").v4)
    }

    /// A kubeconfig with a token, and with the server's certificate checked.
    pub fn kubeconfig(&self, name: &str, url: &str, token: &str) -> Result<PathBuf> {
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": url,
                "certificate-authority": self.dir.join("apiserver.crt"),
            }}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        });
        let path = self.dir.join(format!("{name}.kubeconfig"));
        fs::write(&path, config.to_string())?;
        Ok(path)
    }
}

/// A folder in place of what was there.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("cannot remove {}", to.display()))?;
    }
    let status = Command::new("cp").arg("-r").args([from, to]).status()?;
    anyhow::ensure!(status.success(), "cannot copy {}", from.display());
    Ok(())
}

pub fn get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

pub fn spawn(mut command: Command, log: &Path) -> Result<Running> {
    let log = File::options().create(true).append(true).open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    Ok(Running(child))
}

pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// What ServiceAccount tokens are signed with, and what they are checked with, in PEM.
fn signing_keys() -> Result<[String; 2]> {
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    let random = ring::rand::SystemRandom::new();
    let failed = |_| anyhow::anyhow!("cannot make a signing key");
    let private =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(failed)?;
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref(), &random)
            .map_err(|_| anyhow::anyhow!("cannot read the signing key"))?;
    let public = [P256_PUBLIC_KEY, pair.public_key().as_ref()].concat();
    Ok([
        pem("PRIVATE KEY", private.as_ref()),
        pem("PUBLIC KEY", &public),
    ])
}

/// The head of a SubjectPublicKeyInfo that says: a point of P-256 follows.
const P256_PUBLIC_KEY: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}
