//! How far a connection is, by what its packets have said, or by the state of its socket.

use serde::Serialize;
use svc_common::family::Family;
use svc_common::table::{Flow, NodeConfig, TCP, flow_state};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Nobody has answered yet.
    New,
    Established,
    /// One side has ended it.
    Closing,
    Closed,
}

impl Stage {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

/// Of a flow, and what has brought it there.
pub(super) fn of_flow<F: Family>(
    flow: &Flow<F>,
    now: u32,
    config: &NodeConfig,
) -> (Stage, &'static str) {
    let state = flow.state();
    let both = flow_state::BOTH_FIN;
    let is_tcp = flow.forward.proto == u16::from(TCP);
    if state & both == both {
        (Stage::Closed, "both sides have ended it")
    } else if state & flow_state::CLOSING != 0 && state & flow_state::CLIENT_FIN != 0 {
        (
            Stage::Closed,
            "the client has ended it; its answers do not come by here",
        )
    } else if flow.client_state & flow_state::CLOSING != 0 {
        (
            Stage::Closed,
            "the client has reset it, or its backend is gone",
        )
    } else if state & flow_state::CLOSING != 0 {
        (Stage::Closed, "the backend has reset it")
    } else if flow.is_over(now, false, config) {
        (Stage::Closed, "nobody has said anything for too long")
    } else if state & flow_state::CLIENT_FIN != 0 {
        (Stage::Closing, "the client has ended its side")
    } else if state & flow_state::BACKEND_FIN != 0 {
        (Stage::Closing, "the backend has ended its side")
    } else if state & flow_state::ESTABLISHED != 0 {
        (Stage::Established, "the backend has answered")
    } else if is_tcp && !flow.has_answers() {
        (Stage::New, "its answers do not come by here")
    } else {
        (Stage::New, "nobody has answered yet")
    }
}

/// Of a socket, by the kernel's number (include/net/tcp_states.h).
pub(super) const fn of_socket(state: u8) -> (Stage, &'static str) {
    match state {
        1 => (Stage::Established, "the socket is connected"),
        2 | 3 => (Stage::New, "the backend has not answered yet"),
        4 | 5 => (Stage::Closing, "the client has ended its side"),
        8 => (Stage::Closing, "the backend has ended its side"),
        9 | 11 => (Stage::Closing, "both sides have ended it"),
        _ => (Stage::Closed, "the socket is closed"),
    }
}

#[cfg(test)]
mod tests {
    use svc_common::family::{Addr, Ip, Port, V4};
    use svc_common::table::FlowKey;

    use super::*;

    fn flow(client_state: u8, backend_state: u8) -> Flow<V4> {
        let key = FlowKey {
            src: Ip::UNSPECIFIED,
            dst: Ip::UNSPECIFIED,
            sport: Port::new(40_000),
            dport: Port::new(80),
            proto: u16::from(TCP),
            _pad: 0,
        };
        Flow {
            forward: key,
            reply: key,
            seen: 100,
            service: 1,
            epoch: 0,
            flags: 0,
            client_state,
            backend_state,
            _pad: [0; 3],
        }
    }

    #[test]
    fn a_connection_goes_from_new_to_closed() {
        use flow_state::{BACKEND_FIN, CLIENT_FIN, CLOSING, ESTABLISHED};
        let of =
            |client, backend, now| of_flow(&flow(client, backend), now, &NodeConfig::default());
        for (client, backend, stage, why) in [
            (0, 0, Stage::New, "nobody has answered yet"),
            (
                0,
                ESTABLISHED,
                Stage::Established,
                "the backend has answered",
            ),
            (
                CLIENT_FIN,
                ESTABLISHED,
                Stage::Closing,
                "the client has ended its side",
            ),
            (
                0,
                ESTABLISHED | BACKEND_FIN,
                Stage::Closing,
                "the backend has ended its side",
            ),
            (
                CLIENT_FIN,
                ESTABLISHED | BACKEND_FIN | CLOSING,
                Stage::Closed,
                "both sides have ended it",
            ),
            (
                0,
                ESTABLISHED | CLOSING,
                Stage::Closed,
                "the backend has reset it",
            ),
        ] {
            assert_eq!(of(client, backend, 100), (stage, why));
        }
        assert_eq!(of(CLOSING, ESTABLISHED, 100).0, Stage::Closed);
        assert_eq!(of(0, 0, 1_000).0, Stage::Closed, "silent for too long");
    }
}
