//! Floors: programs that do nothing where svcplane's would be on a node, and the least that forwards by XDP. What the
//! places themselves cost.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::if_nametoindex;
use xtask::topology::{NODES, Place, Topology, in_namespace};

// enum bpf_cmd, bpf_prog_type and bpf_attach_type, include/uapi/linux/bpf.h
const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
const XDP_PROGRAM: u32 = 6;
const XDP_LINK: u32 = 37;
/// The driver's own, not the stack's: include/uapi/linux/if_link.h
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// `r0 = -1` (TCX_NEXT); `exit`.
const NOTHING: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];

type Mac = [u8; 6];

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
                        links.push(link(SCHED_CLS, &NOTHING, index, direction, 0).with_context(
                            || format!("cannot attach an empty program to {device} on {node}"),
                        )?);
                    }
                }
                Ok(links)
            },
        )?);
    }
    Ok(links)
}

/// At node1's `eth0`, for what the client and pod-c say to each other: the frame goes back out to its next hop, with
/// nothing looked up and nothing rewritten but the link's addresses.
pub fn forward(topology: &Topology) -> Result<OwnedFd> {
    let next_hop = |to: &str, via: &str| Ok((topology.place(to).addresses(), mac(topology, via)?));
    let routes: Result<Vec<_>> = [next_hop("client", "client"), next_hop("pod-c", NODES[1])]
        .into_iter()
        .collect();
    let code = forwarder(&routes?, mac(topology, NODES[0])?);
    in_namespace(&topology.place(NODES[0]).namespace_file(), || {
        let index = if_nametoindex("eth0").context("there is no eth0 on node1")?;
        link(XDP_PROGRAM, &code, index, XDP_LINK, XDP_FLAGS_DRV_MODE)
            .context("cannot attach a forwarding program to eth0 on node1")
    })
}

/// The link address of a place's `eth0`.
fn mac(topology: &Topology, place: &str) -> Result<Mac> {
    in_namespace(&topology.place(place).namespace_file(), || {
        getifaddrs()?
            .filter(|interface| interface.interface_name == "eth0")
            .find_map(|interface| interface.address?.as_link_addr()?.addr())
            .with_context(|| format!("eth0 of {place} has no link address"))
    })
}

/// Instructions of Documentation/bpf/standardization/instruction-set.rst.
fn forwarder(routes: &[([IpAddr; 2], Mac)], own: Mac) -> Vec<u64> {
    let instruction = |code: u8, registers: u8, offset: i16, immediate: u32| {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = immediate.to_le_bytes();
        u64::from_le_bytes([code, registers, low, high, a, b, c, d])
    };
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u32::from(*byte))
    };
    // r2: where the frame begins; r3: its end; r4: that of an Ethernet and an IP header; r5: the last word of where the
    // packet goes to.
    let mut code = vec![
        instruction(0x61, 0x12, 0, 0),
        instruction(0x61, 0x13, 4, 0),
        instruction(0xbf, 0x24, 0, 0),
        instruction(0x07, 0x04, 0, 34),
        instruction(0x2d, 0x34, 7, 0),
        instruction(0x69, 0x25, 12, 0),
        instruction(0x15, 0x05, 7, u32::from(0x0800_u16.to_be())),
        instruction(0x55, 0x05, 4, u32::from(0x86dd_u16.to_be())),
        instruction(0x07, 0x04, 0, 20),
        instruction(0x2d, 0x34, 2, 0),
        instruction(0x61, 0x25, 50, 0),
        instruction(0x05, 0x00, 3, 0),
        // XDP_PASS
        instruction(0xb7, 0x00, 0, 2),
        instruction(0x95, 0x00, 0, 0),
        instruction(0x61, 0x25, 30, 0),
    ];
    for (addresses, mac) in routes {
        for address in addresses {
            let last = match address {
                IpAddr::V4(address) => word(&address.octets()),
                IpAddr::V6(address) => word(&address.octets()[12..]),
            };
            code.extend([
                // Not this one: past the six that follow.
                instruction(0x56, 0x05, 6, last),
                instruction(0x62, 0x02, 0, word(&mac[..4])),
                instruction(0x6a, 0x02, 4, word(&mac[4..])),
                instruction(0x6a, 0x02, 6, word(&own[..2])),
                instruction(0x62, 0x02, 8, word(&own[2..])),
                // XDP_TX
                instruction(0xb7, 0x00, 0, 3),
                instruction(0x95, 0x00, 0, 0),
            ]);
        }
    }
    code.extend([instruction(0xb7, 0x00, 0, 2), instruction(0x95, 0x00, 0, 0)]);
    code
}

fn link(kind: u32, code: &[u64], device: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let program = bpf(
        PROG_LOAD,
        &ProgLoad {
            kind,
            instructions: code.len() as u32,
            code: code.as_ptr() as u64,
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
            flags,
        },
    )
}

/// A command of bpf(2) that makes a file descriptor.
fn bpf<T>(command: i32, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as many bytes as are said, and what the attributes point to outlives the call.
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
