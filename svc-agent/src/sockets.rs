//! Sockets that are connected to a backend which no longer serves (D7 for `--socket-lb all`): no packet of theirs is
//! ever seen by the packet path, so they are aborted, and the application connects anew.

mod listening;
mod live;

pub use listening::listening;
pub use live::{Connected, Live, Open, live, open, open_in};

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockProtocol;
use svc_common::table::UDP;

use crate::dataplane::{Deserted, Error, Pinned};
use crate::netlink::{What, ask, u32_at};

// linux/sock_diag.h, linux/inet_diag.h
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// `struct inet_diag_req_v2`: family, protocol, extensions, states; then the socket's id.
const ID: usize = 8;
const ID_LEN: usize = 48;
/// Where the id is in `struct inet_diag_msg`, and the cookie in the id.
const MESSAGE_ID: usize = 4;
const COOKIE: usize = 40;
/// `1 << TCP_ESTABLISHED`, which a connected UDP socket is, too.
const CONNECTED: u32 = 1 << 1;

/// After a sweep, in terms of what it took; and at most. Even where there is no socket, it looks at 131,072 buckets.
const REST: u32 = 400;
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The namespace that the thread is in, before it wanders.
const HOME: &str = "/proc/thread-self/ns/net";
/// Where container runtimes and `ip netns` keep network namespaces, for those that do not see the host's processes.
const NAMED: &str = "/run/netns";

/// The thread that looks for such sockets. It wanders through network namespaces, so it is nobody else's.
pub struct Sweeper {
    wake: SyncSender<()>,
}

impl Sweeper {
    /// `root`: the folder of the pinned maps. `everywhere`: also in network namespaces other than the node's own.
    pub fn start(root: PathBuf, everywhere: bool) -> io::Result<Self> {
        // Room for one: a sweep that is still to begin will see what has happened since.
        let (wake, woken) = sync_channel(1);
        std::thread::Builder::new()
            .name("sockets".into())
            .spawn(move || run(&root, everywhere, &woken))?;
        Ok(Self { wake })
    }

    /// An endpoint has stopped serving.
    pub fn wake(&self) {
        // Full: see above. Closed: the thread has said why.
        let _ = self.wake.try_send(());
    }
}

fn run(root: &Path, everywhere: bool, woken: &Receiver<()>) {
    let mut said = BTreeSet::new();
    let mut pinned = None;
    while woken.recv().is_ok() {
        let start = Instant::now();
        let mut trouble = BTreeSet::new();
        match sweep(root, everywhere, &mut pinned, &mut trouble) {
            Ok(0) => (),
            Ok(n) => tracing::info!("aborted {n} UDP sockets whose backend no longer serves"),
            Err(error) => {
                trouble.insert(format!("looking for sockets of gone backends: {error}"));
            }
        }
        // What the kernel or the rights forbid they forbid every time, and in every namespace.
        for line in trouble.difference(&said) {
            tracing::warn!("{line}");
        }
        said = trouble;
        // Where endpoints go all the time, this is not to be all that the node does.
        std::thread::sleep((start.elapsed() * REST).min(LONGEST_REST));
    }
}

/// Aborts the sockets in question, wherever they are. Returns how many.
fn sweep(
    root: &Path,
    everywhere: bool,
    pinned: &mut Option<Pinned>,
    trouble: &mut BTreeSet<String>,
) -> Result<usize, Error> {
    let pinned = match pinned {
        Some(pinned) => pinned,
        None => pinned.insert(Pinned::open(root)?),
    };
    let deserted = pinned.deserted_sockets()?;
    if deserted.is_empty() {
        return Ok(0);
    }
    let home = match File::open(HOME) {
        Ok(home) => home,
        Err(error) => {
            trouble.insert(format!("{HOME} cannot be opened: {error}"));
            return Ok(0);
        }
    };
    let mut enter = |namespace: &File| {
        let entered = setns(namespace, CloneFlags::CLONE_NEWNET);
        entered.map_err(|error| {
            trouble.insert(format!(
                "entering network namespaces to abort UDP sockets: {error}"
            ))
        })
    };
    let (mut aborted, mut refused) = (0, BTreeSet::new());
    let mut abort_here = || {
        for family in [libc::AF_INET, libc::AF_INET6] {
            match abort(family, &deserted) {
                Ok(n) => aborted += n,
                // ENOENT, EOPNOTSUPP: a kernel without UDP diagnostics, or without their power to destroy.
                Err(error) => {
                    refused.insert(format!("aborting UDP sockets: {error}"));
                }
            }
        }
    };
    if everywhere {
        for namespace in namespaces(&home) {
            if enter(&namespace).is_ok() {
                abort_here();
            }
        }
        // A pod's namespace lives for as long as a thread is in it.
        let _ = enter(&home);
    } else {
        abort_here();
    }
    trouble.extend(refused);
    Ok(aborted)
}

/// Every network namespace that a process is in, as far as it can be seen from here, or that has a name.
fn namespaces(home: &File) -> Vec<File> {
    let processes = entries("/proc")
        .filter(|path| path.join("ns").is_dir())
        .map(|path| path.join("ns/net"));
    // Of another file system than ours: a file that is no namespace, because it is not mounted here.
    let file_system = home.metadata().map(|meta| meta.dev()).unwrap_or_default();
    let mut found = BTreeMap::new();
    for path in processes.chain(entries(NAMED)) {
        // The process may have just ended, or not be ours to look at.
        let Ok(meta) = fs::metadata(&path) else {
            continue;
        };
        if meta.dev() == file_system
            && let Entry::Vacant(entry) = found.entry(meta.ino())
            && let Ok(file) = File::open(&path)
        {
            entry.insert(file);
        }
    }
    found.into_values().collect()
}

fn entries(folder: &str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn abort(family: i32, deserted: &Deserted) -> io::Result<usize> {
    let listed = ask(
        SockProtocol::NetlinkSockDiag,
        BY_FAMILY,
        What::Dump,
        &request(family, UDP, CONNECTED, &[0; ID_LEN]),
    )?;
    let mut aborted = 0;
    for message in &listed {
        let Some(id) = message.get(MESSAGE_ID..MESSAGE_ID + ID_LEN) else {
            continue;
        };
        if !peer(family, id).is_some_and(|peer| deserted.contains(&peer)) {
            continue;
        }
        let request = request(family, UDP, u32::MAX, id);
        match ask(
            SockProtocol::NetlinkSockDiag,
            DESTROY,
            What::Action,
            &request,
        ) {
            Ok(_) => aborted += 1,
            // It was closed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => (),
            Err(error) => return Err(error),
        }
    }
    Ok(aborted)
}

/// A socket's cookie and whom it is connected to, from its `struct inet_diag_sockid`.
fn peer(family: i32, id: &[u8]) -> Option<([u32; 2], SocketAddr)> {
    let cookie = [u32_at(id, COOKIE)?, u32_at(id, COOKIE + 4)?];
    Some((cookie, end(family, id, 2, 20)?))
}

/// Its own end, from the same.
fn own(family: i32, id: &[u8]) -> Option<SocketAddr> {
    end(family, id, 0, 4)
}

fn end(family: i32, id: &[u8], port: usize, addr: usize) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(id.get(port..port + 2)?.try_into().ok()?);
    let addr: [u8; 16] = id.get(addr..addr + 16)?.try_into().ok()?;
    let addr = if family == libc::AF_INET {
        let [a, b, c, d, ..] = addr;
        IpAddr::from([a, b, c, d])
    } else {
        // IPv4 behind an IPv6 socket is IPv4.
        IpAddr::from(addr).to_canonical()
    };
    Some(SocketAddr::new(addr, port))
}

fn request(family: i32, protocol: u8, states: u32, id: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(ID + ID_LEN);
    body.extend([family.to_ne_bytes()[0], protocol, 0, 0]);
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}
