//! A small cluster of network namespaces: a LAN with two nodes and an outside client, two pods on each node,
//! dual-stack. It lives as long as its `Topology`: Drop, Ctrl-C and a panic remove it, and the next run removes what a
//! killed one left.
//!
//! ```text
//! client 172.18.0.100 ─┐             ┌─ node1 172.18.0.11 ─┬─ pod-a 10.244.1.10   fd00:244:1::a
//!        fd00:18::100  ├─ LAN (.1) ──┤      fd00:18::11    └─ pod-b 10.244.1.11   fd00:244:1::b
//!                      │             └─ node2 172.18.0.12 ─┬─ pod-c 10.244.2.10   fd00:244:2::a
//!                      └── lan 172.18.0.1   fd00:18::12    └─ pod-d 10.244.2.11   fd00:244:2::b
//! ```

mod enter;
mod remove;
mod wiring;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::signals;

pub use enter::in_namespace;
pub use remove::remove;

/// How pods are attached to their node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cni {
    /// A routed veth per pod, as the CNI plugin ptp and Calico do.
    #[default]
    Ptp,
    /// A bridge `cni0` per node.
    Bridge,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub mtu: u32,
    pub cni: Cni,
    /// Lets `eth0` of nodes and client behave as a NIC does: checksums are finished before the wire, and XDP_TX and
    /// XDP_REDIRECT find a peer that takes frames.
    pub like_nics: bool,
    /// The svc-agent of its nodes, if not the one beside this executable.
    pub agent: Option<PathBuf>,
    /// The name of every part instead of one made from the process id; an older one of that name is removed first.
    pub name: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mtu: 1500,
            cni: Cni::default(),
            like_nics: false,
            agent: None,
            name: None,
        }
    }
}

/// A namespace of the topology.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: &'static str,
    /// The node that runs this pod; a node runs itself; none for the LAN and the client.
    pub node: Option<&'static str>,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    /// As `ip netns` names it.
    pub namespace: String,
    pub cgroup: PathBuf,
}

impl Place {
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    pub fn namespace_file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }
}

pub const NODES: [&str; 2] = ["node1", "node2"];
pub const PODS: [&str; 4] = ["pod-a", "pod-b", "pod-c", "pod-d"];

#[derive(Debug)]
pub struct Topology {
    pub name: String,
    pub options: Options,
    places: Vec<Place>,
    bpffs: PathBuf,
    kept: bool,
}

impl Topology {
    pub fn new(options: Options) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            bail!("network namespaces need root: run this as root");
        }
        remove::remove_stale();
        let name = options.name.clone().unwrap_or_else(|| {
            format!(
                "svcp{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            )
        });
        remove(&name);
        let cgroups = cgroup2_mount()?.join(&name);
        let bpffs = bpffs_mount()?.join(&name);
        let topology = Self {
            places: places(&name, &cgroups),
            name,
            options,
            bpffs,
            kept: false,
        };
        let live = topology.name.clone();
        signals::before_the_end(&topology.name, move || remove(&live))?;
        topology
            .make()
            .with_context(|| format!("cannot make the namespaces of {}", topology.name))?;
        Ok(topology)
    }

    /// One that was kept, by its name.
    pub fn standing(name: &str) -> Result<Self> {
        let places = places(name, &cgroup2_mount()?.join(name));
        if !places.iter().all(|place| place.namespace_file().exists()) {
            bail!("nothing stands: `cargo xtask demo --keep` makes it");
        }
        let options = Options {
            name: Some(name.to_owned()),
            ..Options::default()
        };
        Ok(Self {
            places,
            name: name.to_owned(),
            options,
            bpffs: bpffs_mount()?.join(name),
            kept: true,
        })
    }

    fn make(&self) -> Result<()> {
        for place in &self.places {
            fs::create_dir_all(&place.cgroup)
                .with_context(|| format!("cannot make the cgroup {}", place.cgroup.display()))?;
        }
        for node in NODES {
            fs::create_dir_all(self.bpf_root(node)).with_context(|| {
                format!("cannot make {} in bpffs", self.bpf_root(node).display())
            })?;
        }
        fs::create_dir_all(self.scratch())
            .with_context(|| format!("cannot make {}", self.scratch().display()))?;
        wiring::wire(self)
    }

    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// # Panics
    /// When there is no such place: the names are fixed.
    pub fn place(&self, name: &str) -> &Place {
        self.places
            .iter()
            .find(|place| place.name == name)
            .expect("the topology has a place of this name")
    }

    /// The bpffs folder of a node: its agent's `--bpf-root`.
    pub fn bpf_root(&self, node: &str) -> PathBuf {
        self.bpffs.join(node)
    }

    /// A folder for logs, manifests and the like; it goes with the topology.
    pub fn scratch(&self) -> PathBuf {
        remove::scratch(&self.name)
    }

    /// A command that will run in a place: in its network namespace and its cgroup.
    pub fn command(&self, place: &str, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let place = self.place(place);
        enter::command(&place.namespace_file(), &place.cgroup, program)
    }

    /// `svc-agent` on a node, with its verb and the flags that say which node it is and where its state lies.
    pub fn agent(&self, node: &str, verb: &str) -> Result<Command> {
        let place = self.place(node);
        let agent = match &self.options.agent {
            Some(agent) => agent.clone(),
            None => crate::programs::workspace_binary("svc-agent")?,
        };
        let mut command = self.command(node, agent)?;
        command.arg(verb).arg("--bpf-root").arg(self.bpf_root(node));
        if matches!(verb, "run" | "diff") {
            command
                .arg("--hostname-override")
                .arg(node)
                .arg("--cgroup-root")
                .arg(&place.cgroup);
            for address in place.addresses() {
                command.arg("--node-ip").arg(address.to_string());
            }
        }
        Ok(command)
    }

    /// Leaves it standing when this value goes.
    pub fn keep(&mut self) {
        self.kept = true;
        signals::forget(&self.name);
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        if !self.kept {
            signals::forget(&self.name);
            remove(&self.name);
        }
    }
}

fn places(name: &str, cgroups: &Path) -> Vec<Place> {
    let place = |own: &'static str, node: Option<&'static str>, v4: [u8; 4], v6: [u16; 8]| Place {
        name: own,
        node,
        v4: v4.into(),
        v6: v6.into(),
        namespace: format!("{name}-{own}"),
        cgroup: match node {
            Some(node) if node != own => cgroups.join(node).join(own),
            _ => cgroups.join(own),
        },
    };
    let on_lan = |last| [0xfd00, 0x18, 0, 0, 0, 0, 0, last];
    let pod = |node, last| [0xfd00, 0x244, node, 0, 0, 0, 0, last];
    vec![
        place("lan", None, [172, 18, 0, 1], on_lan(1)),
        place("client", None, [172, 18, 0, 100], on_lan(0x100)),
        place("node1", Some("node1"), [172, 18, 0, 11], on_lan(0x11)),
        place("node2", Some("node2"), [172, 18, 0, 12], on_lan(0x12)),
        place("pod-a", Some("node1"), [10, 244, 1, 10], pod(1, 0xa)),
        place("pod-b", Some("node1"), [10, 244, 1, 11], pod(1, 0xb)),
        place("pod-c", Some("node2"), [10, 244, 2, 10], pod(2, 0xa)),
        place("pod-d", Some("node2"), [10, 244, 2, 11], pod(2, 0xb)),
    ]
}

/// Where cgroup v2 is mounted: not always at /sys/fs/cgroup.
pub fn cgroup2_mount() -> Result<PathBuf> {
    mount_of("cgroup2").context("cgroup v2 is not mounted: `mount -t cgroup2 none /sys/fs/cgroup`")
}

/// The bpffs of this host; mounted where it always is when there is none.
pub fn bpffs_mount() -> Result<PathBuf> {
    if let Some(path) = mount_of("bpf") {
        return Ok(path);
    }
    let path = PathBuf::from("/sys/fs/bpf");
    nix::mount::mount(
        Some("bpf"),
        &path,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .context("cannot mount bpffs at /sys/fs/bpf")?;
    Ok(path)
}

fn mount_of(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // 36 35 98:0 /root /mount/point rw,noatime master:1 - type source options
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next()? == kind).then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}
