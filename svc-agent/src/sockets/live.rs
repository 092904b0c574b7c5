//! How many open sockets were connected to a backend through a Service: by their cookies, wherever they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::SocketAddr;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockProtocol;
use svc_common::table::{TCP, UDP};

use super::{BY_FAMILY, HOME, ID_LEN, MESSAGE_ID, namespaces, peer, request_of};
use crate::netlink::{What, ask};

/// A socket's cookie and its backend → the frontend that it believes it talks to.
pub type Connected = BTreeMap<([u32; 2], SocketAddr), SocketAddr>;

/// Open sockets by frontend, backend and protocol.
pub type Live = BTreeMap<(SocketAddr, SocketAddr, u8), usize>;

/// TCP: all but LISTEN, TIME_WAIT and CLOSE. UDP: ESTABLISHED is connected, CLOSE is not.
const OPEN: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Counts them in a thread of its own, which wanders through network namespaces. None: those cannot be entered.
pub fn live(connected: &Connected) -> Option<Live> {
    std::thread::scope(|scope| scope.spawn(|| count(connected)).join().ok().flatten())
}

fn count(connected: &Connected) -> Option<Live> {
    let home = File::open(HOME).ok()?;
    let mut seen = BTreeSet::new();
    let mut live = Live::new();
    for namespace in namespaces(&home) {
        setns(&namespace, CloneFlags::CLONE_NEWNET).ok()?;
        for family in [libc::AF_INET, libc::AF_INET6] {
            for protocol in [TCP, UDP] {
                let question = request_of(family, protocol, OPEN, &[0; ID_LEN]);
                // A kernel without these diagnostics has none to tell.
                let Ok(listed) = ask(
                    SockProtocol::NetlinkSockDiag,
                    BY_FAMILY,
                    What::Dump,
                    &question,
                ) else {
                    continue;
                };
                let ids = listed
                    .iter()
                    .filter_map(|message| message.get(MESSAGE_ID..MESSAGE_ID + ID_LEN));
                for socket in ids.filter_map(|id| peer(family, id)) {
                    if let Some(frontend) = connected.get(&socket)
                        && seen.insert((socket.0, protocol))
                    {
                        *live.entry((*frontend, socket.1, protocol)).or_default() += 1;
                    }
                }
            }
        }
    }
    Some(live)
}
