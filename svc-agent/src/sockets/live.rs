//! Open sockets that were connected to a backend through a Service: by their cookies, wherever they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockProtocol;
use svc_common::table::{TCP, UDP};

use super::{BY_FAMILY, HOME, ID_LEN, MESSAGE_ID, namespaces, own, peer, request};
use crate::netlink::{What, ask};

/// A socket's cookie and its backend → the frontend that it believes it talks to.
pub type Connected = BTreeMap<([u32; 2], SocketAddr), SocketAddr>;

/// Open sockets by frontend, backend and protocol.
pub type Live = BTreeMap<(SocketAddr, SocketAddr, u8), usize>;

/// Where the state is in `struct inet_diag_msg`.
const STATE: usize = 1;
/// TCP: all but LISTEN, TIME_WAIT and CLOSE. UDP: ESTABLISHED is connected, CLOSE is not.
const OPEN: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// An open socket of [`Connected`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    pub cookie: [u32; 2],
    pub local: SocketAddr,
    pub backend: SocketAddr,
    pub frontend: SocketAddr,
    pub protocol: u8,
    /// `TCP_ESTABLISHED` and its like; of connected UDP sockets, the same.
    pub state: u8,
}

/// Counts them. None: network namespaces cannot be entered.
pub fn live(connected: &Connected) -> Option<Live> {
    let mut live = Live::new();
    for socket in open(connected)? {
        let key = (socket.frontend, socket.backend, socket.protocol);
        *live.entry(key).or_default() += 1;
    }
    Some(live)
}

/// Finds them in a thread of its own, which wanders through network namespaces. None: those cannot be entered.
pub fn open(connected: &Connected) -> Option<Vec<Open>> {
    elsewhere(|| {
        let home = File::open(HOME).ok()?;
        let mut found = BTreeMap::new();
        for namespace in namespaces(&home) {
            setns(&namespace, CloneFlags::CLONE_NEWNET).ok()?;
            list(connected, &mut found);
        }
        Some(found.into_values().collect())
    })
}

/// Those of one network namespace.
pub fn open_in(namespace: &File, connected: &Connected) -> Option<Vec<Open>> {
    elsewhere(|| {
        let mut found = BTreeMap::new();
        setns(namespace, CloneFlags::CLONE_NEWNET).ok()?;
        list(connected, &mut found);
        Some(found.into_values().collect())
    })
}

/// In a thread of its own: it does not come back from where it goes.
fn elsewhere<T: Send>(what: impl FnOnce() -> Option<T> + Send) -> Option<T> {
    std::thread::scope(|scope| scope.spawn(what).join().ok().flatten())
}

/// Adds those of the namespace that the thread is in.
fn list(connected: &Connected, found: &mut BTreeMap<([u32; 2], u8), Open>) {
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [TCP, UDP] {
            let question = request(family, protocol, OPEN, &[0; ID_LEN]);
            // A kernel without these diagnostics has none to tell.
            let Ok(listed) = ask(
                SockProtocol::NetlinkSockDiag,
                BY_FAMILY,
                What::Dump,
                &question,
            ) else {
                continue;
            };
            for message in &listed {
                if let Some(socket) = socket(family, protocol, message, connected) {
                    found.entry((socket.cookie, protocol)).or_insert(socket);
                }
            }
        }
    }
}

/// From `struct inet_diag_msg`. None of those that are not connected through a Service.
fn socket(family: i32, protocol: u8, message: &[u8], connected: &Connected) -> Option<Open> {
    let id = message.get(MESSAGE_ID..MESSAGE_ID + ID_LEN)?;
    let (cookie, backend) = peer(family, id)?;
    Some(Open {
        cookie,
        local: own(family, id)?,
        backend,
        frontend: *connected.get(&(cookie, backend))?,
        protocol,
        state: *message.get(STATE)?,
    })
}
