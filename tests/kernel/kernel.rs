//! The loaded object: maps filled from a [`Memory`], programs run on single frames.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, DevMapHash, HashMap, MapData, PerCpuArray};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{
    ProgramError, SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp, XdpMode,
};
use aya::{Ebpf, EbpfLoader};
use svc_agent::dataplane::FlowTable;
use svc_agent::filter::Filter;
use svc_common::event::{Event, MAX_EVENTS, Watch};
use svc_common::family::V4;
use svc_common::filter::{LINES, Line};
use svc_common::memory::Memory;
use svc_common::reason::Reason;
use svc_common::table::{
    Affinity, BackendKey, BackendState, Insert, MAX_SERVICES, NodeConfig, Source, Traffic, counted,
    counter,
};
use svc_common::tunnel::Outer;
use svc_common::wire::IpHeader;

use crate::host::Program;
use crate::network::Network;
use crate::pool::{self, Lent};

/// A family whose addresses can be map keys.
pub(crate) trait Keyed: Outer + IpHeader<Addr: aya::Pod> {}
impl<F: Outer + IpHeader<Addr: aya::Pod>> Keyed for F {}

/// Offsets in `struct __sk_buff` and `struct xdp_md` (include/uapi/linux/bpf.h).
const SKB_SIZE: usize = 192;
const SKB_INGRESS_IFINDEX: usize = 36;
const SKB_IFINDEX: usize = 40;
const XDP_SIZE: usize = 24;
const XDP_DATA_END: usize = 4;
const XDP_INGRESS_IFINDEX: usize = 12;

pub(crate) struct Kernel {
    pub(crate) ebpf: Lent,
    network: Network,
    /// At the network's devices.
    xdp: Vec<XdpLinkId>,
}

impl Kernel {
    /// With empty maps.
    pub(crate) fn load(network: &Network) -> Self {
        let Some(idle) = pool::idle() else {
            return Self::of(network, Lent::to_return(Self::small(counted::CONNECTIONS)));
        };
        let mut kernel = Self::of(network, idle);
        kernel.clear();
        kernel
    }

    /// `counted`: what is counted by service port.
    pub(crate) fn counting(network: &Network, counted: u32) -> Self {
        Self::of(network, Lent::to_drop(Self::small(counted)))
    }

    /// With room for so many flows, and an index in the proportion that the agent gives it.
    pub(crate) fn with_flows(network: &Network, flows: u32) -> Self {
        let object = Self::object(counted::CONNECTIONS, flows, flows / 2);
        Self::of(network, Lent::to_drop(object))
    }

    /// Loads the object, with flow tables small enough to be listed quickly.
    fn small(counted: u32) -> Ebpf {
        Self::object(counted, 16_384, 4_096)
    }

    fn object(counted: u32, flows: u32, buckets: u32) -> Ebpf {
        let mut loader = EbpfLoader::new();
        if counted & counted::TRAFFIC != 0 {
            loader.map_max_entries("TRAFFIC", MAX_SERVICES);
        }
        loader.override_global("SERVICE_METRICS", &counted, true);
        for (name, entries) in [
            ("FLOWS_V4", flows),
            ("FLOWS_V6", flows),
            ("FLOW_INDEX_V4", buckets),
            ("FLOW_INDEX_V6", buckets),
            ("FRAGMENTS_V4", 4_096),
            ("FRAGMENTS_V6", 4_096),
        ] {
            loader.map_max_entries(name, entries);
        }
        load(&mut loader)
    }

    fn of(network: &Network, ebpf: Lent) -> Self {
        let mut kernel = Self {
            ebpf,
            network: *network,
            xdp: Vec::new(),
        };
        kernel.flows::<V4>();
        // veth has no XDP queue before it has an XDP program.
        for device in [network.nic, network.second_nic] {
            let link = kernel.attach(device.index);
            kernel.xdp.push(link);
        }
        for device in [network.nic, network.second_nic] {
            kernel.allow_redirect(device.index, device.index);
        }
        kernel
    }

    fn node_xdp(&mut self) -> &mut Xdp {
        let program = self.ebpf.program_mut("node_xdp").expect("in the object");
        program.try_into().expect("is XDP")
    }

    fn attach(&mut self, ifindex: u32) -> XdpLinkId {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.node_xdp().attach_to_if_index(ifindex, XdpMode::Driver) {
                Ok(link) => return link,
                // A child that another test has just forked still holds the last object's link.
                Err(ProgramError::SyscallError(error))
                    if error.io_error.kind() == ErrorKind::ResourceBusy
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("veth has native XDP: {error:?}"),
            }
        }
    }

    /// Lets XDP redirect to a device.
    pub(crate) fn allow_redirect(&mut self, key: u32, ifindex: u32) {
        let map = self.ebpf.map_mut("XDP_DEVICES").expect("in the object");
        let mut reachable = DevMapHash::try_from(map).expect("typed");
        reachable.insert(key, ifindex, None, 0).expect("room");
    }

    pub(crate) fn map<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &str,
    ) -> HashMap<&mut MapData, K, V> {
        let map = self
            .ebpf
            .map_mut(name)
            .unwrap_or_else(|| panic!("no map {name} in the object"));
        HashMap::try_from(map).unwrap_or_else(|error| panic!("map {name}: {error}"))
    }

    /// Writes all tables.
    pub(crate) fn fill<F: Keyed>(&mut self, tables: &Memory<F>) {
        let version = F::VERSION;
        for (key, value) in &tables.addresses {
            self.map(&format!("ADDRESSES_V{version}"))
                .insert(*key, *value, 0)
                .expect("room");
        }
        self.filter(tables);
        for (key, value) in &tables.frontends {
            self.map(&format!("FRONTENDS_V{version}"))
                .insert(*key, *value, 0)
                .expect("room");
        }
        let slots = self
            .ebpf
            .map_mut(&format!("SLOTS_V{version}"))
            .expect("in the object");
        let mut slots = Array::try_from(slots).expect("typed");
        for (index, backend) in &tables.slots {
            slots.set(*index, *backend, 0).expect("in range");
        }
        let (nic, second) = (self.network.nic.index, self.network.second_nic.index);
        let mut devices = self.map::<u32, F::Addr>(&format!("DEVICES_V{version}"));
        for (index, addr) in [(0, (0, 1)), (nic, (0, 1)), (second, (3, 1))] {
            devices
                .insert(index, crate::world::addr::<F>(addr.0, addr.1), 0)
                .expect("room");
        }
        let pods = self.network.pods.index;
        self.map::<u32, u32>("PEERS")
            .insert(pods, 1, 0)
            .expect("room");
        self.follow(tables);
    }

    /// Writes the filter in front of ADDRESSES.
    pub(crate) fn filter<F: Keyed>(&mut self, tables: &Memory<F>) {
        let wanted: Filter<F::Addr> = tables.addresses.keys().copied().collect();
        let mut lines = self.array::<Line>(&format!("FILTER_V{}", F::VERSION));
        for index in 0..LINES {
            lines.set(index, wanted.line(index), 0).expect("in range");
        }
    }

    /// Writes what changes while packets come and go.
    pub(crate) fn follow<F: Keyed>(&mut self, tables: &Memory<F>) {
        let config = tables.config.expect("configured");
        self.array::<NodeConfig>("CONFIG")
            .set(0, config, 0)
            .expect("in range");
        self.array::<u32>("EPOCH")
            .set(0, u32::from(tables.epoch.get()), 0)
            .expect("in range");
        let flows = self.flows::<F>();
        for old in flows.all() {
            flows.remove(old.own_key());
        }
        for flow in tables.flows.borrow().values() {
            assert_eq!(flows.insert(flow), Insert::Done);
        }
        replace(self.affinities::<F>(), &tables.affinities.borrow());
        replace(self.backends::<F>(), &tables.backends.borrow());
        let mut ranges = self.clear_ranges::<F>();
        for (source, length) in &tables.ranges {
            let service_bits = 32;
            let key = Key::new(service_bits + length, *source);
            ranges.insert(&key, 1, 0).expect("room");
        }
    }

    /// Leaves no source range.
    pub(crate) fn clear_ranges<F: Keyed>(&mut self) -> LpmTrie<&mut MapData, Source<F>, u32> {
        let name = format!("RANGES_V{}", F::VERSION);
        let map = self.ebpf.map_mut(&name).expect("in the object");
        let mut ranges = LpmTrie::try_from(map).expect("typed");
        let old: Vec<_> = ranges.keys().collect::<Result<_, _>>().expect("readable");
        for key in old {
            ranges.remove(&key).expect("there");
        }
        ranges
    }

    pub(crate) fn array<V: aya::Pod>(&mut self, name: &str) -> Array<&mut MapData, V> {
        let map = self
            .ebpf
            .map_mut(name)
            .unwrap_or_else(|| panic!("no map {name} in the object"));
        Array::try_from(map).unwrap_or_else(|error| panic!("map {name}: {error}"))
    }

    /// The turns that the run at a slot has given.
    pub(crate) fn turns(&mut self, first: u32) -> u32 {
        self.array::<u64>("TURNS").get(&first, 0).expect("in range") as u32
    }

    pub(crate) fn affinities<F: Keyed>(&mut self) -> HashMap<&mut MapData, Source<F>, Affinity<F>> {
        self.map(&format!("AFFINITY_V{}", F::VERSION))
    }

    pub(crate) fn backends<F: Keyed>(
        &mut self,
    ) -> HashMap<&mut MapData, BackendKey<F>, BackendState> {
        self.map(&format!("BACKENDS_V{}", F::VERSION))
    }

    pub(crate) fn flows<F: Keyed>(&mut self) -> FlowTable<F> {
        FlowTable::of(&mut self.ebpf).expect("in the object")
    }

    pub(crate) fn epoch(&mut self) -> u16 {
        self.array::<u32>("EPOCH").get(&0, 0).expect("in range") as u16
    }

    /// Until when somebody watches losses, and flows.
    pub(crate) fn watch(&mut self, losses: u32, flows: u32) {
        self.array("WATCH")
            .set(0, Watch { losses, flows }, 0)
            .expect("in range");
    }

    /// How many events there were.
    pub(crate) fn event_count(&mut self) -> u64 {
        self.array::<u64>("EVENT_HEAD")
            .get(&0, 0)
            .expect("in range")
    }

    /// Those that are still in the ring, the oldest first.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        let ring = self.array::<Event>("EVENTS");
        let all = (0..MAX_EVENTS).map(|i| ring.get(&i, 0).expect("in range"));
        let mut events: Vec<Event> = all.filter(|event| event.number != 0).collect();
        events.sort_by_key(|event| event.number);
        events
    }

    /// The connections of a service id, and what was carried for it.
    pub(crate) fn counted(&self, service: u32) -> (u64, [u64; 4]) {
        let map = |name| self.ebpf.map(name).expect("in the object");
        let connections = Array::<_, u64>::try_from(map("CONNECTIONS")).expect("typed");
        let traffic = PerCpuArray::<_, Traffic>::try_from(map("TRAFFIC")).expect("typed");
        let at = counter(service);
        let per_cpu = traffic.get(&at, 0).ok();
        let per_cpu = per_cpu.iter().flat_map(|cpus| cpus.iter());
        let carried = per_cpu.fold([0; 4], |[pi, bi, po, bo], t| {
            [
                pi + t.packets_in,
                bi + t.bytes_in,
                po + t.packets_out,
                bo + t.bytes_out,
            ]
        });
        (connections.get(&at, 0).expect("in range"), carried)
    }

    /// The counters of all CPUs together.
    pub(crate) fn reasons(&self) -> Vec<u64> {
        let counters =
            PerCpuArray::<_, u64>::try_from(self.ebpf.map("REASONS").expect("in the object"))
                .expect("typed");
        (0..Reason::ALL.len() as u32)
            .map(|i| counters.get(&i, 0).expect("in range").iter().sum())
            .collect()
    }

    /// Runs a program on a frame; its action and the frame afterwards.
    pub(crate) fn run(&self, program: Program, frame: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; 4_096];
        let result = self.test(program, frame, Some(&mut out), 1);
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    pub(crate) fn test(
        &self,
        program: Program,
        frame: &[u8],
        mut out: Option<&mut [u8]>,
        repeat: u32,
    ) -> TestRunResult {
        let context = self.context(program, frame.len());
        let loaded = self.ebpf.program(program.name()).expect("in the object");
        loop {
            let options = TestRunOptions {
                data_in: Some(frame),
                data_out: out.as_deref_mut(),
                ctx_in: Some(&context),
                repeat,
                ..TestRunOptions::new()
            };
            let result = if program == Program::NodeXdp {
                <&Xdp>::try_from(loaded).expect("is XDP").test_run(options)
            } else {
                <&SchedClassifier>::try_from(loaded)
                    .expect("is a classifier")
                    .test_run(options)
            };
            match result {
                Ok(result) => return result,
                // A long repeat that is rescheduled gives way to pending task work, too.
                Err(error) if interrupted(&error) => {}
                Err(error) => panic!("cannot run {program:?} on {frame:02x?}: {error:?}"),
            }
        }
    }

    fn context(&self, program: Program, len: usize) -> Vec<u8> {
        let Network { nic, pods, .. } = self.network;
        let (size, fields): (usize, Vec<(usize, u32)>) = match program {
            Program::NodeXdp => (
                XDP_SIZE,
                vec![(XDP_DATA_END, len as u32), (XDP_INGRESS_IFINDEX, nic.index)],
            ),
            Program::PodIngress => (
                SKB_SIZE,
                vec![(SKB_IFINDEX, pods.index), (SKB_INGRESS_IFINDEX, pods.index)],
            ),
            Program::PodEgress => (
                SKB_SIZE,
                vec![(SKB_IFINDEX, pods.index), (SKB_INGRESS_IFINDEX, nic.index)],
            ),
            Program::NodeIngress => (
                SKB_SIZE,
                vec![(SKB_IFINDEX, nic.index), (SKB_INGRESS_IFINDEX, nic.index)],
            ),
            Program::NodeEgress => (SKB_SIZE, vec![(SKB_IFINDEX, nic.index)]),
            Program::NodeEgressForwarded => (
                SKB_SIZE,
                vec![(SKB_IFINDEX, nic.index), (SKB_INGRESS_IFINDEX, pods.index)],
            ),
        };
        let mut context = vec![0; size];
        for (at, value) in fields {
            context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        context
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for link in std::mem::take(&mut self.xdp) {
            // The device may be gone already.
            let _ = self.node_xdp().detach(link);
        }
    }
}

/// Makes a map what `wanted` is.
pub(crate) fn replace<K: aya::Pod + Ord, V: aya::Pod>(
    mut map: HashMap<&mut MapData, K, V>,
    wanted: &BTreeMap<K, V>,
) {
    let old: Vec<K> = map.keys().collect::<Result<_, _>>().expect("readable");
    for key in old {
        map.remove(&key).expect("there");
    }
    for (key, value) in wanted {
        map.insert(*key, *value, 0).expect("room");
    }
}

/// The object with its maps made, and no program loaded.
pub(crate) fn object(loader: &mut EbpfLoader<'_>) -> Ebpf {
    loader
        .load(svc_agent::dataplane::OBJECT)
        .expect("the kernel layer loads eBPF programs: run it as root")
}

/// Loads every program that a packet meets.
pub(crate) fn load(loader: &mut EbpfLoader<'_>) -> Ebpf {
    let mut ebpf = object(loader);
    for (name, program) in ebpf.programs_mut() {
        let loaded = svc_agent::dataplane::load_program(program);
        loaded.unwrap_or_else(|error| panic!("the kernel refuses {name}: {error:?}"));
    }
    ebpf
}

/// Bytes that a map takes, as the kernel tells.
pub(crate) fn memory_of(map: &MapData) -> u64 {
    let fd = map.fd().as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("our own file");
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))
        .expect("a map has memlock");
    line.trim().parse().expect("a number")
}

fn interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.kind() == ErrorKind::Interrupted)
}
