//! Who answers at the probed Service, asked by a new socket each time: a new flow, as a new client's is.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::time::{ClockId, clock_gettime};
use xtask::topology::{Place, Topology, in_namespace};

use super::objects::{PROBE_ADDRESS, PROBE_PORT};

/// Backends of the probed Service: each change gives it one that it has not had for a while.
const PORTS: u16 = 16;
const FIRST: u16 = 9000;
/// Between two questions; the resolution of what is measured.
const PAUSE: Duration = Duration::from_micros(300);
const WAIT: Duration = Duration::from_millis(50);

/// The backend after so many changes.
pub(super) fn port(changes: u32) -> u16 {
    FIRST + (changes % u32::from(PORTS)) as u16
}

/// Nanoseconds of the clock that the writer reads, too.
fn now() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    Ok(now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}

/// Servers at all these ports that answer with the port that they were asked at.
pub(super) struct Servers {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    pub(super) fn start(topology: &Topology, place: &str) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let sockets = in_namespace(&topology.place(place).namespace_file(), || {
            (0..PORTS)
                .map(|i| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, FIRST + i))?))
                .collect::<Result<Vec<_>>>()
        })?;
        let threads = sockets.into_iter().map(|socket| {
            let end = end.clone();
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            Ok(std::thread::spawn(move || serve(&socket, &end)))
        });
        let threads = threads.collect::<Result<_>>()?;
        Ok(Self { end, threads })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, end: &AtomicBool) {
    let port = socket.local_addr().map_or(0, |at| at.port());
    let mut question = [0; 16];
    while !end.load(Ordering::Relaxed) {
        if let Ok((_, client)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&port.to_be_bytes(), client);
        }
    }
}

/// When the first packet was sent that this backend answered; None: none was.
pub(super) fn first_packet(place: &Place, port: u16, patience: Duration) -> Result<Option<u64>> {
    in_namespace(&place.namespace_file(), || {
        let begin = Instant::now();
        while begin.elapsed() < patience {
            let sent = now()?;
            if ask()? == Some(port) {
                return Ok(Some(sent));
            }
            sleep(PAUSE);
        }
        Ok(None)
    })
}

fn ask() -> Result<Option<u16>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(WAIT))?;
    let mut answer = [0; 2];
    let asked = socket
        .connect((PROBE_ADDRESS, PROBE_PORT))
        .and_then(|()| socket.send(b"?"))
        .and_then(|_| socket.recv(&mut answer));
    match asked {
        Ok(2) => Ok(Some(u16::from_be_bytes(answer))),
        Ok(n) => Err(anyhow!("an answer of {n} bytes")),
        Err(error) => match error.kind() {
            // Nobody serves it yet, or it is refused.
            ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied => Ok(None),
            _ => Err(error).context("asking the probed Service"),
        },
    }
}
