//! `Changes` → maps, programs → hooks. The only module that knows aya.
//!
//! Everything is pinned below `<bpf-root>/v1`: traffic does not depend on the agent being alive, and a new agent finds
//! maps and links again, swaps the programs in place and writes only what differs.

pub mod cleanup;
mod error;
mod events;
mod flows;
mod layout;
mod links;
mod look;
mod maps;
mod own;
mod renewal;
mod self_test;
pub mod settings;
mod sys;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use aya::maps::{DevMapHash, MapData, MapInfo};
use aya::{Ebpf, EbpfLoader};
use svc_common::family::{Ip, V4, V6};
use svc_common::reason::Reason;
use svc_common::table::{BOUNCE, MAX_SERVICES, NodeConfig, counted};

pub use cleanup::{Removal, cleanup};
pub use error::Error;
pub use events::{Events, Watched};
pub use flows::FlowTable;
pub use links::{BIND_HOOKS, Hook, SOCKET_HOOKS, XdpMode, load_program};
pub use look::Attached;
pub use maps::{Census, Deserted, HandedOver};
pub use own::OwnPrograms;

use crate::connections::Connections;
use crate::conntrack::Connection;
use crate::inspect::{Affinities, Flows, Snapshot};
use crate::plan::{Capacities, Changes};
use crate::tally::Counts;
use maps::{Filters, Maps};
use renewal::Renewal;

/// The eBPF object, built from svc-ebpf by the build script.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/svc-ebpf"));

/// The layout of the folder of pins. A change of the maps' is found by looking at them.
const VERSION: &str = "v1";

/// The address of each device and family, by (ifindex, is IPv6); index 0 is the node itself.
pub type DeviceAddresses = BTreeMap<(u32, bool), IpAddr>;

/// The loaded programs and their maps.
pub struct Dataplane {
    renewal: Renewal,
    ebpf: Ebpf,
    maps: Maps,
    filters: Filters,
    xdp_devices: DevMapHash<MapData>,
    links: links::Links,
}

impl Dataplane {
    /// Loads the programs; takes over the maps and links that are pinned below `root`, or makes them. `counted`: bits of
    /// [`counted`], what the programs count by service port.
    pub fn open(root: &Path, counted: u32) -> Result<Self, Error> {
        let folder = root.join(VERSION);
        let (maps, links) = (folder.join("maps"), folder.join("links"));
        mount_bpffs(root)?;
        for path in [&maps, &links] {
            fs::create_dir_all(path).map_err(|cause| match cause.kind() {
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::NotFound => {
                    Error::NotBpffs(root.into())
                }
                _ => Error::Pin {
                    what: "create",
                    path: path.clone(),
                    cause,
                },
            })?;
        }
        let renewal = Renewal::begin(&maps)?;
        let mut loader = EbpfLoader::new();
        for name in maps::PINNED {
            loader.map_pin_path(name, renewal.pin(name));
        }
        let traffic = match counted & counted::TRAFFIC {
            0 => 1,
            _ => MAX_SERVICES,
        };
        resize(&maps, "TRAFFIC", traffic)?;
        loader.map_max_entries("TRAFFIC", traffic).override_global(
            "SERVICE_METRICS",
            &counted,
            true,
        );
        let mut ebpf = loader.load(OBJECT)?;
        links::load_programs(&mut ebpf)?;
        let xdp_devices = ebpf
            .take_map("XDP_DEVICES")
            .ok_or(Error::Missing("XDP_DEVICES"))?;
        let xdp_devices = DevMapHash::try_from(xdp_devices).map_err(|cause| Error::Map {
            what: "use",
            name: "XDP_DEVICES",
            cause,
        })?;
        let maps = Maps::take(&mut ebpf)?;
        let filters = Filters::take(&mut ebpf, &maps)?;
        Ok(Self {
            renewal,
            ebpf,
            maps,
            filters,
            xdp_devices,
            links: links::Links::open(links)?,
        })
    }

    pub fn read(&self) -> Result<Snapshot, Error> {
        self.maps.read()
    }

    /// How many entries the pinned maps have room for.
    pub fn capacities(&self) -> Result<Capacities, Error> {
        capacities(|name| self.renewal.pin(name))
    }

    /// Whether the programs that run are still those of another version, with maps of their own. Until
    /// [`Self::take_the_place`] nothing is to be attached.
    pub fn is_beside(&self) -> bool {
        self.renewal.is_under_way()
    }

    /// All is attached: what the other version had is let go of.
    pub fn take_the_place(&mut self) -> Result<(), Error> {
        self.renewal.end()?;
        // What the flows know of their backends is from the other maps.
        self.end_epoch()
    }

    /// Writes changes in their order.
    pub fn apply(&mut self, changes: &Changes) -> Result<(), Error> {
        self.maps.apply(changes, &mut self.filters)
    }

    /// Writes down another proxy's connections, so that their packets pass untouched. Returns how many are new to us.
    pub fn take_over(&mut self, connections: &[Connection]) -> Result<usize, Error> {
        self.maps.take_over(connections)
    }

    /// Notes which service ports the connections of [`Self::take_over`] belong to, once these are in the maps.
    pub fn place_taken_over(&mut self) -> Result<(), Error> {
        self.maps.place_taken_over()
    }

    /// Makes flows ask again for what they know of their backends.
    pub fn end_epoch(&mut self) -> Result<(), Error> {
        self.maps.end_epoch()
    }

    /// Corrects the numbers of open connections in BACKENDS.
    pub fn set_connections(&mut self, connections: &Connections) -> Result<(), Error> {
        self.maps.set_connections(connections)
    }

    pub fn configure(&mut self, config: &NodeConfig) -> Result<(), Error> {
        self.maps.configure(config)
    }

    pub fn set_devices(&mut self, addresses: &DeviceAddresses) -> Result<(), Error> {
        self.maps.set_devices(addresses)
    }

    /// Says which devices of pods packets may be handed to past the stack.
    pub fn set_peers(&mut self, peers: &BTreeSet<u32>) -> Result<(), Error> {
        self.maps.set_peers(peers)
    }

    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>, Error> {
        self.maps.reasons()
    }

    /// Attaches exactly these hooks to devices; detaches what was attached to others. Returns what could not be
    /// attached; the rest is. `virtual_devices`: those whose driver is no NIC's.
    pub fn attach_devices(
        &mut self,
        wanted: &BTreeMap<(u32, Hook), String>,
        virtual_devices: &BTreeSet<u32>,
    ) -> Vec<Error> {
        let refused = self.links.attach_devices(&mut self.ebpf, wanted);
        let with_xdp = self.links.devices_with_xdp();
        let bounce = with_xdp
            .intersection(virtual_devices)
            .map(|ifindex| (ifindex | BOUNCE, *ifindex));
        let keys: BTreeMap<u32, u32> = with_xdp
            .iter()
            .map(|ifindex| (*ifindex, *ifindex))
            .chain(bounce)
            .collect();
        let known: Vec<u32> = self.xdp_devices.keys().flatten().collect();
        for key in known.iter().filter(|key| !keys.contains_key(key)) {
            // A device that is gone has left the map already.
            let _ = self.xdp_devices.remove(*key);
        }
        for (key, ifindex) in keys {
            if let Err(error) = self.xdp_devices.insert(key, ifindex, None, 0) {
                tracing::warn!("XDP will not redirect to device {ifindex}: {error}");
            }
        }
        refused
    }

    /// Runs the loaded programs on test packets of IPv4 and IPv6, which nobody else sees: one that is nobody's business
    /// must pass as it is, and a ping of `cluster_ip` from a pod must be answered.
    pub fn self_test(&self, v4: Option<Ip<2>>, v6: Option<Ip<8>>) -> [Result<(), String>; 2] {
        [
            self_test::run::<V4>(&self.ebpf, v4),
            self_test::run::<V6>(&self.ebpf, v6),
        ]
    }

    /// The programs that this agent has loaded.
    pub fn own_programs(&self) -> OwnPrograms {
        OwnPrograms::of(&self.ebpf)
    }

    /// What is attached where; the devices by name.
    pub fn attached(&self) -> &BTreeMap<(u32, Hook), String> {
        self.links.attached()
    }

    /// Attaches exactly these of the [`SOCKET_HOOKS`] and [`BIND_HOOKS`] to a cgroup; None: none of them.
    pub fn attach_sockets(
        &mut self,
        cgroup: Option<(&Path, &[(&'static str, u32)])>,
    ) -> Result<(), Error> {
        self.links.attach_sockets(&mut self.ebpf, cgroup)
    }
}

fn capacities(pin: impl Fn(&'static str) -> PathBuf) -> Result<Capacities, Error> {
    let entries = |name| Ok::<_, Error>(pinned_info(&pin(name), name)?.max_entries());
    Ok(Capacities {
        frontends: entries("FRONTENDS_V4")?,
        addresses: entries("ADDRESSES_V4")?,
        slots: entries("SLOTS_V4")?,
        services: entries("SERVICES")?,
        backends: entries("BACKENDS_V4")?,
        ranges: entries("RANGES_V4")?,
    })
}

fn map_pins(root: &Path) -> PathBuf {
    root.join(VERSION).join("maps")
}

/// The folder of the maps' pins, if an agent has been there.
fn pinned_maps(root: &Path) -> Result<PathBuf, Error> {
    let folder = map_pins(root);
    if folder.join("FRONTENDS_V4").exists() {
        Ok(folder)
    } else {
        Err(Error::NotPinned(root.into()))
    }
}

/// Every map that outlives the agent, and its pin below `root`.
pub fn pins(root: &Path) -> impl Iterator<Item = (&'static str, PathBuf)> {
    let folder = map_pins(root);
    maps::PINNED
        .into_iter()
        .map(move |name| (name, folder.join(name)))
}

/// The pinned maps, read without a running agent.
pub struct Pinned {
    /// The folder of pins.
    folder: PathBuf,
    maps: Maps,
}

impl Pinned {
    pub fn open(root: &Path) -> Result<Self, Error> {
        let folder = pinned_maps(root)?;
        layout::check(&folder)?;
        Ok(Self {
            maps: Maps::take(&mut folder.as_path())?,
            folder: root.join(VERSION),
        })
    }

    pub fn read(&self) -> Result<Snapshot, Error> {
        self.maps.read()
    }

    /// The sockets of the socket hooks whose backend has stopped serving while another one serves.
    pub fn deserted_sockets(&self) -> Result<Deserted, Error> {
        self.maps.deserted_sockets()
    }

    pub fn flows(&self) -> Result<Flows, Error> {
        self.maps.flows()
    }

    /// The flow of a client's packets, if there is one.
    pub fn flow(&self, from: SocketAddr, to: SocketAddr, proto: u8) -> Result<Flows, Error> {
        self.maps.flow(from, to, proto)
    }

    pub fn affinities(&self) -> Result<Affinities, Error> {
        self.maps.affinities()
    }

    /// IPv4's and IPv6's tables that the programs fill, in numbers.
    pub fn census(&self) -> Result<[Census; 2], Error> {
        self.maps.census()
    }

    /// The label of a service id: `namespace/name:port`, with its protocol.
    pub fn label(&self, id: u32) -> Result<Option<String>, Error> {
        self.maps.label(id)
    }

    /// The service id that serves an address and port; a port of 0: any that has the address.
    pub fn service_at(&self, ip: IpAddr, port: u16, proto: u8) -> Result<Option<u32>, Error> {
        self.maps.service_at(ip, port, proto)
    }

    /// The labels of all service ids.
    pub fn labels(&self) -> Result<BTreeMap<u32, String>, Error> {
        self.maps.labels()
    }

    /// What was counted for these service ids; None: nothing is.
    pub fn counts(&self, ids: impl IntoIterator<Item = u32>) -> Result<Option<Counts>, Error> {
        self.maps.counts(ids)
    }

    pub fn config(&self) -> Result<NodeConfig, Error> {
        self.maps.config()
    }

    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>, Error> {
        self.maps.reasons()
    }

    /// Serves no new connections any more, and makes those that there are the kernel's to translate. For a dataplane
    /// without an agent.
    pub fn hand_over(&mut self) -> Result<HandedOver, Error> {
        self.maps.hand_over()
    }
}

/// Makes sure that `root` will be on a bpf file system: mounts the usual one where the kernel's folder for it is empty.
fn mount_bpffs(root: &Path) -> Result<(), Error> {
    const USUAL: &str = "/sys/fs/bpf";
    if is_bpffs(root) {
        return Ok(());
    }
    if root.starts_with(USUAL) {
        let none = nix::mount::MsFlags::empty();
        if let Err(error) = nix::mount::mount(Some("bpf"), USUAL, Some("bpf"), none, None::<&str>) {
            tracing::warn!("cannot mount {USUAL}: {error}");
        }
    }
    if is_bpffs(root) {
        Ok(())
    } else {
        Err(Error::NotBpffs(root.into()))
    }
}

/// Whether a folder is, or would be if it were made, on a bpf file system.
pub fn is_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.exists());
    nix::sys::statfs::statfs(existing.unwrap_or(Path::new("/")))
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

/// Lets go of a pinned map that has another size than it is to have from now on.
fn resize(folder: &Path, name: &'static str, entries: u32) -> Result<(), Error> {
    let path = folder.join(name);
    if !path.exists() || pinned_info(&path, name)?.max_entries() == entries {
        return Ok(());
    }
    fs::remove_file(&path).map_err(|cause| Error::Pin {
        what: "remove",
        path,
        cause,
    })
}

fn pinned_info(path: &Path, name: &'static str) -> Result<MapInfo, Error> {
    MapInfo::from_pin(path).map_err(|cause| Error::Map {
        what: "inspect pinned",
        name,
        cause,
    })
}

/// The cookie of the network namespace that this process is in, as the socket hooks see it.
pub fn netns_cookie() -> std::io::Result<u64> {
    sys::netns_cookie()
}
