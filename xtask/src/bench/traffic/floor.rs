//! Programs that do nothing, where svcplane's would be on a node: what the places themselves cost.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::libc;
use nix::net::if_::if_nametoindex;
use xtask::topology::{NODES, Place, Topology, in_namespace};

// enum bpf_cmd, bpf_prog_type and bpf_attach_type, include/uapi/linux/bpf.h
const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// `r0 = -1` (TCX_NEXT); `exit`.
const NOTHING: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];

/// The attributes of BPF_PROG_LOAD that matter here.
#[repr(C)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    device: u32,
    attach_type: u32,
    flags: u32,
}

/// Both directions of every device of every node, its loopback apart. They stay until the links are dropped.
pub fn attach(topology: &Topology) -> Result<Vec<OwnedFd>> {
    let mut links = Vec::new();
    for node in NODES {
        let mut devices = vec!["eth0".to_owned()];
        let here = |place: &&Place| place.node == Some(node) && place.name != node;
        let pods = topology.places().iter().filter(here);
        devices.extend(pods.map(|pod| format!("veth{}", pod.name)));
        links.extend(in_namespace(
            &topology.place(node).namespace_file(),
            || {
                let mut links = Vec::new();
                for device in &devices {
                    let index = if_nametoindex(device.as_str())
                        .with_context(|| format!("there is no {device} on {node}"))?;
                    for direction in [TCX_INGRESS, TCX_EGRESS] {
                        links.push(link(index, direction).with_context(|| {
                            format!("cannot attach an empty program to {device} on {node}")
                        })?);
                    }
                }
                Ok(links)
            },
        )?);
    }
    Ok(links)
}

fn link(device: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let program = bpf(
        PROG_LOAD,
        &ProgLoad {
            kind: SCHED_CLS,
            instructions: 2,
            code: NOTHING.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        },
    )?;
    let program = program.as_raw_fd().cast_unsigned();
    bpf(
        LINK_CREATE,
        &LinkCreate {
            program,
            device,
            attach_type,
            flags: 0,
        },
    )
}

/// A command of bpf(2) that makes a file descriptor.
fn bpf<T>(command: i32, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as many bytes as are said, and what the attributes point to is static.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: these commands return a new descriptor, which nobody else has.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
