//! The programs and their maps, loaded as the agent loads them, and the wrapper that runs them on one packet after another.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, DevMapHash, MapData, ProgramArray};
use aya::programs::{
    CgroupSockAddr, Program, ProgramError, ProgramFd, SchedClassifier, TestRun, TestRunOptions,
    Xdp, XdpMode,
};
use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;
use svc_agent::dataplane::{self, Dataplane};
use svc_common::socket::Mode;
use svc_common::table::{MAX_SERVICES, NodeConfig, counted};

use crate::cluster::{self, NODE};
use crate::network::{NIC, PODS};

#[path = "../../svc-ebpf/src/bench/plan.rs"]
#[expect(dead_code, reason = "the wrapper needs more of it")]
mod plan;
pub(crate) use plan::Plan;

// SAFETY: integers without padding: ten words of eight bytes, then twelve of four.
unsafe impl aya::Pod for plan::Plan {}

/// In the bench's own mount namespace.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

static WRAPPER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/svc-ebpf-bench"));

/// Offsets in `struct __sk_buff` and `struct xdp_md` (include/uapi/linux/bpf.h).
const SKB_SIZE: usize = 192;
const SKB_INGRESS_IFINDEX: usize = 36;
const SKB_IFINDEX: usize = 40;
const XDP_SIZE: usize = 24;
const XDP_DATA_END: usize = 4;
const XDP_INGRESS_IFINDEX: usize = 12;

/// What is jumped to, by slot.
const TARGETS: [(&str, u32); 11] = [
    ("floor_empty", 0),
    ("floor_array", 1),
    ("floor_hash", 2),
    ("floor_lru", 3),
    ("floor_lru_insert", 4),
    ("node_xdp", 5),
    ("floor_empty_tc", 0),
    ("pod_ingress", 1),
    ("pod_egress", 2),
    ("node_ingress", 3),
    ("node_egress", 4),
];

/// A program that packets can be sent through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target(pub(crate) &'static str);

impl Target {
    pub(crate) fn is_xdp(self) -> bool {
        self.0 == "node_xdp" || (self.0.starts_with("floor") && !self.0.ends_with("_tc"))
    }

    /// The empty program of its kind.
    pub(crate) fn empty(self) -> Self {
        Self(if self.is_xdp() {
            "floor_empty"
        } else {
            "floor_empty_tc"
        })
    }

    pub(crate) fn slot(self) -> u32 {
        let mut all = TARGETS.iter();
        all.find(|(name, _)| *name == self.0)
            .map_or(0, |(_, slot)| *slot)
    }
}

pub(crate) struct Rig {
    programs: Ebpf,
    wrapper: Ebpf,
    plan: Array<MapData, Plan>,
    /// Their slots are emptied with the last descriptor.
    slots: Vec<ProgramArray<MapData>>,
    nic: u32,
    pods: u32,
    /// Entries that a flow table has room for.
    pub(crate) flow_entries: u32,
}

/// How large the world is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Entries that the flow table has to hold.
    pub(crate) flow_entries: u32,
    /// Entries of the floors' tables.
    pub(crate) floor_entries: u32,
    pub(crate) services: u32,
    /// What is counted by service port, as the programs are told.
    pub(crate) counted: u32,
}

impl Rig {
    pub(crate) fn new(size: Size, root: &Path) -> Result<Self> {
        let nic = nix::net::if_::if_nametoindex(NIC).context("the namespace has no NIC")?;
        let pods = nix::net::if_::if_nametoindex(PODS).context("the namespace has no pods")?;
        let (programs, flow_entries) = load_programs(size, root)?;
        fill(size, root, nic)?;
        let mut wrapper = load_wrapper(size)?;
        let plan = wrapper
            .take_map("PLAN")
            .context("the wrapper has no plan")?;
        let mut rig = Self {
            programs,
            wrapper,
            plan: Array::try_from(plan)?,
            slots: Vec::new(),
            nic,
            pods,
            flow_entries,
        };
        rig.make_nic_reachable()?;
        for (map, xdp) in [("XDP_SLOTS", true), ("TC_SLOTS", false)] {
            rig.connect(map, xdp)?;
        }
        Ok(rig)
    }

    /// A veth has no XDP queue before it has an XDP program.
    fn make_nic_reachable(&mut self) -> Result<()> {
        let program = self.programs.program_mut("node_xdp");
        let xdp: &mut Xdp = program.context("there is no node_xdp")?.try_into()?;
        xdp.attach_to_if_index(self.nic, XdpMode::Driver)
            .context("cannot attach node_xdp")?;
        let map = self.programs.map_mut("XDP_DEVICES");
        let mut reachable = DevMapHash::try_from(map.context("there are no XDP_DEVICES")?)?;
        Ok(reachable.insert(self.nic, self.nic, None, 0)?)
    }

    fn connect(&mut self, map: &str, xdp: bool) -> Result<()> {
        let slots = self.wrapper.take_map(map);
        let mut slots = ProgramArray::try_from(slots.context("the wrapper has no slots")?)?;
        for (name, slot) in TARGETS {
            if Target(name).is_xdp() == xdp {
                let fd = fd(self.program(Target(name))?)?;
                slots
                    .set(slot, fd, 0)
                    .with_context(|| format!("cannot jump to {name}"))?;
            }
        }
        self.slots.push(slots);
        Ok(())
    }

    fn program(&self, target: Target) -> Result<&Program> {
        let place = if target.0.starts_with("floor") {
            &self.wrapper
        } else {
            &self.programs
        };
        place
            .program(target.0)
            .with_context(|| format!("there is no {}", target.0))
    }

    /// Verified instructions, and bytes of machine code.
    pub(crate) fn weight(&self, target: Target) -> Result<(u32, u32)> {
        let info = self.program(target)?.info()?;
        Ok((
            info.verified_instruction_count().unwrap_or(0),
            info.size_jitted(),
        ))
    }

    /// The same of every program of the agent's.
    pub(crate) fn weights(&self) -> Result<Vec<(&str, (u32, u32))>> {
        let all = self.programs.programs().map(|(name, program)| {
            let info = program.info()?;
            let verified = info.verified_instruction_count().unwrap_or(0);
            Ok((name, (verified, info.size_jitted())))
        });
        all.collect()
    }

    /// A hook of sockets.
    pub(crate) fn hook(&mut self, name: &str) -> Result<&mut CgroupSockAddr> {
        let program = self.programs.program_mut(name);
        let program = program.with_context(|| format!("there is no {name}"))?;
        Ok(program.try_into()?)
    }

    /// Nanoseconds a packet, of so many from the plan's next on.
    pub(crate) fn burst(&mut self, target: Target, plan: &mut Plan, packets: u32) -> Result<f64> {
        let (_, ns) = self.run(target, plan, packets, None)?;
        Ok(ns)
    }

    /// One packet through it: the action, and what became of the frame.
    pub(crate) fn once(&mut self, target: Target, plan: &mut Plan) -> Result<(u32, Vec<u8>)> {
        let mut out = vec![0; 2_048];
        let (action, _) = self.run(target, plan, 1, Some(&mut out))?;
        out.truncate(plan.len as usize);
        Ok((action, out))
    }

    fn run(
        &mut self,
        target: Target,
        plan: &mut Plan,
        packets: u32,
        mut out: Option<&mut [u8]>,
    ) -> Result<(u32, f64)> {
        plan.slot = target.slot();
        let mut frame: Vec<u8> = plan
            .frame
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        frame.resize(plan.len as usize, 0);
        let context = self.context(target, frame.len());
        loop {
            self.plan.set(0, *plan, 0)?;
            let options = TestRunOptions {
                data_in: Some(&frame),
                data_out: out.as_deref_mut(),
                ctx_in: Some(&context),
                repeat: packets,
                ..TestRunOptions::new()
            };
            let name = if target.is_xdp() {
                "wrap_xdp"
            } else {
                "wrap_tc"
            };
            let wrapper = self.wrapper.program(name).context("there is no wrapper")?;
            let result = if target.is_xdp() {
                <&Xdp>::try_from(wrapper)?.test_run(options)
            } else {
                <&SchedClassifier>::try_from(wrapper)?.test_run(options)
            };
            plan.counter = plan.counter.wrapping_add(packets);
            match result {
                Ok(result) if result.return_value == plan::FAILED => {
                    bail!("the wrapper could not jump to {}", target.0)
                }
                Ok(result) => {
                    let ns = result.duration.as_nanos() as f64;
                    return Ok((result.return_value, ns));
                }
                // A long repeat that is rescheduled gives way to pending task work, too.
                Err(ProgramError::SyscallError(error))
                    if error.io_error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot run {}", target.0));
                }
            }
        }
    }

    /// The device that the packet is at, and the one it came by.
    fn context(&self, target: Target, len: usize) -> Vec<u8> {
        let (nic, pods) = (self.nic, self.pods);
        let fields = match target.0 {
            _ if target.is_xdp() => vec![(XDP_DATA_END, len as u32), (XDP_INGRESS_IFINDEX, nic)],
            "pod_ingress" => vec![(SKB_IFINDEX, pods), (SKB_INGRESS_IFINDEX, pods)],
            "pod_egress" => vec![(SKB_IFINDEX, pods), (SKB_INGRESS_IFINDEX, nic)],
            "node_egress" => vec![(SKB_IFINDEX, nic), (SKB_INGRESS_IFINDEX, pods)],
            _ => vec![(SKB_IFINDEX, nic), (SKB_INGRESS_IFINDEX, nic)],
        };
        let mut context = vec![0; if target.is_xdp() { XDP_SIZE } else { SKB_SIZE }];
        for (at, value) in fields {
            context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        context
    }
}

fn fd(program: &Program) -> Result<&ProgramFd> {
    Ok(match program {
        Program::Xdp(program) => program.fd()?,
        Program::SchedClassifier(program) => program.fd()?,
        _ => bail!("not a program that packets meet"),
    })
}

/// The agent's object, with maps that the agent will find pinned, large enough for `size`.
fn load_programs(size: Size, root: &Path) -> Result<(Ebpf, u32)> {
    let object = Object::parse(dataplane::OBJECT).context("cannot read the programs")?;
    let mut flow_entries = 0;
    let mut loader = EbpfLoader::new();
    for (name, path) in dataplane::pins(root) {
        let folder = path.parent().context("a pin is in a folder")?;
        std::fs::create_dir_all(folder).context("cannot make the folder of pins")?;
        let entries = object.maps.get(name).map_or(1, aya_obj::Map::max_entries);
        let wanted = if name.starts_with("FLOWS") {
            size.flow_entries
        } else if name.starts_with("FLOW_INDEX") {
            size.flow_entries / 2
        } else if name.starts_with("ADDRESSES") || name.starts_with("SERVICES") {
            size.services + 1_000
        } else {
            // Two slots and two endpoints of each family a Service.
            2 * size.services + 1_000
        };
        let entries = match name {
            "TRAFFIC" if size.counted & counted::TRAFFIC != 0 => MAX_SERVICES,
            _ => grown(name, entries, wanted),
        };
        if name.starts_with("FLOWS") {
            flow_entries = entries;
        }
        loader.map_max_entries(name, entries);
        loader.map_pin_path(name, path);
    }
    loader.override_global("SERVICE_METRICS", &size.counted, true);
    let mut programs = loader
        .load(dataplane::OBJECT)
        .context("cannot make the maps")?;
    for (name, program) in programs.programs_mut() {
        dataplane::load_program(program).with_context(|| format!("cannot load {name}"))?;
    }
    Ok((programs, flow_entries))
}

fn load_wrapper(size: Size) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for name in ["FLOOR_ARRAY", "FLOOR_HASH", "FLOOR_LRU"] {
        loader.map_max_entries(name, size.floor_entries);
    }
    let mut wrapper = loader.load(WRAPPER).context("cannot load the wrapper")?;
    for (name, program) in wrapper.programs_mut() {
        dataplane::load_program(program).with_context(|| format!("cannot load {name}"))?;
    }
    Ok(wrapper)
}

/// A default size, doubled until it holds what is wanted. Maps of few entries are not tables.
fn grown(name: &str, entries: u32, wanted: u32) -> u32 {
    const TABLES: [&str; 8] = [
        "ADDRESSES",
        "FRONTENDS",
        "SLOTS",
        "FLOWS",
        "FLOW_INDEX",
        "BACKENDS",
        "TURNS",
        "SERVICES",
    ];
    let mut grown = entries;
    while TABLES.iter().any(|table| name.starts_with(table)) && grown < wanted {
        grown *= 2;
    }
    grown
}

/// Writes the cluster's Services by the agent's own line.
fn fill(size: Size, root: &Path, nic: u32) -> Result<()> {
    let mut dataplane = Dataplane::open(root, size.counted).context("cannot take over the maps")?;
    let changes = cluster::changes(size.services, dataplane.capacities()?);
    dataplane.apply(&changes).context("cannot fill the maps")?;
    dataplane.configure(&NodeConfig {
        snat_min: 1_024,
        snat_max: 32_767,
        netns_cookie: dataplane::netns_cookie()?,
        socket_lb: Mode::All as u32,
        ..NodeConfig::default()
    })?;
    let own = [0, nic]
        .into_iter()
        .flat_map(|index| [false, true].map(|v6| ((index, v6), NODE.at(v6, 1))));
    dataplane.set_devices(&own.collect())?;
    ensure!(
        changes.len() as u64 >= u64::from(size.services),
        "the agent has planned too few writes: {}",
        changes.len()
    );
    Ok(())
}
