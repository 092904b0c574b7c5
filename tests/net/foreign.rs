//! Programs of others at the same hooks: they were there before, or come later; they stay, and so do ours.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::libc;
use xtask::agents::{Agent, eventually};
use xtask::topology::in_namespace;

use crate::Case;
use crate::lab::Lab;
use crate::life::{links, new_connections};

pub const CASES: &[Case] = &[
    Case {
        name: "tcx_programs_of_others_stay_and_so_do_ours",
        settings: &["packets_only"],
        test: tcx,
    },
    Case {
        name: "an_xdp_program_of_others_stays_until_they_take_it_away",
        settings: &["xdp_native"],
        test: xdp,
    },
];

/// Of `enum bpf_cmd`, `bpf_prog_type` and `bpf_attach_type` (include/uapi/linux/bpf.h).
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const ATTACH_TCX_INGRESS: u32 = 46;
const ATTACH_XDP: u32 = 37;
const TCX_NEXT: i32 = -1;
const XDP_PASS: i32 = 2;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

fn bpf(command: libc::c_long, attributes: &mut [u32; 32]) -> Result<OwnedFd> {
    let size = size_of_val(attributes);
    // SAFETY: the attributes are as large as said, and what they point to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd
        .ok_or_else(std::io::Error::last_os_error)
        .context("bpf(2)")?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A program that returns a number.
fn program(kind: u32, attach_type: u32, number: i32) -> Result<OwnedFd> {
    // r0 = number; exit
    let instructions: [u64; 2] = [0xb7 | u64::from(number.cast_unsigned()) << 32, 0x95];
    let license = c"GPL";
    let mut attributes = [0; 32];
    (attributes[0], attributes[1]) = (kind, 2);
    let halves = |pointer: u64| [pointer as u32, (pointer >> 32) as u32];
    attributes[2..4].copy_from_slice(&halves(instructions.as_ptr() as u64));
    attributes[4..6].copy_from_slice(&halves(license.as_ptr() as u64));
    attributes[17] = attach_type;
    bpf(PROG_LOAD, &mut attributes).context("loading a program of two instructions")
}

/// Attached for as long as the link is open. It goes behind what is there.
fn attach(
    lab: &Lab,
    (node, device): (&str, &str),
    (kind, attach_type, flags): (u32, u32, u32),
    number: i32,
) -> Result<OwnedFd> {
    let program = program(kind, if kind == XDP { attach_type } else { 0 }, number)?;
    let line = lab.tool(node, &format!("ip -o link show {device}"))?;
    let ifindex = line.split(':').next().context("no index")?.trim().parse()?;
    let mut attributes = [0; 32];
    attributes[0] = program.as_raw_fd().cast_unsigned();
    (attributes[1], attributes[2], attributes[3]) = (ifindex, attach_type, flags);
    in_namespace(&lab.topology.place(node).namespace_file(), || {
        bpf(LINK_CREATE, &mut attributes).with_context(|| format!("attaching to {device}"))
    })
}

/// The names of the programs at a device's ingress, in their order; that of others has none.
fn at_ingress(lab: &Lab, node: &str, device: &str) -> Result<Vec<String>> {
    in_namespace(&lab.topology.place(node).namespace_file(), || {
        let (_, programs) = SchedClassifier::query_tcx(device, TcAttachType::Ingress)?;
        let name = |p: &aya::programs::ProgramInfo| p.name_as_str().unwrap_or("?").to_owned();
        Ok(programs.iter().map(name).collect())
    })
}

fn tcx(lab: &mut Lab) -> Result<()> {
    const TCX: (u32, u32, u32) = (SCHED_CLS, ATTACH_TCX_INGRESS, 0);
    let ours = at_ingress(lab, "node1", "eth0")?;
    ensure!(ours == ["node_ingress"], "{ours:?}");
    let later = attach(lab, ("node1", "eth0"), TCX, TCX_NEXT)?;
    new_connections(lab)?;
    // A new agent swaps its own program in its place.
    lab.agents[0].stop()?;
    lab.agents.clear();
    lab.start(&[])?;
    let both = at_ingress(lab, "node1", "eth0")?;
    ensure!(both == ["node_ingress", ""], "{both:?}");
    new_connections(lab)?;
    // Without its dataplane the other's is first; then ours comes behind.
    lab.agents
        .iter_mut()
        .try_for_each(|agent| agent.stop().map(drop))?;
    let output = lab.agent("node1", "cleanup", &[])?;
    ensure!(output.status.success(), "{output:?}");
    let other = at_ingress(lab, "node1", "eth0")?;
    ensure!(other == [""], "cleanup has left {other:?}");
    lab.agents.clear();
    lab.start(&[])?;
    let both = at_ingress(lab, "node1", "eth0")?;
    ensure!(both == ["", "node_ingress"], "{both:?}");
    new_connections(lab)?;
    drop(later);
    Ok(())
}

fn xdp(lab: &mut Lab) -> Result<()> {
    lab.agents[0].stop()?;
    let output = lab.agent("node1", "cleanup", &[])?;
    ensure!(output.status.success(), "{output:?}");
    let shown = |lab: &Lab| lab.tool("node1", "ip -d link show eth0");
    let native = (XDP, ATTACH_XDP, XDP_FLAGS_DRV_MODE);
    let other = attach(lab, ("node1", "eth0"), native, XDP_PASS)?;
    let with_other = shown(lab)?;
    ensure!(with_other.contains("prog/xdp"), "{with_other}");
    let flags = lab.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    std::fs::write(&lab.agents[0].log_file, "")?;
    let agent = Agent::start(&lab.topology, "node1", &flags)?;
    lab.agents[0].process = agent.process;
    eventually("the agent says so", Duration::from_secs(90), || {
        let log = lab.agents[0].log();
        Ok(log.contains("cannot attach node_xdp to eth0"))
    })?;
    eventually("tcx serves", Duration::from_secs(20), || {
        Ok(new_connections(lab).is_ok())
    })?;
    let line = |text: &str| {
        let line = text.lines().find(|line| line.contains("prog/xdp"));
        line.map(str::to_owned)
    };
    ensure!(
        line(&shown(lab)?) == line(&with_other),
        "the other's is gone"
    );
    drop(other);
    lab.agents[0].wait_until_healthy(&lab.topology, Duration::from_secs(90))?;
    let attached = links(lab, "node1");
    let is_xdp = |name: &String| name.starts_with("node_xdp_native@");
    ensure!(attached.iter().any(is_xdp), "{attached:?}");
    new_connections(lab)
}
