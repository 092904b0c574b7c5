//! Every verb and setting, its default and its reason. Nothing else reads argv, the environment or `--config`.

mod allowed;
mod cidr;
mod counting;
mod duration;
mod file;
mod glob;
mod look;
mod monitor;
mod privileges;
mod settings;
#[cfg(test)]
mod tests;
mod top;

pub use allowed::Allowed;
pub use cidr::Cidr;
pub use counting::{Counting, ServiceMetrics};
pub use duration::Seconds;
pub use glob::Glob;
pub use look::{Describe, Described, Diff, Explain, Form, Look};
pub use monitor::{Monitor, Stream};
pub use privileges::Privileges;
pub use settings::Settings;
pub use top::{SortBy, Top, Topped};

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::plan::MAX_CLUSTER_RANGES;

/// Where the pins are when nothing else is said.
pub const DEFAULT_BPF_ROOT: &str = "/sys/fs/bpf/svcplane";

/// Kubernetes Services by eBPF and XDP, in the place of kube-proxy.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "svc-agent",
    version,
    args_override_self = true,
    after_help = "\
Examples:
  svc-agent check                        can this node run it?
  svc-agent run --manifests examples     serve the Services of a folder
  svc-agent get services                 what is being served
  svc-agent explain svc/default/web:80   what would become of a packet, and why
  svc-agent describe service web         one Service, as the maps have it
  svc-agent diff                         do the maps say what the API says?
  svc-agent monitor --drops              what does not get through, and why
  svc-agent top                          which Services are busy
  svc-agent cleanup                      leave nothing behind"
)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Watch Services and keep the node's maps and programs true.
    Run(Box<Run>),
    /// Read what the maps say. Needs no running agent.
    Get(Get),
    /// Say what would happen to a packet, at each hook, and why. Needs no running agent.
    Explain(Box<Explain>),
    /// Show one Service: its frontends, its endpoints with the reason each one is in or out, its connections.
    Describe(Describe),
    /// Compare the maps with what the API server, or a folder of manifests, says.
    Diff(Box<Diff>),
    /// Show what is dropped or refused, and new flows, as they happen. Needs no running agent.
    Monitor(Monitor),
    /// Show what each Service does now: new and open connections, packets, bytes. Needs no running agent.
    Top(Top),
    /// Test whether this node can run the agent and say what to do where it cannot.
    Check(Check),
    /// Remove every program, map and pin of the agent.
    Cleanup(Cleanup),
    /// Print a completion script for a shell.
    Completion(Completion),
    /// Write the manual pages: one of the program, one of each verb.
    Man(Man),
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  svc-agent run                                      in a pod, with its service account
  svc-agent run --kubeconfig ~/.kube/config --hostname-override node1
  svc-agent run --manifests examples --node-ip 172.18.0.11 --devices 'eth*'
  svc-agent run --service-external-ip-range none --loadbalancer-ip-range 192.0.2.0/24
  svc-agent run --config /etc/svcplane.yaml -v 1

Without --kubeconfig and --manifests the in-cluster service account is used.
On SIGTERM the agent exits and its dataplane stays; `svc-agent cleanup` removes it.")]
pub struct Run {
    /// Kubeconfig of the API server to watch.
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,
    /// Folder of YAML or JSON files with Services, EndpointSlices, Nodes and Pods, watched in the place of an API server.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Name of this node [default: the host's name].
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub hostname_override: Option<String>,
    /// Address of this node; give it once per family [default: from the Node object, else of the default route's device].
    #[arg(long, value_name = "IP", action = ArgAction::Append)]
    pub node_ip: Vec<IpAddr>,
    /// Outside devices [default: those with a default route, with an address of the node or of NodePorts, and tunnels].
    #[arg(long, value_name = "GLOB,…", value_delimiter = ',')]
    pub devices: Vec<Glob>,
    /// Host-side devices of pods [default: every veth or netkit device whose peer is in another network namespace].
    #[arg(long, value_name = "GLOB,…", value_delimiter = ',')]
    pub pod_devices: Vec<Glob>,
    /// XDP on the outside devices; auto: native where the driver is a real NIC's, else none.
    #[arg(long, value_enum, default_value_t = Xdp::Auto)]
    pub xdp: Xdp,
    /// Which sockets are connected to their backend directly.
    #[arg(long, value_enum, default_value_t = SocketLb::Tcp)]
    pub socket_lb: SocketLb,
    /// Cgroup whose processes' sockets are served [default: where cgroup2 is mounted].
    #[arg(long, value_name = "PATH")]
    pub cgroup_root: Option<PathBuf>,
    /// Where the host's proc file system is mounted, for the settings that --conntrack-… flags write.
    #[arg(long, value_name = "PATH", default_value = "/proc")]
    pub procfs: PathBuf,
    /// Folder on a bpffs for the pinned maps and links.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BPF_ROOT)]
    pub bpf_root: PathBuf,
    /// How packets get to pods of this node: by bpf, past the host's stack, or by the kernel's routing; auto: by bpf where
    /// no netfilter rules, filters or queues of others would miss them.
    #[arg(long, value_enum, default_value_t = HostRouting::Auto)]
    pub host_routing: HostRouting,
    /// Direct server return: how packets from outside get to backends on other nodes, which then see the client and answer
    /// it themselves; off: masqueraded, answers come back through this node. Every node needs the same.
    #[arg(long, value_enum, default_value_t = Dsr::Off)]
    pub dsr: Dsr,
    /// Node addresses that NodePorts are served on: `primary`, or those in the ranges (a family without a range: all of it).
    #[arg(long, value_name = "CIDR,…|primary", default_value = "primary")]
    pub nodeport_addresses: NodePortAddresses,
    /// Address ranges of the cluster's pods: clients in them are pods, also where their packets come in from outside.
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',')]
    pub cluster_cidr: Vec<Cidr>,
    /// Show backends of ClusterIPs the node's address in the place of their clients'.
    #[arg(long)]
    pub masquerade_all: bool,
    /// Answer ClusterIPs from outside of the cluster too.
    #[arg(long)]
    pub external_cluster_ip: bool,
    /// Which spec.externalIPs of Services are served. Never: the API server's own address, ports that the node's processes
    /// listen on, other Services' clusterIPs.
    #[arg(long, value_name = "CIDR,…|any|none", default_value = "any")]
    pub service_external_ip_range: Allowed,
    /// The same for what Services were given by load balancers (status.loadBalancer.ingress).
    #[arg(long, value_name = "CIDR,…|any|none", default_value = "any")]
    pub loadbalancer_ip_range: Allowed,
    /// Refuse processes of the node that bind a port that is a NodePort; otherwise they are counted and warned about.
    #[arg(long)]
    pub protect_node_ports: bool,
    /// Silence after which an established TCP connection is forgotten. This and the next three, if given, are set for
    /// the kernel's connection tracking too; 0: the kernel's default, here 120h, and nothing is set.
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub conntrack_tcp_timeout_established: Seconds,
    /// Silence after which a TCP connection that one side has closed is forgotten [0: 60s].
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub conntrack_tcp_timeout_close_wait: Seconds,
    /// Silence after which a UDP or SCTP flow that nobody has answered is forgotten [0: 30s].
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub conntrack_udp_timeout: Seconds,
    /// The same for one that was answered [0: 120s].
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub conntrack_udp_timeout_stream: Seconds,
    /// Reset TCP connections whose backend no slice lists any more, instead of leaving them to their own timeouts.
    #[arg(long)]
    pub reset_gone_backends: bool,
    /// Let connections that kube-proxy has established go on through it until they end: start with this while its rules
    /// are there, and leave them there until then.
    #[arg(long)]
    pub takeover: bool,
    /// Where /healthz and /livez are served; empty: nowhere.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: Bind,
    /// Where /metrics is served; empty: nowhere.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: Bind,
    #[command(flatten)]
    pub counting: Counting,
    /// YAML file of settings named like these flags; the command line wins.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// 0: what an operator should know; 1: every change; 2: everything.
    #[arg(short = 'v', long, value_name = "LEVEL", default_value_t = 0)]
    pub verbosity: u8,
    /// How the log is written, to standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Remove the dataplane at exit.
    #[arg(long)]
    pub unload_on_exit: bool,
    /// Which of its rights the agent keeps once its programs are attached.
    #[arg(long, value_enum, default_value_t = Privileges::Drop)]
    pub privileges: Privileges,
    /// Every flag with its value, for people.
    #[arg(skip)]
    pub settings: Settings,
}

impl Run {
    /// What endpoints call this node: the flag or NODE_NAME, else the host's name, in lower case as kubelet writes it.
    pub fn node_name(&self) -> Result<String, std::io::Error> {
        node_name(self.hostname_override.as_deref())
    }

    /// Whether UDP sockets may be connected to backends in network namespaces other than the node's own, and be entered.
    pub fn reaches_into_pods(&self) -> bool {
        self.socket_lb == SocketLb::All
    }
}

/// What endpoints call a node: the name given, else the host's, in lower case as kubelet writes it.
pub fn node_name(given: Option<&str>) -> Result<String, std::io::Error> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")?,
    };
    Ok(name.trim().to_lowercase())
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  svc-agent get services                  every frontend of every Service
  svc-agent get services web-app -o yaml
  svc-agent get backends -n kube-system   where its Services send to
  svc-agent get flows -o wide             who talks to whom, through what
  svc-agent get nat                       which of them are masqueraded, and as what
  svc-agent get affinity                  which clients are bound to which backend")]
pub struct Get {
    /// What to show.
    #[arg(value_enum)]
    pub what: What,
    /// Only of the Service of this name.
    pub name: Option<String>,
    /// Only of this namespace.
    #[arg(short = 'n', long, value_name = "NS")]
    pub namespace: Option<String>,
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Folder of the pinned maps.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BPF_ROOT)]
    pub bpf_root: PathBuf,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  svc-agent check
  svc-agent check --devices 'eth*' --bpf-root /sys/fs/bpf/svcplane

Exits 0 when the node can run the agent, 1 when not.")]
pub struct Check {
    /// Outside devices, as for `run`.
    #[arg(long, value_name = "GLOB,…", value_delimiter = ',')]
    pub devices: Vec<Glob>,
    /// Cgroup, as for `run`.
    #[arg(long, value_name = "PATH")]
    pub cgroup_root: Option<PathBuf>,
    /// Folder of the pinned maps and links, as for `run`.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BPF_ROOT)]
    pub bpf_root: PathBuf,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  svc-agent cleanup
  svc-agent cleanup --hand-over
  svc-agent cleanup --bpf-root /sys/fs/bpf/other

Stop the agent first. Connections through Services that are served packet by packet break, unless they are handed over;
those to pods, and of sockets that were connected to their backend, do not.
Looks afterwards whether the kernel has let go of every program, map and link: exits 0 when nothing is left, 1 when
something is, and names it.")]
pub struct Cleanup {
    /// Hand connections over to the kernel's connection tracking first, so that they go on with their backends; another
    /// proxy's rules must be there already: start kube-proxy, and wait until it is healthy.
    #[arg(long)]
    pub hand_over: bool,
    /// Folder of the pinned maps and links.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BPF_ROOT)]
    pub bpf_root: PathBuf,
    /// Where the host's proc file system is mounted, for the settings that --conntrack-… flags have changed.
    #[arg(long, value_name = "PATH", default_value = "/proc")]
    pub procfs: PathBuf,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  source <(svc-agent completion bash)
  svc-agent completion zsh > /usr/share/zsh/vendor-completions/_svc-agent
  svc-agent completion fish > ~/.config/fish/completions/svc-agent.fish")]
pub struct Completion {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  svc-agent man /usr/local/share/man/man1
  svc-agent man . && man ./svc-agent-run.1")]
pub struct Man {
    /// Folder to write to; made if it is not there.
    pub dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    Services,
    Backends,
    Flows,
    Nat,
    Affinity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Wide,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Xdp {
    Auto,
    Native,
    Generic,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SocketLb {
    /// TCP of every process; UDP is served packet by packet.
    Tcp,
    /// TCP and UDP of every process.
    All,
    /// TCP and UDP, but only of processes in the node's own network namespace.
    HostOnly,
    /// None: everything is served packet by packet.
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HostRouting {
    Auto,
    /// Whatever rules there are for forwarded packets: these do not meet them.
    Bpf,
    Kernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    /// One object a line.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dsr {
    Off,
    /// In an IP header of the same family.
    Ipip,
    /// In UDP port 6081, which more networks let pass.
    Geneve,
}

/// `--nodeport-addresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The node's first address of each family.
    Primary,
    In(Vec<Cidr>),
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "primary" => Ok(Self::Primary),
            _ => s
                .split(',')
                .map(|range| range.trim().parse())
                .collect::<Result<_, _>>()
                .map(Self::In)
                .map_err(|why| format!("{why}, nor is it `primary`")),
        }
    }
}

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind(pub Option<SocketAddr>);

impl FromStr for Bind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "" => Ok(Self(None)),
            _ => s
                .parse()
                .map(|addr| Self(Some(addr)))
                .map_err(|_| format!("{s:?} is not IP:PORT, such as 0.0.0.0:10256")),
        }
    }
}

/// Reads the command line and, for `run`, the file it names.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let mut cli = Cli::try_parse_from(&argv)?;
    let file = match &cli.verb {
        Verb::Run(run) => run.config.clone(),
        Verb::Diff(diff) => diff.run.config.clone(),
        _ => None,
    };
    let argv = match file {
        Some(path) => {
            let (with_file, argv) = file::parse_with(argv, &path)?;
            cli = with_file;
            argv
        }
        None => argv,
    };
    if let Verb::Run(run) = &mut cli.verb {
        run.settings = settings::of(&argv);
    }
    let run = match &cli.verb {
        Verb::Run(run) => run,
        Verb::Diff(diff) => &diff.run,
        Verb::Explain(explain) if explain.live && explain.output == Form::Yaml => {
            return Err(Cli::command().error(
                ErrorKind::ArgumentConflict,
                "--live tells what happens as it happens, which YAML cannot; use -o text or -o json",
            ));
        }
        _ => return Ok(cli),
    };
    if run.cluster_cidr.len() > MAX_CLUSTER_RANGES as usize {
        return Err(Cli::command().error(
            ErrorKind::TooManyValues,
            format!(
                "--cluster-cidr names {} ranges, and {MAX_CLUSTER_RANGES} are the most; join neighbours into larger ones",
                run.cluster_cidr.len()
            ),
        ));
    }
    Ok(cli)
}
