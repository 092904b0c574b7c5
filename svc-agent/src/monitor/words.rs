//! Reasons in the words of Kubernetes, with what to look at.

use svc_common::reason::Reason;

pub(super) const fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::NoEndpoints => "the Service has no endpoint that is ready: see its EndpointSlices",
        Reason::NoLocalEndpoints => {
            "the traffic policy is Local and no endpoint of the Service is on this node"
        }
        Reason::UndefinedPort => "the Service has no such port",
        Reason::ClusterIpFromOutside => {
            "ClusterIPs are not answered from outside of the cluster (--external-cluster-ip)"
        }
        Reason::Truncated => "the packet ends before its headers do",
        Reason::FragmentUnknown => "a later fragment whose first one was not seen",
        Reason::ExtensionHeader => "an extension header that cannot be walked",
        Reason::SnatPortsExhausted => {
            "no port of the node is free for masquerading towards this backend"
        }
        Reason::NoRoute => "the node has no route, or no address, on the way to the backend",
        Reason::BadSlot => "the maps contradict themselves: a fault of svcplane, please report it",
        Reason::RewriteFailed => {
            "the packet could not be changed: a fault of svcplane, please report it"
        }
        Reason::IcmpUntranslatable => "an ICMP error that could not be translated",
        Reason::SourceRange => "the client is in none of the Service's loadBalancerSourceRanges",
        Reason::BackendGone => "the endpoint of this connection is gone (--reset-gone-backends)",
        Reason::BadTunnel => {
            "a tunnelled packet for an endpoint that is not listed, or from nobody's node (--dsr)"
        }
        Reason::NodePortBound => "the port is a NodePort (--protect-node-ports)",
        Reason::FlowTableFull => "the flow table is full of connections that are in use",
        Reason::HandedOver => {
            "the connection is being handed over to another proxy (cleanup --hand-over)"
        }
    }
}
