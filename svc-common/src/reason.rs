//! Why a packet or a `connect()` that was ours did not go through. The discriminant is the index of the counter.

/// One way not to be forwarded. Refused: the client is told at once (RST, ICMP port unreachable, ECONNREFUSED).
/// Dropped: the client is not told.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// Refused: the Service has no usable endpoint anywhere (B4).
    NoEndpoints = 0,
    /// Dropped: the policy is Local and no endpoint is on this node (B5, B6).
    NoLocalEndpoints = 1,
    /// Refused: a ClusterIP has no such port (C2).
    UndefinedPort = 2,
    /// Dropped: a ClusterIP is not answered from outside (C1).
    ClusterIpFromOutside = 3,
    /// Dropped: headers end before they should.
    Truncated = 4,
    /// Dropped: a later fragment whose first fragment was not seen (C17).
    FragmentUnknown = 5,
    /// Dropped: an extension header between IP and transport that cannot be walked.
    ExtensionHeader = 6,
    /// Dropped: no free SNAT port towards this backend.
    SnatPortsExhausted = 7,
    /// Dropped: no route, or no usable source address on the way to the backend.
    NoRoute = 8,
    /// Dropped: the frontend points at a slot that is not there (our fault).
    BadSlot = 9,
    /// Dropped: the packet could not be changed (our fault).
    RewriteFailed = 10,
    /// Dropped: an ICMP error about a flow that could not be translated.
    IcmpUntranslatable = 11,
    /// Dropped: the client is in none of the Service's source ranges (C11).
    SourceRange = 12,
    /// Refused: the backend of a TCP connection is gone (D6, `--reset-gone-backends`).
    BackendGone = 13,
    /// Dropped: a node's tunnelled packet for a backend that is not listed, or an error about an unknown flow (DSR).
    BadTunnel = 14,
    /// A process of the node bound a port that is a NodePort; refused only with `--protect-node-ports` (C7).
    NodePortBound = 15,
    /// Dropped: FLOWS is full of connections that are in use.
    FlowTableFull = 16,
    /// Dropped: the connection is being handed over to another proxy this moment (`cleanup --hand-over`).
    HandedOver = 17,
}

impl Reason {
    pub const ALL: [Reason; 18] = [
        Reason::NoEndpoints,
        Reason::NoLocalEndpoints,
        Reason::UndefinedPort,
        Reason::ClusterIpFromOutside,
        Reason::Truncated,
        Reason::FragmentUnknown,
        Reason::ExtensionHeader,
        Reason::SnatPortsExhausted,
        Reason::NoRoute,
        Reason::BadSlot,
        Reason::RewriteFailed,
        Reason::IcmpUntranslatable,
        Reason::SourceRange,
        Reason::BackendGone,
        Reason::BadTunnel,
        Reason::NodePortBound,
        Reason::FlowTableFull,
        Reason::HandedOver,
    ];

    /// The name used in metrics and output.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::NoEndpoints => "no-endpoints",
            Reason::NoLocalEndpoints => "no-local-endpoints",
            Reason::UndefinedPort => "undefined-port",
            Reason::ClusterIpFromOutside => "cluster-ip-from-outside",
            Reason::Truncated => "truncated",
            Reason::FragmentUnknown => "fragment-unknown",
            Reason::ExtensionHeader => "extension-header",
            Reason::SnatPortsExhausted => "snat-ports-exhausted",
            Reason::NoRoute => "no-route",
            Reason::BadSlot => "bad-slot",
            Reason::RewriteFailed => "rewrite-failed",
            Reason::IcmpUntranslatable => "icmp-untranslatable",
            Reason::SourceRange => "source-range",
            Reason::BackendGone => "backend-gone",
            Reason::BadTunnel => "bad-tunnel",
            Reason::NodePortBound => "node-port-bound",
            Reason::FlowTableFull => "flow-table-full",
            Reason::HandedOver => "handed-over",
        }
    }

    /// Whether the client is told at once, instead of being left to time out.
    pub const fn refuses(self) -> bool {
        matches!(
            self,
            Reason::NoEndpoints | Reason::UndefinedPort | Reason::BackendGone
        )
    }
}

/// Why a packet is not sent on by us. One byte, so that it crosses a BPF call in a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aside {
    /// None of our business: on as it is.
    NotOurs,
    /// A ping of one of our addresses, to be answered in place ([`crate::echo`]).
    Echo,
    /// Ours, but it cannot go on.
    Because(Reason),
}

impl From<Reason> for Aside {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Aside::Because(reason)
    }
}

const _: () = assert!(size_of::<Result<(), Aside>>() == 1);

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_reason_is_listed_at_its_own_index() {
        for (i, r) in Reason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i, "{}", r.name());
        }
    }
}
