//! The verbs that hold the maps against something: a packet, or what the cluster says.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{DEFAULT_BPF_ROOT, Run, Seconds};
use crate::explain::{Origin, Target};

/// Where the cluster's objects are asked for. All of these mean what they mean to `run`.
#[derive(Clone, Debug, Args)]
pub struct Look {
    /// Kubeconfig of the API server, as for `run` [default: the pod's service account, if there is one].
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,
    /// Folder of manifests, as for `run`.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Name of this node, as for `run` [default: the host's name].
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub hostname_override: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  svc-agent explain 10.96.0.10:53/udp                     of a process of this node
  svc-agent explain --from 10.244.1.7 10.96.0.1:443       of a pod, a node or an outside client: the address tells
  svc-agent explain --from pod/shop/cart-0 svc/shop/web:80
  svc-agent explain --from 192.0.2.7:40000 172.18.0.11:30080 -o json
  svc-agent explain --manifests examples web.shop.svc:http
  svc-agent explain --live --timeout 5m --from pod/shop/cart-0 svc/shop/web:80

The answer comes from the pinned maps of this node, by the code that the kernel runs; no agent is needed, and nothing is
changed. With an API server or a folder of manifests there are also names of Pods, and exact reasons.

With --live it then waits for the next connection of that client to that address, and shows what happens to it until it
ends: 0 when that is what was foretold, 1 when it is not, or when there was none.

Exits 0 when it could answer, whatever the answer is; with --exit-code 1 when the packet would be refused or dropped.")]
pub struct Explain {
    /// Where the packet goes: HOST:PORT, svc/NAMESPACE/NAME:PORT or NAME.NAMESPACE.svc:PORT, with /tcp, /udp or /sctp
    /// behind it [default: tcp, or what the Service's port is].
    #[arg(value_name = "TARGET")]
    pub target: Target,
    /// Where it comes from: IP, IP:PORT or pod/NAMESPACE/NAME [default: a process of this node].
    #[arg(long, value_name = "CLIENT")]
    pub from: Option<Origin>,
    #[command(flatten)]
    pub look: Look,
    #[arg(short = 'o', long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
    /// Exit with 1 when the packet would be refused or dropped.
    #[arg(long, conflicts_with = "live")]
    pub exit_code: bool,
    /// Follow the next real connection, and hold it against the answer. JSON is an object a line then.
    #[arg(long)]
    pub live: bool,
    /// How long to wait for the connection and to follow it; 0: until it ends.
    #[arg(long, value_name = "DURATION", default_value = "1m", requires = "live")]
    pub timeout: Seconds,
    /// Folder of the pinned maps.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BPF_ROOT)]
    pub bpf_root: PathBuf,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  svc-agent diff                                      in the agent's pod: the maps against the API server
  svc-agent diff --config /etc/svcplane/config.yaml   with the settings that the agent runs with
  svc-agent diff --manifests examples -o json
  svc-agent diff --shadow --cluster-cidr 10.244.0.0/16   what would change if svcplane served in kube-proxy's place?

It takes the flags of `run`, because what the maps should say depends on them. Of those that are not given, the node's
addresses, --cluster-cidr, --external-cluster-ip and --dsr are read from the maps; give it the others that the agent has
(--nodeport-addresses, --hostname-override). Nothing is changed. What differs at first is looked at again a moment later:
it may have been on its way.

With --shadow kube-proxy's own rules on this node (of its nftables and iptables modes) are held against what svcplane
would do with the same objects and these flags: no agent is needed, nothing is loaded, no packet is touched.

Exits 0 when the maps say what they should, or svcplane would do what kube-proxy does, 1 with the list when not.")]
pub struct Diff {
    #[command(flatten)]
    pub run: Run,
    /// Compare with kube-proxy's rules on this node, in the place of the maps.
    #[arg(long)]
    pub shadow: bool,
    #[arg(short = 'o', long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  svc-agent describe service web
  svc-agent describe service web -n shop
  svc-agent describe svc web --manifests examples
  svc-agent describe service web -o json

Connections are those of this node: of the packet path, and of sockets that were connected to a backend directly.")]
pub struct Describe {
    /// What to describe.
    #[arg(value_enum)]
    pub what: Described,
    /// The Service's name.
    pub name: String,
    /// Its namespace.
    #[arg(short = 'n', long, value_name = "NS", default_value = "default")]
    pub namespace: String,
    #[command(flatten)]
    pub look: Look,
    #[arg(short = 'o', long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
    /// Folder of the pinned maps.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BPF_ROOT)]
    pub bpf_root: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Described {
    #[value(aliases = ["svc", "services"])]
    Service,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Text,
    Json,
    Yaml,
}
