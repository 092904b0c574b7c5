//! The network of the cluster and its life: one switch, the control plane, the nodes and an outside client, each a
//! network namespace. Nothing of it is connected to the machine's own network.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::signals;

use super::{Cni, Lab, control, nodes, pki};
use crate::setup::{run, step};

pub(super) const API_SERVER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
/// In a subnet of its own: the suite takes whoever is in the nodes' for one of them.
const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 100);
pub(super) const SERVICES: &str = "10.96.0.0/16,fd00:96::/108";
pub(super) const DNS: &str = "10.96.0.10";
pub(super) const PODS: &str = "10.244.0.0/16,fd00:244::/48";
const PREFIX: &str = "svcplane-e2e";

pub(super) fn node_ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, 0, 10 + n)
}

/// The router's address in the subnet of a member.
fn router(of: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = of.octets();
    Ipv4Addr::new(a, b, c, 1)
}

/// The IPv6 address of who has an IPv4 address.
fn v6(ip: Ipv4Addr) -> Ipv6Addr {
    let [_, subnet, _, host] = ip.octets();
    Ipv6Addr::new(0xfd00, subnet.into(), 0, 0, 0, 0, 0, host.into())
}

/// The addresses of a node, as kubelet wants them.
pub(super) fn node_ips(n: u8) -> String {
    format!("{},{}", node_ip(n), v6(node_ip(n)))
}

/// The addresses of a node's pods, of both families.
pub(super) fn pods_of(n: u8) -> [String; 2] {
    [format!("10.244.{n}.0/24"), format!("fd00:244:0:{n}::/64")]
}

/// As `ip netns` names it.
pub(super) fn namespace(part: &str) -> String {
    format!("{PREFIX}-{part}")
}

/// A command in a network namespace of the cluster.
pub(super) fn within(part: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{}", namespace(part)))
        .arg(program);
    command
}

/// A program of ours where it reaches the cluster: in a namespace, if the cluster is made of them.
pub(super) fn program(lab: &Lab, part: &str, name: &str) -> Command {
    if lab.elsewhere.is_some() {
        Command::new(lab.bin(name))
    } else {
        within(part, lab.bin(name))
    }
}

/// kubectl as the cluster's administrator.
pub(super) fn kubectl(lab: &Lab) -> Command {
    let mut command = program(lab, "control", "kubectl");
    command.arg("--kubeconfig").arg(lab.kubeconfig());
    command
}

/// Starts a process that outlives nobody: its pid is noted, and [`remove`] ends it.
pub(super) fn spawn(lab: &Lab, name: &str, command: &mut Command) -> Result<Child> {
    let log = fs::File::create(lab.state(&format!("{name}.log")))
        .with_context(|| format!("cannot write the log of {name}"))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share a log")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    fs::write(
        lab.state(&format!("{name}.pid")),
        format!("{} {}", child.id(), started(child.id()).unwrap_or_default()),
    )
    .context("cannot note a process")?;
    Ok(child)
}

/// When a process was started (field 22 of /proc/PID/stat): with the pid, its name for all time.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Waits until `ready`, with a word on what for when it does not come.
pub(super) fn wait(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > limit {
            bail!("{what} did not come in {} s", limit.as_secs());
        }
        sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// A running cluster; dropped, it is removed.
pub(super) struct Cluster<'a> {
    lab: &'a Lab,
    kept: bool,
}

impl<'a> Cluster<'a> {
    pub(super) fn start(lab: &'a Lab) -> Result<Self> {
        let start = Instant::now();
        fs::create_dir_all(lab.state("")).context("cannot make the folder of the cluster")?;
        let cluster = Self { lab, kept: false };
        let live = lab.clone();
        signals::before_the_end(PREFIX, move || remove(&live))?;
        pki::make(lab)?;
        network(lab)?;
        control::start(lab)?;
        nodes::start(lab)?;
        step(&format!(
            "{} nodes are ready after {} s",
            lab.nodes,
            start.elapsed().as_secs()
        ));
        Ok(cluster)
    }

    pub(super) fn keep(mut self, lab: &Lab) {
        self.kept = true;
        signals::forget(PREFIX);
        println!(
            "the cluster stays:\n  kubectl:  nsenter --net=/run/netns/{} {} --kubeconfig {} get pods -A\n  a node:   nsenter -t $(cat {}) -n -m -u -p\n  client:   ip netns exec {} curl http://{}:NODEPORT\n  remove:   cargo xtask e2e --down",
            namespace("control"),
            lab.bin("kubectl").display(),
            lab.state("admin.kubeconfig").display(),
            lab.state("node1.init").display(),
            namespace("client"),
            node_ip(1),
        );
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if !self.kept {
            signals::forget(PREFIX);
            remove(self.lab);
        }
    }
}

/// Removes whatever a cluster has left, also one that another process started.
pub(super) fn remove(lab: &Lab) {
    let mut pids: Vec<PathBuf> = fs::read_dir(lab.state(""))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "pid"))
        .collect();
    pids.sort();
    let mut killed = false;
    for file in pids {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        if let (Some(Ok(pid)), Some(Ok(when))) = (numbers.next(), numbers.next())
            && let Ok(pid) = u32::try_from(pid)
            && started(pid) == Some(when)
            && let Ok(pid) = i32::try_from(pid)
        {
            kill(pid);
            killed = true;
        }
    }
    if killed {
        sleep(Duration::from_secs(2));
    }
    let ours: Vec<String> = fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&format!("{PREFIX}-")))
        .collect();
    for name in ours {
        // What an interrupted suite left running there.
        let pids = Command::new("ip").args(["netns", "pids", &name]).output();
        for pid in pids
            .iter()
            .flat_map(|output| output.stdout.split(|byte| *byte == b'\n'))
        {
            if let Ok(pid) = String::from_utf8_lossy(pid).parse() {
                kill(pid);
            }
        }
        let _ = Command::new("ip").args(["netns", "del", &name]).status();
    }
    nodes::remove_cgroups();
    let _ = fs::remove_dir_all(lab.state(""));
}

fn kill(pid: i32) {
    // Gone already is as good.
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    );
}

fn network(lab: &Lab) -> Result<()> {
    let ip = |part: &str, args: &str| run(within(part, "ip").args(args.split_whitespace()));
    let sysctl = |part: &str, settings: &str| {
        run(within(part, "sysctl")
            .arg("-qw")
            .args(settings.split_whitespace()))
    };
    add("lan")?;
    ip("lan", "link set lo up")?;
    ip("lan", "link add br0 type bridge")?;
    for subnet in [router(API_SERVER), router(CLIENT)] {
        ip("lan", &format!("addr add {subnet}/24 dev br0"))?;
        ip("lan", &format!("addr add {}/64 dev br0 nodad", v6(subnet)))?;
    }
    ip("lan", "link set br0 up")?;
    sysctl(
        "lan",
        "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.br0.send_redirects=0 net.ipv4.fib_multipath_hash_policy=1",
    )?;
    let mut members = vec![
        ("control".to_owned(), API_SERVER),
        ("client".to_owned(), CLIENT),
    ];
    members.extend((1..=lab.nodes).map(|n| (format!("node{n}"), node_ip(n))));
    for n in 1..=lab.nodes {
        routes("lan", n)?;
    }
    for (name, address) in &members {
        add(name)?;
        ip(
            "lan",
            &format!(
                "link add {name} type veth peer name eth0 netns {}",
                namespace(name)
            ),
        )?;
        ip("lan", &format!("link set {name} master br0 up"))?;
        ip(name, "link set lo up")?;
        ip(name, "link set eth0 up")?;
        ip(name, &format!("addr add {address}/24 dev eth0"))?;
        ip(
            name,
            &format!("addr add {}/64 dev eth0 nodad", v6(*address)),
        )?;
        let router = router(*address);
        ip(name, &format!("route add default via {router}"))?;
        ip(name, &format!("-6 route add default via {}", v6(router)))?;
        let forwards = i32::from(name.starts_with("node"));
        sysctl(
            name,
            &format!(
                "net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.ip_forward={forwards} net.ipv6.conf.all.forwarding={forwards}"
            ),
        )?;
        // The client's subnet has no other way to them than its router.
        let direct = (1..=lab.nodes).filter(|n| node_ip(*n) != *address && *address != CLIENT);
        for n in direct {
            routes(name, n)?;
        }
    }
    Ok(())
}

/// To a node's pods.
fn routes(part: &str, n: u8) -> Result<()> {
    let [pods4, pods6] = pods_of(n);
    let ways = [
        format!("route add {pods4} via {}", node_ip(n)),
        format!("-6 route add {pods6} via {}", v6(node_ip(n))),
    ];
    ways.iter()
        .try_for_each(|way| run(within(part, "ip").args(way.split_whitespace())))
}

fn add(part: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "add", &namespace(part)]))
}

impl Cni {
    /// The plugin that attaches pods, in a CNI configuration.
    pub(super) fn plugin(self) -> &'static str {
        match self {
            Cni::Ptp => r#""type":"ptp""#,
            Cni::Bridge => r#""type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true"#,
        }
    }
}
