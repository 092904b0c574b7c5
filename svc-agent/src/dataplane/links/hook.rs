//! Where programs can be: on a device, or at a cgroup.

use aya::programs::TcAttachType;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum XdpMode {
    Native,
    Generic,
}

/// A place on a device where a program can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    PodIngress,
    PodEgress,
    NodeIngress,
    NodeEgress,
    /// The same at devices without Ethernet headers.
    NodeIngressL3,
    NodeEgressL3,
    Xdp(XdpMode),
}

// enum bpf_attach_type, include/uapi/linux/bpf.h
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
const XDP: u32 = 37;

impl Hook {
    /// The program that belongs there.
    pub const fn program(self) -> &'static str {
        match self {
            Hook::PodIngress => "pod_ingress",
            Hook::PodEgress => "pod_egress",
            Hook::NodeIngress => "node_ingress",
            Hook::NodeEgress => "node_egress",
            Hook::NodeIngressL3 => "node_ingress_l3",
            Hook::NodeEgressL3 => "node_egress_l3",
            Hook::Xdp(_) => "node_xdp",
        }
    }

    /// Attach type and flags of `BPF_LINK_CREATE`.
    pub(in crate::dataplane) const fn attach(self) -> (u32, u32) {
        match self {
            Hook::PodIngress | Hook::NodeIngress | Hook::NodeIngressL3 => (TCX_INGRESS, 0),
            Hook::PodEgress | Hook::NodeEgress | Hook::NodeEgressL3 => (TCX_EGRESS, 0),
            // XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE (include/uapi/linux/if_link.h)
            Hook::Xdp(XdpMode::Native) => (XDP, 1 << 2),
            Hook::Xdp(XdpMode::Generic) => (XDP, 1 << 1),
        }
    }

    /// The direction, for kernels without tcx.
    pub(super) const fn direction(self) -> Option<TcAttachType> {
        match self {
            Hook::PodIngress | Hook::NodeIngress | Hook::NodeIngressL3 => {
                Some(TcAttachType::Ingress)
            }
            Hook::PodEgress | Hook::NodeEgress | Hook::NodeEgressL3 => Some(TcAttachType::Egress),
            Hook::Xdp(_) => None,
        }
    }

    /// How its pin is called, beside the device's index. A dot is not allowed on bpffs.
    pub(in crate::dataplane) const fn pin_name(self) -> &'static str {
        match self {
            Hook::Xdp(XdpMode::Native) => "node_xdp_native",
            Hook::Xdp(XdpMode::Generic) => "node_xdp_generic",
            other => other.program(),
        }
    }

    /// Its pin at a device.
    pub(super) fn pin(self, ifindex: u32) -> String {
        format!("{}@{ifindex}", self.pin_name())
    }

    pub(in crate::dataplane) const ALL: [Hook; 8] = [
        Hook::PodIngress,
        Hook::PodEgress,
        Hook::NodeIngress,
        Hook::NodeEgress,
        Hook::NodeIngressL3,
        Hook::NodeEgressL3,
        Hook::Xdp(XdpMode::Native),
        Hook::Xdp(XdpMode::Generic),
    ];
}

/// The programs of the cgroup, with their attach types.
pub const SOCKET_HOOKS: [(&str, u32); 8] = [
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
];

/// Those that watch over node ports (C7).
pub const BIND_HOOKS: [(&str, u32); 2] = [("bind4", 8), ("bind6", 9)];

/// Every program that may be at a cgroup.
pub(super) fn cgroup_hooks() -> impl Iterator<Item = (&'static str, u32)> {
    SOCKET_HOOKS.into_iter().chain(BIND_HOOKS)
}
